"""CGDecomp_ext (Eq. 6): learnable invariants u of an equivariant feature f, and the transpose of their Jacobian.

CG(f_i x f_j -> 0) of two channels of equal irrep is <f_i, f_j> / sqrt(2l + 1), so u is linear in Gram matrices:

    u_c = sum_ij W^c_ij <f_i, f_j> / sqrt(2l + 1)
    sum_c g_c du_c/df_i = sum_c g_c sum_j (W^c_ij + W^c_ji) f_j / sqrt(2l + 1)      for any g

W starts standard normal and is divided by the square root of the number of pairs (i, j), as in an e3nn
FullyConnectedTensorProduct.

Each class below is one form of W. It returns invariants x and a matrix ``mixing`` with u = x @ mixing, or None if x
is u. The first layer of `InvariantMLP` is linear as well, so that both matrices can be multiplied beforehand.
"""

import math

import torch
from e3nn.o3 import Irreps
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.numerics.precision import full_precision
from tracegrad.ops.channel_pairs.channel_pairs import channel_pairs, pulled_pairs
from tracegrad.ops.low_rank.terms import Terms, invariants_of, mapped_terms, pulled_terms


def pair_scale(irreps: Irreps) -> float:
    """1 / sqrt(number of pairs of channels of equal irrep)."""
    return 1 / math.sqrt(sum(mul**2 for mul, _ in irreps))


class FullInvariants(nn.Module):
    """W with one independent entry for each pair of channels: Eq. 6 literally.

    <f_i, f_j> is symmetric, so only W_ij + W_ji matters: the parameters are one entry for each i <= j.

    Args:
        irreps: irreps of the feature, each irrep once.
        channels: C, the number of invariants.
    """

    def __init__(self, irreps: Irreps, channels: int):
        super().__init__()
        self.scale = pair_scale(irreps)
        self.weights = nn.ParameterList()
        for mul, _ in irreps:
            rows, columns = torch.triu_indices(mul, mul)
            deviation = torch.where(rows == columns, 1.0, math.sqrt(2.0))  # of the sum of two normal numbers
            self.weights.append(nn.Parameter(torch.randn(len(rows), channels) * deviation[:, None]))

    def mixing(self) -> Float[Tensor, "pairs channels"]:
        """W of all irreps, one irrep after another."""
        return torch.cat(list(self.weights))

    @full_precision
    def forward(self, feature: list[Float[Tensor, "_ n _c"]]) -> tuple[Float[Tensor, "n pairs"], None]:
        """x, the products of all pairs of channels, and None (see `pull_back`)."""
        return channel_pairs(feature, self._norms(feature)), None

    @full_precision
    def pull_back(
        self, feature: list[Float[Tensor, "_ n _c"]], saved: None, g: Float[Tensor, "n pairs"]
    ) -> list[Float[Tensor, "_ n _c"]]:
        """sum_p g_p dx_p/df at the input of `forward`; ``saved`` is the second output of `forward`."""
        return pulled_pairs(feature, g, self._norms(feature))

    def _norms(self, feature: list[Tensor]) -> list[float]:
        return [self.scale / math.sqrt(len(f)) for f in feature]


class ProjectedInvariants(nn.Module):
    """W^c = P V^c P^T: one linear map P to few channels of each irrep, then a full V^c on these channels.

    All W^c have a rank of up to ``rank`` within one common subspace. This costs a fraction of the other forms.

    Args:
        irreps: irreps of the feature, each irrep once.
        channels: C, the number of invariants.
        rank: channels of each irrep after the map.
    """

    def __init__(self, irreps: Irreps, channels: int, rank: int = 32):
        super().__init__()
        self.maps = nn.ParameterList([torch.randn(mul, min(rank, mul)) for mul, _ in irreps])
        self.full = FullInvariants(Irreps([(min(rank, mul), ir) for mul, ir in irreps]), channels)

    def mixing(self) -> Float[Tensor, "pairs channels"]:
        """V of all irreps, one irrep after another."""
        return self.full.mixing()

    @full_precision
    def forward(
        self, feature: list[Float[Tensor, "_ n _c"]]
    ) -> tuple[Float[Tensor, "n pairs"], list[Float[Tensor, "_ n _r"]]]:
        """x, the products of all pairs of mapped channels, and the mapped channels (see `pull_back`)."""
        mapped = [f @ self._scaled(p) for f, p in zip(feature, self.maps, strict=True)]
        return self.full(mapped)[0], mapped

    @full_precision
    def pull_back(
        self,
        feature: list[Float[Tensor, "_ n _c"]],
        saved: list[Float[Tensor, "_ n _r"]],
        g: Float[Tensor, "n pairs"],
    ) -> list[Float[Tensor, "_ n _c"]]:
        """sum_p g_p dx_p/df at the input of `forward`; ``saved`` is the second output of `forward`."""
        v = self.full.pull_back(saved, None, g)
        return [part @ self._scaled(p).T for part, p in zip(v, self.maps, strict=True)]

    @staticmethod
    def _scaled(p: Tensor) -> Tensor:
        return p / math.sqrt(p.shape[0])


class LowRankInvariants(nn.Module):
    """W^c_ij = sum_r A_ir B_jr: two linear maps to C channels, then inner products.

    Args:
        irreps: irreps of the feature, each irrep once.
        channels: C, the number of invariants.
        rank: number of terms r of each channel c.
    """

    def __init__(self, irreps: Irreps, channels: int, rank: int = 1):
        super().__init__()
        self.channels, self.rank = channels, rank
        self.scale = pair_scale(irreps) / math.sqrt(rank)
        # A and B side by side.
        self.weights = nn.ParameterList([torch.randn(mul, 2 * channels * rank) for mul, _ in irreps])

    def mixing(self) -> None:
        """None: x is u."""

    @full_precision
    def forward(
        self, feature: list[Float[Tensor, "_ n _c"]]
    ) -> tuple[Float[Tensor, "n channels"], list[Terms]]:
        """u, and the terms of all irreps (see `pull_back`)."""
        terms = mapped_terms(feature, list(self.weights))
        return invariants_of(terms, self.norms(feature), self.rank), terms

    @full_precision
    def pull_back(
        self,
        feature: list[Float[Tensor, "_ n _c"]],
        saved: list[Terms],
        g: Float[Tensor, "n channels"],
    ) -> list[Float[Tensor, "_ n _c"]]:
        """sum_c g_c du_c/df at the input of `forward`; ``saved`` is the second output of `forward`."""
        return pulled_terms(saved, list(self.weights), g, self.norms(feature), self.rank)

    def norms(self, feature: list[Float[Tensor, "_ n _c"]]) -> list[float]:
        """Factors of the inner products of all irreps."""
        return [self.scale / math.sqrt(f.shape[0]) for f in feature]
