"""The two-dimensional crystals of the DeepH databases: one hexagonal layer, or two of them on top of each other.

All cells have the lattice vectors a (1, 0), a (1/2, sqrt(3)/2) and one along z; positions in the plane are given in
fractions of the first two. Lengths are in angstrom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from jaxtyping import Float

# The three positions of a close packing.
_SITES = {"A": (0.0, 0.0), "B": (1 / 3, 1 / 3), "C": (2 / 3, 2 / 3)}
_HEXAGON = np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]])


@dataclass(frozen=True)
class Layer:
    """A hexagonal layer.

    Args:
        symbols: elements of the atoms of a cell.
        sites: position of each atom in the plane: A, B or C.
        heights: z of each atom, angstrom, the lowest 0.
        a: lattice constant, angstrom.
    """

    symbols: tuple[str, ...]
    sites: str
    heights: tuple[float, ...]
    a: float

    @property
    def thickness(self) -> float:
        return max(self.heights)

    @property
    def atoms_per_cell(self) -> int:
        return len(self.symbols)

    @property
    def in_plane(self) -> Float[np.ndarray, "atoms 2"]:
        """Fractions of the lattice vectors."""
        return np.array([_SITES[site] for site in self.sites])

    @property
    def lattice(self) -> Float[np.ndarray, "2 2"]:
        """Rows are lattice vectors, angstrom."""
        return self.a * _HEXAGON


@dataclass(frozen=True)
class Crystal:
    """A crystal of one or two equal layers, with the published way of making its database (Table 4).

    Args:
        title: what it is.
        layer: one layer.
        layers: 1 or 2.
        gap: z from the highest atom of the lower layer to the lowest of the upper one, angstrom.
        height: length of the third lattice vector, angstrom.
        supercell: cells along both vectors.
        structures: of the database without twists, all parts together.
        disturbance: ``uniform`` in +-amplitude for each component, or ``gaussian`` with this standard deviation.
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
        """z from the lowest atom to the highest, angstrom."""
        return self.layers * self.layer.thickness + (self.layers - 1) * self.gap


def _quintuple(bismuth: float, chalcogen: float, symbol: str, a: float, c: float) -> tuple[Layer, float]:
    """A quintuple layer and the gap to the next one, from the positions (0, 0, u) of the bulk in units of c."""
    inner, outer = (bismuth - 1 / 3) * c, (1 / 3 - chalcogen) * c
    heights = (0.0, outer - inner, outer, outer + inner, 2 * outer)
    return Layer((symbol, "Bi", symbol, "Bi", symbol), "ABCAB", heights, a), c / 3 - 2 * outer


_GRAPHENE = Layer(("C", "C"), "BC", (0.0, 0.0), 2.46)
_MOS2 = Layer(("S", "Mo", "S"), "CBC", (0.0, 1.565, 3.13), 3.16)
# The structure of the example that DeepH-pack makes (gen_example.py): AA stacking, c = 19 angstrom.
_BISMUTHENE = Layer(("Bi", "Bi"), "CA", (0.0, 1.7233933379), 4.3664811210045835)
# Bulk crystals: Nakajima, J. Phys. Chem. Solids 24, 479 (1963). Nothing is said of the published databases.
_BI2TE3, _BI2TE3_GAP = _quintuple(0.4000, 0.2097, "Te", 4.386, 30.497)
_BI2SE3, _BI2SE3_GAP = _quintuple(0.4008, 0.2117, "Se", 4.143, 28.636)

# Numbers of atoms, structures and twists are those of Table 4. Published for BB are also the cell, the 24 x 24 shifts
# and the displacements, which BG, BT and BS take over. The frames of MG and MM are of molecular dynamics at 300 K;
# normal displacements of 0.05 angstrom stand in for them. Heights other than that of BB are assumptions.
CRYSTALS = {
    "MG": Crystal("monolayer graphene", _GRAPHENE, 1, 0.0, 15.0, (6, 6), 450, "gaussian", 0.05),
    "MM": Crystal("monolayer MoS2", _MOS2, 1, 0.0, 15.0, (5, 5), 500, "gaussian", 0.05),
    "BG": Crystal(
        "bilayer graphene",
        _GRAPHENE,
        2,
        3.35,
        18.0,
        (4, 4),
        300,
        "uniform",
        0.1,
        tuple((m + 1, m) for m in range(1, 10)),
    ),
    "BB": Crystal(
        "bilayer bismuthene",
        _BISMUTHENE,
        2,
        3.2046152926,
        19.0,
        (3, 3),
        576,
        "uniform",
        0.1,
        tuple((m + 1, m) for m in range(1, 5)),
        spin_orbit=True,
    ),
    "BT": Crystal(
        "bilayer Bi2Te3",
        _BI2TE3,
        2,
        _BI2TE3_GAP,
        30.0,
        (3, 3),
        254,
        "uniform",
        0.1,
        ((2, 1), (3, 1)),
        spin_orbit=True,
    ),
    "BS": Crystal(
        "bilayer Bi2Se3",
        _BI2SE3,
        2,
        _BI2SE3_GAP,
        30.0,
        (3, 3),
        457,
        "uniform",
        0.1,
        ((2, 1), (3, 2)),
        spin_orbit=True,
    ),
}


def crystal_cell(
    crystal: Crystal,
    height: float,
    supercell: tuple[int, int] = (1, 1),
    shift: Sequence[float] = (0.0, 0.0),
) -> Atoms:
    """The ideal crystal, periodic in all directions and in the middle of its cell.

    Args:
        crystal: which one.
        height: length of the third lattice vector, angstrom.
        supercell: cells along both vectors.
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
    """Layers on top of each other.

    Args:
        crystal: whose layers they are.
        height: length of the third lattice vector, angstrom.
        lattice: of the plane, rows, angstrom.
        planes: for each layer the fractions of ``lattice`` of its atoms, cell after cell. The array ``layer`` of the
            result counts the layers from 0.
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
