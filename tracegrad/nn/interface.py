"""The interface between backbones and TraceGrad: what a backbone takes and returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from e3nn.o3 import Irreps
from jaxtyping import Float, Inexact
from torch import Tensor, nn

from tracegrad.hamiltonian.basis import OrbitalBasis

# One tensor for each irrep of the feature, in one of two layouts (drawn in `tracegrad.nn`).
ComponentFirstFeature = list[Float[Tensor, "_ items _c"]]  # x[irrep][m, item, channel]
ItemFirstFeature = list[Float[Tensor, "_ _m _c"]]  # x[irrep][item, m, channel]
# Called with the site ("edge" or "self"), the position k of the feature among those of the site, and the feature f;
# returns the refined feature o.
Refine = Callable[[str, int, ComponentFirstFeature], ComponentFirstFeature]
# Blocks of H of each site (see `graph`) in the union layout of the basis and in its unit, complex with spin; the
# values of padded slots are undefined.
Blocks = dict[str, Inexact[Tensor, "_ dim dim"]]


def keep(site: str, k: int, feature: ComponentFirstFeature) -> ComponentFirstFeature:
    """The refinement that changes nothing: o = f."""
    return feature


class Backbone(nn.Module, ABC):
    """Base class of all backbones (docs/extend-a-backbone.md has an example).

    ``forward(graph, refine)`` returns `Blocks`. It must call ``refine(site, k, feature)`` for each of the K features
    of each site in ``feature_irreps``, either once or for consecutive parts of the items, and continue with the
    feature that it returns. A ``periodic`` backbone takes graphs of crystals, where each atom has an edge to itself,
    and has the single site "edge"; it gets molecules as crystals without images, see
    `tracegrad.hamiltonian.crystal_view`. Whether data are crystals, their basis says (`OrbitalBasis.periodic`).

    Predictions set two attributes where a backbone has them: ``edge_chunk``, the number of edges that a layer
    processes at a time (None: all), and ``hermitian``, whether H_ij(R) is averaged with the adjoint of H_ji(-R).

    Attributes:
        label: name in tables and figures; networks with different labels do not exchange weights.
        basis: orbital basis of the blocks.
        feature_irreps: for each site the irreps of each feature that is refined, in the order of k.
        periodic: whether the network takes crystals; each network takes molecules.
        collinear: whether the network tells the spins of a collinear basis apart, see `tracegrad.nn.atom_kinds`.
        beside_tensors: attributes that change H but not the names and shapes of tensors; weights are taken over only
            between networks that agree in them.
        features_frozen: whether the part that computes the refined features is not trained. TraceGrad, which belongs
            to it, is then not trained either.
    """

    label: str
    basis: OrbitalBasis
    feature_irreps: Mapping[str, list[Irreps]]
    periodic: bool = False
    collinear: bool = False
    beside_tensors: tuple[str, ...] = ("cutoff",)
    features_frozen: bool = False

    @abstractmethod
    def forward(self, graph, refine: Refine = keep) -> Blocks:
        """Blocks of H for a graph or a batch of graphs."""

    def stages(self, graph, refine: Refine = keep) -> list[Blocks]:
        """Blocks after each stage of a network that corrects its own result; the last are those of ``forward``."""
        return [self(graph, refine)]

    def further_edge_numbers(self) -> int:
        """Numbers for each edge that a prediction needs memory for besides refined features and blocks."""
        return 0

    def at_progress(self, share: float) -> None:
        """A training calls this before each step with the share of it that has passed, from 0 to 1."""

    def first_stage(self) -> "Backbone":
        """The network that computes the refined features: this one, or its first stage.

        ``init_from`` takes over the weights of a first stage that was trained alone.
        """
        return self
