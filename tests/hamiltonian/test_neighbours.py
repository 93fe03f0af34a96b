import numpy as np
import pytest

from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.loading.datamodule import database_path
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.neighbours import edges_within_range

NAMES = {
    "light_bilayer_*": ["C5.0-s2p1d1"],
    "light_twisted_*": ["C5.0-s2p1d1"],
    "light_mos2_*": ["Mo7.0-s3p2d1", "S7.0-s2p1d1"],
    "light_bismuthene_*": ["Bi8.0-s3p2d2"],
}


@pytest.mark.parametrize("pattern", NAMES)
def test_radii_give_the_blocks_that_openmx_wrote(pattern):
    basis = OrbitalBasis.openmx(NAMES[pattern])
    database = CrystalDatabase(database_path("embedded:demo_crystals.h5"), include=pattern)
    for structure in (database[0], database[1]):
        edges = edges_within_range(
            structure.numbers, structure.positions, structure.lattice, np.array([True, True, True]), basis
        )
        assert len(edges) == len(structure.edges)
        assert set(map(tuple, edges.tolist())) == set(map(tuple, structure.edges.tolist()))


def test_directions_that_are_not_periodic_have_no_images():
    basis = OrbitalBasis.openmx(["C5.0-s2p1d1"])
    numbers, positions, lattice = (
        np.array([6, 6]),
        np.array([[0.0, 0, 0], [1.4, 0, 0]]),
        np.diag([3.0, 3.0, 3.0]),
    )
    chain = edges_within_range(numbers, positions, lattice, np.array([True, False, False]), basis)
    assert (chain[:, 1:3] == 0).all()
    assert chain[:2].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    molecule = edges_within_range(numbers, positions, lattice, np.array([False] * 3), basis)
    assert len(molecule) == 4


@pytest.mark.parametrize(
    ("names", "message"),
    [(["C-s2p1d1"], "C s2p1d1 has no radii.*such as basis.shells"), (["Mo7.0-s1"], r"\[6\] have no entry")],
)
def test_bases_without_radii_or_elements_are_refused(names, message):
    with pytest.raises(BasisError, match=message):
        edges_within_range(
            np.array([6]), np.zeros((1, 3)), np.eye(3), np.ones(3, dtype=bool), OrbitalBasis.openmx(names)
        )
