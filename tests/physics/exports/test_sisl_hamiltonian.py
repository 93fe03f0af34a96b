import gc
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigh

from tests.physics.exports.conftest import structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.errors import DataError
from tracegrad.physics.exports.sisl_hamiltonian import to_sisl, write_tshs

sisl = pytest.importorskip("sisl")
K = np.array([0.13, -0.37, 0.0])


def exact(crystal) -> np.ndarray:
    h, s = (BlochMatrix(crystal, name).at(K).toarray() for name in ("hamiltonian", "overlap"))
    return eigh(h, s, eigvals_only=True)


def test_bands_of_the_object_are_relative_to_the_fermi_level(crystal):
    np.testing.assert_allclose(to_sisl(crystal).eigh(K), exact(crystal) + 0.3, rtol=0, atol=1e-10)
    unknown = replace(crystal, fermi_level=None)
    np.testing.assert_allclose(to_sisl(unknown).eigh(K), exact(crystal), rtol=0, atol=1e-10)


def test_elements_have_siestas_order_and_signs():
    crystal = structure(spinful=True)
    hamiltonian = to_sisl(crystal)
    assert [orbital.name() for orbital in hamiltonian.geometry.atoms[1].orbitals] == [
        "1sZ1",
        "2pyZ1",
        "2pzZ1",
        "2pxZ1",
    ]
    # s and p of S: s | x y z in the structure, s | -y z -x here; atom 1 stands behind the 10 orbitals of Mo.
    edges = crystal.edges.tolist()
    block = crystal.blocks("hamiltonian")[edges.index([1, 0, 0, 1, 1])]
    s_block = crystal.blocks("overlap")[edges.index([1, 0, 0, 1, 1])]
    cell = hamiltonian.geometry.lattice.sc_index([1, 0, 0]) * hamiltonian.geometry.no
    for m, (position, sign) in enumerate([(2, -1), (3, 1), (1, -1)], start=1):
        values = hamiltonian[10, 10 + m + cell]
        uu, dd, ud, du = (sign * block[s, position + t] for s, t in [(0, 0), (4, 4), (0, 4), (4, 0)])
        shift = 0.3 * sign * s_block[0, position]
        expected = [uu.real + shift, dd.real + shift, ud.real, ud.imag, uu.imag, dd.imag, du.real, du.imag]
        np.testing.assert_allclose(values, [*expected, sign * s_block[0, position]], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore::sisl.SislWarning", "ignore::ResourceWarning")
def test_sisl_reads_the_files(crystal, tmp_path):
    assert write_tshs(crystal, tmp_path, "a") == ["a.TSHS", "a.fdf", "a.ORB_INDX"]
    alone = sisl.io.siesta.tshsSileSiesta(tmp_path / "a.TSHS").read_hamiltonian()
    with_atoms = sisl.get_sile(tmp_path / "a.fdf").read_hamiltonian()
    for read in (alone, with_atoms):
        np.testing.assert_allclose(read.eigh(K), exact(crystal) + 0.3, rtol=0, atol=1e-8)
    assert with_atoms.geometry.atoms.Z.tolist() == [42, 16, 16]
    names = [orbital.name() for orbital in with_atoms.geometry.atoms[0].orbitals]
    assert names[:3] == ["1sZ1", "1sZ2", "2pyZ1"]
    np.testing.assert_allclose(with_atoms.geometry.xyz, crystal.positions, atol=1e-8)
    del alone, with_atoms, read
    gc.collect()  # sisl leaves the .fdf file open, which is a warning where the garbage is collected


def test_an_overlap_is_needed():
    with pytest.raises(DataError, match="MoS2: has no overlap"):
        to_sisl(replace(structure(), overlap=None))
