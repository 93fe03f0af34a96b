"""Dense matrices of batches: molecules against the inverse of the cutting, crystals against the literal Bloch sum."""

import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tracegrad.hamiltonian.blocks import assemble_matrix, block_starts, cut_padding
from tracegrad.hamiltonian.dense import DenseMatrices
from tracegrad.hamiltonian.graph import collate


def test_molecules_of_several_sizes(basis):
    matrices = [molecules.random_hamiltonian(m[0], basis, seed) for seed, m in enumerate(molecules.ALL)]
    graphs = [molecules.labelled_graph(m, basis, seed) for seed, m in enumerate(molecules.ALL)]
    graph = collate(graphs)
    blocks = {"self": graph.h_self, "edge": graph.h_edge + (graph.h_edge == 0)}  # numbers in the padding, too
    dense = DenseMatrices(basis)(blocks, graph)
    for found, expected, single in zip(dense, matrices, graphs, strict=True):
        assert found.dtype == torch.float64
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(
            found, assemble_matrix(single.h_self, single.h_edge, single.numbers.numpy(), basis)
        )


@crystals.BASES
@pytest.mark.parametrize("k", [(0.0, 0.0, 0.0), (0.3, -0.2, 0.5)])
def test_crystals_are_bloch_sums(basis, k):
    samples = (crystals.MOS2, crystals.CHAIN, crystals.ALONE)
    graphs = [crystals.labelled_graph(sample, basis, seed=i) for i, sample in enumerate(samples)]
    graph = collate(graphs)
    dense = DenseMatrices(basis)({"edge": graph.h_edge}, graph, k)
    for found, (numbers, _, _, edges), single in zip(dense, samples, graphs, strict=True):
        sizes = basis.sizes[numbers]
        first = np.cumsum(sizes) - sizes
        expected = np.zeros((sizes.sum(), sizes.sum()), dtype=complex)
        index = single.edge_index.numpy()
        entries = cut_padding(single.h_edge.numpy(), index, numbers, basis)
        starts = block_starts(index, numbers, basis)
        for n, (*cell, i, j) in enumerate(edges.tolist()):
            block = entries[starts[n] : starts[n + 1]].reshape(sizes[i], sizes[j])
            phase = np.exp(2j * np.pi * np.dot(k, cell))
            expected[first[i] : first[i] + sizes[i], first[j] : first[j] + sizes[j]] += phase * block
        assert found.is_complex() == (basis.spinful or any(k))
        np.testing.assert_allclose(found, expected, atol=1e-13)


def test_gradients(basis):
    graph = collate([molecules.labelled_graph(m, basis) for m in (molecules.FLUORIDE, molecules.ATOM)])
    dense = DenseMatrices(basis)

    def total(on_site, pairs):
        matrices = dense({"self": on_site, "edge": pairs}, graph)
        return torch.stack([(m @ m).cos().sum() for m in matrices])

    assert torch.autograd.gradcheck(
        total, [graph.h_self.requires_grad_(), graph.h_edge.requires_grad_()], fast_mode=True
    )
