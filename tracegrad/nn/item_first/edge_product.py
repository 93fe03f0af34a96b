"""Tensor product of edge features with the spherical harmonics of the edge, in the frame of the edge.

The product out = sum_paths W_uw C^{l1 l2 l3} (x_l1, Y_l2) has weights that are the same for all edges. In the frame
of the edge Y_l2 is sqrt(2 l2 + 1) at m = 0 and zero elsewhere (`item_first.edge_frame`), so that all paths together
are one dense matrix for each |m|, which serves +m and -m (the SO(2) form of Passaro and Zitnick 2023; it is exact):

    out_k'[e, l' + m, w] = sum over k, u of M_|m|[(k, u), (k', w)] x_k[e, l + m, u]

The channels of all irreps with the same |m| are therefore put side by side (rows, see `item_first.edge_rows`).
On-site edges have no direction: only their harmonic l2 = 0 is not zero, which makes the product a linear map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.nn.item_first.edge_frame import is_natural
from tracegrad.nn.item_first.edge_rows import IrrepPlacement, RowSlot, from_rows, to_rows
from tracegrad.nn.item_first.edge_weights_kernel import Submatrices, Submatrix, assembled
from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops.matrix_product import product


@dataclass(frozen=True)
class IrrepCoupling:
    """All paths from one irrep of the input to one irrep of the output.

    Args:
        source: position among the irreps of the input (``EdgeProduct.kinds``).
        target: position among the irreps of the output.
        degrees: degree l2 of the harmonics in each path.
    """

    source: int
    target: int
    degrees: tuple[int, ...]


@dataclass(frozen=True)
class ComponentGroup:
    """Components of one |m| that are multiplied by one matrix.

    Args:
        m: |m|.
        sources: positions of the irreps of the input, which are the rows of the matrix.
        targets: positions of the irreps of the output, which are its columns.
    """

    m: int
    sources: tuple[int, ...]
    targets: tuple[int, ...]


class EdgeProduct(nn.Module):
    """[x_1 | x_2 | ...] (x) Y with weights of rank one, W_uw = W1_uw W2_w for every path of every input x_s.

    Args:
        inputs: irreps of the inputs, each irrep once.
        output: irreps of the output, each irrep once.
        lmax: highest degree of Y.
        legacy: normalisation and signs of e3nn 0.3.5 instead of today's ("element") normalisation and signs.

    Attributes:
        kinds: irreps of all inputs together, each once, ordered by degree, natural parity first.
        groups: one for each matrix.
        input_slots, output_slots: for each irrep of ``kinds`` and of the output the slots of its components.
        input_shapes, output_shapes: shapes (1 or 2, columns) of the rows of each group.
    """

    def __init__(self, inputs: Sequence[Irreps], output: Irreps, lmax: int, *, legacy: bool = False):
        super().__init__()
        self.kinds: list[Irrep] = sorted({ir for irreps in inputs for _, ir in irreps}, key=_natural_first)
        self.inputs, self.output, self.lmax = list(inputs), output, lmax
        muls = [{ir: mul for mul, ir in irreps} for irreps in inputs]
        self.couplings = [
            IrrepCoupling(i, o, degrees)
            for i, ir_in in enumerate(self.kinds)
            for o, (_, ir_out) in enumerate(output)
            if (degrees := filter_degrees(ir_in, ir_out, lmax))
        ]
        # For each coupling: numbers of paths, channels of all inputs together, and channels of the output.
        self._shapes: list[tuple[int, int, int]] = []
        self._tables: list[Constant] = []  # for each coupling: coefficients [|m|, path]
        scales: list[Tensor] = []  # path normalisation of every number of w2
        owners: list[Tensor] = []  # for every number of w1 the index into w2 of its second factor
        for coupling in self.couplings:
            ir_in, (mul_out, ir_out) = self.kinds[coupling.source], output[coupling.target]
            widths = [mul[ir_in] for mul in muls if ir_in in mul]
            count = len(coupling.degrees)
            self._shapes.append((count, sum(widths), mul_out))
            scale = torch.tensor(
                self._path_scales(coupling.target, widths, muls, legacy=legacy), dtype=torch.float64
            )
            positions = sum(len(scale) for scale in scales) + torch.arange(count * len(widths) * mul_out)
            by_input = positions.view(count, len(widths), mul_out).repeat_interleave(
                torch.tensor(widths), dim=1
            )
            scales.append(scale[None, :, None].expand(count, -1, mul_out).flatten())
            owners.append(by_input.flatten())
            self._tables.append(Constant(_couplings(ir_in, ir_out, coupling.degrees, legacy=legacy)))
        self._scales = Constant(torch.cat(scales))
        self.register_buffer("owners", torch.cat(owners), persistent=False)
        self.owners: Tensor
        # One coupling after another: w1 [path, channel of all inputs, channel of the output] and
        # w2 [path, input, channel of the output], both flat.
        self.w1 = nn.Parameter(torch.randn(len(self.owners)))
        self.w2 = nn.Parameter(torch.randn(sum(len(scale) for scale in scales)))
        self.groups = self._make_groups()
        self.widths = [sum(mul[ir] for mul in muls if ir in mul) for ir in self.kinds]
        self.submatrices = [self._make_submatrices(linear=linear) for linear in (False, True)]
        self.input_slots, self.input_shapes = _layout(
            [(g.m, g.sources) for g in self.groups], [ir.l for ir in self.kinds], self.widths
        )
        self.output_slots, self.output_shapes = _layout(
            [(g.m, g.targets) for g in self.groups], [ir.l for _, ir in output], [mul for mul, _ in output]
        )

    def forward(
        self, x: list[Float[Tensor, "edges _m _c"]], on_site: Int[Tensor, " loops"]
    ) -> list[Float[Tensor, "edges _m _w"]]:
        """The product; input and output are in the frame of each edge.

        Args:
            x: for each irrep of ``kinds`` the channels of all inputs that have it, side by side.
            on_site: positions of the on-site edges, which have no direction.
        """
        rows = to_rows([IrrepPlacement(slots) for slots in self.input_slots], x, self.input_shapes, len(x[0]))
        products = self.multiply(rows, on_site)
        return from_rows(
            [IrrepPlacement(slots) for slots in self.output_slots], products, [mul for mul, _ in self.output]
        )

    @full_precision
    def multiply(
        self, rows: list[Float[Tensor, "edges _p _c"]], on_site: Int[Tensor, " loops"]
    ) -> list[Float[Tensor, "edges _p _w"]]:
        """The product of rows, one tensor for each of ``groups``.

        ``input_slots`` and ``output_slots`` say where the components of each irrep stand in the rows.
        """
        linear = len(on_site) > 0
        matrices = assembled(self.submatrices[linear], self.w1, self.w2, partial(self.plain_matrices, linear))
        products = [
            product(x.flatten(0, 1), matrix).unflatten(0, x.shape[:2])
            for x, matrix in zip(rows, matrices, strict=False)
        ]
        # The matrices of on-site edges come after those of the other edges.
        for y, x, matrix in zip(products, rows, matrices[len(products) :], strict=False):
            y.index_copy_(0, on_site, x.index_select(0, on_site) @ matrix)
        return products

    def views(self, flat: Tensor, *, inputs: bool = False) -> list[Tensor]:
        """Views of the numbers of ``w1`` (or, with ``inputs``, of ``w2``) that belong to each coupling.

        Returns:
            For each coupling [path, channel of all inputs (``w1``) or input (``w2``), channel of the output].
        """
        shapes = [
            (count, sum(ir in [i for _, i in irreps] for irreps in self.inputs), w)
            if inputs
            else (count, u, w)
            for (count, u, w), ir in zip(
                self._shapes, (self.kinds[c.source] for c in self.couplings), strict=True
            )
        ]
        parts = flat.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def plain_matrices(self, linear: bool, w1: Float[Tensor, " _"], w2: Float[Tensor, " _"]) -> list[Tensor]:
        """The matrices of all groups in plain torch; with ``linear`` followed by those of on-site edges."""
        weights = self.views(w1 * (w2 * self._scales(w2)).index_select(0, self.owners))
        by_component = [
            (table(w) @ w.flatten(1)).unflatten(1, w.shape[1:])
            for table, w in zip(self._tables, weights, strict=True)
        ]  # for each coupling: [|m|, channels of the input, channels of the output]
        matrices = [
            self._matrix(group, [w[group.m] if len(w) > group.m else None for w in by_component])
            for group in self.groups
        ]
        return matrices + [self._matrix(group, self._linear(weights)) for group in self.groups if linear]

    def _make_submatrices(self, *, linear: bool) -> Submatrices:
        """For the kernel: where each number of ``w1`` and ``w2`` goes in the matrices of `plain_matrices`."""
        exact = torch.empty(0, dtype=torch.float64)
        of_1 = self.views(torch.arange(len(self.w1)))
        of_2 = self.views(torch.arange(len(self.w2)), inputs=True)
        scales = self.views(self._scales(exact), inputs=True)
        shapes: list[tuple[int, int]] = []
        submatrices = []
        for group, on_site in [(g, flag) for flag in (False, True)[: 1 + linear] for g in self.groups]:
            rows = _starts(group.sources, self.widths)
            columns = _starts(group.targets, [mul for mul, _ in self.output])
            for k, coupling in enumerate(self.couplings):
                table = self._tables[k](exact)
                if coupling.source not in rows or coupling.target not in columns or len(table) <= group.m:
                    continue
                if on_site and coupling.degrees[0] > 0:
                    continue
                values = table[0, :1] if on_site else table[group.m]
                ir, first = self.kinds[coupling.source], 0
                for s, width in enumerate(
                    mul for inputs in self.inputs for mul, other in inputs if other == ir
                ):
                    submatrix = Submatrix(
                        matrix=len(shapes),
                        row=rows[coupling.source] + first,
                        column=columns[coupling.target],
                        rows=width,
                        columns=of_1[k].shape[2],
                        start_1=int(of_1[k][0, first, 0]),
                        stride_1=of_1[k][0].numel(),
                        start_2=int(of_2[k][0, s, 0]),
                        stride_2=of_2[k][0].numel(),
                        paths=len(values),
                    )
                    submatrices.append((submatrix, values * scales[k][0, s, 0]))
                    first += width
            shapes.append((sum(self.widths[i] for i in rows), sum(self.output[o].mul for o in columns)))
        return Submatrices(shapes, submatrices)

    def _linear(self, weights: list[Float[Tensor, "_l2 _u _w"]]) -> list[Float[Tensor, "_u _w"] | None]:
        """Weights of each coupling for on-site edges: only l2 = 0 contributes, equally for all components."""
        return [
            table(w)[0, 0] * w[0] if coupling.degrees[0] == 0 else None
            for coupling, table, w in zip(self.couplings, self._tables, weights, strict=True)
        ]

    def _matrix(
        self, group: ComponentGroup, weights: list[Float[Tensor, "_u _w"] | None]
    ) -> Float[Tensor, "sources targets"]:
        """The matrix of one group from the weights of all couplings; zero where nothing couples."""
        by_irreps = {
            (c.source, c.target): w for c, w in zip(self.couplings, weights, strict=True) if w is not None
        }
        rows = []
        for i in group.sources:
            blocks = [by_irreps.get((i, o)) for o in group.targets]
            rows.append(
                torch.cat(
                    [
                        self.w1.new_zeros(self.widths[i], self.output[o].mul) if block is None else block
                        for o, block in zip(group.targets, blocks, strict=True)
                    ],
                    dim=1,
                )
            )
        return torch.cat(rows)

    def _path_scales(
        self, target: int, widths: list[int], muls: list[dict[Irrep, int]], *, legacy: bool
    ) -> list[float]:
        """Path normalisation of each input: by the number of channels ("element"), or of paths (legacy)."""
        into = [c for c in self.couplings if c.target == target]
        fans = [
            mul[self.kinds[c.source]]
            for c in into
            for mul in muls
            if self.kinds[c.source] in mul
            for _ in c.degrees
        ]
        dim = self.output[target].ir.dim
        return [math.sqrt(dim / (width * len(fans) if legacy else sum(fans))) for width in widths]

    def _make_groups(self) -> list[ComponentGroup]:
        """One group for each |m| > 0; two for m = 0, where natural and unnatural irreps do not couple."""
        groups = []
        for m in range(max(ir.l for _, ir in self.output) + 1):
            for kinds in ((True,), (False,)) if m == 0 else ((True, False),):
                coupled = [
                    c
                    for c in self.couplings
                    if min(self.kinds[c.source].l, self.output[c.target].ir.l) >= m
                    and is_natural(self.kinds[c.source]) in kinds
                    and is_natural(self.output[c.target].ir) in kinds
                ]
                if coupled:
                    sources, targets = ({c.source for c in coupled}, {c.target for c in coupled})
                    groups.append(ComponentGroup(m, tuple(sorted(sources)), tuple(sorted(targets))))
        return groups


def _starts(members: Sequence[int], widths: Sequence[int]) -> dict[int, int]:
    """First column of each member if they stand side by side in this order."""
    starts = accumulate((widths[i] for i in members), initial=0)
    return dict(zip(members, starts, strict=False))


def _natural_first(ir: Irrep) -> tuple[int, bool]:
    return ir.l, not is_natural(ir)


def filter_degrees(ir_in: Irrep, ir_out: Irrep, lmax: int) -> tuple[int, ...]:
    """Degrees l2 of the harmonics that couple two irreps: parities and the triangle rule hold, l2 <= lmax."""
    return tuple(
        l2
        for l2 in range(abs(ir_in.l - ir_out.l), min(ir_in.l + ir_out.l, lmax) + 1)
        if ir_in.p * (-1) ** l2 == ir_out.p
    )


def _couplings(
    ir_in: Irrep, ir_out: Irrep, degrees: tuple[int, ...], *, legacy: bool
) -> Float[Tensor, "m degrees"]:
    """sqrt(2 l2 + 1) C^{l1 l2 l3} between the components of each |m| in the frame of an edge."""
    tables = [math.sqrt(2 * l2 + 1) * wigner_3j(ir_in.l, l2, ir_out.l, legacy)[:, l2] for l2 in degrees]
    rows = []
    for m in range(min(ir_in.l, ir_out.l) + 1):
        # The components m and -m of unnatural irreps are exchanged, see `tracegrad.nn.item_first.edge_frame`.
        m_in, m_out = (m if is_natural(ir) or m == 0 else -m for ir in (ir_in, ir_out))
        rows.append([float(table[ir_in.l + m_in, ir_out.l + m_out]) for table in tables])
    return torch.tensor(rows, dtype=torch.float64)


def _layout(
    groups: Sequence[tuple[int, tuple[int, ...]]], degrees: Sequence[int], widths: Sequence[int]
) -> tuple[list[tuple[RowSlot | None, ...]], list[tuple[int, int]]]:
    """Slots of each irrep, and the shapes of the rows.

    Args:
        groups: |m| and irreps of each group.
        degrees, widths: degree and number of channels of each irrep.
    """
    slots: list[list[RowSlot | None]] = [[None] * (degree + 1) for degree in degrees]
    shapes = []
    for number, (m, irreps) in enumerate(groups):
        start = 0
        for i in irreps:
            slots[i][m] = (number, start)
            start += widths[i]
        shapes.append((2 if m else 1, start))
    return [tuple(of_irrep) for of_irrep in slots], shapes
