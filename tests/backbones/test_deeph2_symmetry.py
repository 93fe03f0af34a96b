"""Exact symmetries of the DeepH-2-style network, and those that it lacks."""

import numpy as np
import pytest
import torch

from tests import crystals
from tests.backbones.crystal_networks import (
    BOTH_ARMS,
    DEEPH2,
    blocks_of,
    by_images,
    deeph2,
    graph_of,
    in_another_cell,
    reordered,
    rotated,
)
from tests.molecules import random_rotation
from tests.nn.item_first.test_shell_pairs import PAULI, orbital_rotation
from tracegrad.hamiltonian.graph import crystal_graph
from tracegrad.hamiltonian.reduction import is_on_site
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.ops.edge_rotation.tables import generators

SPINLESS, SPINFUL = crystals.SPINLESS, crystals.SPINFUL
# Edges along the polar axis in both directions.
UPRIGHT = crystals.crystal([42, 16], [[0, 0, 0], [0, 0, 2.0]], [[2.6, 0, 0], [0.3, 2.7, 0], [0, 0, 4.5]], 3)


def breakage(model, sample: crystals.Crystal, rotation: torch.Tensor) -> torch.Tensor:
    """For each edge the largest deviation of H of the turned crystal from the turned H."""
    u = orbital_rotation(model.basis, rotation)
    difference = blocks_of(model, rotated(sample, rotation)) - u @ blocks_of(model, sample) @ u.mH
    return difference.abs().amax((1, 2))


@pytest.mark.parametrize("mmax", [None, 1])
@crystals.BASES
@BOTH_ARMS
def test_blocks_turn_with_the_crystal(basis, arm, mmax):
    model = deeph2(basis, arm, mmax=mmax)
    for sample in (crystals.MOS2, crystals.CHAIN, crystals.ALONE, UPRIGHT):
        assert breakage(model, sample, random_rotation(0)).max() < 1e-10
    blocks = blocks_of(model, crystals.MOS2)
    assert (blocks - orbital_rotation(basis, random_rotation(0)) @ blocks).abs().max() > 0.1


def test_degrees_beyond_those_of_h():
    model = deeph2(SPINLESS, irreps=DEEPH2["irreps"] + "+2x6e", mmax=4)
    assert breakage(model, crystals.MOS2, random_rotation(3)).max() < 1e-10


def test_on_site_blocks_of_single_atoms_and_of_neighbours():
    """They have no frame: a map in the frame of the global axes would break the symmetry."""
    model = deeph2(SPINLESS)
    graph = graph_of(crystals.MOS2, basis=SPINLESS)
    on_site = is_on_site(graph, "edge")
    assert on_site.sum() == 3
    assert breakage(model, crystals.MOS2, random_rotation(1))[on_site].max() < 1e-10
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    assert breakage(model, UPRIGHT, quarter).max() < 1e-10
    upside_down = torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64))
    assert breakage(model, UPRIGHT, upside_down).max() < 1e-10
    # The block of a single atom is a scalar between shells of the same degree.
    (block,) = blocks_of(model, crystals.ALONE)
    u = orbital_rotation(SPINLESS, random_rotation(2))
    torch.testing.assert_close(u @ block @ u.mH, block, rtol=0, atol=1e-12)


@crystals.BASES
def test_reflections_are_not_protected(basis):
    model = deeph2(basis)
    assert breakage(model, crystals.MOS2, -random_rotation(0)).max() > 1e-2


