"""The start density for PySCF: exact for the exact H, for any order of atoms and orbitals and any unit."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from pyscf import dft, gto, scf
from pyscf.gto.basis.parse_nwchem import to_general_contraction
from pyscf.pbc.gto import Cell

from tests.checkpoints import DEEPH_E3, QHNET
from tests.molecules import dense_rotation, random_rotation
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.guess import initial_density, orbital_order
from tracegrad.units import ANGSTROM_PER_BOHR
from tracegrad.weights.construct import construct

WATER = [("O", (0.02, -0.01, 0.12)), ("H", (0.0, 0.76, -0.48)), ("H", (0.03, -0.75, -0.47))]
AMMONIA = [
    ("N", (0.0, 0.02, 0.1)),
    ("H", (0.0, 0.95, -0.27)),
    ("H", (0.81, -0.47, -0.25)),
    ("H", (-0.82, -0.46, -0.29)),
]
BASIS = "def2-svp"


class Exact:
    """A network without error: its H is the converged Fock matrix of Hartree-Fock, in the standard order."""

    basis = OrbitalBasis.def2_svp()

    def hamiltonian(self, numbers: np.ndarray, positions: np.ndarray) -> torch.Tensor:
        field = converged(build_molecule(numbers, positions))
        return torch.from_numpy(field.get_fock(dm=field.make_rdm1()))


def converged(mol: gto.Mole) -> scf.hf.RHF:
    field = scf.RHF(mol)
    field.conv_tol, field.init_guess = 1e-12, "1e"
    field.kernel()
    return field


def molecule(atoms: list = WATER, **options) -> gto.Mole:
    return gto.M(**{"atom": atoms, "basis": BASIS, "verbose": 0, "parse_arg": False, **options})


def turned(atoms: list) -> list:
    rotation = random_rotation(3).numpy()
    return [(symbol, tuple(rotation @ np.array(position) + [1.0, -2.0, 0.5])) for symbol, position in atoms]


def in_bohr(atoms: list) -> list:
    return [(symbol, tuple(np.array(position) / ANGSTROM_PER_BOHR)) for symbol, position in atoms]


def shuffled_shells(atoms: list) -> gto.Mole:
    """The shells of all atoms in a mixed order, which PySCF itself does not produce."""
    mol = molecule(atoms)
    order = np.random.default_rng(2).permutation(mol.nbas)
    mol._bas = mol._bas[order]
    assert np.any(np.diff(mol._bas[:, gto.ATOM_OF]) < 0)
    return mol


def reordered_basis(atoms: list) -> gto.Mole:
    """def2-SVP as in other tables: another order of shells, primitives by ascending exponent, labels on atoms."""
    basis = {s: [[b[0], *b[:0:-1]] for b in gto.basis.load(BASIS, s)][::-1] for s in {a[0] for a in atoms}}
    return molecule([(f"{s}@{i}", x) for i, (s, x) in enumerate(atoms)], basis=basis)


def general_contraction(atoms: list) -> gto.Mole:
    """Several contracted functions in one of PySCF's shells, with zero coefficients."""
    symbols = {symbol for symbol, _ in atoms}
    mol = molecule(atoms, basis={s: to_general_contraction(gto.basis.load(BASIS, s)) for s in symbols})
    assert mol.nbas < molecule(atoms).nbas
    return mol


CASES: dict[str, Callable[[], gto.Mole]] = {
    "as it is": molecule,
    "permuted atoms": lambda: molecule([AMMONIA[i] for i in (2, 0, 3, 1)]),
    "rotated": lambda: molecule(turned(AMMONIA)),
    "bohr": lambda: molecule(in_bohr(WATER), unit="Bohr"),
    "bohr as a number": lambda: molecule(in_bohr(WATER), unit=ANGSTROM_PER_BOHR),
    "PySCF turns the molecule into its symmetric orientation": lambda: molecule(
        [("H", (0.0, 0.76, -0.48)), ("O", (0.0, 0.0, 0.12)), ("H", (0.0, -0.76, -0.48))], symmetry=True
    ),
    "a basis in another order": lambda: reordered_basis([AMMONIA[i] for i in (1, 0, 2, 3)]),
    "general contraction": partial(general_contraction, WATER),
    "shuffled shells": partial(shuffled_shells, AMMONIA),
}


@pytest.mark.parametrize("case", CASES)
def test_the_exact_hamiltonian_gives_the_exact_density_and_no_cycles_to_do(case: str) -> None:
    mol = CASES[case]()
    guess = initial_density(Exact(), mol)
    assert guess.dtype == np.float64
    field = converged(mol)
    np.testing.assert_allclose(guess, field.make_rdm1(), atol=1e-6)
    again = scf.RHF(mol)
    again.kernel(dm0=guess)
    assert again.converged
    assert again.cycles <= 2 < field.cycles


