"""Hamiltonians of crystals as files of Wannier90 or sisl: `tracegrad convert to=wannier90` and `to=sisl`."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.extras import require
from tracegrad.physics.exports.orthogonal import OrthogonalHamiltonian, orthogonalised
from tracegrad.physics.exports.sisl_hamiltonian import write_tshs
from tracegrad.physics.exports.wannier90 import write_wannier90
from tracegrad.physics.overlaps.structure_overlaps import with_overlaps
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.whole_files import replacing_folder, restore_folder

FOLDERS, WANNIER90, SISL = "deeph", "wannier90", "sisl"
# Endings of the files that an export may replace.
_OWN = ("_hr.dat", ".win", "_centres.xyz", ".TSHS", ".fdf", ".ORB_INDX")


def export_structures(values: dict[str, Any]) -> None:
    """Write every structure of ``source`` for another program, and print what was written.

    Args:
        values: settings of ``conf/convert.yaml`` with ``to`` other than "deeph".

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: a structure cannot be read or written, or has no overlap.
        MissingExtraError: sisl is needed and not installed.
    """
    to, mesh = values["to"], values["mesh"]
    if to not in (WANNIER90, SISL):
        raise ConfigError(f"to={to} is not known; choose {FOLDERS}, {WANNIER90} or {SISL}")
    if to == SISL:
        require("sisl")
    if (values["orthogonal"] or mesh is not None) and to != WANNIER90:
        raise ConfigError(f"orthogonal and mesh are for to={WANNIER90}; sisl takes the orbitals as they are")
    if mesh is not None and not values["orthogonal"]:
        raise ConfigError(f"mesh={mesh} is for orthogonal=true; set it, or leave mesh out")
    if mesh is not None and not (isinstance(mesh, list) and all(type(n) is int for n in mesh)):
        raise ConfigError(f"mesh={mesh} is not understood; give three odd numbers, such as [21,21,1]")
    for name in ("shells", "input"):
        if values[name] is not None:
            raise ConfigError(
                f"{name} is for to={FOLDERS}; convert to structure folders first, and export these"
            )
    for structure, output in _structures(values):
        _check_free(output, overwrite=values["overwrite"])
        name = structure.name.rpartition("/")[2]
        with ProgressDisplay("points") as progress:
            orthogonal = None
            if values["orthogonal"]:
                orthogonal = orthogonalised(structure, mesh, on_progress=progress.bar("orthogonalising"))
            with replacing_folder(output) as draft:
                if to == SISL:
                    files = write_tshs(structure, draft, name)
                else:
                    files = write_wannier90(structure, draft, name, orthogonal)
            progress.report(f"wrote {output}: {', '.join(files)}")
            progress.report(_remark(structure, to, orthogonal))


def _structures(values: dict[str, Any]) -> Iterator[tuple[Structure, Path]]:
    """Each structure with H and S, and its folder, which is inside of ``output`` if there are several."""
    output, basis_files = Path(str(values["output"])), values["basis_files"]
    reader = None if values["reader"] is None else instantiate(values["reader"], _partial_=True)
    open_database = partial(CrystalDatabase, str(values["source"]), reader=reader)
    database = open_database(overlap=basis_files is None)
    for row, name in enumerate(database.names):
        structure = database[row]
        if basis_files is not None:
            structure = with_overlaps(structure, structure.basis_of("overlap"), str(basis_files))
        yield structure, output / name if len(database) > 1 else output


def _check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise `DataError` unless an export may be written into a folder."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise DataError(f"{folder}: exists and is no folder; choose another place")
    restore_folder(folder)
    content = sorted(os.listdir(folder)) if folder.is_dir() else []
    if content and not overwrite:
        raise DataError(
            f"{folder}: exists and holds {content[:5]}; choose another place or set overwrite=true"
        )
    foreign = [name for name in content if not name.endswith(_OWN)]
    if foreign:
        raise DataError(f"{folder}: holds {foreign[:5]}, which overwriting would lose; choose another place")


def _remark(structure: Structure, to: str, orthogonal: OrthogonalHamiltonian | None) -> str:
    """What whoever uses the files has to know."""
    level = structure.fermi_level
    if to == SISL:
        zero = "the Fermi level is unknown, and energies are those of the source"
        return zero if level is None else f"energies are relative to the Fermi level, {level:.6f} eV"
    fermi = "unknown" if level is None else f"{level:.6f} eV"
    if orthogonal is None:
        return (
            f"Fermi level {fermi}. warning: the orbitals are not orthogonal; bands follow from H c = E S c, with "
            "S in _overlap_hr.dat. For programs without S, such as PythTB, set orthogonal=true"
        )
    mesh = " x ".join(map(str, orthogonal.mesh))
    return (
        f"Fermi level {fermi}. Orthogonalised (Loewdin) on {mesh} k-points; between them the bands are within "
        f"{orthogonal.error:.1e} eV (smallest eigenvalue of S: {orthogonal.smallest_overlap:.1e})"
    )
