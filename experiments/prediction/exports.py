"""Hamiltonians of crystals as files of Wannier90 or sisl: `tracegrad convert to=wannier90` and `to=sisl`."""

from pathlib import Path
from typing import Any

from tracegrad.data.crystal_files.deeph import check_free
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError
from tracegrad.extras import require
from tracegrad.physics.exports.orthogonal import OrthogonalHamiltonian, orthogonalised
from tracegrad.physics.exports.sisl_hamiltonian import write_tshs
from tracegrad.physics.exports.wannier90 import write_wannier90
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.whole_files import replacing_folder

FOLDERS, ABACUS, WANNIER90, SISL = "deeph", "abacus", "wannier90", "sisl"
LARGE_ERROR = 0.05  # eV, of orthogonalised bands between the points of their mesh
# Endings of the files that an export may replace.
_OWN = ("_hr.dat", ".win", "_centres.xyz", ".TSHS", ".fdf", ".ORB_INDX")


def check_target(values: dict[str, Any]) -> None:
    """Check the settings of ``conf/convert.yaml`` that belong to what is written.

    Raises:
        ConfigError: a setting that cannot be used.
        MissingExtraError: sisl is needed and not installed.
    """
    to, mesh = values["to"], values["mesh"]
    if to not in (FOLDERS, ABACUS, WANNIER90, SISL):
        raise ConfigError(f"to={to} is not known; choose {FOLDERS}, {ABACUS}, {WANNIER90} or {SISL}")
    if to == SISL:
        require("sisl")
    if (values["orthogonal"] or mesh is not None) and to != WANNIER90:
        raise ConfigError(f"orthogonal and mesh are for to={WANNIER90}; {to} takes the orbitals as they are")
    if mesh is not None and not values["orthogonal"]:
        raise ConfigError(f"mesh={mesh} is for orthogonal=true; set it, or leave mesh out")
    if mesh is not None and not (isinstance(mesh, list) and all(type(n) is int for n in mesh)):
        raise ConfigError(f"mesh={mesh} is not understood; give three odd numbers, such as [21,21,1]")


def export_structure(structure: Structure, output: Path, values: dict[str, Any]) -> None:
    """Write a structure for Wannier90 or sisl, and print what was written.

    Args:
        structure: with H and S.
        output: its folder.
        values: settings of ``conf/convert.yaml``, see `check_target`.

    Raises:
        DataError: the structure has no overlap, or the folder cannot be written.
    """
    to = values["to"]
    check_free(output, overwrite=values["overwrite"], own=_OWN)
    name = structure.name.rpartition("/")[2]
    with ProgressDisplay("points") as progress:
        orthogonal = None
        if values["orthogonal"]:
            orthogonal = orthogonalised(
                structure, values["mesh"], on_progress=progress.bar("orthogonalising")
            )
        with replacing_folder(output) as draft:
            if to == SISL:
                files = write_tshs(structure, draft, name)
            else:
                files = write_wannier90(structure, draft, name, orthogonal)
        progress.report(f"wrote {output}: {', '.join(files)}")
        progress.report(_remark(structure, to, orthogonal))


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
    advice = ""
    if orthogonal.error > LARGE_ERROR:
        advice = ". warning: this mesh is too small for bands; leave mesh out, or give a larger one"
    return (
        f"Fermi level {fermi}. Orthogonalised (Loewdin) on {mesh} k-points; between them the bands are within "
        f"{orthogonal.error:.1e} eV (smallest eigenvalue of S: {orthogonal.smallest_overlap:.1e}){advice}"
    )
