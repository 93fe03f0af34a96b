"""Density matrices as files with which SIESTA starts: NAME.DM, which it reads with ``DM.UseSaveDM true``.

SIESTA finds the file by its SystemLabel. It takes the pairs of orbitals that its own sparse matrices have, so that
the file may have others; the number of orbitals and of spins has to be the same. Orbitals have SIESTA's order and
signs (`Orbitals.siesta_order`). Without spin D holds both electrons of a state; for collinear spin the file has D of
spin up and D of spin down.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.sparse import hstack

from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.extras import require
from tracegrad.physics.dos.density_matrix import DensityMatrix
from tracegrad.physics.exports.orbitals import orbitals_of
from tracegrad.physics.exports.sisl_hamiltonian import fdf_text, in_cells, sisl_geometry


def to_sisl_density(density: DensityMatrix) -> Any:
    """A density matrix as a `sisl.DensityMatrix` with overlaps.

    Raises:
        MissingExtraError: sisl is not installed.
    """
    require("sisl")
    import sisl

    first = density.structures[0]
    orbitals = orbitals_of(first)
    geometry = sisl_geometry(first, orbitals)
    matrices = [
        BlochMatrix(replace(one, hamiltonian=entries), "hamiltonian")
        for one, entries in zip(density.structures, density.entries, strict=True)
    ]
    *components, overlaps = (
        hstack(in_cells(matrix, geometry, orbitals.siesta_order, orbitals.siesta_signs), format="csr")
        for matrix in [*matrices, BlochMatrix(first, "overlap")]
    )
    spin = sisl.Spin("polarized" if len(density.structures) == 2 else "unpolarized")
    return sisl.DensityMatrix.fromsp(geometry, components, S=overlaps, spin=spin)


def write_dm(density: DensityMatrix, folder: Path, name: str) -> list[str]:
    """Write ``NAME.DM`` and ``NAME.fdf`` into a folder that exists, and return their names.

    The .fdf file has the settings and the atoms that belong to the density matrix, to be copied or included; basis,
    pseudopotentials and all others are those of the calculation. Errors are those of `to_sisl_density`.
    """
    matrix = to_sisl_density(density)
    from sisl.io.siesta import dmSileSiesta

    files = [f"{name}.DM", f"{name}.fdf"]
    dmSileSiesta(folder / files[0], "w").write_density_matrix(matrix)
    first = density.structures[0]
    settings = [
        f"SystemLabel {name}",
        "DM.UseSaveDM true",
        f"Spin {'polarized' if len(density.structures) == 2 else 'non-polarized'}",
    ]
    title = f"D of {name} from TraceGrad is in {files[0]}: {sum(density.electrons):.6f} electrons"
    (folder / files[1]).write_text(fdf_text(first, title, settings), encoding="utf-8")
    return files
