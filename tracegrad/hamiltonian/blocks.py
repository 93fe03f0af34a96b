"""Dense matrices and blocks of files, and the same as atom-pair blocks in the union layout.

The pair graph of a molecule of n atoms has all ordered pairs without self pairs. Edges are ordered with the
source atom slow and the destination atom ascending; ``edge_index[0]`` is dst and ``edge_index[1]`` is src.
The block of an edge holds ``H[orbitals of dst, orbitals of src]``.

The edges of a crystal are the pairs (i, cell 0), (j, cell R) that its file has, on-site ones included; dst is i, src
is j. Files hold the blocks of all pairs one behind the other, each flat and in rows ("entries").
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from tracegrad.hamiltonian.assembly_kernel import assembled
from tracegrad.hamiltonian.basis import OrbitalBasis


@lru_cache(maxsize=256)
def complete_edges(atoms: int) -> tuple[Int64[Tensor, "2 edges"], Int64[Tensor, " edges"]]:
    """All ordered pairs of ``atoms`` atoms: (dst, src) and the position of each reversed edge.

    The tensors are shared between calls: do not write into them.
    """
    with torch.inference_mode(False):  # cached tensors must serve training too
        src, dst = torch.meshgrid(torch.arange(atoms), torch.arange(atoms), indexing="ij")
        off_diagonal = src != dst
        dst, src = dst[off_diagonal], src[off_diagonal]
        reverse = dst * (atoms - 1) + src - (dst < src).long()
        return torch.stack([dst, src]), reverse


def orbital_rows(
    numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> tuple[Int64[np.ndarray, "atoms dim"], int]:
    """Row of the dense matrix behind each union slot of each atom (padding: n), and n itself."""
    sizes = basis.sizes[numbers]
    total = int(sizes.sum())
    slots = basis.slots[numbers]
    rows = slots + (np.cumsum(sizes) - sizes)[:, None]
    return np.where(slots >= 0, rows, total), total


def cut_blocks(
    matrix: Float[Tensor, "n n"], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> tuple[Float[Tensor, "atoms dim dim"], Float[Tensor, "edges dim dim"]]:
    """On-site blocks and pair blocks (edge order of `complete_edges`) of a dense matrix; padding is 0."""
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
    """The inverse of `cut_blocks`: one dense matrix in the orbital order of the files."""
    return assemble_matrices(on_site, pairs, numbers, np.array([[0, len(numbers), 0]]), basis)[0]


def assemble_matrices(
    on_site: Float[Tensor, "atoms dim dim"],
    pairs: Float[Tensor, "edges dim dim"],
    numbers: Int64[np.ndarray, " atoms"],
    spans: Int64[np.ndarray, "molecules 3"],
    basis: OrbitalBasis,
    less: Sequence[Float[np.ndarray, " packed"]] | None = None,
) -> Float[Tensor, "molecules n n"]:
    """Dense matrices of molecules of a batch that have the same number of orbitals n.

    Args:
        on_site, pairs, numbers: of all molecules of the batch, one behind the other.
        spans: first atom, number of atoms and first pair of each molecule that is wanted.
        basis: of the blocks.
        less: symmetric matrices to be subtracted, in float64 as then the result: lower triangles, row after row.
    """
    slots, ends = basis.slots[numbers], np.cumsum(basis.sizes[numbers])
    starts = ends - basis.sizes[numbers]
    first, count, _ = spans.T
    sizes = ends[first + count - 1] - starts[first]
    n = int(sizes[0])
    if (sizes != n).any():
        raise ValueError(f"molecules of {sizes.tolist()} orbitals are not of the same size")
    made = assembled(on_site, pairs, slots, starts, spans, n, less)
    if made is not None:
        return made
    matrices = torch.stack([_assembled(on_site, pairs, slots, *span) for span in spans.tolist()])
    if less is None:
        return matrices
    return matrices.double() - unpacked(torch.from_numpy(np.stack(less)).to(matrices.device), n)


def _assembled(
    on_site: Float[Tensor, "atoms dim dim"],
    pairs: Float[Tensor, "edges dim dim"],
    slots: Int64[np.ndarray, "atoms dim"],
    first: int,
    atoms: int,
    edge: int,
) -> Float[Tensor, "n n"]:
    """The plain form for one molecule."""
    atom, slot = np.nonzero(slots[first : first + atoms] >= 0)
    order = np.lexsort([slots[first + atom, slot], atom])
    atom, slot = atom[order], slot[order]
    dst, src = np.indices((atoms, atoms))
    dim = slots.shape[1]
    starts = np.where(dst == src, dst, atoms + src * (atoms - 1) + dst - (dst > src)) * dim**2
    index = torch.from_numpy(starts[np.ix_(atom, atom)] + slot[:, None] * dim + slot)
    own = on_site[first : first + atoms], pairs[edge : edge + atoms * (atoms - 1)]
    return torch.cat([part.flatten() for part in own]).take(index.to(on_site.device))


def unpacked(triangles: Float[Tensor, "*batch packed"], n: int) -> Float[Tensor, "*batch n n"]:
    """Symmetric matrices from their lower triangles, row after row."""
    row, column = torch.tril_indices(n, n, device=triangles.device)
    full = triangles.new_empty(*triangles.shape[:-1], n, n)
    full[..., row, column] = full[..., column, row] = triangles
    return full


def pad_blocks(
    entries: Shaped[np.ndarray, " entries"],
    edge_index: Int64[np.ndarray, "2 edges"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Shaped[np.ndarray, "edges dim dim"]:
    """Blocks of a file in the union layout; padding is 0."""
    padded = np.zeros((edge_index.shape[1], basis.dim, basis.dim), entries.dtype)
    for edges, rows, columns, where in _by_species(edge_index, numbers, basis):
        padded[edges[:, None, None], rows[:, None], columns] = entries[where]
    return padded


def cut_padding(
    blocks: Shaped[np.ndarray, "edges dim dim"],
    edge_index: Int64[np.ndarray, "2 edges"],
    numbers: Int64[np.ndarray, " atoms"],
    basis: OrbitalBasis,
) -> Shaped[np.ndarray, " entries"]:
    """The inverse of `pad_blocks`."""
    entries = np.empty(block_starts(edge_index, numbers, basis)[-1], blocks.dtype)
    for edges, rows, columns, where in _by_species(edge_index, numbers, basis):
        entries[where] = blocks[edges[:, None, None], rows[:, None], columns]
    return entries


def block_starts(
    edge_index: Int64[np.ndarray, "2 edges"], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> Int64[np.ndarray, " bounds"]:
    """Where the entries of each edge's block start, and the end of the last."""
    dst, src = basis.sizes[numbers][edge_index]
    return np.concatenate([[0], np.cumsum(dst * src)])


def _by_species(
    edge_index: Int64[np.ndarray, "2 edges"], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each pair of species: its edges, union slots of rows and columns, and the entries behind them."""
    starts = block_starts(edge_index, numbers, basis)
    z_dst, z_src = numbers[edge_index]
    for a, b in np.unique(np.stack([z_dst, z_src]), axis=1).T if edge_index.size else ():
        edges = np.flatnonzero((z_dst == a) & (z_src == b))
        rows, columns = (np.flatnonzero(basis.slots[z] >= 0) for z in (a, b))
        inside = basis.slots[a][rows][:, None] * basis.sizes[b] + basis.slots[b][columns]
        yield edges, rows, columns, starts[edges][:, None, None] + inside
