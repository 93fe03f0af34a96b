"""What a backbone gives and takes: the one interface between backbones and TraceGrad."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from e3nn.o3 import Irreps
from jaxtyping import Float, Inexact
from torch import Tensor, nn

from tracegrad.hamiltonian.basis import OrbitalBasis

# One tensor per irrep of the feature, component-first: [2 l + 1, items, channels].
Feature = list[Float[Tensor, "_ items _c"]]
# Called with the site ("edge" or "self"), the number k of the encoding module and its feature f; returns o.
Refine = Callable[[str, int, Feature], Feature]
# Blocks of H of each site (see `graph`) in the union layout of the basis and in its unit, complex with
# spin; padded slots are undefined.
Blocks = dict[str, Inexact[Tensor, "_ dim dim"]]


def keep(site: str, k: int, feature: Feature) -> Feature:
    """The identity refinement: o = f."""
    return feature


class Backbone(nn.Module, ABC):
    """Base of all backbones.

    ``forward(graph, refine)`` returns `Blocks`; it must call ``refine(site, k, feature)`` for each of the K features
    of each site in ``feature_irreps``, once or for consecutive parts of its items, and go on with what it returns.
    A ``periodic`` backbone takes the graphs of crystals and has the one site "edge".
    """

    label: str  # in tables and figures
    basis: OrbitalBasis
    feature_irreps: Mapping[str, list[Irreps]]
    periodic: bool = False

    @abstractmethod
    def forward(self, graph, refine: Refine = keep) -> Blocks:
        """Blocks of H for a graph or a batch of graphs."""
