"""The terms of the loss that know the overlap, against literal formulas with dense matrices."""

import numpy as np
import pytest
import scipy.linalg
import torch

from tests import crystals, molecules
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.blocks import cut_blocks
from tracegrad.hamiltonian.dense import DenseMatrices
from tracegrad.hamiltonian.graph import collate
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.shifted_term import ShiftedTerm, best_shift
from tracegrad.training.states_term import SMALLEST_OVERLAP, StatesTerm
from tracegrad.units import MEV

BATCH = (molecules.WATER, molecules.CYANIDE, molecules.FLUORIDE)
# Rounding over the smallest distance of levels of random matrices: eigenvectors of two solvers differ by this.
EIGENVECTORS = 1e-8
HARTREE = MEV["hartree"] / MEV["eV"]


def overlap(n: int, seed: int) -> np.ndarray:
    """A well-conditioned overlap."""
    x = np.random.default_rng(100 + seed).normal(size=(n, n)) / n
    return np.eye(n) + x @ x.T


@pytest.fixture
def graph(basis):
    graphs = []
    for seed, molecule in enumerate(BATCH):
        graph = molecules.labelled_graph(molecule, basis, seed)
        n = int(basis.sizes[molecule[0]].sum())
        graph.s_self, graph.s_edge = cut_blocks(torch.tensor(overlap(n, seed)), molecule[0], basis)
        graphs.append(graph)
    return collate(graphs)


def predicted(graph, seed: int = 5, *, hermitian: bool = False) -> HamiltonianPrediction:
    """Labels plus noise, padding included."""
    generator = torch.Generator().manual_seed(seed)
    blocks = {}
    for site in ("self", "edge") if "h_self" in graph else ("edge",):
        label = graph[f"h_{site}"]
        noise = torch.randn(label.shape, dtype=label.dtype, generator=generator)
        if hermitian:
            other = noise[graph.reverse] if site == "edge" else noise
            noise = noise + other.mH
        blocks[site] = (label + 0.1 * noise).requires_grad_()
    return HamiltonianPrediction(blocks)


def dense(blocks, graph, basis, k=(0.0, 0.0, 0.0)):
    return DenseMatrices(basis)(blocks, graph, k)


def differences(prediction, graph, basis, k=(0.0, 0.0, 0.0)):
    return dense({s: b - graph[f"h_{s}"] for s, b in prediction.blocks.items()}, graph, basis, k)


