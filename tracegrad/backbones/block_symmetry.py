"""Symmetries that predicted blocks of crystals can be given exactly."""

import torch
from jaxtyping import Inexact, Int
from torch import Tensor


def symmetrised(
    h: Inexact[Tensor, "edges dim dim"],
    reverse: Int[Tensor, " edges"],
    *,
    hermitian: bool,
    time_reversal: bool,
) -> Inexact[Tensor, "edges dim dim"]:
    """Blocks averaged with those that a symmetry makes of them.

    Args:
        h: blocks of all edges.
        reverse: for each edge the one in the other direction.
        hermitian: average H_ij(R) with the adjoint of H_ji(-R).
        time_reversal: average a spinful H with its time-reversed one.
    """
    if hermitian:
        h = (h + h.index_select(0, reverse).mH) / 2
    if time_reversal:
        half = h.shape[1] // 2
        uu = (h[:, :half, :half] + h[:, half:, half:].conj()) / 2
        ud = (h[:, :half, half:] - h[:, half:, :half].conj()) / 2
        h = torch.cat([torch.cat([uu, ud], 2), torch.cat([-ud.conj(), uu.conj()], 2)], 1)
    return h
