"""Compares integrals that a database holds with those of PySCF at its geometries."""

import numpy as np
from pyscf import gto

from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.errors import DataError
from tracegrad.physics.molecules.dft import build_molecule

# Largest relative difference. Single precision and other constants of nature cause at most 1e-6, a wrong unit of
# length or order of orbitals more than 0.1.
TOLERANCE = 1e-3
_LABELS = {"int1e_ovlp": "overlap", "core": "core Hamiltonian"}


def check_stored_integrals(database: MoleculeDatabase, row: int) -> None:
    """Check one row: unit of the positions, order and sign of the orbitals, and basis, without reading H.

    Formats that hold no integrals pass.

    Raises:
        DataError: the stored overlap or core Hamiltonian is not that of def2-SVP at the positions of the row.
    """
    stored = database.stored_integrals(row)
    if not stored:
        return
    molecule = database[row]
    computed = build_molecule(molecule.numbers, molecule.positions)
    for name, matrix in stored.items():
        expected = _integral(computed, name)
        difference = float(np.abs(matrix - expected).max() / max(1.0, np.abs(expected).max()))
        if not difference < TOLERANCE:
            raise DataError(
                f"{database.path}: row {row}: the stored {_LABELS[name]} differs from that of def2-SVP at these "
                f"positions by {difference:.2g}: the unit of the positions, the order of the orbitals or the basis "
                "is not that of the published files; correct the file"
            )


def _integral(molecule: gto.Mole, name: str) -> np.ndarray:
    if name == "core":
        return molecule.intor_symmetric("int1e_kin") + molecule.intor_symmetric("int1e_nuc")
    return molecule.intor_symmetric(name)
