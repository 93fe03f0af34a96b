"""The convolution of DeepH-E3 ("EquiConv"): a gated tensor product with the harmonics of the edge.

The features of node i, node j and the edge are concatenated. Edges are processed in chunks (`EdgeChunk`). Features
are item-first, ``x[irrep][item, m, channel]``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from e3nn.math import normalize2mom
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.nn.interface import ItemFirstFeature
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_product import ComponentGroup, EdgeProduct
from tracegrad.nn.item_first.edge_rows import EdgeEndpoints, IrrepPlacement, from_rows, to_rows
from tracegrad.nn.item_first.irreps_linear import SCALAR
from tracegrad.ops.gates.gates import FUNCTIONS as GATE_FUNCTIONS
from tracegrad.ops.gates.gates import gates as gate

PSEUDOSCALAR = Irrep(0, -1)
FUNCTIONS = {
    SCALAR: "silu",
    PSEUDOSCALAR: "tanh",
    None: "sigmoid",
}  # of scalars, and of the gates of other irreps
RADIAL_WIDTH = 64


@lru_cache(maxsize=1)
def second_moment_factors() -> dict[str, float]:
    """Factors that give silu, tanh and sigmoid of standard normal numbers a second moment of 1, as in e3nn's Gate."""
    return {name: normalize2mom(function).cst for name, function in GATE_FUNCTIONS.items()}


