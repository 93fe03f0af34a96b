"""A network in the style of DeepH-2 (Wang et al. 2024): an equivariant transformer in local coordinates for crystals.

DeepH-2 was published without code. This network has the layers of EquiformerV2, which DeepH-2 is said to use
(linear maps that keep only rotations about each edge, attention), and features of nodes and edges, which the group's
later software has. Sizes, the reading of H from edges and the treatment of on-site blocks are our choice.

Each of the K blocks updates the nodes by attention on their edges, and then the edges by their nodes. The edge
features become the blocks of H, on-site ones included, because every atom has an edge to itself. After each block the
edge features are passed on for refinement (see `tracegrad.nn.interface`).

Nodes and edges have one irrep for each degree 0 .. L, labelled with natural parity, 0e, 1o, 2e, ... The maps in the
frames of edges keep rotations, but not reflections: with ``activation="gate"`` H turns exactly with the crystal,
with "s2" up to an error that falls with the grid. Edge features are kept in the frame of their edge, node features in
the global frame; both are item-first, ``x[degree][item, m, channel]``. Positions are in angstrom, blocks in the unit
of the basis (eV).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Inexact, Int
from torch import Tensor, nn

from tracegrad.backbones.block_symmetry import symmetrised
from tracegrad.backbones.deeph2_blocks import EdgeUpdate, NodeUpdate, Start
from tracegrad.backbones.deeph2_pairs import PairChunk, Sizes, where_on_site
from tracegrad.backbones.deeph_e3 import lengths, refined, unique_irreps
from tracegrad.backbones.deeph_e3_updates import joined, part
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.atom_kinds import AtomKinds
from tracegrad.nn.edge_parts import edge_parts
from tracegrad.nn.interface import Backbone, Blocks, ItemFirstFeature, Refine, keep
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.feed_forward import Activation
from tracegrad.nn.item_first.scalar_gate import ScalarGate
from tracegrad.nn.item_first.shell_pairs import ShellPairExpansion
from tracegrad.nn.item_first.so3_linear import natural_irreps, so3_linear
from tracegrad.nn.item_first.sphere_activation import SphereActivation
from tracegrad.nn.radial import GaussianBasis

ACTIVATIONS = ("gate", "s2")


class DeepH2(Backbone):
    """A DeepH-2-style network over an orbital basis.

    Args:
        basis: orbital basis; determines the layout of the blocks, the elements, and the kind of spin.
        irreps: of nodes and edges: one for each degree 0 .. L, of natural parity. L must be at least the highest
            degree of H.
        blocks: number of blocks (K).
        heads: of the attention.
        logits: numbers of each head from which its logit is computed.
        value: channels of each degree and head of the values; None: the channels of the degree over the heads.
        hidden: channels of each degree inside messages and updates of edges; None: those of ``irreps``.
        forward_channels: channels of each degree inside the feed-forward parts; None: those of ``irreps``.
        embed: width of the radial networks.
        radial: number of Gaussians.
        cutoff: last centre of the Gaussians, angstrom. Longer edges are not cut off.
        neighbours: typical number of neighbours of an atom, by which the first sums over edges are divided.
        mmax: highest |m| of the maps in frames of edges; None: L.
        activation: "gate", which keeps rotations exactly, or "s2", silu on a grid of the sphere.
        grid: numbers of polar angles and azimuths of the grid, for "s2" only.
        hermitian: average H_ij(R) with the adjoint of H_ji(-R), which is predicted separately.
        time_reversal: average a spinful H with its time-reversed one (no magnetism).
        edge_chunk: number of edges that pass through a layer at a time, which bounds the memory of large cells; None
            means all edges.
        recompute: in training, recompute the layers of the edges in the backward pass instead of storing their
            intermediate results.

    Attributes:
        grid_numbers: numbers that an activation on the grid needs for each edge.

    Raises:
        ConfigError: an option that is out of range, or degrees that are too low for the shells of the basis.
    """

    label = "DeepH-2-style"
    periodic = True
    collinear = True
    beside_tensors = ("cutoff", "neighbours", "activation", "grid")

    def __init__(
        self,
        basis: OrbitalBasis,
        irreps: str = "64x0e+64x1o+32x2e+16x3o+8x4e",
        blocks: int = 4,
        heads: int = 2,
        logits: int = 32,
        value: int | None = None,
        hidden: int | None = None,
        forward_channels: int | None = None,
        embed: int = 64,
        radial: int = 128,
        cutoff: float = 9.0,
        neighbours: float = 30.0,
        mmax: int | None = None,
        activation: str = "gate",
        grid: Sequence[int] = (18, 18),
        *,
        hermitian: bool = False,
        time_reversal: bool = False,
        edge_chunk: int | None = None,
        recompute: bool = False,
    ):
        super().__init__()
        for name, number, least in (
            ("blocks", blocks, 1),
            ("heads", heads, 1),
            ("logits", logits, 1),
            ("value", value, 1),
            ("hidden", hidden, 1),
            ("forward_channels", forward_channels, 1),
            ("embed", embed, 1),
            ("radial", radial, 2),
            ("mmax", mmax, 0),
            ("edge_chunk", edge_chunk, 1),
        ):
            optional = name in ("value", "hidden", "forward_channels", "mmax", "edge_chunk")
            if number is None and optional:
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise ConfigError(f"model.backbone.{name} is {number!r}; give a whole number >= {least}")
        for name, length in (("cutoff", cutoff), ("neighbours", neighbours)):
            if not isinstance(length, int | float) or length is True or not 0 < length < math.inf:
                raise ConfigError(f"model.backbone.{name} is {length!r}; give a finite number > 0")
        if time_reversal and not basis.spinful:
            raise ConfigError(
                "model.backbone.time_reversal=true needs a spinful basis; without spin H is real and needs no average"
            )
        self.basis = basis
        self.expansion = ShellPairExpansion(basis)
        channels = natural_channels(irreps)
        degree, needed = len(channels) - 1, max(ir.l for _, ir in self.expansion.irreps)
        if degree < needed:
            missing = [(k, (-1) ** k) for k in range(degree + 1, needed + 1)]
            raise ConfigError(
                f"model.backbone.irreps is {irreps!r}; the Hamiltonian of this basis needs degrees up to {needed}: "
                f"add {'+'.join(f'8x{Irrep(*kind)}' for kind in missing)}"
            )
        if mmax is not None and mmax > degree:
            raise ConfigError(f"model.backbone.mmax is {mmax}; the highest degree of the irreps is {degree}")
        if value is None and any(count % heads for count in channels):
            raise ConfigError(
                f"model.backbone.heads is {heads}, which does not divide the channels of {irreps}; "
                "set model.backbone.value, the channels of each head"
            )
        self.hermitian, self.time_reversal = hermitian, time_reversal
        self.cutoff, self.neighbours, self.activation = cutoff, neighbours, activation
        self.grid = list(grid) if activation == "s2" else None
        self.edge_chunk, self.recompute = edge_chunk, recompute
        self.kinds = AtomKinds(basis)
        sizes = Sizes(
            channels=channels,
            hidden=channels if hidden is None else [hidden] * len(channels),
            forward=channels if forward_channels is None else [forward_channels] * len(channels),
            value=[count // heads for count in channels] if value is None else [value] * len(channels),
            heads=heads,
            logits=logits,
            mmax=degree if mmax is None else mmax,
            radial=radial,
            species=self.kinds.count,
            embed=embed,
            activation=activation_maker(activation, grid),
        )
        # Values at the points of the grid, before and after silu.
        self.grid_numbers = 2 * math.prod(self.grid) * max(sizes.hidden) if self.grid else 0
        self.radial = GaussianBasis(radial, cutoff)
        self.start = Start(sizes, float(neighbours))
        self.node_updates = nn.ModuleList([NodeUpdate(sizes) for _ in range(blocks)])
        degrees = [len(channels)] * (blocks - 1) + [needed + 1]
        self.edge_updates = nn.ModuleList([EdgeUpdate(sizes, count) for count in degrees])
        self.head = BlockHead(channels[: needed + 1], self.expansion)
        self.feature_irreps = {"edge": [natural_irreps(channels[:count]) for count in degrees]}
        # Degree and parity of the irreps that are rotated: torch.compile does not look through irreps.
        self._rotated = [(k, (-1) ** k) for k in range(1, len(channels))]

    def forward(self, graph, refine: Refine = keep) -> Blocks:
        """Blocks of all edges of a crystal graph or a batch of them."""
        kind = self.kinds(graph)
        chunks = self._chunks(graph, kind)
        node = self.start.nodes(kind, chunks)
        edge = joined([chunk.run(self.start.edges, node) for chunk in chunks])
        for k, (node_update, edge_update) in enumerate(
            zip(self.node_updates, self.edge_updates, strict=True)
        ):
            node = node_update(node, edge, chunks)
            new = (chunk.run(edge_update, node, part(edge, chunk.at)) for chunk in chunks)
            edge = joined([refined(refine, k, f) for f in new])
        blocks = [chunk.run(self.head, part(edge, chunk.at)) for chunk in chunks]
        h = torch.cat(blocks) if len(blocks) > 1 else blocks[0]
        options = {"hermitian": self.hermitian, "time_reversal": self.time_reversal}
        return {"edge": symmetrised(h, graph.reverse, **options)}

    def _chunks(self, graph, kind: Int[Tensor, " atoms"]) -> list[PairChunk]:
        dst, src = graph.edge_index
        length = lengths(graph.vectors)
        frame = EdgeFrame(graph.vectors)
        rotations = [frame.rotation(*irrep) for irrep in self._rotated]
        return [
            PairChunk(
                at,
                length[at] == 0,
                [rotation[at] for rotation in rotations],
                (dst[at], src[at]),
                (kind[dst[at]], kind[src[at]]),
                self.radial(length[at]),
                self.recompute,
            )
            for at in edge_parts(len(length), self.edge_chunk)
        ]


class BlockHead(nn.Module):
    """Blocks of H from edge features, with one linear map for on-site edges and one for all others.

    Both parities of a degree come from the features of that degree (our choice): rotations do not tell them apart.

    Args:
        channels: of the features, of each degree 0 .. highest degree of H.
        expansion: from irreps to blocks.
    """

    def __init__(self, channels: Sequence[int], expansion: ShellPairExpansion):
        super().__init__()
        self.expansion = expansion
        self.irreps = [(mul, ir.l) for mul, ir in expansion.irreps]
        outputs = [sum(mul for mul, degree in self.irreps if degree == k) for k in range(len(channels))]
        self.on_site, self.off_site = (so3_linear(channels, outputs) for _ in range(2))

    def forward(self, edge: ItemFirstFeature, chunk: PairChunk) -> Inexact[Tensor, "edges dim dim"]:
        by_degree = where_on_site(chunk, self.on_site(edge), self.off_site(edge))
        features: list[Float[Tensor, "edges _m _c"]] = []
        starts = [0] * len(by_degree)
        for mul, degree in self.irreps:
            start = starts[degree]
            features.append(by_degree[degree][:, :, start : start + mul])
            starts[degree] += mul
        rotations = [chunk.rotations[degree - 1] if degree else None for _, degree in self.irreps]
        return self.expansion(features, rotations)


def natural_channels(text: str) -> list[int]:
    """Channels of each degree of irreps such as 8x0e+4x1o+2x2e.

    Raises:
        ConfigError: other irreps than 0e, 1o, 2e, ... without a gap.
    """
    irreps = Irreps(sorted(unique_irreps("irreps", text), key=lambda entry: entry.ir.l))
    channels = [mul for mul, _ in irreps]
    if irreps != natural_irreps(channels):
        raise ConfigError(
            f"model.backbone.irreps is {text!r}; this network needs each degree once, from 0 on, "
            "with the parities 0e, 1o, 2e, 3o, 4e, ..."
        )
    return channels


def activation_maker(name: str, grid: Sequence[int]) -> Callable[[Sequence[int]], Activation]:
    """Makes the activation of channels of each degree.

    Raises:
        ConfigError: another name than those of ``ACTIVATIONS``, or a grid that is not two whole numbers.
    """
    if name == "gate":
        return ScalarGate
    if name != "s2":
        raise ConfigError(f"model.backbone.activation is {name!r}; choose one of {', '.join(ACTIVATIONS)}")
    numbers = list(grid)
    if len(numbers) != 2 or any(not isinstance(n, int) or isinstance(n, bool) for n in numbers):
        raise ConfigError(f"model.backbone.grid is {numbers}; give the numbers of polar angles and azimuths")
    return partial(SphereActivation, n_beta=numbers[0], n_alpha=numbers[1])