def assert_same_gradients(value, expected, prediction, rtol=1e-10, atol=1e-13):
    blocks = list(prediction.blocks.values())
    for one, other in zip(
        torch.autograd.grad(value.sum(), blocks, retain_graph=True),
        torch.autograd.grad(expected.sum(), blocks, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_the_shifted_error_is_that_after_the_best_shift(basis, graph):
    prediction = predicted(graph)
    term = ShiftedTerm(basis, BlockTraces(basis), measures=["mse", "mae"])
    value = term(prediction, graph)
    expected = []
    s = dense({site: graph[f"s_{site}"] for site in ("self", "edge")}, graph, basis)
    for d, of_sample in zip(differences(prediction, graph, basis), s, strict=True):
        mu = (d * of_sample).sum() / of_sample.square().sum()
        by_lstsq = scipy.linalg.lstsq(of_sample.reshape(-1, 1).numpy(), d.detach().reshape(-1).numpy())[0]
        assert mu.item() == pytest.approx(float(by_lstsq[0]), abs=1e-13)
        left = d - mu * of_sample
        expected.append(left.square().mean() + left.abs().mean())
    torch.testing.assert_close(value, torch.stack(expected), rtol=1e-12, atol=0)
    assert_same_gradients(value, torch.stack(expected), prediction)


def test_the_zero_of_energy_does_not_count(basis, graph):
    loss = HamiltonianLoss(basis, shift=True)
    assert loss.needs_overlap
    prediction = predicted(graph)
    shifts = torch.tensor([0.7, -3.0, 20.0], dtype=torch.float64)
    shifted = {}
    for site, blocks in prediction.blocks.items():
        atoms = graph.edge_index[0] if site == "edge" else torch.arange(len(graph.numbers))
        shifted[site] = blocks + shifts[graph.batch[atoms]][:, None, None] * graph[f"s_{site}"]
    other = HamiltonianPrediction(shifted)
    before, after = (loss(p, graph).per_sample["h"] for p in (prediction, other))
    torch.testing.assert_close(before, after, rtol=1e-11, atol=0)
    moved = best_shift(shifted, graph) - best_shift(prediction.blocks, graph)
    torch.testing.assert_close(moved, shifts, rtol=1e-12, atol=0)


def literal_states(d, h, s, top, window, empty_weight, measures):
    """The value of one sample with scipy, and torch only for the gradient."""
    energies, c = scipy.linalg.eigh(h.numpy(), s.numpy())
    g = torch.tensor(np.where(energies > top(energies) + window, empty_weight, 1.0))
    e = (torch.tensor(c).mH @ d @ torch.tensor(c)).abs()
    weights = torch.outer(g, g) / torch.outer(g, g).sum()
    return sum((weights * (e.square() if m == "mse" else e)).sum() for m in measures)


@pytest.mark.parametrize("measures", [["mse", "mae"], ["mse"]])
def test_states_of_molecules(basis, graph, measures):
    prediction = predicted(graph)
    term = StatesTerm(basis, BlockTraces(basis), measures=measures, window=30.0, empty_weight=0.2)
    expected = []
    h, s = (dense({site: graph[f"{x}_{site}"] for site in ("self", "edge")}, graph, basis) for x in "hs")
    for i, d in enumerate(differences(prediction, graph, basis)):
        occupied = int(BATCH[i][0].sum()) // 2
        top = lambda energies, n=occupied: energies[n]  # noqa: E731
        expected.append(literal_states(d, h[i], s[i], top, 30.0 / HARTREE, 0.2, measures))
    for _ in range(2):  # the second time with the states that were kept
        value = term(prediction, graph)
        torch.testing.assert_close(value, torch.stack(expected), rtol=EIGENVECTORS, atol=0)
        assert_same_gradients(value, torch.stack(expected), prediction, rtol=1e-4, atol=EIGENVECTORS)


def test_the_diagonal_holds_errors_of_energies_in_first_order(basis, graph):
    """With weight on one state alone, the error is that of its energy."""
    h, s = (dense({site: graph[f"{x}_{site}"] for site in ("self", "edge")}, graph, basis) for x in "hs")
    step = 1e-6
    prediction = predicted(graph, hermitian=True)
    small = {
        site: graph[f"h_{site}"] + step * (blocks.detach() - graph[f"h_{site}"])
        for site, blocks in prediction.blocks.items()
    }
    d = differences(HamiltonianPrediction(small), graph, basis)
    for i in range(graph.num_graphs):
        before, c = scipy.linalg.eigh(h[i].numpy(), s[i].numpy())
        after = scipy.linalg.eigh((h[i] + d[i]).numpy(), s[i].numpy(), eigvals_only=True)
        np.testing.assert_allclose(np.diag(c.T @ d[i].numpy() @ c), after - before, rtol=1e-3, atol=1e-11)


def crystal_batch(basis, *, fermi_level: float = 0.3):
    graphs = []
    spatial = crystals.SPINLESS
    for seed, sample in enumerate((crystals.MOS2, crystals.CHAIN)):
        graph = crystals.labelled_graph(sample, basis, seed=seed)
        one = crystals.labelled_graph(sample, spatial, seed=seed + 7).h_edge
        unit = (graph.edge_index[0] == graph.edge_index[1]) & (graph.cells == 0).all(1)
        mask = torch.from_numpy(spatial.mask)[graph.numbers].to(one)
        one = 0.02 * one + unit[:, None, None] * torch.diag_embed(mask[graph.edge_index[0]])
        graph.s_edge = (
            torch.cat([torch.cat([one, 0 * one], 2), torch.cat([0 * one, one], 2)], 1)
            if basis.spinful
            else one
        )
        graph.fermi_level = torch.tensor([fermi_level], dtype=torch.float64)
        graph.sample_id = torch.tensor([seed])
        graphs.append(graph)
    return collate(graphs)


@crystals.BASES
def test_states_of_crystals_at_several_points(basis):
    graph = crystal_batch(basis)
    points = [[0.0, 0.0, 0.0], [0.3, 0.1, 0.0]]
    prediction = predicted(graph)
    term = StatesTerm(basis, BlockTraces(basis), window=2.0, empty_weight=0.3, k=points)
    value = term(prediction, graph)
    expected = []
    for k in points:
        h, s = (dense({"edge": graph[f"{x}_edge"]}, graph, basis, k) for x in "hs")
        expected.append(
            torch.stack(
                [
                    literal_states(d, h[i], s[i], lambda _: 0.3, 2.0, 0.3, ["mse", "mae"])
                    for i, d in enumerate(differences(prediction, graph, basis, k))
                ]
            )
        )
    torch.testing.assert_close(value, torch.stack(expected).mean(0), rtol=EIGENVECTORS, atol=0)
    assert_same_gradients(value, torch.stack(expected).mean(0), prediction, rtol=1e-4, atol=EIGENVECTORS)


def test_combinations_that_hardly_exist_are_left_out():
    """An orbital that doubles another one: its difference has no overlap, and errors of it do not count."""
    basis = crystals.SPINLESS
    graph = crystal_batch(basis)
    term = StatesTerm(basis, BlockTraces(basis))
    h = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    s = torch.eye(3, dtype=torch.float64)
    s[0, 1] = s[1, 0] = 1 - SMALLEST_OVERLAP / 2
    states, _ = term._solve(graph, 0, h, s)
    assert states.shape == (3, 2)
    torch.testing.assert_close(states.T @ s @ states, torch.eye(2, dtype=torch.float64))
    s[0, 1] = s[1, 0] = 1 - 2 * SMALLEST_OVERLAP
    assert term._solve(graph, 0, h, s)[0].shape == (3, 3)


def test_a_crystal_without_fermi_level_is_named():
    basis = crystals.SPINLESS
    graph = crystal_batch(basis, fermi_level=float("nan"))
    with pytest.raises(DataError, match="row 0 has no Fermi level"):
        StatesTerm(basis, BlockTraces(basis))(predicted(graph), graph)
    assert StatesTerm(basis, BlockTraces(basis), empty_weight=1.0)(predicted(graph), graph).isfinite().all()


def test_states_are_kept_up_to_the_memory(basis, graph, monkeypatch):
    solved = []
    original = StatesTerm._solve
    monkeypatch.setattr(StatesTerm, "_solve", lambda *a: solved.append(a[2]) or original(*a))
    prediction = predicted(graph)
    term = StatesTerm(basis, BlockTraces(basis), memory=1)
    values = [term(prediction, graph) for _ in range(2)]
    torch.testing.assert_close(*values, rtol=0, atol=0)
    assert len(solved) > 3  # the last one only is kept
    solved.clear()
    roomy = StatesTerm(basis, BlockTraces(basis))
    for _ in range(2):
        roomy(prediction, graph)
    assert len(solved) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": ["rms"]}, "measures"),
        ({"empty_weight": 0.0}, "empty_weight"),
        ({"window": -1.0}, "window"),
        ({"k": [[0, 0]]}, "three fractions"),
        ({"k": [[0.5, 0, 0]]}, "molecules have no k"),
    ],
)
def test_settings_are_checked(basis, options, message):
    with pytest.raises(ConfigError, match=message):
        StatesTerm(basis, BlockTraces(basis), **options)
