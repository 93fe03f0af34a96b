"""The convolution of DeepH-E3 ("EquiConv"): a gated tensor product with the harmonics of the edge.

The features of node i, node j and the edge are concatenated. Edges are processed in chunks (`EdgeChunk`). Features
are item-first, ``x[irrep][item, m, channel]``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from tracegrad.nn.interface import ItemFirstFeature
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_product import EdgeProduct
from tracegrad.nn.item_first.irreps_linear import SCALAR
from tracegrad.ops.edge_rows.from_rows import from_rows
from tracegrad.ops.edge_rows.layout import RowFeature, RowLayout
from tracegrad.ops.edge_rows.to_rows import to_rows

PSEUDOSCALAR = Irrep(0, -1)
RADIAL_WIDTH = 64


@lru_cache(maxsize=1)
def second_moment_factors() -> dict[str, float]:
    """Factors that give silu, tanh and sigmoid of standard normal numbers a second moment of 1, as in e3nn's Gate."""
    functions = {"silu": silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    return {name: normalize2mom(function).cst for name, function in functions.items()}


@dataclass
class EdgeChunk:
    """Consecutive edges of a batch of graphs, with what the layers need of them.

    Args:
        at: which edges of the batch these are.
        on_site: 1 for on-site edges, which have no direction, 0 for others.
        frame: frames of these edges.
        endpoints: nodes i, at which messages are summed, and nodes j.
        radial: radial functions of the edge lengths.
        kind: of each edge, by the elements of both atoms.
    """

    at: slice
    on_site: Int[Tensor, " edges"]
    frame: EdgeFrame
    endpoints: tuple[Int[Tensor, " edges"], Int[Tensor, " edges"]]
    radial: Float[Tensor, "edges k"]
    kind: Int[Tensor, " edges"]


class EquiConv(nn.Module):
    """[node i | node j | edge] (x) Y, gated, and scaled by a network of the edge length.

    Scalars pass through silu (0e) or tanh (0o). Every other channel is multiplied by the sigmoid of a gate scalar,
    which the product computes as well; the network of the edge length scales each channel of the result.

    Args:
        node, edge: irreps of the inputs.
        output: irreps of the result.
        lmax: highest degree of Y.
        radial: number of radial functions.
        legacy: see `EdgeProduct`.
        at_nodes: sum over the edges of each node i and return features of the nodes in the global frame; otherwise
            features of the edges in their frames are returned.
    """

    def __init__(
        self,
        node: Irreps,
        edge: Irreps,
        output: Irreps,
        lmax: int,
        radial: int,
        *,
        legacy: bool,
        at_nodes: bool,
    ):
        super().__init__()
        self.output, self.at_nodes = output, at_nodes
        gates = sum(mul for mul, ir in output if ir.l > 0)
        with_gates = Irreps([*output, (gates, SCALAR)]) if gates else output
        self.product = EdgeProduct([node, node, edge], merged(with_gates), lmax, legacy=legacy)
        # Positions of the irreps of the product among those of the nodes and of the edges.
        self.node_positions, self.edge_positions = (
            [_position(irreps, ir) for ir in self.product.kinds] for irreps in (node, edge)
        )
        # Degree and parity of the irreps that are rotated: torch.compile does not look through irreps.
        self.rotated_inputs = [(ir.l, ir.p) for _, ir in node if ir.l > 0]
        self.rotated_outputs = [(ir.l, ir.p) for _, ir in output if ir.l > 0 and at_nodes]
        self._rows = self._input_layout()
        self._features = self._output_layout()
        widths = [radial, RADIAL_WIDTH, RADIAL_WIDTH, output.num_irreps]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Linear(c_in, c_out), nn.SiLU()]
        self.radial_net = nn.Sequential(*layers[:-1])

    def forward(self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: EdgeChunk) -> ItemFirstFeature:
        """The convolution of each edge, or its sum at the nodes.

        Args:
            node: features of all nodes, in the global frame.
            edge: features of the edges of the chunk, in the frames of the edges.
            chunk: the edges.
        """
        features = []
        for n, e in zip(self.node_positions, self.edge_positions, strict=True):
            features += [] if n is None else [node[n]]
            features += [] if e is None else [edge[e]]
        turns, turns_back = (
            [chunk.frame.rotation(*kind) for kind in kinds]
            for kinds in (self.rotated_inputs, self.rotated_outputs)
        )
        rows = to_rows(self._rows.key, features, turns, chunk.endpoints, len(chunk.radial))
        return from_rows(
            self._features.key,
            self.product.multiply(rows, chunk.on_site),
            self.radial_net(chunk.radial).to(edge[0].dtype),
            turns_back,
            chunk.endpoints[0] if self.at_nodes else None,
            len(node[0]),
        )

    def _input_layout(self) -> RowLayout:
        """For each irrep the channels of node i, node j and edge, in the frame of the edge."""
        product, features = self.product, []
        node, edge = product.inputs[1:]
        for ir, n, e, slots in zip(
            product.kinds, self.node_positions, self.edge_positions, product.input_slots, strict=True
        ):
            before = 0
            if n is not None:
                rotation = self.rotated_inputs.index((ir.l, ir.p)) if ir.l > 0 else None
                features.append(RowFeature(slots, node[n].mul, rotation, (0, 1)))
                before = 2 * node[n].mul
            if e is not None:
                shifted = tuple(slot and (slot[0], slot[1] + before) for slot in slots)
                features.append(RowFeature(shifted, edge[e].mul))
        return RowLayout(tuple(product.input_shapes), tuple(features))

    def _output_layout(self) -> RowLayout:
        """For each irrep of the output where its channels, their gates and their scales are."""
        product, features = self.product, []
        slots = {ir: slots for (_, ir), slots in zip(product.output, product.output_slots, strict=True)}
        scalars = self.output.count(SCALAR)  # the channels of the gates follow those of the scalars
        constants, passed = second_moment_factors(), 0
        scales = accumulate((mul for mul, _ in self.output), initial=0)
        for (mul, ir), scale in zip(self.output, scales, strict=False):
            own, gate, rotation = slots[ir], None, None
            activation = "gate" if ir.l > 0 else "silu" if ir == SCALAR else "tanh"
            if ir.l > 0:
                (start,) = slots[SCALAR]
                gate = start and (start[0], start[1] + scalars + passed)
                passed += mul
            if (ir.l, ir.p) in self.rotated_outputs:
                rotation = self.rotated_outputs.index((ir.l, ir.p))
            norm = constants["sigmoid" if ir.l > 0 else activation]
            ends = (0,) if self.at_nodes else ()
            features.append(RowFeature(own, mul, rotation, ends, activation, scale, norm, gate))
        return RowLayout(tuple(product.output_shapes), tuple(features))


def merged(irreps: Sequence[tuple[int, Irrep]]) -> Irreps:
    """The same channels with each irrep once, ordered by degree and parity (odd first)."""
    muls: dict[Irrep, int] = {}
    for mul, ir in irreps:
        muls[ir] = muls.get(ir, 0) + mul
    return Irreps([(muls[ir], ir) for ir in sorted(muls, key=lambda ir: (ir.l, ir.p))])


def _position(irreps: Irreps, irrep: Irrep) -> int | None:
    return next((i for i, (_, ir) in enumerate(irreps) if ir == irrep), None)
