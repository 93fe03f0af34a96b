"""Conversion of H between the form of the files and blocks of pairs of atoms in the union layout.

Molecules: files hold a dense matrix. The graph of n atoms has all ordered pairs of different atoms, sorted by source
and then by destination: the pair (dst, src) is edge src * (n - 1) + dst - (1 if dst > src else 0). ``edge_index[0]``
is dst and ``edge_index[1]`` is src; the block of an edge is ``H[orbitals of dst, orbitals of src]``.

Crystals: the edges are the pairs of atom i in cell 0 and atom j in cell R that the file lists, on-site ones included;
dst is i and src is j. A file holds the *entries*: the blocks of all edges, each flattened row by row, concatenated.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.ops.assembly.assembly import assemble


@lru_cache(maxsize=256)
def complete_edges(atoms: int) -> tuple[Int64[Tensor, "2 edges"], Int64[Tensor, " edges"]]:
    """``edge_index`` of all ordered pairs of different atoms, and the position of each reversed edge.

    The tensors are cached and shared between calls: do not write into them.
    """
    with torch.inference_mode(False):  # cached tensors are used in training, too
        src, dst = torch.meshgrid(torch.arange(atoms), torch.arange(atoms), indexing="ij")
        off_diagonal = src != dst
        dst, src = dst[off_diagonal], src[off_diagonal]
        reverse = dst * (atoms - 1) + src - (dst < src).long()
        return torch.stack([dst, src]), reverse


def orbital_rows(
    numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> tuple[Int64[np.ndarray, "atoms dim"], int]:
    """rows[a, s], the row of the dense matrix for union slot s of atom a (n for padding), and n, its size."""
    sizes = basis.sizes[numbers]
    total = int(sizes.sum())
    slots = basis.slots[numbers]
    rows = slots + (np.cumsum(sizes) - sizes)[:, None]
    return np.where(slots >= 0, rows, total), total


def cut_blocks(
    matrix: Float[Tensor, "n n"], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> tuple[Float[Tensor, "atoms dim dim"], Float[Tensor, "edges dim dim"]]:
    """On-site blocks and pair blocks (in the order of `complete_edges`) of a dense matrix; padding is 0."""
    atoms, dim = len(numbers), basis.dim
    rows, total = orbital_rows(numbers, basis)
    padded = matrix.new_zeros(total + 1, total + 1)
    padded[:total, :total] = matrix
    index = torch.from_numpy(rows.reshape(-1))
    tiles = padded.index_select(0, index).index_select(1, index).view(atoms, dim, atoms, dim)
    by_source = tiles.permute(2, 0, 1, 3)  # [src, dst, dim, dim]
    on_site = by_source.diagonal(dim1=0, dim2=1).permute(2, 0, 1).contiguous()
    flat = by_source.reshape(atoms * atoms, dim, dim)
    # Dropping every (atoms + 1)-th entry removes the self pairs and keeps the order.
    pairs = flat[1:].view(atoms - 1, atoms + 1, dim, dim)[:, :-1].reshape(-1, dim, dim)
    return on_site, pairs


def assemble_matrix(
    on_site: Float[Tensor, "atoms dim dim"],
    pairs: Float[Tensor, "edges dim dim"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Float[Tensor, "n n"]:
    """Inverse of `cut_blocks`: the dense matrix in the orbital order of the files."""
    return assemble_matrices(on_site, pairs, numbers, np.array([[0, len(numbers), 0]]), basis)[0]


def assemble_matrices(
    on_site: Float[Tensor, "atoms dim dim"],
    pairs: Float[Tensor, "edges dim dim"],
    numbers: Int64[np.ndarray, " atoms"],
    spans: Int64[np.ndarray, "molecules 3"],
    basis: OrbitalBasis,
    subtract: Sequence[Float[np.ndarray, " packed"]] | None = None,
) -> Float[Tensor, "molecules n n"]:
    """Dense matrices of some molecules of a batch, all with the same number of orbitals n.

    Args:
        on_site, pairs, numbers: blocks and atomic numbers of the whole batch.
        spans: rows [first atom, number of atoms, first pair], one for each molecule to assemble.
        basis: orbital basis of the blocks.
        subtract: symmetric float64 matrices that are subtracted; each as its lower triangle, element (i, j <= i) at
            i (i + 1) / 2 + j. The result is then float64.

    Raises:
        ValueError: the molecules differ in their number of orbitals, or a triangle is missing.
    """
    slots, ends = basis.slots[numbers], np.cumsum(basis.sizes[numbers])
    starts = ends - basis.sizes[numbers]
    first, count, _ = spans.T
    sizes = ends[first + count - 1] - starts[first]
    n = int(sizes[0])
    if (sizes != n).any():
        raise ValueError(f"molecules of {sizes.tolist()} orbitals are not of the same size")
    if subtract is not None and len(subtract) != len(spans):
        raise ValueError(f"{len(subtract)} packed triangles for {len(spans)} molecules; give one for each")
    molecule = np.repeat(np.arange(len(spans)), count)  # of each atom of these molecules
    inside = np.arange(len(molecule)) - (np.cumsum(count) - count)[molecule]
    index = first[molecule] + inside
    atom, slot = np.nonzero(slots[index] >= 0)
    row = slots[index[atom], slot] + (starts[index] - starts[first[molecule]])[atom]
    tables = np.full((2, len(spans), n), -1)
    tables[:, molecule[atom], row] = inside[atom], slot
    device = on_site.device
    atoms, places = torch.from_numpy(tables).to(device)
    # Copies: arrays that lie in files are read-only.
    triangles = [torch.tensor(x, device=device) for x in subtract or ()]
    of_molecules = torch.from_numpy(np.ascontiguousarray(spans)).to(device)
    return assemble(on_site, pairs, atoms, places, of_molecules, triangles)


def pad_blocks(
    entries: Shaped[np.ndarray, " entries"],
    edge_index: Int64[np.ndarray, "2 edges"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Shaped[np.ndarray, "edges dim dim"]:
    """Blocks in the union layout from the entries of a file; padding is 0."""
    padded = np.empty((edge_index.shape[1], basis.dim**2), entries.dtype)
    for edges, starts, size, places in _by_species(edge_index, numbers, basis):
        one_kind = len(edges) == len(padded)
        # Whole blocks are copied first: an index for each entry would be eight bytes long and slower to follow.
        blocks = entries.reshape(-1, size) if one_kind else sliding_window_view(entries, size)[starts]
        blocks = blocks.take(places, axis=1, mode="clip")
        blocks[:, places < 0] = 0
        if one_kind:
            padded = blocks
        else:
            padded[edges] = blocks
    return padded.reshape(-1, basis.dim, basis.dim)


def cut_padding(
    blocks: Shaped[np.ndarray, "edges dim dim"],
    edge_index: Int64[np.ndarray, "2 edges"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Shaped[np.ndarray, " entries"]:
    """Inverse of `pad_blocks`: the entries as files hold them."""
    entries = np.empty(block_starts(edge_index, numbers, basis)[-1], blocks.dtype)
    rows = blocks.reshape(len(blocks), -1)
    for edges, starts, size, places in _by_species(edge_index, numbers, basis):
        slots = np.argsort(places)[-size:]  # of the entries in the order of the file; padding sorts first
        sliding_window_view(entries, size, writeable=True)[starts] = rows[edges[:, None], slots]
    return entries


def block_starts(
    edge_index: Int64[np.ndarray, "2 edges"], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> Int64[np.ndarray, " bounds"]:
    """Position of the first entry of the block of each edge, and the total number of entries."""
    dst, src = basis.sizes[numbers][edge_index]
    return np.concatenate([[0], np.cumsum(dst * src)])


def _by_species(
    edge_index: Int64[np.ndarray, "2 edges"], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> Iterator[tuple[np.ndarray, np.ndarray, int, np.ndarray]]:
    """For each pair of species: its edges, the first entry and the length of their blocks, and a place for each slot.

    The place of a slot of the padded block, dim * row + column, is its position in the block of a file; -1: padding.
    """
    starts = block_starts(edge_index, numbers, basis)
    z_dst, z_src = numbers[edge_index]
    kinds = z_dst * len(basis.sizes) + z_src
    for kind in np.unique(kinds).tolist():
        a, b = divmod(kind, len(basis.sizes))
        edges = np.flatnonzero(kinds == kind)
        rows, columns = basis.slots[a][:, None], basis.slots[b]
        places = np.where((rows >= 0) & (columns >= 0), rows * basis.sizes[b] + columns, -1).ravel()
        yield edges, starts[edges], int(basis.sizes[a] * basis.sizes[b]), places
