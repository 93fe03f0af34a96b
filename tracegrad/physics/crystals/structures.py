"""The structures of a database of crystals: stackings with random displacements, twisted cells, frames of files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from jaxtyping import Float

from tracegrad.elements import COVALENT_RADII
from tracegrad.errors import ConfigError
from tracegrad.physics.crystals.engine import Engine
from tracegrad.physics.crystals.layers import Crystal, crystal_cell
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.twist import twisted_cell
from tracegrad.physics.geometry_files.reading import check_crystal, read_frames

# In units of the sum of the covalent radii; closer atoms are a mistake and no thermal motion.
_CLOSEST = 0.6


@dataclass(frozen=True, eq=False)
class CrystalStructure:
    """A crystal to compute.

    Args:
        name: of its folder.
        atoms: with a cell, angstrom.
        origin: recipe or file, for the provenance.
        displacements: of its atoms from their ideal positions, angstrom; None if unknown.
    """

    name: str
    atoms: Atoms
    origin: dict[str, Any] = field(default_factory=dict)
    displacements: Float[np.ndarray, "atoms 3"] | None = None


def crystal_structures(
    settings: CrystalSettings, geometries: Sequence[str | Path] = (), engine: Engine | None = None
) -> list[CrystalStructure]:
    """All structures of the settings, and all frames of the files ``geometries``.

    Args:
        settings: of the structures.
        geometries: files of crystals.
        engine: the code that will compute them; None if the structures are not to be computed.

    Raises:
        ConfigError: there is no structure, two have the same name, atoms are too close, or the engine has no basis
            for an element or orbitals that reach through the vacuum to the next image.
        DataError: a file cannot be read or is not periodic.
    """
    structures = []
    if settings.crystal is not None:
        structures += _twisted(settings) if settings.twisted else _stackings(settings)
    for path in map(Path, geometries):
        structures += _frames(path)
    if not structures:
        raise ConfigError("nothing to compute: give crystal or geometries")
    taken: set[str] = set()
    for structure in structures:
        if structure.name in taken:
            raise ConfigError(f"two structures would be called {structure.name}; rename a file")
        taken.add(structure.name)
        _check_distances(structure)
        if engine is not None:
            _check_basis(structure, engine)
    return structures


def _stackings(settings: CrystalSettings) -> list[CrystalStructure]:
    recipe = settings.recipe
    count = settings.structures or recipe.structures
    digits = len(str(count - 1))
    shifts = _shifts(settings, count).tolist()
    structures = []
    for index in range(count):
        shift = shifts[index]
        cell = crystal_cell(recipe, recipe.height, recipe.supercell, shift)
        origin = {"crystal": recipe.title, "supercell": list(recipe.supercell)}
        if recipe.layers == 2:
            origin["shift of the upper layer"] = shift
        name = f"{settings.crystal}_{index:0{digits}}"
        structures.append(_disturbed(name, cell, origin, recipe, [settings.seed, 0, index]))
    return structures


def _shifts(settings: CrystalSettings, count: int) -> Float[np.ndarray, "structures 2"]:
    """Shifts of the upper layer in fractions of the lattice vectors.

    The points of a grid come in random order, and repeatedly if there are more structures than points.
    """
    if settings.recipe.layers == 1 or settings.shifts == "none":
        return np.zeros((count, 2))
    rng = np.random.default_rng([settings.seed, 1])
    if settings.shifts == "random":
        return rng.random((count, 2))
    rows, columns = settings.shift_grid
    order = rng.permutation(rows * columns)
    chosen = np.resize(order, count)
    return np.stack([chosen // columns / rows, chosen % columns / columns], axis=1)


def _twisted(settings: CrystalSettings) -> list[CrystalStructure]:
    """The twisted cells: ideal ones, or with random displacements if an amplitude is set."""
    recipe = settings.recipe
    copies = settings.structures or 1
    structures = []
    for twist in settings.twisted:
        cell = twisted_cell(recipe, twist, recipe.height)
        origin = {
            "crystal": recipe.title,
            "twist (m, n)": [twist.m, twist.n],
            "twist angle (degrees)": round(twist.angle, 6),
        }
        for copy in range(copies):
            name = f"{settings.crystal}_twist_{twist.m}_{twist.n}" + (f"_{copy}" if copies > 1 else "")
            if settings.amplitude is None:
                structures.append(CrystalStructure(name, cell, origin))
            else:
                seed = [settings.seed, 2, twist.m, twist.n, copy]
                structures.append(_disturbed(name, cell, origin, recipe, seed))
    return structures


def _disturbed(
    name: str, cell: Atoms, origin: dict[str, Any], recipe: Crystal, seed: list[int]
) -> CrystalStructure:
    """A structure with random displacements of all atoms of a cell."""
    rng = np.random.default_rng(seed)
    shape = (len(cell), 3)
    uniform = recipe.disturbance == "uniform"
    unit = rng.uniform(-1.0, 1.0, shape) if uniform else rng.standard_normal(shape)
    displacements = recipe.amplitude * unit
    atoms = cell.copy()
    atoms.positions += displacements
    kind = "uniform, +-" if uniform else "normal, standard deviation "
    origin = {**origin, "displacements": f"{kind}{recipe.amplitude:g} angstrom", "seed": seed}
    return CrystalStructure(name, atoms, origin, displacements)


def _frames(path: Path) -> list[CrystalStructure]:
    """All frames of a file, such as a trajectory of molecular dynamics."""
    frames = read_frames(path)
    digits = len(str(len(frames) - 1))
    structures = []
    for index, frame in enumerate(frames):
        check_crystal(frame)
        # Without energies, constraints and whatever else the file may contain.
        atoms = Atoms(frame.atoms.numbers, frame.atoms.positions, cell=frame.atoms.cell, pbc=True)
        name = path.stem if len(frames) == 1 else f"{path.stem}_{index:0{digits}}"
        structures.append(CrystalStructure(name, atoms, {"file": path.name, "frame": index}))
    return structures


def _check_distances(structure: CrystalStructure) -> None:
    atoms = structure.atoms
    i, j, distances = neighbor_list("ijd", atoms, list(_CLOSEST * COVALENT_RADII[atoms.numbers]))
    if len(i):
        closest = int(distances.argmin())
        raise ConfigError(
            f"{structure.name}: atoms {i[closest] + 1} and {j[closest] + 1} (counted from 1) are "
            f"{distances[closest]:.2f} angstrom apart; reduce the amplitude or correct the geometry"
        )


def _check_basis(structure: CrystalStructure, engine: Engine) -> None:
    atoms = structure.atoms
    try:
        engine.shells(atoms)
    except ConfigError as error:
        raise ConfigError(f"{structure.name}: {error}") from error
    empty, reach = atoms.cell[2, 2] - float(np.ptp(atoms.positions[:, 2])), engine.reach(atoms)
    if "crystal" in structure.origin and empty < reach:
        raise ConfigError(
            f"{structure.name}: {empty:.2f} angstrom are empty between the layers and their next image, but orbitals "
            f"reach {reach:.2f}; give a height of at least {atoms.cell[2, 2] + reach - empty:.1f}"
        )
