"""Overlaps of a structure whose pairs have to be those that the orbitals of the basis files reach."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.physics.bands.toys import graphene
from tests.physics.overlaps.gaussian_files import GaussianShell, write_orb, write_pao
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.physics.overlaps.structure_overlaps import with_overlaps
from tracegrad.units import ANGSTROM_PER_BOHR

SHELLS = [GaussianShell(0, 3.0)]
BASIS = OrbitalBasis.openmx({6: (0,)})


@pytest.fixture(scope="module")
def structure() -> Structure:
    """Blocks of first neighbours only: orbitals reach farther than 1.42 angstrom, but not 2.46."""
    return replace(graphene(), overlap=None)


def test_values(structure: Structure, tmp_path: Path) -> None:
    write_pao(tmp_path, "C", SHELLS, cutoff=2.0, points=400)
    found = with_overlaps(structure, BASIS, tmp_path)
    for edge, block in zip(found.edges, found.blocks("overlap"), strict=True):
        vector = found.positions[edge[4]] + edge[:3] @ found.lattice - found.positions[edge[3]]
        exact = np.exp(-1.5 * np.sum((vector / ANGSTROM_PER_BOHR) ** 2))
        assert block == pytest.approx(exact, abs=2e-5)  # the tails beyond the cutoff are missing
    with pytest.raises(BasisError, match=r"has overlaps, those of its DFT calculation; leave out"):
        with_overlaps(found, BASIS, tmp_path)


@pytest.mark.parametrize(
    ("write", "cutoff", "message"),
    [
        (
            write_pao,
            4.0,
            r"C-C in C4.0.pao reach 4.233 angstrom, but there is no block .* of atoms 2.46\d angstrom",
        ),
        (
            write_pao,
            1.3,
            r"C-C in C1.3.pao reach 1.376 angstrom, but there is a block .* of atoms 1.42\d angstrom",
        ),
        (
            write_orb,
            4.0,
            r"C-C in C_test.orb reach 4.233 angstrom, but there is no block .* take the basis files",
        ),
    ],
)
def test_files_of_another_cutoff(
    structure: Structure, tmp_path: Path, write, cutoff: float, message: str
) -> None:
    write(tmp_path, "C", SHELLS, cutoff=cutoff)
    with pytest.raises(BasisError, match=message):
        with_overlaps(structure, BASIS, tmp_path)


def test_other_codes_list_pairs_beyond_the_orbitals(structure: Structure, tmp_path: Path) -> None:
    write_orb(tmp_path, "C", SHELLS, cutoff=1.3)
    found = with_overlaps(structure, BASIS, tmp_path)
    assert found.overlap is not None
    assert np.count_nonzero(found.overlap) == 2  # on-site
