"""Tensor product of edge features with the spherical harmonics of the edge, in the frame of the edge.

The product out = sum_paths W_uw C^{l1 l2 l3} (x_l1, Y_l2) has weights that are the same for all edges. In the frame
of the edge Y_l2 is sqrt(2 l2 + 1) at m = 0 and zero elsewhere (`item_first.edge_frame`), so that all paths together
are one dense matrix for each |m|, which serves +m and -m (the SO(2) form of Passaro and Zitnick 2023; it is exact):

    out_k'[e, l' + m, w] = sum over k, u of M_|m|[(k, u), (k', w)] x_k[e, l + m, u]

The channels of all irreps with the same |m| are therefore put side by side (rows, see `tracegrad.ops.edge_rows`).
On-site edges have no direction: only their harmonic l2 = 0 is not zero, which makes the product a linear map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, product

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops.edge_matrices.edge_matrices import edge_matrices
from tracegrad.ops.edge_matrices.table import MatrixTable, Submatrix
from tracegrad.ops.edge_rotation.tables import is_natural
from tracegrad.ops.edge_rows.from_rows import from_rows
from tracegrad.ops.edge_rows.layout import RowFeature, RowLayout, RowSlot
from tracegrad.ops.edge_rows.to_rows import to_rows
from tracegrad.ops.row_product.row_product import row_product


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
        self._tables: list[Tensor] = []  # for each coupling: coefficients [|m|, path]
        self._scales: list[list[float]] = []  # for each coupling: path normalisation of each input
        for coupling in self.couplings:
            ir_in, (mul_out, ir_out) = self.kinds[coupling.source], output[coupling.target]
            widths = [mul[ir_in] for mul in muls if ir_in in mul]
            count = len(coupling.degrees)
            self._shapes.append((count, sum(widths), mul_out))
            self._scales.append(self._path_scales(coupling.target, widths, muls, legacy=legacy))
            self._tables.append(_couplings(ir_in, ir_out, coupling.degrees, legacy=legacy))
        # One coupling after another: w1 [path, channel of all inputs, channel of the output] and
        # w2 [path, input, channel of the output], both flat.
        self.w1 = nn.Parameter(torch.randn(sum(map(math.prod, self._shapes))))
        self.w2 = nn.Parameter(
            torch.randn(sum(p * len(s) * w for (p, _, w), s in zip(self._shapes, self._scales, strict=True)))
        )
        self.groups = self._make_groups()
        self.widths = [sum(mul[ir] for mul in muls if ir in mul) for ir in self.kinds]
        self._matrices = self._make_table()
        self.input_slots, self.input_shapes = _layout(
            [(g.m, g.sources) for g in self.groups], [ir.l for ir in self.kinds], self.widths
        )
        self.output_slots, self.output_shapes = _layout(
            [(g.m, g.targets) for g in self.groups], [ir.l for _, ir in output], [mul for mul, _ in output]
        )
        self._rows, self._products = (
            RowLayout(tuple(shapes), tuple(map(RowFeature, slots, channels)))
            for shapes, slots, channels in (
                (self.input_shapes, self.input_slots, self.widths),
                (self.output_shapes, self.output_slots, [mul for mul, _ in output]),
            )
        )

    def forward(
        self, x: list[Float[Tensor, "edges _m _c"]], on_site: Int[Tensor, " edges"]
    ) -> list[Float[Tensor, "edges _m _w"]]:
        """The product; input and output are in the frame of each edge.

        Args:
            x: for each irrep of ``kinds`` the channels of all inputs that have it, side by side.
            on_site: 1 for on-site edges, which have no direction, 0 for others.
        """
        rows = to_rows(self._rows.key, x, [], [], len(on_site))
        return from_rows(self._products.key, self.multiply(rows, on_site))

    def multiply(
        self, rows: list[Float[Tensor, "edges _p _c"]], on_site: Int[Tensor, " edges"]
    ) -> list[Float[Tensor, "edges _p _w"]]:
        """The product of rows, one tensor for each of ``groups``.

        ``input_slots`` and ``output_slots`` say where the components of each irrep stand in the rows.
        """
        return row_product(rows, self.matrices(), on_site, [columns for _, columns in self.output_shapes])

    def matrices(self) -> Float[Tensor, " numbers"]:
        """The matrices of all groups, flat, followed by those of on-site edges."""
        return edge_matrices(self.w1, self.w2, self._matrices.key)

    def views(self, flat: Tensor, *, inputs: bool = False) -> list[Tensor]:
        """Views of the numbers of ``w1`` (or, with ``inputs``, of ``w2``) that belong to each coupling.

        Returns:
            For each coupling [path, channel of all inputs (``w1``) or input (``w2``), channel of the output].
        """
        shapes = [
            (count, len(scales) if inputs else u, w)
            for (count, u, w), scales in zip(self._shapes, self._scales, strict=True)
        ]
        parts = flat.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _make_table(self) -> MatrixTable:
        """Where each number of ``w1`` and ``w2`` goes in the matrices of all groups, and then of on-site edges.

        Of an on-site edge only l2 = 0 contributes, equally for all components.
        """
        of_1 = self.views(torch.arange(len(self.w1)))
        of_2 = self.views(torch.arange(len(self.w2)), inputs=True)
        positions = {(c.source, c.target): k for k, c in enumerate(self.couplings)}
        shapes: list[tuple[int, int]] = []
        submatrices = []
        for on_site, group in product((False, True), self.groups):
            rows = _starts(group.sources, self.widths)
            columns = _starts(group.targets, [mul for mul, _ in self.output])
            for source, target in product(group.sources, group.targets):
                k, width = positions.get((source, target)), self.output[target].mul
                place = {"matrix": len(shapes), "column": columns[target], "columns": width}
                table = torch.empty(0, 0) if k is None else self._tables[k]
                if k is None or len(table) <= group.m or (on_site and self.couplings[k].degrees[0] > 0):
                    nothing = Submatrix(row=rows[source], rows=self.widths[source], **place)
                    submatrices.append((nothing, table.new_empty(0)))
                    continue
                values = table[0, :1] if on_site else table[group.m]
                ir, first = self.kinds[source], 0
                for s, mul in enumerate(mul for irreps in self.inputs for mul, i in irreps if i == ir):
                    submatrix = Submatrix(
                        row=rows[source] + first,
                        rows=mul,
                        start_1=int(of_1[k][0, first, 0]),
                        stride_1=of_1[k][0].numel(),
                        start_2=int(of_2[k][0, s, 0]),
                        stride_2=of_2[k][0].numel(),
                        paths=len(values),
                        **place,
                    )
                    submatrices.append((submatrix, values * self._scales[k][s]))
                    first += mul
            shapes.append((sum(self.widths[i] for i in rows), sum(self.output[o].mul for o in columns)))
        return MatrixTable(shapes, submatrices)

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
                    and _is_natural(self.kinds[c.source]) in kinds
                    and _is_natural(self.output[c.target].ir) in kinds
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
    return ir.l, not _is_natural(ir)


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
        m_in, m_out = (m if _is_natural(ir) or m == 0 else -m for ir in (ir_in, ir_out))
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


def _is_natural(ir: Irrep) -> bool:
    return is_natural(ir.l, ir.p)
