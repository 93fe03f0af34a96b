import numpy as np
import pytest
import torch
from pyscf import gto

from tests import molecules
from tests.molecules import dense_rotation, random_rotation, union_rotation
from tracegrad.basis import DEF2_SVP, OrbitalBasis
from tracegrad.blocks import cut_blocks
from tracegrad.errors import BasisError


def pyscf_molecule(numbers: np.ndarray, positions: np.ndarray) -> gto.Mole:
    atoms = [(int(z), tuple(p)) for z, p in zip(numbers, positions, strict=True)]
    return gto.M(atom=atoms, basis="def2-svp", spin=int(numbers.sum()) % 2, unit="angstrom", verbose=0)


@pytest.mark.parametrize("number", DEF2_SVP)
def test_shells_are_those_of_pyscf(number):
    molecule = pyscf_molecule(np.array([number]), np.zeros((1, 3)))
    degrees = [molecule.bas_angular(i) for i in range(molecule.nbas) for _ in range(molecule.bas_nctr(i))]
    assert tuple(degrees) == DEF2_SVP[number]


@pytest.mark.parametrize("integral", ["int1e_ovlp_sph", "int1e_kin_sph"])
def test_union_layout_rotates_with_wigner_matrices_of_e3nn(basis, integral):
    numbers, positions = molecules.METHANOL
    rotation = random_rotation(3)
    matrices = [
        torch.from_numpy(pyscf_molecule(numbers, p).intor(integral))
        for p in (positions, positions @ rotation.numpy().T)
    ]
    first, second = (cut_blocks(matrix, numbers, basis) for matrix in matrices)
    d = union_rotation(basis, rotation)
    assert (first[1] - second[1]).abs().max() > 0.1
    for blocks, rotated in zip(first, second, strict=True):
        torch.testing.assert_close(d @ blocks @ d.T, rotated, rtol=0, atol=1e-12)
    u = dense_rotation(numbers, basis, rotation)
    torch.testing.assert_close(u @ matrices[0] @ u.T, matrices[1], rtol=0, atol=1e-12)


def test_union_of_qh9(basis):
    assert basis.union == (0, 0, 0, 1, 1, 2)
    assert basis.dim == 14
    assert basis.elements == (1, 6, 7, 8, 9)
    assert np.flatnonzero(basis.mask[1]).tolist() == [0, 1, 3, 4, 5]
    assert basis.mask[6].all()
    assert basis.shell_mask[1].tolist() == [True, True, False, True, False, False]
    assert basis.sizes[[1, 6, 7, 8, 9]].tolist() == [5, 14, 14, 14, 14]
    assert not basis.mask[2].any()


def test_union_takes_the_most_shells_of_each_degree():
    basis = OrbitalBasis({1: (0, 0, 1), 5: (2, 0, 1, 1)})
    assert basis.union == (0, 0, 1, 1, 2)
    # p is stored x, y, z and becomes y, z, x; file order d, s, p, p.
    assert basis.slots[5].tolist() == [5, -1, 7, 8, 6, 10, 11, 9, 0, 1, 2, 3, 4]


def test_unknown_elements_say_where_they_are(basis):
    basis.check(np.array([1, 6, 6]), "here")
    with pytest.raises(BasisError, match=r"row 7: atomic numbers \[15, 17\] have no entry in def2-SVP"):
        basis.check(np.array([1, 17, 15]), "row 7")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrbitalBasis({}), "no elements"),
        (lambda: OrbitalBasis({1: (0,)}, "fhi"), "unknown orbital convention 'fhi'"),
        (lambda: OrbitalBasis.def2_svp([1, 26]), r"not for \[26\]"),
    ],
)
def test_impossible_bases_are_refused(make, message):
    with pytest.raises(BasisError, match=message):
        make()
