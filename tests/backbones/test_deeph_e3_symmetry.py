"""Exact symmetries of DeepH-E3."""

import numpy as np
import pytest
import torch

from tests import crystals
from tests.backbones.crystal_networks import (
    BOTH_ARMS,
    blocks_of,
    by_images,
    deeph_e3,
    graph_of,
    in_another_cell,
    reordered,
    rotated,
)
from tests.molecules import random_rotation
from tests.nn.item_first.test_shell_pairs import PAULI, orbital_rotation
from tracegrad.hamiltonian.graph import collate, crystal_graph

SPINLESS, SPINFUL = crystals.SPINLESS, crystals.SPINFUL
VARIANTS = [
    (SPINLESS, {}),
    (SPINLESS, {"hermitian": True, "legacy_e3nn": True}),
    (SPINFUL, {"blocks": 3}),
    (SPINFUL, {"hermitian": True}),
    (SPINFUL, {"time_reversal": True, "legacy_e3nn": True}),
    (SPINFUL, {"hermitian": True, "time_reversal": True}),
]
VARIANT = pytest.mark.parametrize(
    ("basis", "options"), VARIANTS, ids=[" ".join([str(b.spinful), *o]) for b, o in VARIANTS]
)


@BOTH_ARMS
@VARIANT
def test_blocks_are_equivariant(basis, options, arm):
    model = deeph_e3(basis, arm, **options)
    samples = (crystals.MOS2, crystals.CHAIN)
    reference = blocks_of(model, *samples)
    for seed in range(4):
        rotation = random_rotation(seed) * (-1) ** seed  # with and without inversion
        actual = blocks_of(model, *(rotated(sample, rotation) for sample in samples))
        u = orbital_rotation(basis, rotation)
        torch.testing.assert_close(actual, u @ reference @ u.mH, rtol=0, atol=1e-9)
        assert (actual - reference).abs().max() > 0.1


@crystals.BASES
@BOTH_ARMS
def test_mirrors_are_symmetries_too(basis, arm):
    model = deeph_e3(basis, arm)
    for axis in torch.eye(3, dtype=torch.float64):
        mirror = torch.eye(3, dtype=torch.float64) - 2 * torch.outer(axis, axis)
        u = orbital_rotation(basis, mirror)
        actual = blocks_of(model, rotated(crystals.MOS2, mirror))
        torch.testing.assert_close(actual, u @ blocks_of(model, crystals.MOS2) @ u.mH, rtol=0, atol=1e-9)


@crystals.BASES
def test_default_degrees_are_equivariant(basis):
    model = deeph_e3(basis, irreps="4x0e+2x1o+2x2e+2x3o+2x4e+1x5o", lmax=5, blocks=2)
    rotation = -random_rotation(5)
    u = orbital_rotation(basis, rotation)
    actual = blocks_of(model, rotated(crystals.MOS2, rotation))
    torch.testing.assert_close(actual, u @ blocks_of(model, crystals.MOS2) @ u.mH, rtol=0, atol=1e-9)


@crystals.BASES
@BOTH_ARMS
def test_place_origin_and_order_do_not_matter(basis, arm):
    model = deeph_e3(basis, arm)
    numbers, positions, lattice, edges = crystals.MOS2
    reference = model.hamiltonian(numbers, positions, lattice, edges)

    moved = model.hamiltonian(numbers, positions + np.array([0.3, -2.0, 5.0]), lattice, edges)
    for a, b in zip(moved, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)

    for a, b in zip(model.hamiltonian(*by_images(crystals.MOS2)), reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)

    mixed, edge_order = reordered(crystals.MOS2)
    for a, edge in zip(model.hamiltonian(*mixed), edge_order, strict=True):
        np.testing.assert_allclose(a, reference[edge], rtol=0, atol=1e-12)


@crystals.BASES
@BOTH_ARMS
def test_another_cell_of_the_same_lattice_gives_the_same_blocks(basis, arm):
    model = deeph_e3(basis, arm)
    reference = model.hamiltonian(*crystals.MOS2)
    for a, b in zip(model.hamiltonian(*in_another_cell(crystals.MOS2)), reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@crystals.BASES
@BOTH_ARMS
def test_a_batch_equals_its_crystals(basis, arm):
    model = deeph_e3(basis, arm)
    graphs = [crystals.labelled_graph(sample, basis) for sample in crystals.ALL]
    batch = model(collate(graphs))
    start = 0
    for graph in graphs:
        single, edges = model(collate([graph])), graph.edge_index.shape[1]
        at = slice(start, start + edges)
        torch.testing.assert_close(batch.blocks["edge"][at], single.blocks["edge"], rtol=0, atol=1e-11)
        for site, traces in single.traces.items():
            torch.testing.assert_close(batch.traces[site][at], traces, rtol=0, atol=1e-11)
        start += edges
    assert start == len(batch.blocks["edge"])


@crystals.BASES
def test_images_of_an_atom_have_a_direction(basis):
    model = deeph_e3(basis)
    edges = crystals.CHAIN[3].tolist()
    blocks = dict(zip((edge[0] for edge in edges), model.hamiltonian(*crystals.CHAIN), strict=True))
    assert set(blocks) == {-1, 0, 1}
    assert np.abs(blocks[1] - blocks[-1]).max() > 0.1


@crystals.BASES
@BOTH_ARMS
def test_hermitian_blocks_are_exactly_hermitian(basis, arm):
    numbers, positions, lattice, edges = crystals.MOS2
    model, released = (deeph_e3(basis, arm, hermitian=h).float() for h in (True, False))
    released.load_state_dict(model.state_dict())
    reverse = crystal_graph(*crystals.MOS2, basis).reverse.numpy()
    blocks, plain = (m.hamiltonian(numbers, positions, lattice, edges) for m in (model, released))
    for e, back in enumerate(reverse):
        assert np.array_equal(blocks[e], blocks[back].conj().T)
        mean = (plain[e] + plain[back].conj().T) / 2
        np.testing.assert_allclose(blocks[e], mean, rtol=0, atol=1e-5)
    assert max(np.abs(plain[e] - plain[back].conj().T).max() for e, back in enumerate(reverse)) > 0.1


@pytest.mark.parametrize("hermitian", [False, True])
@BOTH_ARMS
def test_time_reversal_is_exact(arm, hermitian):
    model, released = (
        deeph_e3(SPINFUL, arm, hermitian=hermitian, time_reversal=t).float() for t in (True, False)
    )
    released.load_state_dict(model.state_dict())
    samples = (crystals.MOS2, crystals.CHAIN)
    blocks, plain = blocks_of(model, *samples), blocks_of(released, *samples)
    reversal = torch.kron(PAULI[1], torch.eye(SPINFUL.dim // 2)).to(blocks.dtype)
    assert torch.equal(reversal @ blocks.conj() @ reversal, blocks)
    torch.testing.assert_close(blocks, (plain + reversal @ plain.conj() @ reversal) / 2, rtol=0, atol=1e-5)
    assert (reversal @ plain.conj() @ reversal - plain).abs().max() > 0.1
    if hermitian:
        assert torch.equal(blocks, blocks[graph_of(*samples, basis=SPINFUL).reverse].mH)
