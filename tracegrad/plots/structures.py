"""Figures of crystals, seen from above and from the side (Figs. 3 and 4 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from ase import Atoms
from ase.data.colors import jmol_colors
from ase.neighborlist import natural_cutoffs, neighbor_list
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from tracegrad.data.crystals.structure import Structure
from tracegrad.elements import COVALENT_RADII, SYMBOLS
from tracegrad.errors import DataError
from tracegrad.plots.style import SERIES_COLOURS, make_figure, styled

# Angstrom. A larger distance in z separates two layers; it is 2.6 between quintuple layers and 2.0 inside of them.
_BETWEEN_LAYERS = 2.3
_BOND = 1.15  # longest bond in units of the sum of the covalent radii
_BALL = 0.34  # radius of a ball in units of the covalent radius
_LEAST_WIDTH = 13.0  # angstrom; smaller cells are repeated
_ARROWS = 6.0  # length of arrows in units of the displacement
_ARROW_COLOUR = "#b2182b"
MOST_PANELS = 6


@dataclass(frozen=True, eq=False)
class Picture:
    """A crystal to draw; displacements (angstrom) are drawn as arrows."""

    title: str
    atoms: Atoms
    displacements: Float[np.ndarray, "atoms 3"] | None = None


def picture_of(structure: Structure) -> Picture:
    """A structure of a database, to be drawn."""
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.lattice, pbc=True)
    return Picture(structure.name, atoms)


@styled
def structures_figure(pictures: Sequence[Picture], title: str = "") -> Figure:
    """A column for each crystal: seen from above (along -z) and from the side; the first lattice vector points right.

    Crystals of several layers and one element are coloured by layers, others by elements. The cell is outlined, small
    cells are repeated, and bonds to atoms of other cells are drawn half. Each column has a separate scale.

    Raises:
        DataError: there is no crystal, or more than `MOST_PANELS`.
    """
    if not 0 < len(pictures) <= MOST_PANELS:
        raise DataError(f"figure of structures: 1 to {MOST_PANELS} can be drawn, not {len(pictures)}")
    drawn = [_Drawing(picture) for picture in pictures]
    by_layer = (
        len({int(z) for one in drawn for z in one.numbers}) == 1 and max(one.layers for one in drawn) > 1
    )
    width = 3.0 if len(drawn) > 1 else 4.2
    heights = [max(one.size[axis] / one.size[0] for one in drawn) * width for axis in (1, 2)]
    figure = make_figure(width * len(drawn) + 0.2, sum(heights) + 1.2)
    axes = figure.subplots(2, len(drawn), squeeze=False, height_ratios=heights)
    for column, one in enumerate(drawn):
        for ax, second, depth in zip(axes[:, column], (1, 2), (one.from_below, one.from_behind), strict=True):
            one.draw(ax, second, depth, by_layer)
            ax.set_xlim(0, one.size[0])
            ax.set_ylim(0, one.size[second])
            ax.set_aspect("equal", anchor="N")
            ax.set_axis_off()
        axes[0, column].set_title(one.picture.title)
        _scale_bar(axes[1, column], one.size[0])
    if any(one.picture.displacements is not None for one in drawn):
        axes[1, -1].text(
            1.0,
            -0.06,
            f"arrows: {_ARROWS:g} times the displacement",
            transform=axes[1, -1].transAxes,
            ha="right",
            va="top",
            fontsize=7,
            color=_ARROW_COLOUR,
        )
    figure.legend(handles=_legend(drawn, by_layer), loc="outside lower center", ncols=6)
    if title:
        figure.suptitle(title)
    return figure


class _Drawing:
    """A crystal with its repeated atoms, bonds and layers."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        atoms = picture.atoms.copy()
        atoms.wrap()
        angle = -np.degrees(np.arctan2(*atoms.cell.array[0, 1::-1]))
        atoms.rotate(angle, "z", rotate_cell=True)
        atoms.positions[:, 2] = _above_vacuum(atoms)
        layer = _layers(atoms.positions[:, 2])
        self.layers = int(layer.max()) + 1
        repeats = [max(1, ceil(_LEAST_WIDTH / length)) for length in atoms.cell.lengths()[:2]]
        self.cell = atoms.cell.array[:2, :2]
        # Bonds are computed for one cell and repeated; there are none across the vacuum or between layers.
        flat = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=(True, True, False))
        first, second, bonds = neighbor_list("ijD", flat, natural_cutoffs(flat, mult=_BOND))
        inside = layer[first] == layer[second]
        if len(set(atoms.numbers)) > 1:
            # In a compound only different elements are bonded, though metal atoms may be as close as bonded ones.
            inside &= atoms.numbers[first] != atoms.numbers[second]
        shifts = np.array([(i, j) for i in range(repeats[0]) for j in range(repeats[1])]) @ self.cell
        offsets = np.zeros((len(shifts), 1, 3))
        offsets[:, 0, :2] = shifts
        self.positions = (offsets + atoms.positions).reshape(-1, 3)
        self.numbers, self.layer = (np.tile(values, len(shifts)) for values in (atoms.numbers, layer))
        starts = np.arange(len(shifts))[:, None] * len(atoms)
        self.bond_atoms = (starts + first[inside]).ravel()
        self.bonds = np.tile(bonds[inside], (len(shifts), 1))
        self.arrows = None
        if picture.displacements is not None:
            arrows = Atoms(atoms.numbers, picture.displacements)
            arrows.rotate(angle, "z")
            self.arrows = np.tile(arrows.positions, (len(shifts), 1))
        corners = np.array([[0.0, 0.0], self.cell[0], self.cell.sum(0), self.cell[1]])
        self.outline = corners[[0, 1, 2, 3, 0]]
        ends = self.positions[self.bond_atoms] + self.bonds / 2
        points = np.concatenate(
            [self.positions, ends, np.column_stack([corners, np.full(4, ends[:, 2].mean())])]
        )
        self.low = points.min(0) - 0.9
        self.size = points.max(0) + 0.9 - self.low

    @property
    def from_below(self) -> Int64[np.ndarray, " atoms"]:
        """Atoms in the order of drawing for a view from above: by ascending z."""
        return np.argsort(self.positions[:, 2], kind="stable")

    @property
    def from_behind(self) -> Int64[np.ndarray, " atoms"]:
        """Atoms in the order of drawing for a view along y: by descending y."""
        return np.argsort(-self.positions[:, 1], kind="stable")

    def draw(self, ax: Axes, second: int, order: Int64[np.ndarray, " atoms"], by_layer: bool) -> None:
        """Draw the projection on x and on the axis ``second`` (1: y, 2: z), with the lowest point at the origin."""
        plane = [0, second]
        origin = self.low[plane]
        points = self.positions[:, plane] - origin
        colours = self._colours(by_layer)
        small = 1.0 if len(points) < 400 else 0.6
        # Upper layers cover lower ones; from the side the layers do not overlap.
        for layer in range(self.layers):
            chosen = np.flatnonzero(self.layer[self.bond_atoms] == layer)
            starts = points[self.bond_atoms[chosen]]
            segments = np.stack([starts, starts + self.bonds[chosen][:, plane] / 2], axis=1)
            shade = colours[self.bond_atoms[chosen]] * 0.75
            ax.add_collection(
                LineCollection(
                    list(segments),
                    colors=shade,
                    linewidths=1.6 * small,
                    capstyle="round",
                    zorder=2 * layer + 1,
                )
            )
            balls = [atom for atom in order.tolist() if self.layer[atom] == layer]
            circles = [Circle(tuple(points[a]), _BALL * COVALENT_RADII[self.numbers[a]]) for a in balls]
            ax.add_collection(
                PatchCollection(
                    circles,
                    facecolors=colours[balls],
                    edgecolors="black",
                    linewidths=0.4 * small,
                    zorder=2 * layer + 2,
                )
            )
        if second == 1:
            ax.plot(
                *(self.outline - origin).T, color="black", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0.5
            )
        if self.arrows is not None:
            ideal = points - self.arrows[:, plane]
            ax.quiver(
                *ideal.T,
                *(_ARROWS * self.arrows[:, plane]).T,
                angles="xy",
                scale_units="xy",
                scale=1.0,
                color=_ARROW_COLOUR,
                width=0.004,
                zorder=50,
            )

    def _colours(self, by_layer: bool) -> Float[np.ndarray, "atoms 3"]:
        if by_layer:
            return np.array([to_rgb(_layer_colour(layer)) for layer in self.layer.tolist()])
        return jmol_colors[self.numbers]