def test_reflections_hold_for_natural_parities_without_the_mixing_of_parities():
    model = deeph2(SPINLESS)
    for name, parameter in model.named_parameters():
        if ".pairs." in name:
            parameter.data[:, parameter.shape[1] // 2 :] = 0  # Wi
    head, starts = model.backbone.head, [0] * 6
    for mul, ir in model.backbone.expansion.irreps:
        if ir.p != (-1) ** ir.l:
            for linear in (head.on_site, head.off_site):
                linear.weights[ir.l].data[:, starts[ir.l] : starts[ir.l] + mul] = 0
        starts[ir.l] += mul
    assert breakage(model, crystals.MOS2, -random_rotation(0)).max() < 1e-10


class TurnedFrame(EdgeFrame):
    """Frames with another angle about each edge; edges without direction keep the global frame."""

    def rotation(self, degree: int, parity: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        angles = 6.3 * torch.rand(len(self._vectors), dtype=torch.float64, generator=generator)
        angles = angles * (self._vectors != 0).any(1)
        turn = torch.matrix_exp(angles[:, None, None] * generators(degree)(angles)[2])
        return super().rotation(degree, parity) @ turn


@pytest.mark.parametrize("mmax", [None, 2])
@crystals.BASES
def test_angles_about_the_edges_change_nothing(basis, mmax, monkeypatch):
    model = deeph2(basis, mmax=mmax)
    reference = blocks_of(model, crystals.MOS2)
    monkeypatch.setattr("tracegrad.backbones.deeph2.EdgeFrame", TurnedFrame)
    torch.testing.assert_close(blocks_of(model, crystals.MOS2), reference, rtol=0, atol=1e-10)
    frame = EdgeFrame(graph_of(crystals.MOS2, basis=basis).vectors)
    turned = TurnedFrame(graph_of(crystals.MOS2, basis=basis).vectors)
    assert (frame.rotation(1, -1) - turned.rotation(1, -1)).abs().max() > 0.1


def test_the_s2_activation_breaks_the_symmetry_less_with_a_finer_grid():
    errors = []
    for points in (12, 20, 40):
        torch.manual_seed(1)
        model = deeph2(SPINLESS, activation="s2", grid=[points, points])
        errors.append(float(breakage(model, crystals.MOS2, random_rotation(1)).max()))
    assert errors[0] > 1e-4
    assert errors[1] < errors[0] / 5
    assert errors[2] < 1e-5


@crystals.BASES
@BOTH_ARMS
def test_place_origin_and_order_do_not_matter(basis, arm):
    model = deeph2(basis, arm)
    numbers, positions, lattice, edges = crystals.MOS2
    reference = model.hamiltonian(numbers, positions, lattice, edges)
    moved = model.hamiltonian(numbers, positions + np.array([0.3, -2.0, 5.0]), lattice, edges)
    images, cell = (model.hamiltonian(*same(crystals.MOS2)) for same in (by_images, in_another_cell))
    for found in (moved, images, cell):
        for a, b in zip(found, reference, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    mixed, edge_order = reordered(crystals.MOS2)
    for a, edge in zip(model.hamiltonian(*mixed), edge_order, strict=True):
        np.testing.assert_allclose(a, reference[edge], rtol=0, atol=1e-11)


def test_a_supercell_has_the_blocks_of_the_cell():
    model = deeph2(SPINLESS)
    numbers, positions, lattice, edges = crystals.CHAIN
    # Atom c of the doubled cell is the image of the atom in cell c.
    doubled = np.array(
        [[(c + x) // 2, y, z, c, (c + x) % 2] for x, y, z, _, _ in edges.tolist() for c in range(2)]
    )
    x = np.concatenate([positions, positions + lattice[0]])
    found = model.hamiltonian(np.repeat(numbers, 2), x, np.diag([2.0, 1, 1]) @ lattice, doubled)
    reference = model.hamiltonian(*crystals.CHAIN)
    for k, block in enumerate(found):
        np.testing.assert_allclose(block, reference[k // 2], rtol=0, atol=1e-11)


@crystals.BASES
def test_a_batch_equals_its_crystals(basis):
    model = deeph2(basis, "tracegrad")
    found = blocks_of(model, *crystals.ALL)
    expected = torch.cat([blocks_of(model, sample) for sample in crystals.ALL])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@crystals.BASES
def test_hermitian_blocks_are_exactly_hermitian(basis):
    model = deeph2(basis, hermitian=True)
    blocks = blocks_of(model, crystals.MOS2)
    reverse = crystal_graph(*crystals.MOS2, basis).reverse
    assert torch.equal(blocks, blocks[reverse].mH)
    model.backbone.hermitian = False
    plain = blocks_of(model, crystals.MOS2)
    assert (plain - plain[reverse].mH).abs().max() > 0.1
    torch.testing.assert_close(blocks, (plain + plain[reverse].mH) / 2, rtol=0, atol=1e-12)


def test_time_reversal_is_exact():
    model = deeph2(SPINFUL, time_reversal=True, hermitian=True)
    blocks = blocks_of(model, crystals.MOS2)
    reversal = torch.kron(PAULI[1], torch.eye(SPINFUL.dim // 2))
    torch.testing.assert_close(reversal @ blocks.conj() @ reversal, blocks, rtol=0, atol=1e-14)
    assert breakage(model, crystals.MOS2, random_rotation(1)).max() < 1e-10
