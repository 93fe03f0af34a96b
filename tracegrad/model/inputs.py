"""Checks of the arrays that a user passes to a network."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Inexact
from torch import Tensor

from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph
from tracegrad.hamiltonian.reduction import is_on_site

MINIMUM_DISTANCE = 0.1  # angstrom; closer atoms are a mistake in the geometry
# Smallest volume of a cell over the product of the lengths of its lattice vectors; below, they lie in a plane.
SMALLEST_VOLUME_RATIO = 1e-6


def numeric(values: Any, name: str, what: str) -> np.ndarray:
    """The values as an array of numbers.

    Raises:
        DataError: they are none; ``name`` and ``what`` say in the message what they are.
    """
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: the {what} do not make an array of numbers") from error
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name}: the {what} must be numbers, not {array.dtype.name}")
    return array


def integers(values: np.ndarray, name: str, what: str) -> np.ndarray:
    """The values as int64; `DataError` if one is not whole."""
    with np.errstate(invalid="ignore"):  # NaN and too large numbers compare unequal below
        integers = values.astype(np.int64)
    for value in values[values != integers].tolist()[:1]:
        raise DataError(f"{name}: {what} {value} is not whole")
    return integers


def check_crystal(numbers: np.ndarray, positions: np.ndarray, lattice: np.ndarray, edges: np.ndarray) -> None:
    """Raise `DataError` unless the arrays describe a crystal, see `HamiltonianModel.hamiltonian`."""
    atoms = numbers.size
    if not atoms or not edges.size or edges.shape != (len(edges), 5):
        raise DataError(
            "crystal: at least one atom and edges of shape (edges, 5), at least one, are needed, "
            f"not {atoms} atoms and edges of shape {edges.shape}"
        )
    for what, array, shape in (
        ("atomic numbers", numbers, (atoms,)),
        ("positions", positions, (atoms, 3)),
        ("lattice vectors", lattice, (3, 3)),
    ):
        if array.shape != shape:
            raise DataError(f"crystal: the {what} have shape {array.shape}; {shape} is needed")
        if not np.isfinite(array).all():
            raise DataError(f"crystal: one of the {what} is not a finite number")
    if abs(np.linalg.det(lattice)) <= SMALLEST_VOLUME_RATIO * np.linalg.norm(lattice, axis=1).prod():
        raise DataError(
            "crystal: the lattice vectors span no volume; give three independent rows, for a layer with a vacuum"
        )
    outside = np.flatnonzero(((edges[:, 3:] < 0) | (edges[:, 3:] >= atoms)).any(1))
    if len(outside):
        raise DataError(
            f"crystal: the edge [Rx, Ry, Rz, i, j] = {edges[outside[0]].tolist()} names an atom that does not exist; "
            f"atoms are counted from 0 to {atoms - 1}"
        )


def h0_entries(
    blocks: Any, numbers: np.ndarray, edges: np.ndarray, basis: OrbitalBasis
) -> Inexact[np.ndarray, " entries"]:
    """H0 of a crystal as `crystal_graph` takes it.

    Args:
        blocks: of each edge, (orbitals of i, orbitals of j), complex with spin; eV.
        numbers, edges: of the crystal.
        basis: of the network.

    Raises:
        DataError: another number of blocks, other shapes, or values that are no finite numbers.
    """
    arrays = [np.asarray(block) for block in blocks]
    if len(arrays) != len(edges):
        raise DataError(f"crystal: h0 has {len(arrays)} blocks; one for each of {len(edges)} edges is needed")
    kinds = "iufc" if basis.spinful else "iuf"
    shapes = basis.sizes[numbers[edges[:, 3:]]].tolist()
    for edge, (block, shape) in enumerate(zip(arrays, shapes, strict=True)):
        if block.shape != tuple(shape) or block.dtype.kind not in kinds or not np.isfinite(block).all():
            what = "complex" if basis.spinful else "real"
            raise DataError(
                f"crystal: block {edge} of h0 is {block.dtype} of shape {block.shape}; finite {what} numbers of "
                f"shape {tuple(shape)} are needed, see HamiltonianModel.hamiltonian"
            )
    return np.concatenate([block.ravel() for block in arrays])


def check_distances(graph: HamiltonianGraph) -> None:
    """Raise `DataError` if an edge of a crystal joins two atoms at the same place."""
    distances = graph.vectors.norm(dim=1).masked_fill(is_on_site(graph, "edge"), torch.inf)
    edge = int(distances.argmin())
    if distances[edge] < MINIMUM_DISTANCE:
        i, j = graph.edge_index[:, edge].tolist()
        raise DataError(
            f"crystal: atoms {i} and {j} in cell {graph.cells[edge].tolist()} are {distances[edge]:.3f} angstrom "
            "apart; are the coordinates in angstrom, and the atoms of the edges counted from 0?"
        )


def displacements(along: Any, atoms: int, name: str) -> np.ndarray:
    """Displacements [count, atoms, 3], float64; None: each atom along x, y and z.

    Raises:
        DataError: another shape, none at all, or values that are no finite numbers.
    """
    if along is None:
        return np.eye(3 * atoms).reshape(-1, atoms, 3)
    array = numeric(along, name, "displacements").astype(np.float64)
    if array.shape != (len(array) if array.ndim else 0, atoms, 3) or not len(array):
        raise DataError(
            f"{name}: the displacements have shape {array.shape}; (count, {atoms}, 3) is needed, one vector for each "
            "atom, and at least one displacement; write along=[pattern] for a single one"
        )
    if not np.isfinite(array).all():
        raise DataError(f"{name}: one of the displacements is not a finite number")
    return array
