"""The geometries to be labelled: from files, from named molecules, and disturbed copies of both."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.collections import g2
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from tracegrad.elements import formula
from tracegrad.errors import DataError, GenerationError
from tracegrad.physics.geometry_files.reading import check_molecule, read_frames
from tracegrad.physics.molecules.dft import check_geometry


@dataclass(frozen=True)
class Geometry:
    """One geometry of a molecule; `name` is unique and identifies it in messages."""

    molecule: str
    name: str
    numbers: Int[np.ndarray, "n_atoms"]
    positions: Float[np.ndarray, "n_atoms 3"]  # angstrom

    @property
    def formula(self) -> str:
        """Chemical formula in Hill order, such as C2H6O."""
        return formula(self.numbers)


def named_molecules(names: Iterable[str]) -> list[Geometry]:
    """Equilibrium geometries of the G2 collection of ASE, in the order of the names."""
    geometries = []
    for name in names:
        if name not in g2.names:
            near = difflib.get_close_matches(name, g2.names, n=4, cutoff=0.4)
            folded = [known for known in g2.names if known.lower() == name.lower()]
            near = list(dict.fromkeys(folded + near))
            hint = f"; nearest: {', '.join(near)}" if near else "; other molecules come from files"
            raise DataError(f"molecule {name!r} is not in the G2 collection of ASE{hint}")
        atoms = g2[name]
        if np.any(atoms.get_initial_magnetic_moments()):
            raise GenerationError(f"{name} is an open-shell molecule; labels are made for closed shells only")
        geometries.append(_geometry(atoms, name, name, name))
    return geometries


def read_geometries(paths: Iterable[str | Path]) -> list[Geometry]:
    """All frames of files of neutral closed-shell molecules (angstrom), named `stem` or `stem#frame`.

    Raises:
        DataError: a file is not readable without doubt, or states a charge or open shells.
        GenerationError: an odd number of electrons.
    """
    geometries = []
    for path in map(Path, paths):
        frames = read_frames(path)
        for index, frame in enumerate(frames):
            check_molecule(frame)
            name = path.stem if len(frames) == 1 else f"{path.stem}#{index}"
            geometries.append(_geometry(frame.atoms, path.stem, name, frame.place))
    return geometries


def disturbed(
    geometries: Sequence[Geometry], rattle: Sequence[float], copies: int, seed: int
) -> list[Geometry]:
    """Randomly rotated copies of each geometry, with normally distributed displacements of the atoms.

    There are `copies` copies for each standard deviation (angstrom) in `rattle`. Without standard deviations and with
    one copy the geometries are returned unchanged.
    """
    if not rattle and copies == 1:
        return list(geometries)
    result = []
    for index, geometry in enumerate(geometries):
        for level, deviation in enumerate(rattle or [0.0]):
            for copy in range(copies):
                rng = np.random.default_rng([seed, index, level, copy])
                shifted = geometry.positions + deviation * rng.standard_normal(geometry.positions.shape)
                centre = shifted.mean(0)
                rotated = Rotation.from_quat(rng.standard_normal(4)).apply(shifted - centre) + centre
                name = f"{geometry.name} (rattle {deviation:g}, copy {copy})"
                result.append(replace(geometry, name=name, positions=rotated))
                check_geometry(geometry.numbers, rotated, name)
    return result


def fingerprint(geometries: Iterable[Geometry]) -> str:
    """A hash of names, elements and coordinates, by which a continued run recognises its geometries."""
    digest = hashlib.sha256()
    for geometry in geometries:
        digest.update(geometry.name.encode() + b"\0")
        digest.update(geometry.numbers.astype("<i4").tobytes() + geometry.positions.astype("<f8").tobytes())
    return digest.hexdigest()


def _geometry(atoms: Atoms, molecule: str, name: str, place: str) -> Geometry:
    numbers = np.asarray(atoms.numbers, dtype=np.int32)
    positions = np.asarray(atoms.positions, dtype=np.float64)
    check_geometry(numbers, positions, place)
    return Geometry(molecule, name, numbers, positions)
