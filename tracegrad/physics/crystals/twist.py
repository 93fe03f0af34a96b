"""Commensurate cells of two equal hexagonal layers that are rotated against each other.

For whole numbers m, n without a common divisor the vector m a1 + n a2 of one layer is as long as n a1 + m a2 of the
other. The rotation that makes them coincide, by the angle theta with

    cos(theta) = (m^2 + 4 m n + n^2) / (2 (m^2 + m n + n^2)),

makes this vector a lattice vector of both layers; a second one is the same vector rotated by 60 degrees. The common
cell holds m^2 + m n + n^2 cells of each layer, or a third of them if m - n is a multiple of 3.
"""

from dataclasses import dataclass
from functools import cached_property
from math import acos, degrees, gcd

import numpy as np
from ase import Atoms
from jaxtyping import Float, Int

from tracegrad.errors import ConfigError
from tracegrad.physics.crystals.layers import Crystal, stacked


@dataclass(frozen=True)
class Twist:
    """The commensurate rotation (m, n) of the upper layer: clockwise for m > n."""

    m: int
    n: int

    def __post_init__(self) -> None:
        if self.m < 1 or self.n < 1 or self.m == self.n or gcd(self.m, self.n) != 1:
            raise ConfigError(
                f"twist ({self.m}, {self.n}): two different whole numbers above 0 without a common divisor are "
                "needed, such as (2, 1)"
            )

    @cached_property
    def angle(self) -> float:
        """Angle of the rotation, degrees, between 0 and 60."""
        m, n = self.m, self.n
        return degrees(acos((m * m + 4 * m * n + n * n) / (2 * (m * m + m * n + n * n))))

    @property
    def cells(self) -> int:
        """Cells of each layer in the common cell."""
        cells = self.m**2 + self.m * self.n + self.n**2
        return cells // 3 if (self.m - self.n) % 3 == 0 else cells

    @property
    def supercells(self) -> tuple[Int[np.ndarray, "2 2"], Int[np.ndarray, "2 2"]]:
        """The vectors of the common cell (rows) in units of the lattice vectors of the lower and the upper layer."""
        return _supercell(self.m, self.n), _supercell(self.n, self.m)


def _supercell(m: int, n: int) -> Int[np.ndarray, "2 2"]:
    vectors = np.array([[m, n], [-n, m + n]])
    if (m - n) % 3 == 0:
        # (t1 + t2) / 3 and the same vector rotated by 60 degrees are lattice vectors too.
        vectors = np.array([[1, 1], [-1, 2]]) @ vectors // 3
    return vectors


def nearest_twist(angle: float, tolerance: float, most_atoms: int, atoms_per_cell: int) -> Twist:
    """The commensurate twist nearest to an angle.

    Args:
        angle: degrees, between 0 and 60.
        tolerance: largest deviation, degrees.
        most_atoms: largest number of atoms of the common cell.
        atoms_per_cell: atoms in a cell of one layer.

    Raises:
        ConfigError: there is no such twist; the message lists the nearest ones with their numbers of atoms.
    """
    if not 0 < angle < 60:
        raise ConfigError(f"twist angle {angle:g}: angles between 0 and 60 degrees are possible")
    if not 0 <= tolerance < float("inf"):
        raise ConfigError(f"angle_tolerance={tolerance} has to be 0 degrees or more")
    # All angles have a pair n < m. If m - n is a multiple of 3 the cell is three times smaller, so m may be larger.
    largest = int((1.5 * most_atoms / atoms_per_cell) ** 0.5)
    twists = [
        twist
        for m in range(2, largest + 1)
        for n in range(1, m)
        if gcd(m, n) == 1 and 2 * (twist := Twist(m, n)).cells * atoms_per_cell <= most_atoms
    ]
    twists.sort(key=lambda twist: (round(abs(twist.angle - angle), 9), twist.cells))
    if not twists or abs(twists[0].angle - angle) > tolerance:
        near = ", ".join(
            f"{twist.angle:.3f} degrees: ({twist.m}, {twist.n}), {2 * twist.cells * atoms_per_cell} atoms"
            for twist in twists[:4]
        )
        raise ConfigError(
            f"no commensurate twist within {tolerance:g} of {angle:g} degrees with at most {most_atoms} atoms; "
            + (f"nearest: {near}; " if near else "")
            + "change the angle, angle_tolerance or most_atoms"
        )
    return twists[0]


def twisted_cell(crystal: Crystal, twist: Twist, height: float) -> Atoms:
    """The common cell of two rigid layers, twisted about the corner of the cell; the lower layer keeps its axes.

    Args:
        crystal: a crystal of two layers.
        twist: rotation of the upper layer.
        height: length of the third lattice vector, angstrom.
    """
    if crystal.layers != 2:
        raise ConfigError(f"{crystal.title} has one layer; twists are for two layers")
    lower, upper = twist.supercells
    planes = [_filled(crystal.layer.in_plane, supercell) for supercell in (lower, upper)]
    return stacked(crystal, height, lower @ crystal.layer.lattice, planes)


def _filled(
    in_plane: Float[np.ndarray, "atoms 2"], supercell: Int[np.ndarray, "2 2"]
) -> Float[np.ndarray, "filled 2"]:
    """Positions of the atoms of all cells in a supercell (rows: its vectors), in fractions of these vectors."""
    size = int(np.abs(supercell).sum())
    corners = np.stack(np.meshgrid(*[np.arange(-size, size + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    # The fractions times the determinant are integers, so that a corner on an edge of the supercell counts once.
    (a, b), (c, d) = supercell.tolist()
    determinant = a * d - b * c
    scaled = corners @ np.array([[d, -b], [-c, a]])
    inside = corners[((scaled >= 0) & (scaled < determinant)).all(1)]
    return (inside[:, None] + in_plane).reshape(-1, 2) @ np.linalg.inv(supercell)
