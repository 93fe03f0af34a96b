"""DeepH-E3 (Gong et al. 2023): an E(3)-equivariant network for the Hamiltonians of crystals.

Nodes and edges have features of irreps of different degree; each block updates the nodes by messages of their edges
and then the edges by their nodes. The edge features become the blocks of H, on-site ones included, because every
atom has an edge to itself. The edge features, one after each block, are handed out for refinement (see
`tracegrad.backbones.interface`).

Edge features are kept in the frame of their edge, where the tensor products with the spherical harmonics are dense
matrices (`tracegrad.nn.edge_product`); node features are kept in the global frame. Both are lists of one tensor
[items, 2l + 1, channels] for each irrep. Positions are in angstrom, blocks in the unit of the basis (eV).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from tracegrad.backbones.interface import Backbone, Blocks, Refine, keep
from tracegrad.basis import OrbitalBasis
from tracegrad.errors import ConfigError
from tracegrad.nn.edge_frame import EdgeFrame
from tracegrad.nn.edge_product import EdgeProduct, filter_degrees
from tracegrad.nn.graph_norm import GraphNorm
from tracegrad.nn.irreps_linear import SCALAR, IrrepsLinear, KindLinear, Kinds
from tracegrad.nn.radial import GaussianBasis
from tracegrad.nn.shell_pairs import ShellPairExpansion

PSEUDOSCALAR = Irrep(0, -1)
EDGE_RANGE = 6.0  # angstrom, of the Gaussians that start the edge features
RADIAL_WIDTH = 64
R = TypeVar("R")
Feature = list[Float[Tensor, "_ _m _c"]]


@lru_cache(maxsize=1)
def activations() -> dict[str, float]:
    """Factors that give silu, tanh and sigmoid of normal numbers a second moment of 1, as in e3nn's Gate."""
    functions = {"silu": silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    return {name: normalize2mom(function).cst for name, function in functions.items()}


@dataclass
class Edges:
    """Consecutive edges of a batch of graphs, and what their layers need to know."""

    at: slice
    edge_index: Int[Tensor, "2 edges"]
    on_site: Int[Tensor, " loops"]  # positions among these of edges of an atom with itself in the same cell
    frame: EdgeFrame
    rbf: Float[Tensor, "edges k"]
    kinds: Kinds


@dataclass
class Surroundings:
    """What all layers need to know of a batch of graphs."""

    chunks: list[Edges]
    frame: EdgeFrame
    node_kinds: Kinds
    node_batch: Int[Tensor, " atoms"]
    edge_batch: Int[Tensor, " edges"]
    node_counts: Float[Tensor, " graphs"]
    edge_counts: Float[Tensor, " graphs"]
    recompute: bool

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function; ``recompute`` calls it again for the gradient instead of storing what that needs."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)


class Convolution(nn.Module):
    """[node i | node j | edge] (x) Y, gated, and scaled by a network of the edge's length.

    Scalars pass through silu (0e) or tanh (0o); every other channel is multiplied by the sigmoid of a scalar of its
    own, which the product makes, too.

    Args:
        node, edge: irreps of the inputs.
        output: irreps of the result, in the frame of each edge.
        lmax: highest degree of Y.
        radial: number of radial functions.
        legacy: see `EdgeProduct`.
    """

    def __init__(self, node: Irreps, edge: Irreps, output: Irreps, lmax: int, radial: int, *, legacy: bool):
        super().__init__()
        self.output = output
        self.gates = sum(mul for mul, ir in output if ir.l > 0)
        made = Irreps([*output, (self.gates, SCALAR)]) if self.gates else output
        self.product = EdgeProduct([node, node, edge], merged(made), lmax, legacy=legacy)
        self.node_places, self.edge_places = (
            [_place(irreps, ir) for ir in self.product.kinds] for irreps in (node, edge)
        )
        widths = [radial, RADIAL_WIDTH, RADIAL_WIDTH, output.num_irreps]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Linear(c_in, c_out), nn.SiLU()]
        self.radial_net = nn.Sequential(*layers[:-1])

    def forward(self, node: Feature, edge: Feature, at: Edges) -> Feature:
        product = self.product(self._inputs(node, edge, at), at.on_site)
        made = {ir: y for (_, ir), y in zip(self.product.output, product, strict=True)}
        scale = self.radial_net(at.rbf).to(edge[0].dtype)
        scales = scale[:, None].split([mul for mul, _ in self.output], dim=2)
        factor = activations()
        gates = None
        if self.gates:
            opened = torch.sigmoid(made[SCALAR][:, :, -self.gates :]) * factor["sigmoid"]
            gates = iter(opened.split([mul for mul, ir in self.output if ir.l > 0], dim=2))
        out = []
        for (mul, ir), s in zip(self.output, scales, strict=True):
            if ir == SCALAR:
                out.append(silu(made[ir][:, :, :mul]) * (factor["silu"] * s))
            elif ir == PSEUDOSCALAR:
                out.append(torch.tanh(made[ir]) * (factor["tanh"] * s))
            elif gates is not None:
                out.append(made[ir] * (next(gates) * s))
        return out

    def _inputs(self, node: Feature, edge: Feature, at: Edges) -> Feature:
        """For each irrep of the product the channels of node i, node j and edge, in the frame of the edge."""
        dst, src = at.edge_index
        inputs = []
        for ir, n, e in zip(self.product.kinds, self.node_places, self.edge_places, strict=True):
            parts = []
            if n is not None:
                ends = torch.cat([node[n].index_select(0, dst), node[n].index_select(0, src)], dim=2)
                parts.append(at.frame.to_local(ends, ir))
            if e is not None:
                parts.append(edge[e])
            inputs.append(torch.cat(parts, dim=2) if len(parts) > 1 else parts[0])
        return inputs


