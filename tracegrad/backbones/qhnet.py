"""QHNet (Yu et al. 2023): an SE(3)-equivariant network for molecular Hamiltonians.

Node features of degrees 0 .. lmax are refined by convolutions over all pairs of atoms. After each of the last
convolutions a self layer and a pair layer compute the features of atoms (f_ii) and of ordered pairs (f_ij), which are
expanded into the blocks of H. Both are passed on for refinement (see `tracegrad.nn.interface`).

Positions are in angstrom, blocks in hartree. Features are component-first, x[l^2 + l + m, item, channel].
"""

import math
from dataclasses import dataclass

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.atom_kinds import AtomKinds
from tracegrad.nn.component_first.expansion import BlockExpansion
from tracegrad.nn.component_first.features import spherical_harmonics, split_degrees
from tracegrad.nn.component_first.gates import NormGate
from tracegrad.nn.component_first.linear import EquivariantLinear
from tracegrad.nn.component_first.tensor_product import ChannelwiseProduct, FilterProduct
from tracegrad.nn.interface import Backbone, Blocks, Refine, keep
from tracegrad.nn.radial import ExponentialBernstein
from tracegrad.nn.scaled_mlp import ScaledMLP
from tracegrad.ops.coupling.couple import WeightFactor
from tracegrad.ops.pair_invariants import pair_invariants

FILTER_WIDTH = 32  # hidden width of the networks that compute convolution weights, for any number of channels
EdgeIndex = Int[Tensor, "2 edges"]


def weight_factor(
    flat: Float[Tensor, "rows width"], rows: Int[Tensor, " edges"] | None, channels: int
) -> WeightFactor:
    """A factor of the weights from the output of a network, [rows, paths * channels]."""
    return flat.unflatten(1, (-1, channels)), rows


@dataclass(frozen=True)
class RadialFunctions:
    """Radial functions of all edges, computed once for both directions of an edge.

    Args:
        values: radial functions of one direction of each edge.
        rows: row of ``values`` that belongs to each edge.
    """

    values: Float[Tensor, "pairs k"]
    rows: Int[Tensor, " edges"]


class FirstConvolution(nn.Module):
    """Convolution of the embedding of elements: scalars in, all degrees out; no gate, no residual connection."""

    def __init__(self, lmax: int, channels: int, radial: int):
        super().__init__()
        self.channels = channels
        self.product = FilterProduct(0, lmax)
        width = self.product.n_paths * channels
        self.radial_net = ScaledMLP(radial, FILTER_WIDTH, width)
        self.invariant_net = ScaledMLP(2 * channels, FILTER_WIDTH, width)
        self.out = EquivariantLinear(lmax, channels, channels)

    def forward(
        self,
        x: Float[Tensor, "1 atoms c"],
        edge_index: EdgeIndex,
        rbf: RadialFunctions,
        sh: Float[Tensor, "m edges"],
    ) -> Float[Tensor, "m atoms c"]:
        # The released network takes the scalars of the destination twice; they are computed once for each atom.
        per_atom = self.invariant_net(torch.cat([x[0], x[0]], dim=-1))
        factors = [
            weight_factor(self.radial_net(rbf.values), rbf.rows, self.channels),
            weight_factor(per_atom, edge_index[0], self.channels),
        ]
        return self.out(self.product(x, sh, factors, edge_index))


class Convolution(nn.Module):
    """Gated convolution with residual connections."""

    def __init__(self, lmax: int, channels: int, radial: int):
        super().__init__()
        self.channels = channels
        self.pre = EquivariantLinear(lmax, channels, channels)
        self.gate = NormGate(lmax, channels)
        self.linear = EquivariantLinear(lmax, channels, channels)
        self.product = FilterProduct(lmax, lmax)
        width = self.product.n_paths * channels
        self.radial_net = ScaledMLP(radial, FILTER_WIDTH, width)
        self.invariant_net = ScaledMLP((lmax + 2) * channels, FILTER_WIDTH, width)
        self.out = EquivariantLinear(lmax, channels, channels)

    def forward(
        self,
        x: Float[Tensor, "m atoms c"],
        edge_index: EdgeIndex,
        rbf: RadialFunctions,
        sh: Float[Tensor, "m edges"],
    ) -> Float[Tensor, "m atoms c"]:
        dst, src = edge_index
        invariants = pair_invariants(self.pre(x), dst, src, dst)
        gated = self.linear(self.gate(x))
        factors = [
            weight_factor(self.radial_net(rbf.values), rbf.rows, self.channels),
            weight_factor(self.invariant_net(invariants), None, self.channels),
        ]
        return self.out(self.product(gated, sh, factors, edge_index) + gated) + x


