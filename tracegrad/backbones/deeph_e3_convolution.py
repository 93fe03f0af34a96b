"""DeepH-E3's convolution: node i, node j and edge in a gated tensor product with the harmonics of the edge."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_product import EdgeProduct, Group
from tracegrad.nn.item_first.edge_rows import Ends, Turn, from_rows, to_rows
from tracegrad.nn.item_first.irreps_linear import SCALAR, Kinds

PSEUDOSCALAR = Irrep(0, -1)
RADIAL_WIDTH = 64
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
    on_site: Int[Tensor, " loops"]  # positions among these of edges of an atom with itself in the same cell
    frame: EdgeFrame
    ends: tuple[Ends, Ends]  # nodes i, at which messages are summed, and j
    rbf: Float[Tensor, "edges k"]
    kinds: Kinds


class Convolution(nn.Module):
    """[node i | node j | edge] (x) Y, gated, and scaled by a network of the edge's length.

    Scalars pass through silu (0e) or tanh (0o); every other channel is multiplied by the sigmoid of a scalar of its
    own, which the product makes, too.

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
        self.gates = sum(mul for mul, ir in output if ir.l > 0)
        made = Irreps([*output, (self.gates, SCALAR)]) if self.gates else output
        self.product = EdgeProduct([node, node, edge], merged(made), lmax, legacy=legacy)
        self.node_places, self.edge_places = (
            [_place(irreps, ir) for ir in self.product.kinds] for irreps in (node, edge)
        )
        self.heads = [self._head(group) for group in self.product.groups]
        # Columns of the irreps with l > 0 are counted without the heads.
        self.columns = {
            ir: tuple(
                None if column is None else (column[0], column[1] - sum(self.heads[column[0]]))
                for column in columns
            )
            for (_, ir), columns in zip(self.product.output, self.product.output_columns, strict=True)
        }
        widths = [radial, RADIAL_WIDTH, RADIAL_WIDTH, output.num_irreps]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Linear(c_in, c_out), nn.SiLU()]
        self.radial_net = nn.Sequential(*layers[:-1])

    def forward(self, node: Feature, edge: Feature, at: Edges, *, at_nodes: bool) -> Feature:
        """Features of the edges, in their frames, or their sums at the nodes i, in the global frame."""
        made = self.product.multiply(self._rows(node, edge, at), at.on_site)
        rows, scalars, gates = self._split(made)
        scale = self.radial_net(at.rbf).to(edge[0].dtype)
        scales = scale.split([mul for mul, _ in self.output], dim=1)
        factor = activations()
        opened = None
        if gates is not None:
            of_vectors = [s for s, (_, ir) in zip(scales, self.output, strict=True) if ir.l > 0]
            opened = torch.sigmoid(gates[:, 0]) * (factor["sigmoid"] * torch.cat(of_vectors, dim=1))
        turns, first = [], 0
        ends = at.ends[:1] if at_nodes else ()
        for (mul, ir), s in zip(self.output, scales, strict=True):
            if ir.l > 0:
                rotation = at.frame.rotation(ir) if at_nodes else None
                turns.append(Turn(self.columns[ir], rotation, ends, first))
                first += mul
                continue
            name, activation = ("silu", silu) if ir == SCALAR else ("tanh", torch.tanh)
            rows.append(activation(scalars[ir]) * (factor[name] * s[:, None]))
            turns.append(Turn(((len(rows) - 1, 0),), None, ends))
        return from_rows(turns, rows, [mul for mul, _ in self.output], opened)

    def _rows(self, node: Feature, edge: Feature, at: Edges) -> list[Float[Tensor, "edges _p _c"]]:
        """For each irrep of the product the channels of node i, node j and edge, in the frame of the edge."""
        turns, features = [], []
        for ir, n, e, columns in zip(
            self.product.kinds, self.node_places, self.edge_places, self.product.input_columns, strict=True
        ):
            if n is not None:
                turns.append(Turn(columns, at.frame.rotation(ir) if ir.l > 0 else None, at.ends))
                features.append(node[n])
            if e is not None:
                before = 0 if n is None else 2 * node[n].shape[2]
                turns.append(Turn(tuple(c and (c[0], c[1] + before) for c in columns)))
                features.append(edge[e])
        return to_rows(turns, features, self.product.input_shapes, len(at.rbf))

    def _head(self, group: Group) -> list[int]:
        """Columns of scalars and of gates with which the rows of a group begin: degree 0 comes first."""
        ir = self.product.output[group.targets[0]].ir
        if group.m > 0 or ir.l > 0:
            return [0, 0]
        return [sum(mul for mul, other in self.output if other == ir), self.gates if ir == SCALAR else 0]

    def _split(self, made: list[Tensor]) -> tuple[list[Tensor], dict[Irrep, Tensor], Tensor | None]:
        """Rows of the irreps with l > 0, the scalars, and the gates; zero where nothing couples to them."""
        zeros = made[0].new_zeros
        scalars = {ir: zeros(len(made[0]), 1, mul) for mul, ir in self.output if ir.l == 0}
        gates = zeros(len(made[0]), 1, self.gates) if self.gates else None
        rows = []
        for group, head, y in zip(self.product.groups, self.heads, made, strict=True):
            rest = y
            if any(head):
                first, opening, rest = y.split([*head, y.shape[2] - sum(head)], dim=2)
                if head[0]:
                    scalars[self.product.output[group.targets[0]].ir] = first
                if head[1]:
                    gates = opening
            rows.append(rest)
        return rows, scalars, gates


def merged(irreps: Sequence[tuple[int, Irrep]]) -> Irreps:
    """Channels of equal irrep put together in their order, irreps ordered by degree and parity (odd first)."""
    muls: dict[Irrep, int] = {}
    for mul, ir in irreps:
        muls[ir] = muls.get(ir, 0) + mul
    return Irreps([(muls[ir], ir) for ir in sorted(muls, key=lambda ir: (ir.l, ir.p))])


def _place(irreps: Irreps, wanted: Irrep) -> int | None:
    return next((i for i, (_, ir) in enumerate(irreps) if ir == wanted), None)
