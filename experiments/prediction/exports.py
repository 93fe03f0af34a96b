"""Hamiltonians of crystals as files of other programs, as `tracegrad convert to=PROGRAM` writes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.prediction.zone import check_count_settings
from tracegrad.data.crystal_files.abacus.writer import write_hrs
from tracegrad.data.crystal_files.deeph import check_free
from tracegrad.data.crystals.spins import named_spin, with_same_pairs
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.extras import require
from tracegrad.hamiltonian.basis import SPINS
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos.density_matrix import DENSITY_SPACING, DensityMatrix, density_matrix
from tracegrad.physics.dos.electrons import (
    charges_in_files,
    charges_with_cores,
    electrons_of_atoms,
    read_charges,
)
from tracegrad.physics.dos.kmesh import k_mesh
from tracegrad.physics.exports.orthogonal import OrthogonalHamiltonian, orthogonalised
from tracegrad.physics.exports.siesta_density import write_dm
from tracegrad.physics.exports.sisl_hamiltonian import write_tshs
from tracegrad.physics.exports.wannier90 import write_wannier90
from tracegrad.physics.overlaps.structure_overlaps import BasisFileOverlaps
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.whole_files import replacing_folder

FOLDERS, ABACUS, SIESTA, WANNIER90, SISL = "deeph", "abacus", "siesta", "wannier90", "sisl"
TARGETS = (FOLDERS, ABACUS, SIESTA, WANNIER90, SISL)
BOTH_IN_ONE = (ABACUS, SIESTA)  # their folder has both spins of a calculation
LARGE_ERROR = 0.05  # eV, of orthogonalised bands between the points of their mesh
# Endings of the files that an export may replace.
_OWN = (
    *("_hr.dat", ".win", "_centres.xyz", ".TSHS", ".fdf", ".ORB_INDX", ".DM"),
    *("hrs1_nao.csr", "hrs2_nao.csr"),
)


def check_target(values: dict[str, Any]) -> None:
    """Check the settings of ``conf/convert.yaml`` that belong to what is written.

    Raises:
        ConfigError: a setting that cannot be used.
        MissingExtraError: sisl is needed and not installed.
    """
    to, mesh = values["to"], values["mesh"]
    if to not in TARGETS:
        raise ConfigError(f"to={to} is not known; choose {', '.join(TARGETS[:-1])} or {TARGETS[-1]}")
    if to in (SISL, SIESTA):
        require("sisl")
    if (values["orthogonal"] or mesh is not None) and to != WANNIER90:
        raise ConfigError(f"orthogonal and mesh are for to={WANNIER90}; {to} takes the orbitals as they are")
    if mesh is not None and not values["orthogonal"]:
        raise ConfigError(f"mesh={mesh} is for orthogonal=true; set it, or leave mesh out")
    if mesh is not None and not (isinstance(mesh, list) and all(type(n) is int for n in mesh)):
        raise ConfigError(f"mesh={mesh} is not understood; give three odd numbers, such as [21,21,1]")
    counting = [name for name in ("electrons", "valence", "k_mesh") if values[name] is not None]
    if counting and to != SIESTA:
        raise ConfigError(f"{counting[0]} is for to={SIESTA}, where states are occupied; leave it out")
    check_count_settings(values)


def export_structures(structures: Sequence[Structure], output: Path, values: dict[str, Any]) -> None:
    """Write a structure, or both spins of one, for another program, and print what was written.

    Args:
        structures: one, or spin up and down, with H and, except for ABACUS, S.
        output: its folder.
        values: settings of ``conf/convert.yaml``, see `check_target`.

    Raises:
        ConfigError: the states cannot be occupied with these settings.
        DataError: the structure has no overlap, two structures are not the spins of one, or the folder cannot be
            written.
    """
    to = values["to"]
    check_free(output, overwrite=values["overwrite"], own=_OWN)
    name = structures[0].name.rpartition("/")[2]
    if len(structures) == 2:
        structures, name = with_same_pairs(*structures), named_spin(name)[0]
    first = structures[0]
    with ProgressDisplay("points") as progress:
        orthogonal = density = None
        if values["orthogonal"]:
            orthogonal = orthogonalised(first, values["mesh"], on_progress=progress.bar("orthogonalising"))
        if to == SIESTA:
            density = _density(structures, values, progress)
        with replacing_folder(output) as draft:
            if to == ABACUS:
                spins = SPINS if len(structures) == 2 else (None,)
                remarks = [write_hrs(one, draft, spin) for one, spin in zip(structures, spins, strict=True)]
                files = []
            elif density is not None:
                files, remarks = write_dm(density, draft, name), [_density_remark(density)]
            elif to == SISL:
                files, remarks = write_tshs(first, draft, name), [_sisl_remark(first)]
            else:
                files = write_wannier90(first, draft, name, orthogonal)
                remarks = [_wannier90_remark(first, orthogonal)]
        lines = [", ".join(files), *remarks] if files else remarks
        progress.report("\n".join([f"wrote {output}: {lines[0]}", *lines[1:]]))


def _density(
    structures: Sequence[Structure], values: dict[str, Any], progress: ProgressDisplay
) -> DensityMatrix:
    """The density matrix of the electrons that the settings name."""
    first = structures[0]
    if first.overlap is None:
        raise DataError(
            f"{first.name}: has no overlap, without which no states can be occupied; give basis_files=FOLDER with "
            "the basis files of the DFT calculation, or take a folder with overlaps.h5"
        )
    electrons = values["electrons"]
    if electrons is None:
        charges = charges_with_cores(first)
        if values["basis_files"] is not None:
            basis = first.basis_of("overlap")
            files = BasisFileOverlaps(str(values["basis_files"]), basis, first.numbers.tolist())
            charges |= charges_in_files(files.shells)
        charges |= read_charges(values["valence"] or {})
        electrons = electrons_of_atoms(first.numbers, charges, first.name, otherwise="")
    periodic = periodic_axes(first.edges)
    mesh = k_mesh(first.lattice, periodic, values["k_mesh"], spacing=DENSITY_SPACING)
    return density_matrix(
        structures,
        mesh,
        float(electrons),
        smearing=values["smearing"],
        width=float(values["smearing_width"]),
        on_progress=progress.bar(f"{first.name}, states"),
    )


def _density_remark(density: DensityMatrix) -> str:
    """What whoever uses the file has to know."""
    of_each = " up and ".join(f"{count:.4f}" for count in density.electrons)
    kind = "a metal" if density.counted.metal else f"gap {density.counted.gap:.4f} eV"
    down = " down" if len(density.electrons) == 2 else ""
    return (
        f"{of_each}{down} electrons, Fermi level {density.counted.level:.4f} eV, {kind}. SIESTA needs the atoms as "
        "the .fdf file has them, and the basis of the source"
    )


def _sisl_remark(structure: Structure) -> str:
    level = structure.fermi_level
    if level is None:
        return "the Fermi level is unknown, and energies are those of the source"
    return f"energies are relative to the Fermi level, {level:.6f} eV"


def _wannier90_remark(structure: Structure, orthogonal: OrthogonalHamiltonian | None) -> str:
    level = structure.fermi_level
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
