"""The operator of dense matrices of molecules, assembled from the blocks of their pairs of atoms.

Orbital i of molecule m belongs to its atom a_i, counted from 0 inside the molecule, and stands in row and column s_i
of the blocks of this atom:

    H_m[i, j] = block(a_i, a_j)[s_i, s_j] - subtract_m[i, j],

where block(a, a) is an on-site block, and block(a, b) the pair of destination a and source b, which is pair
b (atoms - 1) + a - (1 if a > b else 0) of the molecule. `subtract` is symmetric and given as its lower triangle, row
after row. The kernels make no index of the size of the matrix.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracegrad.ops.assembly import cpu, gpu
from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.operator import Operator


def assemble(
    on_site: Float[Tensor, "atoms dim dim"],
    pairs: Float[Tensor, "edges dim dim"],
    atoms: Int[Tensor, "molecules n"],
    slots: Int[Tensor, "molecules n"],
    spans: Int[Tensor, "molecules 3"],
    subtract: Sequence[Float[Tensor, " packed"]] = (),
) -> Float[Tensor, "molecules n n"]:
    """The matrices of molecules with the same number n of orbitals.

    Args:
        on_site, pairs: blocks of all molecules of a batch.
        atoms, slots: a_i and s_i of each orbital.
        spans: rows [first atom, number of atoms, first pair], one for each molecule.
        subtract: a lower triangle for each molecule, float64; the result is then float64.
    """
    return ASSEMBLE(on_site, pairs, atoms, slots, spans, list(subtract))


def _plain(
    on_site: Tensor, pairs: Tensor, atoms: Tensor, slots: Tensor, spans: Tensor, subtract: Sequence[Tensor]
) -> Tensor:
    dim = on_site.shape[1]
    first, count, edge = (x[:, None, None] for x in spans.unbind(1))
    dst, src = atoms[:, :, None], atoms[:, None, :]
    pair = len(on_site) + edge + src * (count - 1) + dst - (dst > src).long()
    block = torch.where(dst == src, first + dst, pair)
    index = (block * dim + slots[:, :, None]) * dim + slots[:, None, :]
    matrices = torch.cat([on_site.flatten(), pairs.flatten()]).take(index)
    if not subtract:
        return matrices
    return matrices.double() - unpack_triangles(torch.stack(list(subtract)), atoms.shape[1])


def unpack_triangles(triangles: Float[Tensor, "*batch packed"], n: int) -> Float[Tensor, "*batch n n"]:
    """Symmetric matrices from lower triangles with element (i, j <= i) at i (i + 1) / 2 + j."""
    row, column = torch.tril_indices(n, n, device=triangles.device)
    full = triangles.new_empty(*triangles.shape[:-1], n, n)
    full[..., row, column] = full[..., column, row] = triangles
    return full


def _outputs(
    on_site: Tensor, pairs: Tensor, atoms: Tensor, slots: Tensor, spans: Tensor, subtract: Sequence[Tensor]
) -> Tensor:
    dtype = torch.float64 if subtract else on_site.dtype
    return on_site.new_empty(atoms.shape[0], atoms.shape[1], atoms.shape[1], dtype=dtype)


def _check(
    on_site: Tensor, pairs: Tensor, atoms: Tensor, slots: Tensor, spans: Tensor, subtract: Sequence[Tensor]
) -> None:
    fits = (
        on_site.ndim == pairs.ndim == 3
        and on_site.shape[1] == on_site.shape[2]
        and pairs.shape[1:] == on_site.shape[1:]
        and pairs.dtype == on_site.dtype
        and atoms.ndim == 2
        and slots.shape == atoms.shape
        and spans.shape == (len(atoms), 3)
        and all(x.dtype == torch.int64 for x in (atoms, slots, spans))
    )
    if fits and subtract:
        n = atoms.shape[1]
        fits = len(subtract) == len(atoms)
        fits = fits and all(x.shape == (n * (n + 1) // 2,) and x.dtype == torch.float64 for x in subtract)
    if not fits:
        given = ", ".join(
            f"{tuple(x.shape)} {x.dtype}" for x in (on_site, pairs, atoms, slots, spans, *subtract)
        )
        raise OperatorArgumentError(
            f"assembly of {given}; (atoms, dim, dim) and (edges, dim, dim) of one dtype, whole numbers (molecules, "
            "n) twice and (molecules, 3), and perhaps a triangle in float64 for each molecule are needed"
        )


ASSEMBLE = Operator(
    "assemble",
    "Tensor on_site, Tensor pairs, Tensor atoms, Tensor slots, Tensor spans, Tensor[] subtract",
    _plain,
    _outputs,
    check=_check,
    without_gradient=("on_site", "pairs"),
)
ASSEMBLE.register("CPU", cpu.assemble, None)
ASSEMBLE.register("CUDA", gpu.assemble, None)
