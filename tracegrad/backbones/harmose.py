"""HarmoSE-style network (after Yin et al. 2024): DeepH-E3 and a graph Transformer that corrects its Hamiltonian.

The first stage is an equivariant DeepH-E3 with blocks H1. The second stage, a non-linear Transformer, gets the
features of the edges and H1 in the global frame and adds a correction, H = H1 + dH, which is zero at first. H1 is
exactly equivariant; dH learns to be so from data, with the help of random rotations.

Only the idea is known from the paper (two stages, features handed over, equivariance learnt with rotated data). The
Transformer follows a network that the same authors released later; everything that is marked as our choice below is
ours. Positions are in angstrom, blocks in the unit of the basis (eV).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from tracegrad.backbones.deeph_e3 import DeepHE3, lengths
from tracegrad.backbones.harmose_rotations import RandomRotations
from tracegrad.backbones.harmose_transformer import EdgeInputs, GraphTransformer
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.edge_parts import edge_parts
from tracegrad.nn.interface import Backbone, Blocks, ComponentFirstFeature, ItemFirstFeature, Refine, keep
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.wigner import WignerMatrices
from tracegrad.nn.radial import GaussianBasis
from tracegrad.numerics.precision import full_precision
from tracegrad.ops.spherical_harmonics import spherical_harmonics

STAGES = ("first", "second", "joint")
HARMONICS = 7  # highest degree of the harmonics of the second stage
HIDDEN_FEATURES = 16  # of all edges in memory at the same time, those of a layer among them


class HarmoSE(Backbone):
    """Two stages over an orbital basis.

    Args:
        basis: orbital basis of both stages.
        irreps, embed, blocks, lmax, legacy_e3nn, node_irreps, last_node_irreps: of the first stage, see `DeepHE3`.
        cutoff, radial: range in angstrom and number of the radial functions of both stages.
        hermitian, time_reversal: see `DeepHE3`; they hold for H1 + dH.
        edge_chunk, recompute: see `DeepHE3`; they hold for the layers of both stages.
        stage: "first": the first stage alone, that is DeepH-E3; "second": both, of which only the second is trained,
            and the first, with TraceGrad, keeps the weights it gets from ``init_from``; "joint": both are trained.
        layers: of the Transformer (our choice: 4).
        width: of its hidden features (our choice: 256).
        heads: of its attention; must divide ``width``.
        augmentation, augmentation_start: random rotations of what the second stage gets in training, and the share
            of the training after which they begin, see `RandomRotations`.

    Attributes:
        first: the first stage.
        transformer: that of the second stage, None with stage "first".

    Raises:
        ConfigError: an option that is out of range, or those that `DeepHE3` raises.
    """

    label = "HarmoSE-style"
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
        stage: str = "joint",
        layers: int = 4,
        width: int = 256,
        heads: int = 4,
        augmentation: str = "weak",
        augmentation_start: float | None = None,
        hermitian: bool = False,
        time_reversal: bool = False,
        legacy_e3nn: bool = False,
        edge_chunk: int | None = None,
        recompute: bool = False,
        node_irreps: str | None = None,
        last_node_irreps: str | None = None,
    ):
        super().__init__()
        if stage not in STAGES:
            raise ConfigError(f"model.backbone.stage is {stage!r}; choose from {', '.join(STAGES)}")
        for name, value in (("layers", layers), ("width", width), ("heads", heads)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"model.backbone.{name} is {value!r}; give a whole number >= 1")
        if width % heads:
            raise ConfigError(
                f"model.backbone.width is {width}, which {heads} heads cannot share; give a multiple of "
                "model.backbone.heads"
            )
        self.first = DeepHE3(
            basis,
            irreps,
            embed,
            blocks,
            lmax,
            cutoff,
            radial,
            hermitian=hermitian,
            time_reversal=time_reversal,
            legacy_e3nn=legacy_e3nn,
            edge_chunk=edge_chunk,
            recompute=recompute,
            node_irreps=node_irreps,
            last_node_irreps=last_node_irreps,
        )
        self.basis, self.stage = basis, stage
        self.feature_irreps = self.first.feature_irreps
        self.features_frozen = stage == "second"
        if self.features_frozen:
            self.first.requires_grad_(False)
        rotations = RandomRotations(augmentation, augmentation_start)
        self.transformer: GraphTransformer | None = None
        if stage == "first":
            return
        # Channels, degree and parity of each irrep of each feature: torch.compile does not look through irreps.
        edge = [[(mul, ir.l, ir.p) for mul, ir in irreps] for irreps in self.feature_irreps["edge"]]
        self.inputs = [*edge, edge[-1]]  # the last: the coefficients of H1
        sizes = [sum(mul * (2 * degree + 1) for mul, degree, _ in irreps) for irreps in self.inputs]
        self.gaussians = GaussianBasis(radial, cutoff, width=cutoff / (2 * radial))
        self.rotations = rotations
        self.matrices = WignerMatrices(max(degree for irreps in edge for _, degree, _ in irreps))
        self.transformer = GraphTransformer(
            sum(sizes), (HARMONICS + 1) ** 2, radial, width, sizes[-1], layers, heads
        )

    def forward(self, graph, refine: Refine = keep) -> Blocks:
        """Blocks of all edges of a crystal graph or a batch of them."""
        return self.stages(graph, refine)[-1]

    def stages(self, graph, refine: Refine = keep) -> list[Blocks]:
        """H1, and H1 + dH where there is a second stage."""
        if self.transformer is None:
            return [self.first(graph, refine)]
        features: list[list[ItemFirstFeature]] = [[] for _ in self.inputs[1:]]

        def kept(site: str, k: int, feature: ComponentFirstFeature) -> ComponentFirstFeature:
            refined = refine(site, k, feature)
            features[k].append([x.transpose(0, 1) for x in refined])
            return refined

        baseline = self.first(graph, kept)
        joined = [[torch.cat(parts) for parts in zip(*chunks, strict=True)] for chunks in features]
        h1 = self.first.head(joined[-1])
        correction = self._correction(graph, [*joined, h1])
        blocks = baseline["edge"] + self.first.averaged(correction, graph)
        return [baseline, {"edge": blocks}]

    def at_progress(self, share: float) -> None:
        """Begin with random rotations once this share of the training has passed."""
        if self.transformer is not None:
            self.rotations.at_progress(share)

    def further_edge_numbers(self) -> int:
        """Inputs of the second stage, each once by itself and once joined, and hidden features of its layers."""
        if self.transformer is None:
            return 0
        sizes = [sum(mul * (2 * degree + 1) for mul, degree, _ in irreps) for irreps in self.inputs]
        return 3 * sum(sizes) + HIDDEN_FEATURES * self.transformer.width

    def first_stage(self) -> DeepHE3:
        """The DeepH-E3."""
        return self.first

    @property
    def hermitian(self) -> bool:
        """Whether H_ij(R) is averaged with the adjoint of H_ji(-R)."""
        return self.first.hermitian

    @hermitian.setter
    def hermitian(self, value: bool) -> None:
        self.first.hermitian = value

    @property
    def time_reversal(self) -> bool:
        """Whether a spinful H is averaged with its time-reversed one."""
        return self.first.time_reversal

    @property
    def edge_chunk(self) -> int | None:
        """Number of edges that pass through a layer at a time; None: all."""
        return self.first.edge_chunk

    @edge_chunk.setter
    def edge_chunk(self, value: int | None) -> None:
        self.first.edge_chunk = value

    @property
    def recompute(self) -> bool:
        """Whether the backward pass recomputes the layers."""
        return self.first.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.first.recompute = value

    @property
    def cutoff(self) -> float:
        """Range of the radial functions, angstrom."""
        return self.first.cutoff

    @property
    def legacy_e3nn(self) -> bool:
        """Whether the first stage has normalisation and signs of e3nn 0.3.5."""
        return self.first.legacy_e3nn

    def _correction(
        self, graph, features: list[ItemFirstFeature]
    ) -> Float[Tensor, "edges dim dim"] | Complex[Tensor, "edges dim dim"]:
        """dH from features in the frames of their edges, before the averages of H."""
        assert self.transformer is not None
        dst, src = graph.edge_index
        length = lengths(graph.vectors)
        # A zero vector has no direction: none for its derivatives, either.
        vectors, turn = torch.where((length > 0)[:, None], graph.vectors, 0.0), None
        if self.training and self.rotations.active:
            rotations = self.rotations(graph.num_graphs).to(vectors.dtype)
            graph_of_edge = graph.batch.index_select(0, dst)
            vectors = turned(vectors[:, :, None], rotations.index_select(0, graph_of_edge))[:, :, 0]
            turn = [d.index_select(0, graph_of_edge) for d in self.matrices(rotations)]
        inputs = EdgeInputs(
            graph.edge_index,
            (length == 0) & (dst == src),
            spherical_harmonics(vectors, HARMONICS).T,
            self.gaussians(length),
            len(graph.numbers),
            edge_parts(len(length), self.edge_chunk),
            self.recompute,
        )
        frame = EdgeFrame(graph.vectors)
        flat = [
            in_global_frame(x, frame, degree, parity, turn).flatten(1)
            for irreps, feature in zip(self.inputs, features, strict=True)
            for (_, degree, parity), x in zip(irreps, feature, strict=True)
        ]
        made = self.transformer(torch.cat(flat, dim=1), inputs).to(vectors.dtype)
        sizes = [mul * (2 * degree + 1) for mul, degree, _ in self.inputs[-1]]
        coefficients = [
            x.unflatten(1, (2 * degree + 1, mul))
            for (mul, degree, _), x in zip(self.inputs[-1], made.split(sizes, dim=1), strict=True)
        ]
        if turn is not None:
            coefficients = [turned(x, turn[x.shape[1] // 2].transpose(1, 2)) for x in coefficients]
        return self.first.expansion(coefficients)


def in_global_frame(
    x: Float[Tensor, "edges m c"],
    frame: EdgeFrame,
    degree: int,
    parity: int,
    turn: Sequence[Float[Tensor, "edges _m _m"]] | None,
) -> Float[Tensor, "edges m c"]:
    """Components in the global frame of a feature in the frame of each edge, turned by matrices of its degree."""
    x = frame.to_global(x, degree, parity)
    return x if turn is None else turned(x, turn[degree])


@full_precision
def turned(x: Float[Tensor, "edges m c"], matrices: Float[Tensor, "edges m m"]) -> Float[Tensor, "edges m c"]:
    """D x for each edge."""
    return matrices @ x