def test_a_wrong_order_would_be_seen() -> None:
    """The orders of two cases differ from the standard order, so H must be reordered for them."""
    for case in ("shuffled shells", "a basis in another order"):
        order = orbital_order(CASES[case](), Exact.basis)
        assert sorted(order) == list(range(29))
        assert not np.array_equal(order, np.arange(29))
    mol = shuffled_shells(AMMONIA)
    standard = Exact().hamiltonian(mol.atom_charges(), mol.atom_coords(unit="Angstrom")).numpy()
    overlap = molecule(AMMONIA).intor("int1e_ovlp")
    order = orbital_order(mol, Exact.basis)
    np.testing.assert_allclose(mol.intor("int1e_ovlp"), overlap[np.ix_(order, order)], atol=1e-14)
    assert np.abs(converged(mol).get_fock() - standard).max() > 0.1


def test_rks_from_a_network() -> None:
    """`initial_density` of the model: the density rotates with the molecule, and PySCF accepts it unchanged."""
    torch.manual_seed(0)
    model = construct(QHNET, "settings").double().eval()
    guess = model.initial_density(molecule(WATER))
    mol = molecule(WATER)
    assert np.einsum("ij,ji->", guess, mol.intor("int1e_ovlp")) == pytest.approx(10)
    rotation = random_rotation(3)
    orbitals = dense_rotation(np.array([8, 1, 1]), model.basis, rotation).numpy()
    np.testing.assert_allclose(
        model.initial_density(molecule(turned(WATER))), orbitals @ guess @ orbitals.T, atol=1e-8
    )
    field = dft.RKS(mol, xc="lda,vwn")
    field.grids.level = 0
    field.max_cycle = 0
    assert np.isfinite(field.kernel(dm0=guess))


UNBUILT = gto.Mole(atom=WATER, basis=BASIS)
OTHER_OXYGEN = gto.basis.load(BASIS, "O")
OTHER_OXYGEN[0][1] = [OTHER_OXYGEN[0][1][0] * 1.001, *OTHER_OXYGEN[0][1][1:]]
REFUSED = {
    "charge": (lambda: molecule(charge=2), DataError, "mol has charge 2; .* neutral"),
    "cation": (lambda: molecule(charge=1, spin=1), DataError, "mol has charge 1"),
    "spin": (lambda: molecule(spin=2), DataError, r"mol has spin 2 \(unpaired electrons\)"),
    "6-31g": (lambda: molecule(basis="6-31g"), BasisError, r"atom 0 \(O\) is not def2-SVP.*basis='def2-svp'"),
    "larger": (lambda: molecule(basis="def2-svpd"), BasisError, "has the shell l = 0 with exponents"),
    "smaller": (
        lambda: molecule(basis={"O": gto.basis.load(BASIS, "O")[:-1], "H": BASIS}),
        BasisError,
        "lacks the shell l = 2 with exponents 1.2",
    ),
    "exponent": (lambda: molecule(basis={"O": OTHER_OXYGEN, "H": BASIS}), BasisError, r"exponents 2268\.44"),
    "one atom": (
        lambda: molecule([WATER[0], ("H1", WATER[1][1]), WATER[2]], basis={"O": BASIS, "H": BASIS, "H1": "sto-3g"}),
        BasisError,
        r"atom 1 \(H1\) is not def2-SVP",
    ),
    "uncontracted": (lambda: molecule(basis="unc-def2-svp"), BasisError, "is not def2-SVP"),
    "cartesian": (lambda: molecule(cart=True), BasisError, "cartesian functions; .* cart=False"),
    "ecp": (lambda: molecule(ecp={"O": "ccecp"}), BasisError, "has an ECP"),
    "ghost": (lambda: molecule([*WATER, ("GHOST-H", (0, 0, 3.0))]), BasisError, r"atom 3 \(GHOST-H\) is a ghost"),
    "ghost X": (lambda: molecule([("X-O", (0, 0, 3.0)), *WATER]), BasisError, r"atom 0 \(X-O\) is a ghost"),
    "element": (lambda: molecule([("Ar", (0, 0, 0))]), BasisError, r"\[18\] have no entry .* was trained with Ar$"),
    "overlapping": (
        lambda: molecule([("H", (0, 0, 0)), ("H", (0, 0, 0.2))], unit="Bohr"),
        DataError,
        r"mol \(unit 'Bohr'\): atoms 0 and 1 are 0\.106 angstrom apart",
    ),
    "not built": (lambda: UNBUILT, DataError, r"mol is not built; call mol\.build\(\)"),
    "cell": (lambda: Cell(), DataError, "periodic Cell"),
    "field": (lambda: scf.RHF(molecule()), DataError, r"mol is RHF; give a pyscf.gto.Mole, such as mf\.mol"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_by_name(case: str, unchecked: None) -> None:
    make, kind, message = REFUSED[case]
    model = construct(QHNET, "settings")
    with pytest.raises(kind, match=message):
        model.initial_density(make())


def test_a_network_of_crystals_is_refused() -> None:
    with pytest.raises(DataError, match="this network predicts crystals"):
        construct(DEEPH_E3, "settings").initial_density(molecule())
