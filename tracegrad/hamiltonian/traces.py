"""The traces T = tr(H H^dagger) of basic blocks H^{lp x lq} (Theorem 1), the labels of the invariant branch."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision

SpinTrace = Literal["sum", "singlet_triplet", "per_spin_block"]


class BlockTraces:
    """Computes the trace labels of blocks; label p * shells + q is the trace of the basic block of shells p and q.

    With spin a rotation also mixes uu, ud, du and dd, so that the trace of one spin block is not invariant. The sum
    of the four traces is, and so are its two parts: singlet, |uu + dd|^2 / 2, and triplet, the remainder.

    Args:
        basis: orbital basis of the blocks.
        spin: labels of a spinful H. "sum": one label for each pair of shells, the sum over the four spin blocks;
            "singlet_triplet": all singlet labels, then all triplet labels; "per_spin_block": one label for each spin
            block, which is **not** invariant under rotations (the paper counts 196 = 4 x 49 blocks). Without spin
            there is one label for each pair of shells.

    Raises:
        ConfigError: an unknown ``spin``.
    """

    def __init__(self, basis: OrbitalBasis, spin: SpinTrace = "sum"):
        if spin not in get_args(SpinTrace):
            raise ConfigError(f"tracegrad.spin_trace is {spin!r}; choose one of {list(get_args(SpinTrace))}")
        self.spin: SpinTrace = spin
        self.spins = basis.spins
        self.split = basis.spinful and spin == "singlet_triplet"
        # With "per_spin_block" the shells of both spins count separately.
        self.shells = len(basis.union) // (1 if spin == "per_spin_block" else basis.spins)
        self.count = self.shells**2 * (2 if self.split else 1)
        member = torch.zeros(basis.dim, self.shells)
        for i, (start, degree) in enumerate(zip(basis.shell_starts, basis.union, strict=True)):
            member[start : start + 2 * degree + 1, i % self.shells] = 1
        self._member = Constant(member)
        self._present = Constant(torch.from_numpy(basis.shell_mask)[:, : self.shells])

    @full_precision
    def __call__(
        self, blocks: Float[Tensor, "n dim dim"] | Complex[Tensor, "n dim dim"]
    ) -> Float[Tensor, "n labels"]:
        """Trace labels of blocks in the union layout, in the square of the unit of H."""
        squares = squared_modulus(blocks)
        member = self._member(squares)
        total = member.T @ squares @ member
        if not self.split:
            return total.flatten(1)
        half = blocks.shape[-1] // 2
        one_spin = member[:half]
        singlet = (
            one_spin.T @ (squared_modulus(blocks[:, :half, :half] + blocks[:, half:, half:]) / 2) @ one_spin
        )
        return torch.cat([singlet, total - singlet], dim=1).flatten(1)

    def mask(self, numbers: Tensor, edges: Tensor) -> Bool[Tensor, "n labels"]:
        """Whether each label exists for the elements of a pair of atoms; ``edges`` (2, n) index ``numbers``."""
        rows, columns = self.masks(numbers, torch.empty(0, device=numbers.device))
        exists = rows.index_select(0, edges[0])[:, :, None] * columns.index_select(0, edges[1])[:, None, :]
        return exists.flatten(1) > 0

    def masks(
        self, numbers: Int[Tensor, " atoms"], like: Float[Tensor, "..."]
    ) -> tuple[Float[Tensor, "atoms row"], Float[Tensor, "atoms column"]]:
        """1 for the rows and the columns of the labels of a pair, [row, column], that an atom has; else 0."""
        present = self._present(like)[numbers]
        return torch.cat([present, present], dim=1) if self.split else present, present


def squared_modulus(
    x: Float[Tensor, "*shape"] | Complex[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """|x|^2 of real or complex numbers."""
    return torch.view_as_real(x).square().sum(-1) if x.is_complex() else x.square()
