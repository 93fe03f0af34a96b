"""Paths through the Brillouin zone: the standard path of the lattice, as ASE chooses it, or one of the user.

All k are in units of the reciprocal lattice vectors of the structure. Distances are in 1/angstrom and contain the
factor 2 pi.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from tracegrad.errors import ConfigError
from tracegrad.extras import require

# Tolerance of scalar products of lattice vectors, relative to the largest. ASE treats lengths within 2e-4 as equal.
_LATTICE_TOLERANCE = 2e-3
_NAME = "[A-Z][a-z0-9]*"
_PATH = re.compile(rf"(?:{_NAME})+(?:,(?:{_NAME})+)*", re.ASCII)


@dataclass(frozen=True, eq=False)
class KPath:
    """Points along straight lines.

    Args:
        name: names of its special points, such as "GMKG"; at a comma the path jumps.
        points: in units of the reciprocal lattice vectors.
        distances: of each point along the path (1/angstrom), over periodic axes only; a jump has length 0.
        ticks: distance and name of each special point; the name is such as "U,K" where the path jumps.
    """

    name: str
    points: Float[np.ndarray, "k 3"]
    distances: Float[np.ndarray, " k"]
    ticks: tuple[tuple[float, str], ...]


def periodic_axes(edges: Int64[np.ndarray, "pairs 5"]) -> Bool[np.ndarray, " 3"]:
    """For each lattice vector whether blocks connect different cells along it; otherwise there is vacuum."""
    return (edges[:, :3] != 0).any(0)


def standard_path(
    lattice: Float[np.ndarray, "3 3"], periodic: Bool[np.ndarray, " 3"]
) -> tuple[str, dict[str, Float[np.ndarray, " 3"]]]:
    """Standard path of a lattice (rows, angstrom) and its special points; components along vacuum axes are 0.

    Raises:
        ConfigError: no axis is periodic, or the lattice is not recognised.
        MissingExtraError: ASE is not installed.
    """
    require("ase")
    from ase.cell import Cell  # here: a path with points of its own does not need ASE

    axes = np.flatnonzero(periodic)
    if not len(axes):
        raise ConfigError(
            "no block connects two cells, so the structure is a molecule without bands; give points, "
            "such as points={G: [0, 0, 0]}, for its levels"
        )
    for change in _signed_permutations(len(axes)):
        # For some lattices ASE exchanges X and Y and describes another cell than this one; such a result is refused.
        cell = np.zeros((3, 3))
        cell[axes] = change @ lattice[axes]
        try:
            standard = Cell(cell).bandpath(npoints=0, pbc=periodic.tolist())
        except (RuntimeError, ValueError):
            continue
        products = cell @ cell.T
        if np.abs(standard.cell @ standard.cell.T - products).max() > _LATTICE_TOLERANCE * products.max():
            continue
        special = {name: np.zeros(3) for name in standard.special_points}
        for name, point in standard.special_points.items():
            special[name][axes] = change.T @ point[axes]
        return standard.path, special
    raise ConfigError(
        f"the lattice {lattice.round(6).tolist()} (periodic along axes {(axes + 1).tolist()}) has no standard path; "
        "give points, such as points={G: [0, 0, 0], X: [0.5, 0, 0]}"
    )


def k_path(
    lattice: Float[np.ndarray, "3 3"],
    periodic: Bool[np.ndarray, " 3"],
    *,
    path: str | None = None,
    points: Mapping[Any, Any] | None = None,
    npoints: int = 150,
) -> KPath:
    """A path and its points.

    Args:
        lattice: rows are lattice vectors, angstrom.
        periodic: see `periodic_axes`.
        path: names of special points, such as "GMKG" or "GX,MR"; None: all ``points`` in their order or, without
            them, the standard path.
        points: special points by name; they are added to the standard ones or replace those of the same name.
        npoints: approximate number of points; every special point is one of them.

    Raises:
        ConfigError: a setting has no valid value, or a standard path is needed and the lattice has none.
    """
    if npoints < 2:
        raise ConfigError(f"npoints is {npoints}; at least 2 are needed")
    special = {name: _point(name, value) for name, value in (points or {}).items()}
    if path is None and special:
        path = "".join(special)
    elif path is None or not set(re.findall(_NAME, path)) <= special.keys():
        standard, known = standard_path(lattice, periodic)
        path, special = path or standard, {**known, **special}
    if not _PATH.fullmatch(path):
        raise ConfigError(f"path {path!r} is not understood; name special points, such as GMKG or GX,MR")
    sections = [re.findall(_NAME, section) for section in path.split(",")]
    unknown = sorted({name for section in sections for name in section} - special.keys())
    if unknown:
        there = ", ".join(f"{name} {point.round(4).tolist()}" for name, point in special.items())
        raise ConfigError(
            f"path {path}: no special point {', '.join(unknown)}; there are {there}, and points= adds more"
        )
    # Lattice vectors along vacuum are set to 0, so that distances are those in the plane of a layer.
    reciprocal = 2 * np.pi * np.linalg.pinv(lattice * periodic[:, None]).T
    return _interpolated(path, sections, special, reciprocal, npoints)


def _signed_permutations(axes: int) -> Iterator[Float[np.ndarray, "axes axes"]]:
    """All matrices that permute the axes and change their signs, the identity first."""
    for order in itertools.permutations(range(axes)):
        for signs in itertools.product((1.0, -1.0), repeat=axes):
            yield np.diag(signs)[list(order)]


def _point(name: Any, value: Any) -> Float[np.ndarray, " 3"]:
    if not re.fullmatch(_NAME, str(name), re.ASCII):
        raise ConfigError(
            f"points: the name {name!r} is no capital letter with small ones or digits behind it"
        )
    try:
        point = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        point = np.empty(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise ConfigError(
            f"points: {name} is {value!r}; give three numbers in units of the reciprocal lattice"
        )
    return point


def _interpolated(
    name: str,
    sections: list[list[str]],
    special: Mapping[str, Float[np.ndarray, " 3"]],
    reciprocal: Float[np.ndarray, "3 3"],
    npoints: int,
) -> KPath:
    corners = [np.array([special[label] for label in section]) for section in sections]
    lengths = [np.linalg.norm(np.diff(points, axis=0) @ reciprocal, axis=1) for points in corners]
    total = sum(length.sum() for length in lengths) or 1.0
    points: list[np.ndarray] = []
    distances: list[np.ndarray] = []
    ticks: list[tuple[float, str]] = []
    end = 0.0
    for labels, places, steps in zip(sections, corners, lengths, strict=True):
        if ticks:
            ticks[-1] = (end, f"{ticks[-1][1]},{labels[0]}")
        else:
            ticks.append((end, labels[0]))
        points.append(places[:1])
        distances.append(np.array([end]))
        for label, start, stop, length in zip(labels[1:], places, places[1:], steps, strict=False):
            count = max(1, round(npoints * length / total))
            fractions = np.arange(1, count + 1) / count
            points.append(start + fractions[:, None] * (stop - start))
            distances.append(end + fractions * length)
            end += float(length)
            ticks.append((end, label))
    return KPath(name, np.concatenate(points), np.concatenate(distances), tuple(ticks))
