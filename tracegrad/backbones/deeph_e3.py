"""DeepH-E3 (Gong et al. 2023): an E(3)-equivariant network for the Hamiltonians of crystals.

Nodes and edges have features of irreps of several degrees. Each of the K blocks updates the nodes by the messages of
their edges, and then the edges by their nodes. The edge features become the blocks of H, on-site ones included,
because every atom has an edge to itself. After each block the edge features are passed on for refinement (see
`tracegrad.nn.interface`).

Edge features are kept in the frame of their edge, where the tensor products with the spherical harmonics are dense
matrices (`item_first.edge_product`); node features are kept in the global frame. Both are item-first,
``x[irrep][item, m, channel]``. Positions are in angstrom, blocks in the unit of the basis (eV).
"""

import math
from collections.abc import Sequence

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor, nn

from tracegrad.backbones.block_symmetry import symmetrised
from tracegrad.backbones.deeph_e3_convolution import PSEUDOSCALAR, EdgeChunk
from tracegrad.backbones.deeph_e3_updates import BatchContext, EdgeUpdate, NodeUpdate, joined, part
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.atom_kinds import AtomKinds
from tracegrad.nn.edge_parts import edge_parts
from tracegrad.nn.interface import Backbone, Blocks, ItemFirstFeature, Refine, keep
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_product import filter_degrees
from tracegrad.nn.item_first.irreps_linear import SCALAR, IrrepsLinear
from tracegrad.nn.item_first.shell_pairs import ShellPairExpansion
from tracegrad.nn.radial import GaussianBasis

EDGE_RANGE = 6.0  # angstrom: last centre of the Gaussians that are the initial edge features


class DeepHE3(Backbone):
    """DeepH-E3 over an orbital basis.

    Args:
        basis: orbital basis; determines the layout of the blocks, the elements, and the kind of spin.
        irreps: of nodes and edges between the blocks, each irrep once.
        embed: channels of the embedding of elements, and number of Gaussians that are the initial edge features.
        blocks: number of blocks (K).
        lmax: highest degree of the spherical harmonics.
        cutoff: range of the radial functions, angstrom. Longer edges are not cut off.
        radial: number of radial functions.
        hermitian: average H_ij(R) with the adjoint of H_ji(-R), which the released network predicts separately.
        time_reversal: average a spinful H with its time-reversed one (no magnetism).
        legacy_e3nn: normalisation and signs of e3nn 0.3.5, which released weights need.
        edge_chunk: number of edges that pass through a layer at a time, which bounds the memory of large cells; None
            means all edges.
        recompute: in training, recompute the layers in the backward pass instead of storing their intermediate
            results.
        node_irreps: of the nodes between the blocks; None means ``irreps``.
        last_node_irreps: of the nodes in the last block; None means those of the nodes before, with 1e added if the
            basis needs it.

    Raises:
        ConfigError: an option that is out of range, or irreps of H that the blocks cannot reach.
    """

    label = "DeepH-E3"
    periodic = True
    collinear = True
    beside_tensors = ("cutoff", "legacy_e3nn")

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
                "model.backbone.time_reversal=true needs a spinful basis; without spin H is real and needs no average"
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
        self.kinds = AtomKinds(basis)
        species = self.kinds.elements
        scalars = Irreps([(embed, SCALAR)])
        self.embedding = nn.Parameter(torch.randn(self.kinds.count, embed))
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
        self._rotated = {
            (ir.l, ir.p) for irreps in (*node_steps, *edge_steps) for _, ir in irreps if ir.l > 0
        }

    def forward(self, graph, refine: Refine = keep) -> Blocks:
        """Blocks of all edges of a crystal graph or a batch of them."""
        length = lengths(graph.vectors)
        kind = self.kinds(graph)
        element = kind % self.kinds.elements
        batch = self._batch_context(graph, length, element)
        node = [(self.embedding / math.sqrt(self.kinds.elements)).index_select(0, kind)[:, None]]
        edge = [self.edge_start(length)[:, None]]
        for k, (node_update, edge_update) in enumerate(
            zip(self.node_updates, self.edge_updates, strict=True)
        ):
            node = node_update(node, edge, batch)
            edge = edge_update(node, edge, batch)
            edge = joined([refined(refine, k, part(edge, chunk.at)) for chunk in batch.chunks])
        blocks = [batch.run(self._blocks, part(edge, chunk.at), chunk.frame) for chunk in batch.chunks]
        return {"edge": self.averaged(torch.cat(blocks) if len(blocks) > 1 else blocks[0], graph)}

    def _blocks(
        self, edge: ItemFirstFeature, frame: EdgeFrame
    ) -> Float[Tensor, "edges dim dim"] | Complex[Tensor, "edges dim dim"]:
        rotations = [frame.rotation(*kind) if kind[0] > 0 else None for kind in self.expansion.kinds]
        return self.expansion(self.head(edge), rotations)

    def _batch_context(
        self, graph, length: Float[Tensor, " edges"], element: Int[Tensor, " atoms"]
    ) -> BatchContext:
        edge_index: Tensor = graph.edge_index
        dst, src = edge_index
        pair = element[dst] * self.kinds.elements + element[src]
        edge_batch = graph.batch.index_select(0, dst)
        node_counts, edge_counts = (
            length.new_zeros(graph.num_graphs).index_add(0, batch, length.new_ones(len(batch)))
            for batch in (graph.batch, edge_batch)  # not bincount, which waits for a GPU
        )
        frame = EdgeFrame(graph.vectors)
        if (
            self.recompute
        ):  # rotations are shared by all layers: compute them here, not again with every layer
            for ir in self._rotated:
                frame.rotation(*ir)
        chunks = [
            EdgeChunk(
                at,
                (length[at] == 0).long(),
                frame.part(at),
                (dst[at], src[at]),
                self.radial(length[at]),
                pair[at],
            )
            for at in edge_parts(len(length), self.edge_chunk)
        ]
        return BatchContext(
            chunks,
            frame,
            element,
            graph.batch,
            edge_batch,
            node_counts,
            edge_counts,
            self.recompute,
        )

    def averaged(self, h: Inexact[Tensor, "edges dim dim"], graph) -> Inexact[Tensor, "edges dim dim"]:
        """The blocks of all edges after the averages of ``hermitian`` and ``time_reversal``."""
        return symmetrised(h, graph.reverse, hermitian=self.hermitian, time_reversal=self.time_reversal)


