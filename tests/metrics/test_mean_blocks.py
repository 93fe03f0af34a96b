import pytest
import torch
from torch.utils.data import DataLoader

from tests import crystals, molecules
from tracegrad.hamiltonian.graph import collate
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.metrics.mean_blocks import MeanBlocks
from tracegrad.model.network import HamiltonianPrediction


def loader(graphs: list, batch_size: int = 2) -> DataLoader:
    return DataLoader(graphs, batch_size, collate_fn=collate)


@pytest.fixture
def graphs(basis) -> list:
    return [molecules.labelled_graph(molecule, basis, seed) for seed, molecule in enumerate(molecules.ALL)]


def test_equals_a_literal_loop(basis, graphs):
    on_site, pairs = {}, {}
    for graph in graphs:
        numbers = graph.numbers.tolist()
        for atom, number in enumerate(numbers):
            on_site.setdefault(number, []).append(graph.h_self[atom])
        for edge, (dst, src) in enumerate(graph.edge_index.T.tolist()):
            pairs.setdefault((numbers[dst], numbers[src]), []).append(graph.h_edge[edge])
    assert len(pairs[1, 1]) > 10
    assert len(pairs[7, 6]) == 1

    mean = MeanBlocks(basis).fit(loader(graphs))
    batch = collate(graphs)
    found = mean(batch)
    numbers = batch.numbers.tolist()
    for atom, number in enumerate(numbers):
        expected = torch.stack(on_site[number]).mean(0)
        torch.testing.assert_close(found.blocks["self"][atom], expected, rtol=0, atol=1e-14)
    for edge, (dst, src) in enumerate(batch.edge_index.T.tolist()):
        expected = torch.stack(pairs[numbers[dst], numbers[src]]).mean(0)
        torch.testing.assert_close(found.blocks["edge"][edge], expected, rtol=0, atol=1e-14)
    # Symmetric matrices have symmetric means.
    pair_blocks = found.blocks["edge"]
    torch.testing.assert_close(pair_blocks[batch.reverse], pair_blocks.mT, rtol=0, atol=1e-14)


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_does_not_depend_on_the_batches(basis, graphs, batch_size):
    expected = MeanBlocks(basis).fit(loader(graphs, 2))
    found = MeanBlocks(basis).fit(loader(graphs, batch_size))
    batch = collate(graphs)
    for site, blocks in expected(batch).blocks.items():
        torch.testing.assert_close(found(batch).blocks[site], blocks, rtol=0, atol=1e-14)
    for key, value in expected.evaluate(loader(graphs, 1)).items():
        torch.testing.assert_close(found.evaluate(loader(graphs, batch_size))[key], value, equal_nan=True)


def test_pairs_of_species_without_data_are_predicted_as_zero(basis, graphs):
    water = molecules.labelled_graph(molecules.WATER, basis)
    mean = MeanBlocks(basis).fit(loader([water]))
    batch = collate([molecules.labelled_graph(molecules.FAR, basis)])  # O, H, C
    found = mean(batch)
    seen = torch.tensor([{dst, src} == {0, 1} for dst, src in batch.edge_index.T.tolist()])
    assert torch.equal(found.blocks["self"][2], torch.zeros(14, 14).double())
    assert not found.blocks["edge"][~seen].any()
    assert found.blocks["edge"][seen].any()


def test_metrics_are_those_of_the_prediction(basis, graphs):
    mean = MeanBlocks(basis).fit(loader(graphs[:3]))
    metric = HamiltonianMAE(basis)
    for graph in graphs:
        batch = collate([graph])
        metric.update(mean(batch), batch)
    expected = metric.compute()
    found = mean.evaluate(loader(graphs))
    assert found.keys() == expected.keys()
    for key in found:
        torch.testing.assert_close(found[key], expected[key], equal_nan=True)

    batch = collate(graphs)
    exact = HamiltonianMAE(basis)
    exact.update(HamiltonianPrediction({"self": batch.h_self, "edge": batch.h_edge}), batch)
    assert exact.compute()["h_mae"] == 0


def test_one_molecule_of_different_atoms_is_predicted_exactly(basis):
    cyanide = molecules.labelled_graph(molecules.CYANIDE, basis)
    found = MeanBlocks(basis).fit(loader([cyanide])).evaluate(loader([cyanide]))
    assert found["h_mae"] == found["h_mae_diag"] == found["h_mae_nondiag"] == 0


@pytest.mark.parametrize("crystal_basis", [crystals.SPINLESS, crystals.SPINFUL])
def test_on_site_blocks_of_crystals_have_a_separate_mean(crystal_basis):
    graphs = [crystals.labelled_graph(c, crystal_basis, seed) for seed, c in enumerate(crystals.ALL)]
    classes = {}

    def key(graph, e: int) -> tuple:
        dst, src = graph.edge_index[:, e].tolist()
        on_site = dst == src and not graph.cells[e].any()
        return int(graph.numbers[dst]), int(graph.numbers[src]), on_site

    for graph in graphs:
        for e, block in enumerate(graph.h_edge):
            classes.setdefault(key(graph, e), []).append(block)
    assert (16, 16, True) in classes
    assert len(classes) == 6
    mean = MeanBlocks(crystal_basis).fit(loader(graphs))
    batch = collate(graphs)
    found = mean(batch).blocks
    assert found.keys() == {"edge"}
    for e, block in enumerate(found["edge"]):
        expected = torch.stack(classes[key(batch, e)]).mean(0)
        torch.testing.assert_close(block, expected, rtol=0, atol=1e-13)
    # Hermitian matrices have hermitian means.
    torch.testing.assert_close(found["edge"][batch.reverse], found["edge"].mH, rtol=0, atol=1e-13)
    assert (
        0
        < mean.evaluate(loader(graphs, 3))["h_mae"]
        == pytest.approx(mean.evaluate(loader(graphs, 1))["h_mae"])
    )
