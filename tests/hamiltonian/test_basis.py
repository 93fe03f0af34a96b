import numpy as np
import pytest
import torch
from pyscf import gto

from tests import molecules
from tests.molecules import dense_rotation, random_rotation, union_rotation
from tracegrad.errors import BasisError
from tracegrad.hamiltonian.basis import CONVENTIONS, DEF2_SVP, OrbitalBasis
from tracegrad.hamiltonian.blocks import cut_blocks


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


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_order_of_psi4(degree):
    """m = 0, 1, -1, 2, -2, ... in the file."""
    file = [0, *(m for k in range(1, degree + 1) for m in (k, -k))]
    assert [file[position] for position in CONVENTIONS["psi4"][degree]] == list(range(-degree, degree + 1))


def test_union_of_qh9(basis):
    assert basis.union == (0, 0, 0, 1, 1, 2)
    assert basis.dim == 14
    assert basis.elements == (1, 6, 7, 8, 9)
    assert np.flatnonzero(basis.mask[1]).tolist() == [0, 1, 3, 4, 5]
    assert basis.mask[6].all()
    assert basis.shell_mask[1].tolist() == [True, True, False, True, False, False]
    assert basis.sizes[[1, 6, 7, 8, 9]].tolist() == [5, 14, 14, 14, 14]
    assert not basis.mask[2].any()


def test_union_has_the_largest_number_of_shells_of_each_degree():
    basis = OrbitalBasis({1: (0, 0, 1), 5: (2, 0, 1, 1)})
    assert basis.union == (0, 0, 1, 1, 2)
    # p is stored x, y, z and becomes y, z, x; file order d, s, p, p.
    assert basis.slots[5].tolist() == [5, -1, 7, 8, 6, 10, 11, 9, 0, 1, 2, 3, 4]


def test_errors_of_unknown_elements_name_their_source(basis):
    basis.check(np.array([1, 6, 6]), "here")
    with pytest.raises(BasisError, match=r"row 7: atomic numbers \[15, 17\] have no entry in def2-SVP"):
        basis.check(np.array([1, 17, 15]), "row 7")
    for trained, advice in (
        (False, "add them to the basis elements of the configuration"),
        (True, "use a network that was trained with Cl"),
    ):
        with pytest.raises(BasisError, match=f"of elements H, C, N, O, F; {advice}$"):
            basis.check(np.array([17]), "here", trained=trained)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrbitalBasis({}), "no elements"),
        (lambda: OrbitalBasis({1: (0,)}, "fhi"), "unknown orbital convention 'fhi'"),
        (lambda: OrbitalBasis.def2_svp([1, 47]), r"not for \[47\]"),
    ],
)
def test_impossible_bases_are_refused(make, message):
    with pytest.raises(BasisError, match=message):
        make()


def test_openmx_bases_by_name_and_by_degrees():
    basis = OrbitalBasis.openmx(["S-s2p2d1", "Mo-s3p2d2"])
    assert basis == OrbitalBasis.openmx({"Mo": "s3p2d2", "S": (0, 0, 1, 1, 2)})
    assert basis == OrbitalBasis.openmx({42: "s3p2d2", 16: [0, 0, 1, 1, 2]})
    assert basis.name == "S s2p2d1, Mo s3p2d2"
    assert basis.unit == "eV"
    assert basis.union == (0, 0, 0, 1, 1, 2, 2)
    assert (basis.dim, basis.sizes[[16, 42]].tolist()) == (19, [13, 19])
    # s, s, - | p_y p_z p_x of both shells | d of the first shell m = -2 .. 2 (xy, yz, z2, xz, x2-y2)
    assert basis.slots[16].tolist() == [0, 1, -1, 3, 4, 2, 6, 7, 5, 10, 12, 8, 11, 9, *[-1] * 5]


def test_radii_of_openmx_names():
    basis = OrbitalBasis.openmx(["S7.0-s2p2d1", "Mo6.5H-s3p2d2"])
    assert basis.radii == pytest.approx({16: 7.0 * 0.529177249, 42: 6.5 * 0.529177249})
    assert OrbitalBasis.openmx(["S7.0-s2p2d1", "Mo-s3p2d2"]).radii is None


def test_a_spinful_layout_is_repeated_for_both_spins():
    one, two = (OrbitalBasis.openmx(["Bi-s3p2d2", "Te-s2p1"], spinful) for spinful in (False, True))
    assert two.union == one.union * 2
    assert two.dim == 2 * one.dim
    assert (two.sizes == 2 * one.sizes).all()
    up, down = two.slots[52, : one.dim], two.slots[52, one.dim :]
    assert (up == one.slots[52]).all()
    assert (down == np.where(up >= 0, up + one.sizes[52], -1)).all()
    assert two.shell_mask[52].tolist() == one.shell_mask[52].tolist() * 2


@pytest.mark.parametrize(
    ("shells", "message"),
    [
        (["Xx-s2"], "is no element"),
        ([""], "name element and basis"),
        (["C s2p2d1"], "such as Mo-s3p2d2"),
        (["C-s2p2x1"], "basis.shells of C is 's2p2x1'"),
        (["C-p2s2"], "ascending"),
        ({"C": []}, "ascending"),
        ({"C": (1, 0)}, "ascending"),
        ({0: "s1"}, "0 is no element"),
        ([], "no elements"),
    ],
)
def test_shells_that_cannot_be_parsed(shells, message):
    with pytest.raises(BasisError, match=message):
        OrbitalBasis.openmx(shells)
