"""Matrices D(R) of the irreps for given rotations R, by a recursion over degrees.

D_0 = 1, D_1 = R in the order (y, z, x), and as the coupling of l - 1 and 1 to l is equivariant,

    D_l = (2l + 1) sum over a, b, c, d of C^{l-1,1,l}_abm D_{l-1,ac} D_{1,bd} C^{l-1,1,l}_cdn
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.numerics.wigner_3j import wigner_3j

YZX = [1, 2, 0]  # the components of degree 1 are y, z, x


class WignerMatrices:
    """D(R) of degrees 0 .. lmax; of proper rotations, for which the parity of an irrep makes no difference.

    Args:
        lmax: highest degree.
    """

    def __init__(self, lmax: int):
        self.lmax = lmax
        self._tables = [
            Constant(wigner_3j(degree - 1, 1, degree) * math.sqrt(2 * degree + 1))
            for degree in range(2, lmax + 1)
        ]

    @full_precision
    def __call__(self, rotations: Float[Tensor, "n 3 3"]) -> list[Float[Tensor, "n _m _m"]]:
        """The matrices of each degree, from rotation matrices of vectors (x, y, z)."""
        first = rotations[:, YZX][:, :, YZX]
        matrices = [torch.ones_like(rotations[:, :1, :1]), first][: self.lmax + 1]
        for table in self._tables:
            c = table(rotations)
            turned = torch.einsum("nac,cdk->nadk", matrices[-1], c)
            turned = torch.einsum("nbd,nadk->nabk", first, turned)
            matrices.append(torch.einsum("abm,nabk->nmk", c, turned))
        return matrices
