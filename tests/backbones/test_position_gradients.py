"""Derivatives of H with respect to positions and lattice against central differences."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tests.backbones.crystal_networks import deeph_e3, harmose
from tests.backbones.test_qhnet import small
from tests.crystals import BASES, SPINFUL, SPINLESS
from tests.model.test_network import ARMS
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.component_first.features import spherical_harmonics
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.ops import native

STEP = 1e-5  # angstrom
# Distances of atoms 0 and 1 across the z axis: on it, almost on it, and well away. The code has no case for
# small ones.
OFFSETS = [0.0, *(pytest.param(x, marks=pytest.mark.slow) for x in (1e-12, 1e-6)), 0.7]


def crystal(offset: float) -> crystals.Crystal:
    """On-site edges, edges along z and -z (atoms 0 and 1, and their images), and others.

    Its mirror image is another crystal, so that the pseudoscalars of networks with spin do not vanish; where they do,
    their norm has a kink.
    """
    positions = [[0.1, 0.2, 0], [0.1 + offset, 0.2 - 0.4 * offset, 2.1], [1.3, 0.9, 1], [0.7, -1.2, 0.4]]
    return crystals.crystal([42, 16, 16, 42], positions, [[5.0, 0, 0], [0.4, 5.2, 0], [0, 0, 3.9]], 2.4)


def central(value: Callable[[float], float | torch.Tensor]) -> float:
    """Derivative at 0 of a function of multiples of the step."""
    a, b, c, d = (float(torch.as_tensor(value(step)).detach()) for step in (-2, -1, 1, 2))
    return (a - 8 * b + 8 * c - d) / (12 * STEP)


class Energy:
    """A scalar function of all blocks (and traces) of a crystal, as a function of positions and strain."""

    def __init__(self, model: HamiltonianModel, sample: crystals.Crystal):
        self.model, self.sample = model, sample
        self.graph = collate([crystal_graph(*sample, model.basis, dtype=torch.float64)])
        self.lattice = torch.from_numpy(sample[2])
        self.inputs = torch.from_numpy(sample[1]), torch.zeros(3, 3, dtype=torch.float64)

    def __call__(self, positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        dst, src = self.graph.edge_index
        vectors = positions[src] + self.graph.cells.double() @ self.lattice - positions[dst]
        self.graph.vectors = vectors + vectors @ strain
        prediction = self.model(self.graph)
        parts = [torch.view_as_real(b) if b.is_complex() else b for b in prediction.blocks.values()]
        # Weights without a symmetry, so that no derivative cancels.
        return sum((torch.cos(1.0 + torch.arange(x.numel())).view(x.shape) * x).sum() for x in parts) + sum(
            0.1 * x.square().mean() for x in prediction.traces.values()
        )

    def gradients(self) -> list[torch.Tensor]:
        inputs = [x.clone().requires_grad_() for x in self.inputs]
        return list(torch.autograd.grad(self(*inputs), inputs))

    def difference(self, directions: list[torch.Tensor]) -> float:
        with torch.no_grad():
            return central(
                lambda s: self(*(x + s * STEP * d for x, d in zip(self.inputs, directions, strict=True)))
            )


def directions(energy: Energy) -> list[list[torch.Tensor]]:
    """Atom 1 across the axis; everything at once."""
    across, no_strain = (torch.zeros_like(x) for x in energy.inputs)
    across[1, :2] = torch.tensor([0.6, -0.8])
    return [[across, no_strain], [torch.randn_like(across), 0.1 * torch.randn_like(no_strain)]]


def compare(energy: Energy) -> None:
    actual = energy.gradients()
    assert all(x.isfinite().all() for x in actual)
    size = max(float(x.abs().max()) for x in actual)
    assert size > 0.1
    for direction in directions(energy):
        expected = energy.difference(direction)
        slope_along = sum(float((a * b).sum()) for a, b in zip(actual, direction, strict=True))
        assert slope_along == pytest.approx(expected, rel=1e-7, abs=1e-8 * size)


@pytest.mark.parametrize("offset", OFFSETS)
def test_gradients_are_finite_differences_near_the_axis(offset):
    torch.manual_seed(1)
    compare(Energy(deeph_e3(SPINLESS, "tracegrad"), crystal(offset)))


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 1e-9])
@pytest.mark.parametrize(
    ("basis", "options", "kernels"),
    [
        (SPINLESS, {}, "0"),
        (SPINFUL, {"hermitian": True, "time_reversal": True, "legacy_e3nn": True}, "1"),
    ],
    ids=["plain", "spinful"],
)
def test_other_forms_have_the_same_gradients_near_the_axis(basis, options, offset, kernels, monkeypatch):
    """The frame of an edge, which decides about them, is the same in all forms: no need of every offset."""
    monkeypatch.setenv(native.SWITCH, kernels)
    torch.manual_seed(1)
    compare(Energy(deeph_e3(basis, "tracegrad", **options), crystal(offset)))


SPINLESS_OPTIONS, SPINFUL_OPTIONS = {"legacy_e3nn": True, "edge_chunk": 40}, {"recompute": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("basis", "options", "arm"),
    [
        *((SPINLESS, SPINLESS_OPTIONS, arm) for arm in ARMS),
        *((SPINFUL, SPINFUL_OPTIONS, arm) for arm in ("none", "tracegrad")),
    ],
)
def test_gradients_of_all_arms_are_finite_differences(basis, options, arm):
    torch.manual_seed(2)
    compare(Energy(deeph_e3(basis, arm, **options), crystal(0.0)))


@pytest.mark.parametrize("sample", [crystals.MOS2, crystals.CHAIN], ids=["MoS2", "chain"])
def test_gradients_of_other_crystals_are_finite_differences(sample):
    torch.manual_seed(3)
    energy = Energy(deeph_e3(SPINLESS, "tracegrad"), sample)
    if len(sample[0]) > 1:
        compare(energy)
    else:  # every neighbour is an image of the atom: only strain changes anything
        positions, strain = energy.gradients()
        assert positions.abs().max() < 1e-11
        direction = [torch.zeros(1, 3).double(), torch.randn(3, 3).double()]
        expected = energy.difference(direction)
        assert float((strain * direction[1]).sum()) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    "basis", [SPINLESS, pytest.param(SPINFUL, marks=pytest.mark.slow)], ids=["real", "spin"]
)
def test_gradients_of_two_stages_are_finite_differences(basis):
    torch.manual_seed(7)
    compare(Energy(harmose(basis, "tracegrad"), crystal(0.0)))


def test_an_on_site_block_of_an_atom_alone_does_not_depend_on_its_place():
    energy = Energy(deeph_e3(SPINLESS, "tracegrad"), crystals.ALONE)
    positions, strain = energy.gradients()
    assert torch.equal(positions, torch.zeros_like(positions))
    assert torch.equal(strain, torch.zeros_like(strain))


@pytest.mark.slow
@pytest.mark.parametrize(("offset", "kernels"), [(0.0, "0"), (0.0, "1"), (1e-9, "1")])
def test_losses_of_forces_train_parameters(offset, kernels, monkeypatch):
    """Second derivatives, once by positions and once by parameters or positions, and forward mode."""
    monkeypatch.setenv(native.SWITCH, kernels)
    torch.manual_seed(4)
    energy = Energy(deeph_e3(SPINLESS, "tracegrad"), crystal(offset))
    across, everything = directions(energy)

    def slope(positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        """dE in one direction, recorded."""
        forces = torch.autograd.grad(energy(positions, strain), (positions, strain), create_graph=True)
        return sum((f * d).sum() for f, d in zip(forces, everything, strict=True))

    inputs = [x.clone().requires_grad_() for x in energy.inputs]
    parameters = [p for p in energy.model.parameters() if p.numel()]
    value = slope(*inputs)
    actual = torch.autograd.grad(value, [*inputs, *parameters], allow_unused=True, materialize_grads=True)
    assert all(x.isfinite().all() for x in actual)

    def moved(step: float) -> torch.Tensor:
        return slope(
            *((x + step * STEP * d).requires_grad_() for x, d in zip(energy.inputs, direction, strict=True))
        )

    for direction in (across, everything):
        expected = central(moved)
        slope_along = sum(float((a * b).sum()) for a, b in zip(actual, direction, strict=False))
        size = max(float(x.abs().max()) for x in actual[:2])
        assert slope_along == pytest.approx(expected, rel=1e-6, abs=1e-7 * size)

    moves = [torch.randn_like(p) for p in parameters]

    def trained(step: float) -> torch.Tensor:
        with torch.no_grad():
            for p, old, move in zip(parameters, before, moves, strict=True):
                p.copy_(old + step * STEP * move)
        return slope(*inputs)

    before = [p.detach().clone() for p in parameters]
    expected = central(trained)
    slope_along = sum(float((a * b).sum()) for a, b in zip(actual[2:], moves, strict=True))
    assert slope_along == pytest.approx(expected, rel=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("arm", ["none", "tracegrad"])
@BASES
def test_forward_mode_equals_reverse_mode(basis, arm):
    torch.manual_seed(5)
    energy = Energy(deeph_e3(basis, arm), crystal(0.0))
    everything = directions(energy)[-1]
    value, slope = torch.func.jvp(energy, energy.inputs, tuple(everything))
    expected = sum((a * b).sum() for a, b in zip(energy.gradients(), everything, strict=True))
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(value, energy(*energy.inputs), rtol=1e-12, atol=1e-12)


@BASES
def test_positions_that_need_gradients_change_no_bit_of_h(basis, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    model = deeph_e3(basis, "tracegrad").float()
    graph = collate([crystal_graph(*crystal(0.0), basis)])
    plain = model(graph).blocks["edge"]
    graph.vectors.requires_grad_()
    assert torch.equal(model(graph).blocks["edge"], plain)


@pytest.mark.parametrize("degree", range(1, 6))
def test_frames_follow_their_edges(degree):
    """Derivatives up to the third of what does not depend on the gauge: the harmonics of the edges."""

    def harmonics(vectors: torch.Tensor) -> torch.Tensor:
        local = torch.zeros(len(vectors), 2 * degree + 1, 1, dtype=torch.float64)
        local[:, degree] = math.sqrt(2 * degree + 1)
        return EdgeFrame(vectors).to_global(local, degree, (-1) ** degree).squeeze(2)

    vectors = torch.tensor([[0, 0, 1.0], [0, 0, -2], [1e-9, 0, 1], [0.3, -0.8, 0.4]], dtype=torch.float64)
    weights = torch.randn(2 * degree + 1, dtype=torch.float64)

    def derivatives(function) -> list[torch.Tensor]:
        x = vectors.clone().requires_grad_()
        value = (function(x) * weights).sum()
        gradients = []
        for order in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            gradients.append(gradient.detach())
            value = (gradient * (torch.arange(12).view(4, 3) + order).cos()).sum()
        return gradients

    def exact(v: torch.Tensor) -> torch.Tensor:
        return spherical_harmonics(v, degree)[degree**2 :].T

    for actual, expected in itertools.zip_longest(derivatives(harmonics), derivatives(exact)):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-9)


# --- molecules


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "kernels"), [("none", "1"), ("tracegrad", "1"), ("tracegrad", "0")])
def test_molecules(basis, arm, kernels, monkeypatch):
    """Atoms on one line along z, and others."""
    monkeypatch.setenv(native.SWITCH, kernels)
    torch.manual_seed(6)
    backbone = small(basis)

    def make(irreps, basis):
        return TraceGrad(irreps, basis, **ARMS[arm], channels=8, hidden=8)

    model = HamiltonianModel(backbone, make).double()
    line = np.array([1, 6, 7]), np.array([[0.0, 0, -1.06], [0, 0, 0], [0, 0, 1.16]])
    for molecule in (line, molecules.METHANOL):
        graph = collate([molecules.labelled_graph(molecule, basis)])
        start = graph.positions.clone()

        def energy(positions: torch.Tensor, graph=graph) -> torch.Tensor:
            graph.positions = positions
            prediction = model(graph)
            return sum(
                (torch.cos(torch.arange(x.numel())).view(x.shape) * x).sum()
                for x in prediction.blocks.values()
            ) + sum(x.square().mean() for x in prediction.traces.values())

        positions = start.clone().requires_grad_()
        (actual,) = torch.autograd.grad(energy(positions), positions)
        assert actual.isfinite().all()
        for _ in range(2):
            direction = torch.randn_like(start)
            with torch.no_grad():
                expected = central(lambda s, x=start, d=direction, f=energy: f(x + s * STEP * d))
            assert float((actual * direction).sum()) == pytest.approx(expected, rel=1e-7)
