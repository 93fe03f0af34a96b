"""What a backbone gives and takes: the one interface between backbones and TraceGrad."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from e3nn.o3 import Irreps
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.basis import OrbitalBasis

# One tensor per irrep of the feature, component-first: [2 l + 1, items, channels].
Feature = list[Float[Tensor, "_ items _c"]]
# Called with the site ("edge" or "self"), the number k of the encoding module and its feature f; returns o.
Refine = Callable[[str, int, Feature], Feature]


def keep(site: str, k: int, feature: Feature) -> Feature:
    """The identity refinement: o = f."""
    return feature


@dataclass
class Blocks:
    """Hamiltonian blocks in the union layout of the basis, padded slots undefined."""

    on_site: Float[Tensor, "atoms dim dim"]
    pairs: Float[Tensor, "edges dim dim"]


class Backbone(nn.Module, ABC):
    """Base of all backbones.

    ``forward(graph, refine)`` returns `Blocks`; it must call ``refine(site, k, feature)`` once for each of the K
    features of each site in ``feature_irreps`` and go on with what it returns.
    """

    basis: OrbitalBasis
    feature_irreps: Mapping[str, list[Irreps]]

    @abstractmethod
    def forward(self, graph, refine: Refine = keep) -> Blocks:
        """Blocks of H for a graph or a batch of graphs."""