class SelfLayer(nn.Module):
    """f_ii: product of two gated copies of the feature of a node."""

    def __init__(self, lmax: int, channels: int):
        super().__init__()
        self.gates = nn.ModuleList([NormGate(lmax, channels) for _ in range(2)])
        self.linears = nn.ModuleList([EquivariantLinear(lmax, channels, channels) for _ in range(2)])
        self.product = ChannelwiseProduct(lmax)
        self.weight = nn.Parameter(torch.randn(1, self.product.n_paths, channels))
        self.gate = NormGate(lmax, channels)
        self.out = EquivariantLinear(lmax, channels, channels)

    def forward(self, x: Float[Tensor, "m atoms c"]) -> Float[Tensor, "m atoms c"]:
        a, b = (linear(gate(x)) for linear, gate in zip(self.linears, self.gates, strict=True))
        shared = torch.zeros(x.shape[1], dtype=torch.long, device=x.device)
        return self.out(self.gate(self.product(a, b, [(self.weight, shared)]) + x))


class PairLayer(nn.Module):
    """f_ij: product of the gated features of source and destination, weighted by distance and invariants."""

    def __init__(self, lmax: int, channels: int, radial: int):
        super().__init__()
        self.channels = channels
        self.inner = EquivariantLinear(lmax, channels, channels)
        self.gate_in = NormGate(lmax, channels)
        self.linear = EquivariantLinear(lmax, channels, channels)
        self.product = ChannelwiseProduct(lmax)
        width = self.product.n_paths * channels
        self.radial_net = ScaledMLP(radial, channels, width)
        self.invariant_net = nn.Sequential(
            nn.Linear((lmax + 2) * channels, channels), nn.SiLU(), nn.Linear(channels, width)
        )
        self.gate_out = NormGate(lmax, channels)
        self.out = EquivariantLinear(lmax, channels, channels)

    def forward(
        self, x: Float[Tensor, "m atoms c"], edge_index: EdgeIndex, rbf: RadialFunctions
    ) -> Float[Tensor, "m edges c"]:
        dst, src = edge_index
        invariants = pair_invariants(self.inner(x), dst, src, src)
        h = self.linear(self.gate_in(x))
        factors = [
            weight_factor(self.radial_net(rbf.values), rbf.rows, self.channels),
            weight_factor(self.invariant_net(invariants), None, self.channels),
        ]
        return self.out(self.gate_out(self.product(h, h, factors, (src, dst))))


class ExpansionHead(nn.Module):
    """Bottleneck and expansion into blocks, with weights that depend only on the elements of the atoms."""

    def __init__(self, lmax: int, channels: int, bottleneck: int, species: int, shells: tuple[int, ...]):
        super().__init__()
        self.bottleneck = EquivariantLinear(lmax, channels, bottleneck, bias=False)
        self.expansion = BlockExpansion(lmax, bottleneck, shells)
        self.weight_net, self.bias_net = (
            nn.Sequential(nn.Linear(species * channels, channels), nn.SiLU(), nn.Linear(channels, width))
            for width in (self.expansion.n_weights, self.expansion.n_bias)
        )

    def forward(
        self,
        x: Float[Tensor, "m n c"],
        embeddings: Float[Tensor, "kinds species_c"],
        kind: Int[Tensor, " n"],
    ) -> Float[Tensor, "n dim dim"]:
        weights, bias = self.weight_net(embeddings), self.bias_net(embeddings)
        return self.expansion(self.bottleneck(x), weights, bias, kind)


