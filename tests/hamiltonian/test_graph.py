import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from tests import molecules
from tracegrad.hamiltonian.blocks import assemble_matrix, complete_edges
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate, molecule_graph


def slots(number: int) -> list[int]:
    """Union slot of each orbital of a QH9 file: s shells first, p as (x, y, z) -> (y, z, x), then d."""
    s, p = (2, 1) if number == 1 else (3, 2)
    found = list(range(s))
    for shell in range(p):
        found += [3 + 3 * shell + place for place in (2, 0, 1)]
    return found + ([] if number == 1 else list(range(9, 14)))


def literal_blocks(matrix: np.ndarray, numbers: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """All 14 x 14 blocks (dst, src), element by element."""
    owner = [(atom, slot) for atom, number in enumerate(numbers) for slot in slots(number)]
    blocks = {(a, b): np.zeros((14, 14)) for a in range(len(numbers)) for b in range(len(numbers))}
    for i, (a, slot_a) in enumerate(owner):
        for j, (b, slot_b) in enumerate(owner):
            blocks[a, b][slot_a, slot_b] = matrix[i, j]
    return blocks


@pytest.mark.parametrize("molecule", molecules.ALL)
def test_fields(basis, molecule):
    numbers, positions = molecule
    matrix = molecules.random_hamiltonian(numbers, basis, 3)
    graph = molecule_graph(numbers, positions, basis, hamiltonian=matrix, sample_id=12, dtype=torch.float64)
    n = len(numbers)
    assert graph.num_nodes == n
    assert graph.numbers.tolist() == numbers.tolist()
    assert np.array_equal(graph.positions.numpy(), positions)
    assert graph.sample_id.tolist() == [12]
    expected_edges = [(dst, src) for src in range(n) for dst in range(n) if dst != src]
    assert list(zip(*graph.edge_index.tolist(), strict=True)) == expected_edges
    blocks = literal_blocks(matrix, numbers)
    assert graph.h_self.shape == (n, 14, 14)
    assert graph.h_edge.shape == (n * (n - 1), 14, 14)
    for atom in range(n):
        assert np.array_equal(graph.h_self[atom].numpy(), blocks[atom, atom])
    for edge, (dst, src) in enumerate(expected_edges):
        assert np.array_equal(graph.h_edge[edge].numpy(), blocks[dst, src])
    assert torch.equal(graph.edge_index[:, graph.reverse], graph.edge_index.flip(0))
    assert torch.equal(graph.h_edge[graph.reverse], graph.h_edge.mT)
    assert np.array_equal(assemble_matrix(graph.h_self, graph.h_edge, numbers, basis).numpy(), matrix)


def test_without_labels(basis):
    graph = molecule_graph(*molecules.WATER, basis)
    assert graph.positions.dtype == torch.float32
    assert graph.sample_id.tolist() == [-1]
    assert "h_self" not in graph
    assert "h_edge" not in graph
    assert "h_edge" not in collate([graph, graph])


@pytest.mark.parametrize(
    "together",
    [
        molecules.ALL,
        (molecules.ATOM,),
        (molecules.ATOM, molecules.ATOM),
        (molecules.WATER,),
        (molecules.FLUORIDE, molecules.ATOM, molecules.WATER, molecules.ATOM),
    ],
)
def test_batches_keep_molecules_separate_and_in_order(basis, together):
    graphs = [molecules.labelled_graph(molecule, basis, seed) for seed, molecule in enumerate(together)]
    batch = collate(graphs)
    assert isinstance(batch, Batch)
    assert isinstance(batch, HamiltonianGraph)
    assert batch.num_graphs == len(graphs)
    assert batch.sample_id.tolist() == list(range(len(graphs)))
    counts = [graph.num_nodes for graph in graphs]
    assert batch.batch.tolist() == [i for i, count in enumerate(counts) for _ in range(count)]
    for key in ("numbers", "positions", "h_self", "h_edge"):
        assert torch.equal(batch[key], torch.cat([graph[key] for graph in graphs]))
    atoms = edges = 0
    for graph in graphs:
        here = slice(edges, edges + graph.edge_index.shape[1])
        assert torch.equal(batch.edge_index[:, here], graph.edge_index + atoms)
        assert torch.equal(batch.reverse[here], graph.reverse + edges)
        atoms, edges = atoms + graph.num_nodes, here.stop
    assert torch.equal(batch.edge_index[:, batch.reverse], batch.edge_index.flip(0))
    for graph, again in zip(graphs, batch.to_data_list(), strict=True):
        for key in graph.keys():  # noqa: SIM118
            assert torch.equal(torch.as_tensor(graph[key]), torch.as_tensor(again[key])), key


def test_batches_do_not_share_memory_with_the_cached_edges(basis):
    before = [tensor.clone() for tensor in complete_edges(3)]
    batch = collate([molecules.labelled_graph(molecules.WATER, basis)])
    batch.edge_index += 100
    batch.reverse += 100
    for tensor, expected in zip(complete_edges(3), before, strict=True):
        assert torch.equal(tensor, expected)


def test_graphs_do_not_share_memory_with_their_sources(basis):
    numbers, positions = (array.copy() for array in molecules.WATER)
    matrix = molecules.random_hamiltonian(numbers, basis)
    graph = molecule_graph(numbers, positions, basis, hamiltonian=matrix, dtype=torch.float64)
    graph.positions += 1
    graph.h_self += 1
    assert np.array_equal(positions, molecules.WATER[1])
    assert np.array_equal(matrix, molecules.random_hamiltonian(numbers, basis))
    frozen = positions.copy()
    frozen.setflags(write=False)  # as arrays read from a database are
    molecule_graph(numbers, frozen, basis)
