from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.molecules import random_hamiltonian, random_rotation, union_rotation
from tracegrad.basis import OrbitalBasis
from tracegrad.blocks import assemble_matrix, block_traces, complete_edges, cut_blocks

QH9 = OrbitalBasis.def2_svp()
THIRD_ROW = OrbitalBasis.def2_svp(range(1, 19))
species = st.lists(st.sampled_from(QH9.elements), min_size=1, max_size=7)


def literal_blocks(matrix: np.ndarray, numbers: list[int], basis: OrbitalBasis):
    """Blocks by Python loops over atoms, shells and components."""

    def slots(number: int) -> list[tuple[int, int]]:
        """(union slot, row inside the atom) of every orbital."""
        result, row, used = [], 0, {}
        for degree in basis.shells[number]:
            shell = used.setdefault(degree, 0)
            used[degree] += 1
            first = [i for i, d in enumerate(basis.union) if d == degree][shell]
            start = sum(2 * d + 1 for d in basis.union[:first])
            # PySCF: p is x, y, z; the union has y, z, x.
            order = [2, 0, 1] if degree == 1 else list(range(2 * degree + 1))
            result += [(start + slot, row + i) for i, slot in enumerate(order)]
            row += 2 * degree + 1
        return result

    sizes = [sum(2 * d + 1 for d in basis.shells[z]) for z in numbers]
    offsets = [sum(sizes[:i]) for i in range(len(numbers))]

    def block(dst: int, src: int) -> np.ndarray:
        result = np.zeros((basis.dim, basis.dim))
        for slot_i, row_i in slots(numbers[dst]):
            for slot_j, row_j in slots(numbers[src]):
                result[slot_i, slot_j] = matrix[offsets[dst] + row_i, offsets[src] + row_j]
        return result

    atoms = range(len(numbers))
    on_site = [block(i, i) for i in atoms]
    pairs = [block(dst, src) for src in atoms for dst in atoms if dst != src]
    return np.array(on_site), np.array(pairs).reshape(-1, basis.dim, basis.dim)


@settings(deadline=None, max_examples=40)
@given(numbers=species, seed=st.integers(0, 10**6))
def test_blocks_equal_the_literal_loops_and_assemble_again(numbers, seed):
    numbers = np.array(numbers)
    matrix = torch.from_numpy(random_hamiltonian(numbers, QH9, seed))
    on_site, pairs = cut_blocks(matrix, numbers, QH9)
    expected_on_site, expected_pairs = literal_blocks(matrix.numpy(), numbers.tolist(), QH9)
    assert np.array_equal(on_site.numpy(), expected_on_site)
    assert np.array_equal(pairs.numpy(), expected_pairs)
    assert torch.equal(assemble_matrix(on_site, pairs, numbers, QH9), matrix)


def test_unsymmetric_matrices_and_other_elements_survive():
    numbers = np.array([17, 1, 11, 6])
    n = int(THIRD_ROW.sizes[numbers].sum())
    matrix = torch.randn(n, n, dtype=torch.float64)
    on_site, pairs = cut_blocks(matrix, numbers, THIRD_ROW)
    expected_on_site, expected_pairs = literal_blocks(matrix.numpy(), numbers.tolist(), THIRD_ROW)
    assert np.array_equal(on_site.numpy(), expected_on_site)
    assert np.array_equal(pairs.numpy(), expected_pairs)
    assert torch.equal(assemble_matrix(on_site, pairs, numbers, THIRD_ROW), matrix)


@settings(deadline=None, max_examples=20)
@given(numbers=species, seed=st.integers(0, 10**6))
def test_padding_does_not_enter_the_matrix(numbers, seed):
    numbers = np.array(numbers)
    matrix = torch.from_numpy(random_hamiltonian(numbers, QH9, seed))
    on_site, pairs = cut_blocks(matrix, numbers, QH9)
    dst, src = complete_edges(len(numbers))[0]
    mask = torch.from_numpy(QH9.mask[numbers])
    on_site[~(mask[:, :, None] & mask[:, None, :])] = torch.nan
    pairs[~(mask[dst][:, :, None] & mask[src][:, None, :])] = torch.nan
    assert torch.equal(assemble_matrix(on_site, pairs, numbers, QH9), matrix)


@pytest.mark.parametrize("atoms", [1, 2, 5])
def test_edges_are_all_ordered_pairs_with_their_reverse(atoms):
    edge_index, reverse = complete_edges(atoms)
    expected = [(dst, src) for src in range(atoms) for dst in range(atoms) if dst != src]
    assert list(zip(*edge_index.tolist(), strict=True)) == expected
    assert torch.equal(edge_index[:, reverse], edge_index.flip(0))


def test_theorem_1_traces_are_invariant_under_rotation():
    blocks = torch.randn(6, QH9.dim, QH9.dim, dtype=torch.float64)
    traces = block_traces(blocks, QH9)
    for seed in range(5):
        d = union_rotation(QH9, random_rotation(seed))
        rotated = d @ blocks @ d.T
        torch.testing.assert_close(block_traces(rotated, QH9), traces, rtol=0, atol=1e-12)
    mixed = torch.linalg.qr(torch.randn(QH9.dim, QH9.dim, dtype=torch.float64)).Q
    assert (block_traces(mixed @ blocks @ mixed.T, QH9) - traces).abs().max() > 0.1


def test_traces_are_tr_h_h_dagger_of_each_basic_block():
    blocks = torch.randn(3, QH9.dim, QH9.dim, dtype=torch.float64)
    traces = block_traces(blocks, QH9)
    starts = [*QH9.shell_starts.tolist(), QH9.dim]
    for p, (a, b) in enumerate(pairwise(starts)):
        for q, (c, d) in enumerate(pairwise(starts)):
            for item in range(3):
                basic = blocks[item, a:b, c:d]
                assert float(traces[item, p, q]) == pytest.approx(float((basic @ basic.T).trace()), rel=1e-13)