class QHNet(Backbone):
    """QHNet over an orbital basis.

    Messages run over all pairs of atoms of a molecule; beyond ``cutoff`` they vanish with the radial functions.

    Args:
        basis: orbital basis without spin; determines the layout of the blocks and the elements.
        lmax: highest degree of features and spherical harmonics.
        channels: channels of each degree.
        bottleneck: channels of each degree before the expansion into blocks.
        layers: number of convolutions.
        pair_layers: number K of the last convolutions that are followed by a self layer and a pair layer.
        cutoff: range of the radial functions, angstrom.
        radial: number of radial functions.
        species: rows of the embedding, indexed by atomic number; 0 means as many as the elements of the basis need.

    Raises:
        ConfigError: an option that is out of range, or a basis with spin.
    """

    label = "QHNet"

    def __init__(
        self,
        basis: OrbitalBasis,
        lmax: int = 4,
        channels: int = 128,
        bottleneck: int = 32,
        layers: int = 5,
        pair_layers: int = 2,
        cutoff: float = 15.0,
        radial: int = 16,
        species: int = 0,
    ):
        super().__init__()
        rows = max(basis.elements) + 1
        ranges = {
            "lmax": (lmax, 1, math.inf),
            "channels": (channels, 1, math.inf),
            "bottleneck": (bottleneck, 1, math.inf),
            "radial": (radial, 1, math.inf),
            "layers": (layers, 1, math.inf),
            "pair_layers": (pair_layers, 1, layers),
            "species": (species or rows, rows, math.inf),
        }
        for name, (value, low, high) in ranges.items():
            if not isinstance(value, int) or not low <= value <= high:
                span = f">= {low}" if high == math.inf else f"from {low} to {high}"
                raise ConfigError(f"model.backbone.{name} is {value!r}; give a whole number {span}")
        if not isinstance(cutoff, int | float) or not 0 < cutoff < math.inf:
            raise ConfigError(f"model.backbone.cutoff is {cutoff!r}; give a distance > 0 in angstrom")
        if basis.spinful:
            raise ConfigError(
                f"model.backbone is QHNet, which predicts real blocks, but the basis ({basis.name}) has spin; "
                "take a backbone for spin-orbit coupling, such as DeepH-E3, or a basis without spin"
            )
        self.basis = basis
        self.lmax, self.cutoff = lmax, cutoff
        self.first_pair = layers - pair_layers
        self.embedding = nn.Embedding(species or rows, channels)
        self.radial = ExponentialBernstein(radial, cutoff)
        self.convolutions = nn.ModuleList(
            [FirstConvolution(lmax, channels, radial)]
            + [Convolution(lmax, channels, radial) for _ in range(layers - 1)]
        )
        self.self_layers = nn.ModuleList([SelfLayer(lmax, channels) for _ in range(pair_layers)])
        self.pair_layers = nn.ModuleList([PairLayer(lmax, channels, radial) for _ in range(pair_layers)])
        self.self_head = ExpansionHead(lmax, channels, bottleneck, 1, basis.union)
        self.pair_head = ExpansionHead(lmax, channels, bottleneck, 2, basis.union)
        # The released network counts all its degrees as even in these layers.
        irreps = Irreps([(channels, Irrep(degree, 1)) for degree in range(lmax + 1)])
        self.feature_irreps = {"edge": [irreps] * pair_layers, "self": [irreps] * pair_layers}
        elements = torch.tensor(basis.elements)
        self.kinds = AtomKinds(basis)
        self.register_buffer("elements", elements, persistent=False)

    def forward(self, graph, refine: Refine = keep) -> Blocks:
        """Blocks of H for a `HamiltonianGraph` or a batch of them."""
        edge_index: Tensor = graph.edge_index
        dst, src = edge_index
        vectors = graph.positions.index_select(0, dst) - graph.positions.index_select(0, src)
        rbf = self._radial_functions(vectors, graph.reverse)
        sh = spherical_harmonics(vectors, self.lmax)

        x = self.embedding(graph.numbers)[None]
        f_self: Tensor | None = None
        f_pair: Tensor | None = None
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x, edge_index, rbf, sh)
            k = i - self.first_pair
            if k >= 0:
                f_self = self._refined("self", k, add(self.self_layers[k](x), f_self), refine)
                f_pair = self._refined(
                    "edge", k, add(self.pair_layers[k](x, edge_index, rbf), f_pair), refine
                )

        kind = self.kinds(graph)
        embedded = self.embedding(self.elements)
        n = len(embedded)
        embedded_pairs = torch.cat([embedded.repeat_interleave(n, 0), embedded.repeat(n, 1)], dim=-1)
        on_site = self.self_head(f_self, embedded, kind)
        pairs = self.pair_head(f_pair, embedded_pairs, kind[dst] * n + kind[src])
        return {
            "self": on_site + on_site.transpose(-1, -2),
            "edge": pairs + pairs.index_select(0, graph.reverse).transpose(-1, -2),
        }

    def _radial_functions(
        self, vectors: Float[Tensor, "edges 3"], reverse: Int[Tensor, " edges"]
    ) -> RadialFunctions:
        number = torch.arange(len(reverse), device=reverse.device)
        chosen = (number <= reverse).nonzero().flatten()
        rows = torch.empty_like(number)
        rows[chosen] = rows[reverse[chosen]] = torch.arange(len(chosen), device=reverse.device)
        return RadialFunctions(self.radial(vectors.index_select(0, chosen).norm(dim=-1)), rows)

    def _refined(self, site: str, k: int, f: Tensor, refine: Refine) -> Tensor:
        return torch.cat(refine(site, k, split_degrees(f, self.lmax)))


def add(new: Tensor, old: Tensor | None) -> Tensor:
    """Residual connection to the feature of the layer before, which the first layer does not have."""
    return new if old is None else new + old
