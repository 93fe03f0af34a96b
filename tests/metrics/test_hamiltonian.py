import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tests.molecules import random_hamiltonian
from tracegrad.hamiltonian.blocks import cut_blocks
from tracegrad.hamiltonian.graph import collate
from tracegrad.hamiltonian.reduction import Masks
from tracegrad.metrics.functional import hamiltonian_errors
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.model.network import HamiltonianPrediction


def sample(molecule, basis, seed: int):
    """Graph with labels, a prediction, and both as dense matrices."""
    numbers = molecule[0]
    graph = molecules.labelled_graph(molecule, basis, seed)
    label = random_hamiltonian(numbers, basis, seed)
    predicted = label + 0.1 * random_hamiltonian(numbers, basis, seed + 1000)
    on_site, pairs = cut_blocks(torch.from_numpy(predicted), numbers, basis)
    return graph, HamiltonianPrediction({"self": on_site, "edge": pairs}), predicted - label


def literal_errors(numbers, difference, basis) -> tuple[float, float, float]:
    """MAE over all elements, over diagonal and over off-diagonal atom blocks of a dense matrix."""
    atom = np.repeat(np.arange(len(numbers)), basis.sizes[numbers])
    same = atom[:, None] == atom[None]
    error = np.abs(difference)
    return error.mean(), error[same].mean(), error[~same].mean() if (~same).any() else np.nan


def samples(basis):
    return [sample(m, basis, i) for i, m in enumerate(molecules.ALL * 2)]


def batch(items) -> tuple[HamiltonianPrediction, object]:
    graphs, predictions, _ = zip(*items, strict=True)
    blocks = {site: torch.cat([p.blocks[site] for p in predictions]) for site in predictions[0].blocks}
    return HamiltonianPrediction(blocks), collate(list(graphs))


def run(items, basis, size: int) -> dict[str, torch.Tensor]:
    metric = HamiltonianMAE(basis)
    for start in range(0, len(items), size):
        metric.update(*batch(items[start : start + size]))
    return metric.compute()