def _above_vacuum(atoms: Atoms) -> Float[np.ndarray, " atoms"]:
    """Heights, shifted so that the largest empty space is at the border of the cell and no layer is cut."""
    height = atoms.cell[2, 2]
    z = np.sort(atoms.positions[:, 2] % height)
    gaps = np.diff(np.append(z, z[0] + height))
    return (atoms.positions[:, 2] - z[(int(gaps.argmax()) + 1) % len(z)] + 1e-9) % height


def _layers(z: Float[np.ndarray, " atoms"]) -> Int64[np.ndarray, " atoms"]:
    """Number of the layer of each atom; the lowest layer is 0."""
    order = np.argsort(z, kind="stable")
    layers = np.empty(len(z), dtype=np.int64)
    layers[order] = np.cumsum(np.diff(z[order], prepend=z[order[0]]) > _BETWEEN_LAYERS)
    return layers


def _layer_colour(layer: int) -> str:
    return SERIES_COLOURS[layer % len(SERIES_COLOURS)]


def _scale_bar(ax: Axes, width: float) -> None:
    length = 5.0 if width < 40 else 10.0
    ax.plot(
        [0.4, 0.4 + length], [0.1, 0.1], color="black", linewidth=1.5, solid_capstyle="butt", clip_on=False
    )
    ax.annotate(
        rf"{length:g} $\mathrm{{\AA}}$",
        (0.4 + length / 2, 0.1),
        (0, -3),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=7,
    )


def _legend(drawn: Sequence[_Drawing], by_layer: bool) -> list[Line2D]:
    names: dict[str, Any]
    if by_layer:
        names = {f"layer {n + 1}": _layer_colour(n) for n in range(max(one.layers for one in drawn))}
    else:
        elements = sorted({int(z) for one in drawn for z in one.numbers})
        names = {SYMBOLS[z]: jmol_colors[z] for z in elements}
    return [
        Line2D([], [], marker="o", linestyle="", markerfacecolor=colour, markeredgecolor="black", label=name)
        for name, colour in names.items()
    ]