def lengths(vectors: Float[Tensor, "edges 3"]) -> Float[Tensor, " edges"]:
    """|v|; for a zero vector all derivatives are 0."""
    directed = (vectors != 0).any(1)
    return torch.where(directed, torch.where(directed[:, None], vectors, 1.0).norm(dim=1), 0.0)


def refined(refine: Refine, k: int, edge: ItemFirstFeature) -> ItemFirstFeature:
    """The refined features o of some edges; `Refine` takes component-first features."""
    return [x.transpose(0, 1) for x in refine("edge", k, [x.transpose(0, 1) for x in edge])]


def with_missing(node: Irreps, needed: Irreps) -> Irreps:
    """Irreps of the nodes in the last block: those of ``node``, with 1e added if ``needed`` has 0o.

    Features of natural parity and the harmonics of the edges couple to every irrep except 0o; it becomes reachable if
    the nodes have 1e.
    """
    if all(ir != PSEUDOSCALAR for _, ir in needed) or any(ir == Irrep(1, 1) for _, ir in node):
        return node
    channels = {ir.l: mul for mul, ir in node}
    return Irreps([*node, (channels.get(1, node[-1].mul), Irrep(1, 1))])


def check_reach(nodes: Sequence[Irreps], edges: Sequence[Irreps], lmax: int) -> None:
    """Raise `ConfigError` unless the blocks can reach all irreps of H, which are the last ones of the edges.

    Args:
        nodes, edges: irreps before the first block and after each block.
        lmax: highest degree of the harmonics.
    """
    node_irreps, edge_irreps = ({ir for _, ir in steps[0]} for steps in (nodes, edges))

    def reached(targets: Irreps) -> set[Irrep]:
        sources = node_irreps | edge_irreps
        return {ir for _, ir in targets if any(filter_degrees(source, ir, lmax) for source in sources)}

    for node, edge in zip(nodes[1:], edges[1:], strict=True):
        node_irreps = reached(node)
        edge_irreps = reached(edge)
    missing = [str(ir) for _, ir in edges[-1] if ir not in edge_irreps]
    if missing:
        raise ConfigError(
            f"the Hamiltonian needs {', '.join(missing)}, which {len(edges) - 1} blocks of {nodes[1]} with harmonics "
            f"up to degree {lmax} cannot reach; raise the degrees of model.backbone.irreps, its lmax or its blocks"
        )


def unique_irreps(name: str, text: str) -> Irreps:
    """Irreps read from ``text``, which must name each irrep once.

    Raises:
        ConfigError: the text names no irreps, or one of them twice.
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