def test_per_molecule_values_are_those_of_dense_matrices(basis):
    items = samples(basis)
    prediction, graph = batch(items)
    errors = hamiltonian_errors(prediction.blocks, graph, Masks(basis), basis)
    expected = np.array([literal_errors(g.numbers.numpy(), d, basis) for g, _, d in items])
    for found, column in zip((errors.all, errors.diag, errors.nondiag), expected.T, strict=True):
        np.testing.assert_allclose(found.numpy(), column, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_metric_is_the_mean_over_molecules_for_any_batches(basis):
    items = samples(basis)
    expected = np.array([literal_errors(g.numbers.numpy(), d, basis) for g, _, d in items])
    for size in (1, 2, 5, len(items)):
        found = run(items, basis, size)
        assert float(found["h_mae"]) == pytest.approx(expected[:, 0].mean(), rel=1e-12)
        assert float(found["h_mae_diag"]) == pytest.approx(expected[:, 1].mean(), rel=1e-12)
        assert float(found["h_mae_nondiag"]) == pytest.approx(np.nanmean(expected[:, 2]), rel=1e-12)


def test_block_errors_pool_the_elements_of_each_basic_block(basis):
    items = samples(basis)
    shells = len(basis.union)
    shell = np.repeat(np.arange(shells), [2 * degree + 1 for degree in basis.union])
    sums, counts = np.zeros((shells, shells)), np.zeros((shells, shells))
    for graph, prediction, _ in items:
        numbers = graph.numbers.numpy()
        blocks = [(prediction.blocks["self"][a], graph.h_self[a], z, z) for a, z in enumerate(numbers)]
        for e, (dst, src) in enumerate(graph.edge_index.T.tolist()):
            blocks.append((prediction.blocks["edge"][e], graph.h_edge[e], numbers[dst], numbers[src]))
        for found, label, row_z, column_z in blocks:
            error = (found - label).abs().numpy()
            for i in np.flatnonzero(basis.mask[row_z]):
                for j in np.flatnonzero(basis.mask[column_z]):
                    sums[shell[i], shell[j]] += error[i, j]
                    counts[shell[i], shell[j]] += 1
    found = run(items, basis, 3)["h_mae_block"].numpy()
    np.testing.assert_allclose(found, sums / counts, rtol=1e-12)


def test_padding_does_not_count(basis):
    graph, prediction, _ = sample(molecules.METHANOL, basis, 0)
    batched = collate([graph])
    metric = HamiltonianMAE(basis)
    metric.update(prediction, batched)
    absent = ~torch.from_numpy(basis.mask)[graph.numbers]
    prediction.blocks["self"][absent] += 100.0
    prediction.blocks["edge"][absent[graph.edge_index[0]]] += 100.0
    other = HamiltonianMAE(basis)
    other.update(prediction, batched)
    assert float(metric.compute()["h_mae"]) == float(other.compute()["h_mae"])


def test_states_are_float64_whatever_the_model(basis):
    graph, prediction, _ = sample(molecules.WATER, basis, 0)
    metric = HamiltonianMAE(basis).float()
    single = {site: blocks.float() for site, blocks in prediction.blocks.items()}
    metric.update(HamiltonianPrediction(single), collate([graph]))
    assert all(value.dtype == torch.float64 for value in metric.compute().values())


def test_a_nan_prediction_shows_and_a_missing_block_does_not(basis):
    graph, prediction, _ = sample(molecules.ATOM, basis, 0)
    metric = HamiltonianMAE(basis)
    metric.update(prediction, collate([graph]))
    assert metric.compute()["h_mae"].isfinite()
    graph, prediction, _ = sample(molecules.WATER, basis, 0)
    prediction.blocks["edge"][0, 0, 0] = torch.nan
    metric.update(prediction, collate([graph]))
    assert metric.compute()["h_mae"].isnan()
    assert metric.compute()["h_mae_nondiag"].isnan()


def crystal_samples(basis):
    """Graphs with labels and predictions with numbers in the padding, too."""
    items = []
    for seed, crystal in enumerate(crystals.ALL * 2):
        graph = crystals.labelled_graph(crystal, basis, seed)
        noise = torch.randn_like(graph.h_edge)
        items.append((graph, HamiltonianPrediction({"edge": graph.h_edge + noise}), noise))
    return items


def literal_crystal_errors(items, basis):
    """Per-sample MAE of all, on-site and other blocks, and MAE per basic block, by loops over edges and elements."""
    shells = len(basis.union)
    shell = np.repeat(np.arange(shells), [2 * degree + 1 for degree in basis.union])
    sums, counts = np.zeros((2, shells, shells))
    samples = []
    for graph, _, noise in items:
        errors = {True: [], False: []}
        for e, (dst, src) in enumerate(graph.edge_index.T.tolist()):
            same = dst == src and graph.cells[e].tolist() == [0, 0, 0]
            for i in np.flatnonzero(basis.mask[graph.numbers[dst]]):
                for j in np.flatnonzero(basis.mask[graph.numbers[src]]):
                    z = complex(noise[e, i, j])
                    errors[same].append((z.real**2 + z.imag**2) ** 0.5)
                    sums[shell[i], shell[j]] += errors[same][-1]
                    counts[shell[i], shell[j]] += 1
        diag, nondiag = (np.mean(errors[key]) if errors[key] else np.nan for key in (True, False))
        samples.append((np.mean(errors[True] + errors[False]), diag, nondiag))
    return np.array(samples), sums / counts


@pytest.mark.parametrize("crystal_basis", [crystals.SPINLESS, crystals.SPINFUL])
def test_metrics_of_crystals_equal_the_literal_loops_for_any_batches(crystal_basis):
    items = crystal_samples(crystal_basis)
    samples, blocks = literal_crystal_errors(items, crystal_basis)
    assert np.isnan(samples).any(0).tolist() == [False, True, True]
    prediction, graph = batch(items)
    errors = hamiltonian_errors(prediction.blocks, graph, Masks(crystal_basis), crystal_basis)
    for found, column in zip((errors.all, errors.diag, errors.nondiag), samples.T, strict=True):
        np.testing.assert_allclose(found.numpy(), column, rtol=1e-13)
    for size in (1, 2, 3, len(items)):
        found = run(items, crystal_basis, size)
        for name, column in zip(("h_mae", "h_mae_diag", "h_mae_nondiag"), samples.T, strict=True):
            assert float(found[name]) == pytest.approx(np.nanmean(column), rel=1e-12)
        np.testing.assert_allclose(found["h_mae_block"].numpy(), blocks, rtol=1e-12)


def test_errors_of_single_precision_blocks_are_taken_in_double_precision():
    basis = crystals.SPINFUL
    graph = collate([crystals.labelled_graph(crystals.MOS2, basis, dtype=torch.float32)])
    blocks = {"edge": graph.h_edge * (1 + 1e-6)}
    errors = hamiltonian_errors(blocks, graph, Masks(basis), basis)
    expected = (blocks["edge"].to(torch.complex128) - graph.h_edge.to(torch.complex128)).abs()
    assert errors.all.dtype == torch.float64
    assert float(errors.all) == pytest.approx(float(expected[expected > 0].sum() / errors.block_counts.sum()))