class Update(nn.Module):
    """What the updates of nodes and edges share: own contribution, norm and residual connection."""

    def __init__(self, old: Irreps, new: Irreps, kinds: int):
        super().__init__()
        self.pre = IrrepsLinear(old, old, bias=True)
        self.post = IrrepsLinear(new, new, bias=True)
        self.own = KindLinear(old, new, kinds)
        self.norm = GraphNorm(new)
        self.skip = IrrepsLinear(old, new, bias=False) if old != new else None

    def residual(self, old: Feature) -> Feature:
        """The old feature in the new irreps."""
        return old if self.skip is None else self.skip(old)


class NodeUpdate(Update):
    """Messages from all edges of a node, summed."""

    def __init__(
        self, node: Irreps, edge: Irreps, new: Irreps, kinds: int, lmax: int, radial: int, *, legacy: bool
    ):
        super().__init__(node, new, kinds)
        self.irreps = new
        self.convolution = Convolution(node, edge, new, lmax, radial, legacy=legacy)

    def forward(self, node: Feature, edge: Feature, at: Surroundings) -> Feature:
        sender = self.pre(node)
        summed = [node[0].new_zeros(len(node[0]), ir.dim, mul) for mul, ir in self.irreps]
        for chunk in at.chunks:
            summed = at.run(self._add_messages, summed, sender, part(edge, chunk.at), chunk)
        mixed = add(self.post(summed), self.own(node, at.node_kinds))
        return add(self.norm(mixed, at.node_batch, at.node_counts), self.residual(node))

    def _add_messages(self, sums: Feature, node: Feature, edge: Feature, chunk: Edges) -> Feature:
        messages = self.convolution(node, edge, chunk)
        return [
            total.index_add(0, chunk.edge_index[0], chunk.frame.to_global(message, ir))
            for total, message, (_, ir) in zip(sums, messages, self.irreps, strict=True)
        ]


