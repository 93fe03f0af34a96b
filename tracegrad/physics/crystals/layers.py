"""The two-dimensional crystals of the DeepH databases: one hexagonal layer, or two stacked ones.

All cells have the lattice vectors a (1, 0), a (1/2, sqrt(3)/2) and one along z; positions in the plane are fractions
of the first two. Lengths are in angstrom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from jaxtyping import Float

# The three stacking positions of close-packed layers, in fractions of the lattice vectors.
_SITES = {"A": (0.0, 0.0), "B": (1 / 3, 1 / 3), "C": (2 / 3, 2 / 3)}
_HEXAGON = np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]])


@dataclass(frozen=True)
class Layer:
    """A hexagonal layer.

    Args:
        symbols: elements of the atoms of a cell.
        sites: stacking position of each atom: A, B or C.
        heights: z of each atom, angstrom; 0 for the lowest.
        a: lattice constant, angstrom.
    """

    symbols: tuple[str, ...]
    sites: str
    heights: tuple[float, ...]
    a: float

    @property
    def thickness(self) -> float:
        """Distance in z from the lowest atom to the highest, angstrom."""
        return max(self.heights)

    @property
    def atoms_per_cell(self) -> int:
        """Number of atoms in a cell of the layer."""
        return len(self.symbols)

    @property
    def in_plane(self) -> Float[np.ndarray, "atoms 2"]:
        """Positions of the atoms in the plane, in fractions of the lattice vectors."""
        return np.array([_SITES[site] for site in self.sites])

    @property
    def lattice(self) -> Float[np.ndarray, "2 2"]:
        """Rows are lattice vectors, angstrom."""
        return self.a * _HEXAGON


@dataclass(frozen=True)
class Crystal:
    """A crystal of one or two equal layers, with the published recipe of its database (Table 4 of the paper).

    Args:
        title: name of the crystal.
        layer: one layer.
        layers: number of layers, 1 or 2.
        gap: distance in z from the highest atom of the lower layer to the lowest atom of the upper one, angstrom.
        height: length of the third lattice vector, angstrom.
        supercell: cells along the first two lattice vectors.
        structures: number of structures without a twist, in all parts of the split together.
        disturbance: distribution of each component of the displacements: ``uniform`` in [-amplitude, amplitude], or
            ``gaussian`` with the standard deviation ``amplitude``.
        amplitude: angstrom.
        twists: (m, n) of the twisted test structures.
        spin_orbit: non-collinear spin with spin-orbit coupling.
    """

    title: str
    layer: Layer
    layers: int
    gap: float
    height: float
    supercell: tuple[int, int]
    structures: int
    disturbance: str
    amplitude: float
    twists: tuple[tuple[int, int], ...] = ()
    spin_orbit: bool = False

    @property
    def thickness(self) -> float:
        """Distance in z from the lowest atom to the highest, angstrom."""
        return self.layers * self.layer.thickness + (self.layers - 1) * self.gap


def _quintuple(bismuth: float, chalcogen: float, symbol: str, a: float, c: float) -> tuple[Layer, float]:
    """A quintuple layer and its distance to the next one, from the bulk positions (0, 0, u c).

    ``bismuth`` and ``chalcogen`` are u of Bi and of the outer chalcogen; a and c (angstrom) are the hexagonal lattice
    constants.
    """
    inner, outer = (bismuth - 1 / 3) * c, (1 / 3 - chalcogen) * c
    heights = (0.0, outer - inner, outer, outer + inner, 2 * outer)
    return Layer((symbol, "Bi", symbol, "Bi", symbol), "ABCAB", heights, a), c / 3 - 2 * outer


_GRAPHENE = Layer(("C", "C"), "BC", (0.0, 0.0), 2.46)
_MOS2 = Layer(("S", "Mo", "S"), "CBC", (0.0, 1.565, 3.13), 3.16)
# The structure of the example that DeepH-pack makes (gen_example.py): AA stacking, c = 19 angstrom.
_BISMUTHENE = Layer(("Bi", "Bi"), "CA", (0.0, 1.7233933379), 4.3664811210045835)
# Bulk structures of Nakajima, J. Phys. Chem. Solids 24, 479 (1963); those behind the published databases are unknown.
_BI2TE3, _BI2TE3_GAP = _quintuple(0.4000, 0.2097, "Te", 4.386, 30.497)
_BI2SE3, _BI2SE3_GAP = _quintuple(0.4008, 0.2117, "Se", 4.143, 28.636)


def _bilayer(
    layer_name: str,
    layer: Layer,
    gap: float,
    height: float,
    supercell: tuple[int, int],
    structures: int,
    twists: Sequence[tuple[int, int]],
) -> Crystal:
    """Two layers, shifted and displaced as published for bismuthene; bismuth needs spin-orbit coupling."""
    title, spin_orbit = f"bilayer {layer_name}", "Bi" in layer.symbols
    return Crystal(
        title, layer, 2, gap, height, supercell, structures, "uniform", 0.1, tuple(twists), spin_orbit
    )


# Numbers of atoms, structures and twists are those of Table 4. For BB the cell, the 24 x 24 shifts and the
# displacements are published too; BG, BT and BS use the same ones. The published structures of MG and MM are frames
# of molecular dynamics at 300 K; normal displacements of 0.05 angstrom replace them. Heights other than that of BB
# are assumptions.
CRYSTALS = {
    "MG": Crystal("monolayer graphene", _GRAPHENE, 1, 0.0, 15.0, (6, 6), 450, "gaussian", 0.05),
    "MM": Crystal("monolayer MoS2", _MOS2, 1, 0.0, 15.0, (5, 5), 500, "gaussian", 0.05),
    "BG": _bilayer("graphene", _GRAPHENE, 3.35, 18.0, (4, 4), 300, [(m + 1, m) for m in range(1, 10)]),
    "BB": _bilayer(
        "bismuthene", _BISMUTHENE, 3.2046152926, 19.0, (3, 3), 576, [(2, 1), (3, 2), (4, 3), (5, 4)]
    ),
    "BT": _bilayer("Bi2Te3", _BI2TE3, _BI2TE3_GAP, 30.0, (3, 3), 254, [(2, 1), (3, 1)]),
    "BS": _bilayer("Bi2Se3", _BI2SE3, _BI2SE3_GAP, 30.0, (3, 3), 457, [(2, 1), (3, 2)]),
}


def crystal_cell(
    crystal: Crystal,
    height: float,
    supercell: tuple[int, int] = (1, 1),
    shift: Sequence[float] = (0.0, 0.0),
) -> Atoms:
    """The ideal crystal, periodic in all directions, with the layers in the middle of the cell.

    Args:
        crystal: the crystal.
        height: length of the third lattice vector, angstrom.
        supercell: cells along the first two lattice vectors.
        shift: of the upper layer, in fractions of the lattice vectors of one cell.
    """
    layer = crystal.layer
    planes = [layer.in_plane + number * np.asarray(shift) for number in range(crystal.layers)]
    cell = stacked(crystal, height, layer.lattice, planes)
    return make_supercell(cell, np.diag([*supercell, 1]))


def stacked(
    crystal: Crystal,
    height: float,
    lattice: Float[np.ndarray, "2 2"],
    planes: Sequence[Float[np.ndarray, "atoms 2"]],
) -> Atoms:
    """A crystal of stacked layers, periodic in all directions.

    Args:
        crystal: with the layer and the distances in z.
        height: length of the third lattice vector, angstrom.
        lattice: lattice vectors of the plane (rows), angstrom.
        planes: for each layer the positions of its atoms in fractions of ``lattice``, cell after cell.

    Returns:
        The atoms, with the number of the layer (from 0) in their array ``layer``.
    """
    layer = crystal.layer
    cell = np.zeros((3, 3))
    cell[:2, :2], cell[2, 2] = lattice, height
    symbols: list[str] = []
    positions, numbers = [], []
    bottom = (height - crystal.thickness) / 2
    for number, plane in enumerate(planes):
        copies = len(plane) // layer.atoms_per_cell
        z = bottom + number * (layer.thickness + crystal.gap) + np.tile(layer.heights, copies)
        symbols += layer.symbols * copies
        positions.append(np.column_stack([(plane % 1.0) @ lattice, z]))
        numbers += [number] * len(plane)
    atoms = Atoms(symbols, np.concatenate(positions), cell=cell, pbc=True)
    atoms.set_array("layer", np.array(numbers))
    return atoms
