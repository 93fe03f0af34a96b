"""Dense matrices, their atom-pair blocks in the union layout, and the traces of basic blocks.

The pair graph of a molecule of n atoms has all ordered pairs without self pairs. Edges are ordered with the
source atom slow and the destination atom ascending; ``edge_index[0]`` is dst and ``edge_index[1]`` is src.
The block of an edge holds ``H[orbitals of dst, orbitals of src]``.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tracegrad.basis import OrbitalBasis
from tracegrad.nn.precision import full_precision


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
    atoms, dim = len(numbers), basis.dim
    tiles = on_site.new_zeros(atoms * atoms, dim, dim)
    tiles[:: atoms + 1] = on_site
    if atoms > 1:
        tiles[1:].view(atoms - 1, atoms + 1, dim, dim)[:, :-1] = pairs.view(atoms - 1, atoms, dim, dim)
    dense = tiles.view(atoms, atoms, dim, dim).permute(1, 2, 0, 3).reshape(atoms * dim, atoms * dim)
    rows, total = orbital_rows(numbers, basis)
    order = np.full(total + 1, -1, dtype=np.int64)
    order[rows.reshape(-1)] = np.arange(atoms * dim)
    index = torch.from_numpy(order[:total]).to(dense.device)
    return dense.index_select(0, index).index_select(1, index)


@full_precision
def block_traces(
    blocks: Float[Tensor, "*batch dim dim"], basis: OrbitalBasis
) -> Float[Tensor, "*batch shells shells"]:
    """T = tr(H H^dagger) of each basic block H^{lp x lq} (Theorem 1); unit: the square of H's."""
    member = torch.zeros(basis.dim, len(basis.union), dtype=blocks.dtype, device=blocks.device)
    for shell, (start, degree) in enumerate(zip(basis.shell_starts, basis.union, strict=True)):
        member[start : start + 2 * degree + 1, shell] = 1
    return member.T @ blocks.square() @ member