class EdgeUpdate(Update):
    """Each edge from itself and its two nodes."""

    def __init__(
        self, node: Irreps, edge: Irreps, new: Irreps, kinds: int, lmax: int, radial: int, *, legacy: bool
    ):
        super().__init__(edge, new, kinds)
        self.convolution = Convolution(node, edge, new, lmax, radial, legacy=legacy)

    def forward(self, node: Feature, edge: Feature, at: Surroundings) -> Feature:
        parts = [at.run(self._mixed, node, part(edge, chunk.at), chunk) for chunk in at.chunks]
        normed = self.norm(joined(parts), at.edge_batch, at.edge_counts, at.frame)
        return add(normed, self.residual(edge))

    def _mixed(self, node: Feature, edge: Feature, chunk: Edges) -> Feature:
        made = self.convolution(node, self.pre(edge), chunk)
        return add(self.post(made), self.own(edge, chunk.kinds))


class DeepHE3(Backbone):
    """DeepH-E3 over an orbital basis.

    Args:
        basis: orbital basis; gives the layout of the blocks, the elements, and whether H is spinful.
        irreps: of nodes and edges between the blocks, each irrep once.
        embed: channels of the species embedding and of the Gaussians that start the edges.
        blocks: number of blocks (K).
        lmax: highest degree of the spherical harmonics.
        cutoff: range of the radial functions, angstrom. It is no cutoff of the edges.
        radial: number of radial functions.
        hermitian: average H_ij(R) with the adjoint of H_ji(-R), which the released network predicts apart.
        time_reversal: average a spinful H with its time-reversed one (no magnetism).
        legacy_e3nn: normalisation and signs of e3nn 0.3.5, as released weights need them.
        edge_chunk: edges that go through a layer at a time, which bounds the memory of large cells; None: all.
        recompute: in training, compute the layers again for the gradient instead of storing what it needs.
        node_irreps, last_node_irreps: of the nodes, where they differ from ``irreps``; of the nodes of the last
            block, where they differ from what the basis asks for.
    """

    label = "DeepH-E3"
    periodic = True

    def __init__(
        self,
        basis: OrbitalBasis,
        irreps: str = "64x0e+32x1o+16x2e+8x3o+8x4e",
        embed: int = 64,
        blocks: int = 3,
        lmax: int = 4,
        cutoff: float = 7.2,
        radial: int = 128,
        *,
        hermitian: bool = False,
        time_reversal: bool = False,
        legacy_e3nn: bool = False,
        edge_chunk: int | None = None,
        recompute: bool = False,
        node_irreps: str | None = None,
        last_node_irreps: str | None = None,
    ):
        super().__init__()
        for name, value, least in (
            ("embed", embed, 2),
            ("blocks", blocks, 1),
            ("lmax", lmax, 0),
            ("radial", radial, 2),
            ("edge_chunk", 1 if edge_chunk is None else edge_chunk, 1),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"model.backbone.{name} is {value!r}; give a whole number >= {least}")
        if not isinstance(cutoff, int | float) or cutoff is True or not 0 < cutoff < math.inf:
            raise ConfigError(f"model.backbone.cutoff is {cutoff!r}; give a distance > 0 in angstrom")
        if time_reversal and not basis.spinful:
            raise ConfigError(
                "model.backbone.time_reversal=true needs a spinful basis; without spin H is real anyway"
            )
        self.basis = basis
        self.hermitian, self.time_reversal = hermitian, time_reversal
        self.cutoff, self.legacy_e3nn = cutoff, legacy_e3nn
        self.edge_chunk, self.recompute = edge_chunk, recompute
        self.expansion = ShellPairExpansion(basis, legacy=legacy_e3nn)
        edge = unique_irreps("irreps", irreps)
        node = unique_irreps("node_irreps", node_irreps) if node_irreps else edge
        last = (
            unique_irreps("last_node_irreps", last_node_irreps)
            if last_node_irreps
            else with_missing(node, self.expansion.irreps)
        )
        species = len(basis.elements)
        scalars = Irreps([(embed, SCALAR)])
        self.embedding = nn.Parameter(torch.randn(species, embed))
        self.edge_start = GaussianBasis(embed, EDGE_RANGE)
        self.radial = GaussianBasis(radial, cutoff)
        node_steps = [scalars, *[node] * (blocks - 1), last]
        edge_steps = [scalars, *[edge] * (blocks - 1), self.expansion.irreps]
        self.node_updates, self.edge_updates = nn.ModuleList(), nn.ModuleList()
        check_reach(node_steps, edge_steps, lmax)
        for k in range(blocks):
            steps = (node_steps[k], edge_steps[k], node_steps[k + 1])
            self.node_updates.append(NodeUpdate(*steps, species, lmax, radial, legacy=legacy_e3nn))
            steps = (node_steps[k + 1], edge_steps[k], edge_steps[k + 1])
            self.edge_updates.append(EdgeUpdate(*steps, species**2, lmax, radial, legacy=legacy_e3nn))
        self.head = IrrepsLinear(self.expansion.irreps, self.expansion.irreps, bias=True)
        self.feature_irreps = {"edge": edge_steps[1:]}
        kinds = torch.full((max(basis.elements) + 1,), -1)
        kinds[list(basis.elements)] = torch.arange(species)
        self.register_buffer("kind_of_number", kinds, persistent=False)
        self.kind_of_number: Tensor

    def forward(self, graph, refine: Refine = keep) -> Blocks:
        """Blocks of all edges of a crystal graph or a batch of them."""
        length = graph.vectors.norm(dim=1)
        at = self._surroundings(graph, length)
        kind = self.kind_of_number[graph.numbers]
        node = [(self.embedding / math.sqrt(len(self.embedding))).index_select(0, kind)[:, None]]
        edge = [self.edge_start(length)[:, None]]
        for k, (node_update, edge_update) in enumerate(
            zip(self.node_updates, self.edge_updates, strict=True)
        ):
            node = node_update(node, edge, at)
            edge = edge_update(node, edge, at)
            edge = joined([refined(refine, k, part(edge, chunk.at)) for chunk in at.chunks])
        blocks = [at.run(self._blocks, part(edge, chunk.at), chunk.frame) for chunk in at.chunks]
        return {"edge": self._symmetrised(torch.cat(blocks) if len(blocks) > 1 else blocks[0], graph)}

    def _blocks(
        self, edge: Feature, frame: EdgeFrame
    ) -> Float[Tensor, "edges dim dim"] | Complex[Tensor, "edges dim dim"]:
        made = self.head(edge)
        return self.expansion(
            [frame.to_global(x, ir) for x, (_, ir) in zip(made, self.expansion.irreps, strict=True)]
        )

    def _surroundings(self, graph, length: Float[Tensor, " edges"]) -> Surroundings:
        edge_index: Tensor = graph.edge_index
        dst, src = edge_index
        species = len(self.embedding)
        kind = self.kind_of_number[graph.numbers]
        edge_kind = kind[dst] * species + kind[src]
        edge_batch = graph.batch.index_select(0, dst)
        node_counts, edge_counts = (
            torch.bincount(batch, minlength=graph.num_graphs).to(length.dtype)
            for batch in (graph.batch, edge_batch)
        )
        frame = EdgeFrame(graph.vectors)
        count = len(length)
        step = self.edge_chunk or max(count, 1)
        chunks = [
            Edges(
                at,
                edge_index[:, at],
                (length[at] == 0).nonzero().flatten(),
                frame.part(at),
                self.radial(length[at]),
                Kinds(edge_kind[at], species**2),
            )
            for at in (slice(start, min(start + step, count)) for start in range(0, count, step))
        ]
        return Surroundings(
            chunks,
            frame,
            Kinds(kind, species),
            graph.batch,
            edge_batch,
            node_counts,
            edge_counts,
            self.recompute,
        )

    def _symmetrised(
        self, h: Float[Tensor, "edges dim dim"] | Complex[Tensor, "edges dim dim"], graph
    ) -> Float[Tensor, "edges dim dim"] | Complex[Tensor, "edges dim dim"]:
        if self.hermitian:
            h = (h + h.index_select(0, graph.reverse).mH) / 2
        if self.time_reversal:
            half = h.shape[1] // 2
            uu = (h[:, :half, :half] + h[:, half:, half:].conj()) / 2
            ud = (h[:, :half, half:] - h[:, half:, :half].conj()) / 2
            h = torch.cat([torch.cat([uu, ud], 2), torch.cat([-ud.conj(), uu.conj()], 2)], 1)
        return h