@dataclass
class EdgeChunk:
    """Consecutive edges of a batch of graphs, with what the layers need of them.

    Args:
        at: which edges of the batch these are.
        on_site: positions within the chunk of the on-site edges, which have no direction.
        frame: frames of these edges.
        endpoints: nodes i, at which messages are summed, and nodes j.
        radial: radial functions of the edge lengths.
        kind: of each edge, by the elements of both atoms.
    """

    at: slice
    on_site: Int[Tensor, " loops"]
    frame: EdgeFrame
    endpoints: tuple[EdgeEndpoints, EdgeEndpoints]
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
    """

    def __init__(self, node: Irreps, edge: Irreps, output: Irreps, lmax: int, radial: int, *, legacy: bool):
        super().__init__()
        self.output = output
        self.channels = [mul for mul, _ in output]
        self.gates = sum(mul for mul, ir in output if ir.l > 0)
        with_gates = Irreps([*output, (self.gates, SCALAR)]) if self.gates else output
        self.product = EdgeProduct([node, node, edge], merged(with_gates), lmax, legacy=legacy)
        # Positions of the irreps of the product among those of the nodes and of the edges.
        self.node_positions, self.edge_positions = (
            [_position(irreps, ir) for ir in self.product.kinds] for irreps in (node, edge)
        )
        self.scalar_columns = [self._scalar_columns(group) for group in self.product.groups]
        # `_split` removes the columns of scalars and gates, so that the slots of irreps with l > 0 move to the left.
        self.slots = {
            ir: tuple(
                None if slot is None else (slot[0], slot[1] - sum(self.scalar_columns[slot[0]]))
                for slot in slots
            )
            for (_, ir), slots in zip(self.product.output, self.product.output_slots, strict=True)
        }
        widths = [radial, RADIAL_WIDTH, RADIAL_WIDTH, output.num_irreps]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Linear(c_in, c_out), nn.SiLU()]
        self.radial_net = nn.Sequential(*layers[:-1])

    def forward(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: EdgeChunk, *, at_nodes: bool
    ) -> ItemFirstFeature:
        """The convolution of each edge, or its sum at the nodes.

        Args:
            node: features of all nodes, in the global frame.
            edge: features of the edges of the chunk, in the frames of the edges.
            chunk: the edges.
            at_nodes: sum over the edges of each node i and return features of the nodes in the global frame;
                otherwise features of the edges in their frames are returned.
        """
        products = self.product.multiply(self._rows(node, edge, chunk), chunk.on_site)
        rows, scalars, gates = self._split(products)
        scale = self.radial_net(chunk.radial).to(edge[0].dtype)
        arguments: dict[Irrep | None, Tensor] = {
            ir: scalars[ir][:, 0] for ir in (SCALAR, PSEUDOSCALAR) if ir in scalars
        }
        if gates is not None:
            arguments[None] = gates[:, 0]
        owners = [list(arguments).index(ir if ir.l == 0 else None) for _, ir in self.output]
        names = [FUNCTIONS[ir] for ir in arguments]
        factors = [second_moment_factors()[name] for name in names]
        activated = dict(
            zip(
                arguments,
                gate(list(arguments.values()), scale, self.channels, owners, names, factors),
                strict=True,
            )
        )
        placements, first = [], 0
        endpoints = chunk.endpoints[:1] if at_nodes else ()
        for mul, ir in self.output:
            if ir.l > 0:
                rotation = chunk.frame.rotation(ir) if at_nodes else None
                placements.append(IrrepPlacement(self.slots[ir], rotation, endpoints, first))
                first += mul
                continue
            rows.append(activated[ir][:, None])
            placements.append(IrrepPlacement(((len(rows) - 1, 0),), None, endpoints))
        factor = activated.get(None)
        return from_rows(placements, rows, self.channels, factor)

    def _rows(
        self, node: ItemFirstFeature, edge: ItemFirstFeature, chunk: EdgeChunk
    ) -> list[Float[Tensor, "edges _p _c"]]:
        """Rows of the product: for each irrep the channels of node i, node j and edge, in the frame of the edge."""
        placements, features = [], []
        for ir, n, e, slots in zip(
            self.product.kinds,
            self.node_positions,
            self.edge_positions,
            self.product.input_slots,
            strict=True,
        ):
            if n is not None:
                rotation = chunk.frame.rotation(ir) if ir.l > 0 else None
                placements.append(IrrepPlacement(slots, rotation, chunk.endpoints))
                features.append(node[n])
            if e is not None:
                before = 0 if n is None else 2 * node[n].shape[2]
                placements.append(
                    IrrepPlacement(tuple(slot and (slot[0], slot[1] + before) for slot in slots))
                )
                features.append(edge[e])
        return to_rows(placements, features, self.product.input_shapes, len(chunk.radial))

    def _scalar_columns(self, group: ComponentGroup) -> list[int]:
        """Numbers of columns of scalars and of gates in the rows of a group; they are its first columns."""
        ir = self.product.output[group.targets[0]].ir
        if group.m > 0 or ir.l > 0:
            return [0, 0]
        return [sum(mul for mul, other in self.output if other == ir), self.gates if ir == SCALAR else 0]

    def _split(self, products: list[Tensor]) -> tuple[list[Tensor], dict[Irrep, Tensor], Tensor | None]:
        """Rows of the irreps with l > 0, the scalars, and the gates; zeros for what no path leads to."""
        zeros = products[0].new_zeros
        scalars = {ir: zeros(len(products[0]), 1, mul) for mul, ir in self.output if ir.l == 0}
        gates = zeros(len(products[0]), 1, self.gates) if self.gates else None
        rows = []
        for group, counts, y in zip(self.product.groups, self.scalar_columns, products, strict=True):
            rest = y
            if any(counts):
                of_scalars, of_gates, rest = y.split([*counts, y.shape[2] - sum(counts)], dim=2)
                if counts[0]:
                    scalars[self.product.output[group.targets[0]].ir] = of_scalars
                if counts[1]:
                    gates = of_gates
            rows.append(rest)
        return rows, scalars, gates


def merged(irreps: Sequence[tuple[int, Irrep]]) -> Irreps:
    """The same channels with each irrep once, ordered by degree and parity (odd first)."""
    muls: dict[Irrep, int] = {}
    for mul, ir in irreps:
        muls[ir] = muls.get(ir, 0) + mul
    return Irreps([(muls[ir], ir) for ir in sorted(muls, key=lambda ir: (ir.l, ir.p))])


def _position(irreps: Irreps, irrep: Irrep) -> int | None:
    return next((i for i, (_, ir) in enumerate(irreps) if ir == irrep), None)
