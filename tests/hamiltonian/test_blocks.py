import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import crystals
from tests.molecules import random_hamiltonian
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import (
    assemble_matrices,
    assemble_matrix,
    block_starts,
    complete_edges,
    cut_blocks,
    cut_padding,
    pad_blocks,
)
from tracegrad.ops import native
from tracegrad.ops.assembly.assembly import unpack_triangles

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


def test_unsymmetric_matrices_and_other_elements_round_trip():
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


@pytest.mark.parametrize("kernels", ["0", "1"])
def test_packed_triangles_are_subtracted_from_molecules_of_a_batch(kernels, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernels)
    molecules = [np.array(x) for x in ([8, 1, 6, 1], [1, 1], [1, 8, 1, 6], [6, 1, 1, 8])]
    matrices = [torch.randn(n, n) for x in molecules for n in [int(QH9.sizes[x].sum())]]
    blocks = [cut_blocks(matrix, x, QH9) for matrix, x in zip(matrices, molecules, strict=True)]
    on_site, pairs = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    numbers, spans = np.concatenate(molecules), np.array([[10, 4, 26], [0, 4, 0], [6, 4, 14]])
    expected = torch.stack([matrices[k] for k in (3, 0, 2)])
    found = assemble_matrices(on_site, pairs, numbers, spans, QH9)
    assert torch.equal(found, expected)
    subtract = np.random.default_rng(0).normal(size=expected.shape)
    subtract += subtract.transpose(0, 2, 1)
    lower = np.tril_indices(subtract.shape[1])
    found = assemble_matrices(on_site, pairs, numbers, spans, QH9, [x[lower] for x in subtract])
    assert torch.equal(found, expected.double() - torch.from_numpy(subtract))
    assert torch.equal(
        unpack_triangles(torch.from_numpy(subtract[:, *lower]), subtract.shape[1]), torch.from_numpy(subtract)
    )
    with pytest.raises(ValueError, match="1 packed triangles for 3 molecules"):
        assemble_matrices(on_site, pairs, numbers, spans, QH9, [subtract[0][lower]])
    with pytest.raises(ValueError, match="are not of the same size"):
        assemble_matrices(on_site, pairs, numbers, np.array([[0, 4, 0], [4, 2, 12]]), QH9)


@pytest.mark.parametrize("kernels", ["0", "1"])
def test_a_matrix_of_views_has_gradients(kernels, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernels)
    numbers = np.array([8, 1, 6, 1])
    n = int(QH9.sizes[numbers].sum())
    expected = torch.randn(n, n)
    blocks = cut_blocks(expected, numbers, QH9)
    on_site, pairs = (part.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for part in blocks)
    matrix = assemble_matrix(on_site, pairs, numbers, QH9)
    assert torch.equal(matrix, expected)
    matrix.square().sum().backward()
    assert torch.equal(on_site.grad, 2 * blocks[0])
    assert torch.equal(pairs.grad, 2 * blocks[1])


@pytest.mark.parametrize("atoms", [1, 2, 5])
def test_edges_are_all_ordered_pairs_with_their_reverse(atoms):
    edge_index, reverse = complete_edges(atoms)
    expected = [(dst, src) for src in range(atoms) for dst in range(atoms) if dst != src]
    assert list(zip(*edge_index.tolist(), strict=True)) == expected
    assert torch.equal(edge_index[:, reverse], edge_index.flip(0))


@pytest.mark.parametrize("basis", [crystals.SPINLESS, crystals.SPINFUL])
def test_padding_of_crystals_equals_literal_loops_and_is_cut_again(basis):
    numbers, _, _, edges = crystals.MOS2
    edge_index = edges[:, 3:].T
    entries = crystals.random_entries(crystals.MOS2, basis)
    padded = pad_blocks(entries, edge_index, numbers, basis)
    # Orbital of the file behind each orbital of the union layout, for one spin.
    # The file has p as x, y, z and d as z2, x2-y2, xy, xz, yz; the union y, z, x and xy, yz, z2, xz, x2-y2.
    openmx = {42: [0, 1, 3, 4, 2, 7, 9, 5, 8, 6], 16: [0, None, 2, 3, 1, *[None] * 5]}
    start = 0
    for e, (dst, src) in enumerate(edge_index.T):
        rows, columns = (
            [
                None if orbital is None else orbital + spin * (10 if z == 42 else 4)
                for spin in range(basis.spins)
                for orbital in openmx[z]
            ]
            for z in (numbers[dst], numbers[src])
        )
        width = sum(column is not None for column in columns)
        expected = np.zeros((basis.dim, basis.dim), entries.dtype)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if row is not None and column is not None:
                    expected[i, j] = entries[start + row * width + column]
        assert np.array_equal(padded[e], expected)
        start += sum(row is not None for row in rows) * width
        assert block_starts(edge_index, numbers, basis)[e + 1] == start
    assert start == len(entries)
    assert np.array_equal(cut_padding(padded, edge_index, numbers, basis), entries)
    padded[padded == 0] = np.nan
    assert np.array_equal(cut_padding(padded, edge_index, numbers, basis), entries)