def add(a: Feature, b: Feature) -> Feature:
    """Sum, irrep by irrep."""
    return [x + y for x, y in zip(a, b, strict=True)]


def part(feature: Feature, items: slice) -> Feature:
    """Some items of a feature."""
    return [x[items] for x in feature]


def joined(parts: list[Feature]) -> Feature:
    """The items of all parts, one part after another."""
    return parts[0] if len(parts) == 1 else [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


def refined(refine: Refine, k: int, edge: Feature) -> Feature:
    """o of some edges; `Refine` takes features component-first."""
    return [x.transpose(0, 1) for x in refine("edge", k, [x.transpose(0, 1) for x in edge])]


def merged(irreps: Sequence[tuple[int, Irrep]]) -> Irreps:
    """Channels of equal irrep put together in their order, irreps ordered by degree and parity (odd first)."""
    muls: dict[Irrep, int] = {}
    for mul, ir in irreps:
        muls[ir] = muls.get(ir, 0) + mul
    return Irreps([(muls[ir], ir) for ir in sorted(muls, key=lambda ir: (ir.l, ir.p))])


def with_missing(node: Irreps, needed: Irreps) -> Irreps:
    """Irreps of the last nodes: what the needed irreps cannot be made of is added.

    Features of natural parity and the harmonics of edges make every irrep but 0o; with 1e among the nodes they do.
    """
    if all(ir != PSEUDOSCALAR for _, ir in needed) or any(ir == Irrep(1, 1) for _, ir in node):
        return node
    channels = {ir.l: mul for mul, ir in node}
    return Irreps([*node, (channels.get(1, node[-1].mul), Irrep(1, 1))])


def check_reach(nodes: Sequence[Irreps], edges: Sequence[Irreps], lmax: int) -> None:
    """Raise `ConfigError` if irreps of H, the last of the edges, cannot be made block after block."""
    made_nodes, made_edges = ({ir for _, ir in steps[0]} for steps in (nodes, edges))

    def reached(wanted: Irreps) -> set[Irrep]:
        found = made_nodes | made_edges
        return {ir for _, ir in wanted if any(filter_degrees(source, ir, lmax) for source in found)}

    for node, edge in zip(nodes[1:], edges[1:], strict=True):
        made_nodes = reached(node)
        made_edges = reached(edge)
    missing = [str(ir) for _, ir in edges[-1] if ir not in made_edges]
    if missing:
        raise ConfigError(
            f"the Hamiltonian needs {', '.join(missing)}, which {len(edges) - 1} blocks of {nodes[1]} with harmonics "
            f"up to degree {lmax} cannot make; raise the degrees of model.backbone.irreps, its lmax or its blocks"
        )


def unique_irreps(name: str, text: str) -> Irreps:
    """Irreps as written, each once.

    Raises:
        ConfigError: no irreps, or one of them twice.
    """
    try:
        irreps = Irreps(text)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"model.backbone.{name} is {text!r}; irreps are written like 64x0e+32x1o+16x2e"
        ) from error
    kinds = [ir for _, ir in irreps]
    if len(set(kinds)) < len(kinds) or not kinds or any(mul < 1 for mul, _ in irreps):
        raise ConfigError(f"model.backbone.{name} is {text!r}; name each irrep once, with 1 channel or more")
    return irreps


def _place(irreps: Irreps, wanted: Irrep) -> int | None:
    return next((i for i, (_, ir) in enumerate(irreps) if ir == wanted), None)
