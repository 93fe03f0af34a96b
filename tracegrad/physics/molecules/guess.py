"""The start density of the SCF of a PySCF molecule, from a predicted Hamiltonian.

A `Mole` may have any order of shells and any unit of length. Each of its shells is identified with a shell of
def2-SVP by its degree and primitives, and the orbitals of the prediction are reordered accordingly.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64
from pyscf import gto

from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import DEF2_SVP, OrbitalBasis
from tracegrad.hamiltonian.geometry import check_positions
from tracegrad.physics.molecules.density import density
from tracegrad.physics.molecules.dft import BASIS, MIN_DISTANCE_ANGSTROM

# Relative; published tables of one basis set agree within this rounding.
_SAME = 1e-5


@runtime_checkable
class PredictsHamiltonians(Protocol):
    """The part of `HamiltonianModel` that is needed here."""

    @property
    def basis(self) -> OrbitalBasis: ...

    def hamiltonian(self, numbers: Any, positions: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class _Shell:
    """One contracted shell.

    Args:
        atom: index of its atom, from 0.
        start: index of its first orbital.
        degree: l.
        primitives: rows (exponent, coefficient), by descending exponent.
    """

    atom: int
    start: int
    degree: int
    primitives: Float[np.ndarray, "primitives 2"]

    @property
    def orbitals(self) -> Int64[np.ndarray, " orbitals"]:
        """Indices of its 2 l + 1 orbitals."""
        return self.start + np.arange(2 * self.degree + 1)


def initial_density(model: PredictsHamiltonians, mol: gto.Mole) -> Float[np.ndarray, "n n"]:
    """Density matrix ``dm0`` for a closed-shell SCF (RKS or RHF), in the atom and orbital order of ``mol``.

    Args:
        model: a network of molecules.
        mol: a built, neutral, closed-shell molecule in def2-SVP with spherical functions; any unit of length, and any
            order of the shells of an atom.

    Raises:
        BasisError: another basis, cartesian functions, an ECP, ghost atoms, elements that the network does not know.
        DataError: ``mol`` is no such molecule for another reason, such as a charge or overlapping atoms.
    """
    _check(model.basis, mol)
    numbers = mol.atom_charges().astype(np.int64)
    positions = mol.atom_coords(unit="Angstrom")
    check_positions(numbers, positions, f"mol (unit {mol.unit!r})", MIN_DISTANCE_ANGSTROM)
    model.basis.check(numbers, "mol", trained=True)
    order = orbital_order(mol, model.basis)
    predicted = model.hamiltonian(numbers, positions).cpu().numpy().astype(np.float64)
    return density(predicted[np.ix_(order, order)], mol.intor_symmetric("int1e_ovlp"), mol.nelectron)


def orbital_order(mol: gto.Mole, basis: OrbitalBasis) -> Int64[np.ndarray, " n"]:
    """Index of each orbital of ``mol`` in the order of the predictions.

    A predicted H in the order of ``mol`` is H[order[i], order[j]].

    Raises:
        BasisError: the shells of an atom are not those of def2-SVP.
    """
    sizes = basis.sizes[mol.atom_charges()]
    starts = np.cumsum(sizes) - sizes
    order = np.full(mol.nao, -1, dtype=np.int64)
    left = [list(_standard_shells(int(z))) for z in mol.atom_charges()]
    for shell in _shells(mol):
        same = next((other for other in left[shell.atom] if _same(shell, other)), None)
        if same is None:
            raise _other_basis(mol, shell.atom, f"has the shell {_description(shell)}, which def2-SVP lacks")
        left[shell.atom].remove(same)
        order[shell.orbitals] = starts[shell.atom] + same.orbitals
    for atom, shells in enumerate(left):
        if shells:
            raise _other_basis(mol, atom, f"lacks the shell {_description(shells[0])} of def2-SVP")
    return order


def _check(basis: OrbitalBasis, mol: Any) -> None:
    """Raise unless the network can predict for ``mol``; its geometry and shells are not checked here."""
    if basis.periodic:
        raise DataError(
            f"this network predicts crystals ({basis.name} in the order of {basis.convention}); "
            "load one that was trained on molecules"
        )
    if hasattr(mol, "lattice_vectors"):
        raise DataError("mol is a periodic Cell; the network predicts molecules, give a pyscf.gto.Mole")
    if not isinstance(mol, gto.Mole):
        raise DataError(
            f"mol is {type(mol).__name__}; give a pyscf.gto.Mole, such as mf.mol of an SCF object"
        )
    if not mol._built:
        raise DataError("mol is not built; call mol.build() first")
    for atom in range(mol.natm):
        symbol = mol.atom_symbol(atom)
        if gto.is_ghost_atom(symbol):
            raise BasisError(
                f"mol: atom {atom} ({symbol}) is a ghost; the network knows no ghost atoms, remove it"
            )
    if mol.has_ecp():
        raise BasisError(
            "mol has an ECP (effective core potential); the network predicts all electrons, build mol without it"
        )
    if mol.cart:
        raise BasisError(
            "mol has cartesian functions; def2-SVP has spherical ones, build mol with cart=False"
        )
    if mol.charge:
        raise DataError(f"mol has charge {mol.charge}; the network was trained on neutral molecules only")
    if mol.spin:
        raise DataError(
            f"mol has spin {mol.spin} (unpaired electrons); the network was trained on closed shells only, spin=0"
        )


@cache
def _standard_shells(number: int) -> tuple[_Shell, ...]:
    """The shells of an element in def2-SVP, in PySCF's order."""
    atom = gto.M(atom=[(number, (0.0, 0.0, 0.0))], basis=BASIS, spin=number % 2, verbose=0, parse_arg=False)
    shells = tuple(_shells(atom))
    assert tuple(shell.degree for shell in shells) == DEF2_SVP[number]
    return shells


def _shells(mol: gto.Mole) -> list[_Shell]:
    """All contracted shells; a shell of PySCF contains several of them if the basis is generally contracted."""
    shells = []
    starts = mol.ao_loc_nr()
    for i in range(mol.nbas):
        degree = int(mol.bas_angular(i))
        for k, coefficients in enumerate(mol.bas_ctr_coeff(i).T):
            rows = np.stack([mol.bas_exp(i), coefficients], axis=1)[coefficients != 0]
            rows = rows[np.argsort(-rows[:, 0])]
            shells.append(_Shell(int(mol.bas_atom(i)), int(starts[i]) + k * (2 * degree + 1), degree, rows))
    return shells


def _same(one: _Shell, other: _Shell) -> bool:
    return (
        one.degree == other.degree
        and one.primitives.shape == other.primitives.shape
        and np.allclose(one.primitives, other.primitives, rtol=_SAME, atol=0)
    )


def _description(shell: _Shell) -> str:
    exponents = ", ".join(f"{exponent:.6g}" for exponent in shell.primitives[:, 0])
    return f"l = {shell.degree} with exponents {exponents}"


def _other_basis(mol: gto.Mole, atom: int, what: str) -> BasisError:
    return BasisError(
        f"mol: the basis of atom {atom} ({mol.atom_symbol(atom)}) is not def2-SVP: it {what}; "
        "the network predicts H in def2-SVP only, build mol with basis='def2-svp'"
    )
