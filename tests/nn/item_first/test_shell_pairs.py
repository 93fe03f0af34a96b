import math

import pytest
import torch
from e3nn.o3 import Irrep, Irreps
from scipy.spatial.transform import Rotation

from tests.molecules import TO_E3NN, exact_representation, random_rotation
from tests.oracles import deeph_e3_blocks as oracle_blocks
from tests.oracles import deeph_e3_e3nn as oracle
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.item_first.shell_pairs import ShellPairExpansion, pair_couplings

SHELLS = [
    {6: (0, 0, 1, 1, 2)},
    {16: (0, 1), 42: (0, 0, 1, 2)},
    {1: (0, 2), 57: (1, 3)},
    {83: (0, 1, 2, 3, 3)},
]
SPIN = pytest.mark.parametrize("spinful", [False, True])
# The signs of e3nn 0.3.5 are not known above degree 6: no spin with f shells.
FORMS = pytest.mark.parametrize(
    ("shells", "spinful", "legacy"),
    [
        (shells, spinful, legacy)
        for shells in SHELLS
        for spinful in (False, True)
        for legacy in (False, True)
        if not (spinful and legacy and 3 in sum(shells.values(), ()))
    ],
    ids=str,
)
BASES = pytest.mark.parametrize("shells", SHELLS, ids=str)
PAULI = torch.tensor([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128)


def make_basis(shells: dict, *, spinful: bool) -> OrbitalBasis:
    return OrbitalBasis.openmx(shells, spinful=spinful)


def spin_rotation(rotation: torch.Tensor) -> torch.Tensor:
    """Rotation matrix of spin 1/2, up to a sign; the inversion does not change spin."""
    x, y, z, w = Rotation.from_matrix((rotation * torch.linalg.det(rotation)).numpy()).as_quat().tolist()
    return w * torch.eye(2, dtype=torch.complex128) - 1j * (x * PAULI[0] + y * PAULI[1] + z * PAULI[2])


def orbital_rotation(basis: OrbitalBasis, rotation: torch.Tensor) -> torch.Tensor:
    """Rotation matrix of all union slots, with parity (-1)^l, and of spin. Rotations of (x, y, z) may be improper."""
    spatial = basis.union[: len(basis.union) // basis.spins]
    rotation_yzx = TO_E3NN @ rotation @ TO_E3NN.T
    by_degree = {
        degree: exact_representation(Irreps([(1, (degree, (-1) ** degree))]), rotation_yzx)
        for degree in set(spatial)
    }
    matrix = torch.block_diag(*[by_degree[degree] for degree in spatial])
    return torch.kron(spin_rotation(rotation), matrix.to(torch.complex128)) if basis.spinful else matrix


def literal(expansion: ShellPairExpansion, x: dict[Irrep, torch.Tensor], *, legacy: bool) -> torch.Tensor:
    """The expansion pair of shells by pair of shells, coefficient by coefficient."""
    basis = expansion.basis
    n, dim = len(next(iter(x.values()))), basis.dim
    half = dim // basis.spins
    parts = torch.zeros(4, n, half, half, dtype=torch.complex128)  # s, y, z, x
    starts = basis.shell_starts
    for (row, column, part), channels in expansion.channel_order().items():
        l1, l2 = basis.union[row], basis.union[column]
        place = (
            slice(starts[row], starts[row] + 2 * l1 + 1),
            slice(starts[column], starts[column] + 2 * l2 + 1),
        )
        unit = 1j if part else 1
        left = iter(channels)
        degrees = range(abs(l1 - l2), l1 + l2 + 1)
        for degree in degrees:
            ir, channel = next(left)
            assert ir == Irrep(degree, (-1) ** (l1 + l2))
            table = oracle.w3j(l1, l2, degree, legacy)
            parts[0, :, *place] += unit * torch.einsum("abm,nm->nab", table, x[ir][:, :, channel])
        for degree in degrees if basis.spinful else ():
            for total in range(abs(degree - 1), degree + 2):
                ir, channel = next(left)
                assert ir == Irrep(total, (-1) ** (l1 + l2))
                table = oracle.w3j(l1, l2, degree, legacy)
                spin = oracle.w3j(degree, 1, total, legacy)
                values = torch.einsum("abm,mck,nk->cnab", table, spin, x[ir][:, :, channel])
                for c in range(3):
                    parts[1 + c, :, *place] += unit * values[c]
        assert not list(left)
    if not basis.spinful:
        return parts[0].real
    s, y, z, x_ = parts
    h = torch.empty(n, dim, dim, dtype=torch.complex128)
    h[:, :half, :half], h[:, half:, half:] = s + z, s - z
    h[:, :half, half:], h[:, half:, :half] = x_ - 1j * y, x_ + 1j * y
    return h / math.sqrt(2)


def make_feature(expansion: ShellPairExpansion, items: int = 3) -> list[torch.Tensor]:
    return [torch.randn(items, ir.dim, mul, dtype=torch.float64) for mul, ir in expansion.irreps]


@FORMS
def test_equals_literal_sums_of_clebsch_gordan_coefficients(shells, spinful, legacy):
    expansion = ShellPairExpansion(make_basis(shells, spinful=spinful), legacy=legacy)
    x = make_feature(expansion)
    actual = expansion(x)
    by_irrep = {ir: part for part, (_, ir) in zip(x, expansion.irreps, strict=True)}
    assert actual.is_complex() == spinful
    torch.testing.assert_close(actual, literal(expansion, by_irrep, legacy=legacy), rtol=0, atol=1e-13)


@SPIN
@BASES
def test_every_channel_belongs_to_one_pair_of_shells(shells, spinful):
    basis = make_basis(shells, spinful=spinful)
    expansion = ShellPairExpansion(basis)
    order = expansion.channel_order()
    shell_count = len(basis.union) // basis.spins
    assert len(order) == shell_count**2 * basis.spins
    used = sorted((str(ir), channel) for channels in order.values() for ir, channel in channels)
    assert used == sorted((str(ir), channel) for mul, ir in expansion.irreps for channel in range(mul))
    # As many numbers as a block has, twice as many with spin: they are complex.
    assert expansion.irreps.dim == basis.dim**2 * basis.spins
    assert list(expansion.irreps) == list(expansion.irreps.sort().irreps.simplify())


def test_irreps_of_graphene_are_those_of_the_released_network():
    expansion = ShellPairExpansion(make_basis(SHELLS[0], spinful=False))
    assert str(expansion.irreps) == "9x0e+12x1o+5x1e+4x2o+9x2e+4x3o+1x3e+1x4e"


@FORMS
def test_any_block_can_be_expanded(shells, spinful, legacy):
    """Theorem of Wigner and Eckart: x_L = (2L + 1) sum C^{l1 l2 L} H is the inverse."""
    basis = make_basis(shells, spinful=spinful)
    expansion = ShellPairExpansion(basis, legacy=legacy)
    half = basis.dim // basis.spins
    h = torch.randn(2, basis.dim, basis.dim, dtype=torch.complex128 if spinful else torch.float64)
    if spinful:
        uu, ud, du, dd = h[:, :half, :half], h[:, :half, half:], h[:, half:, :half], h[:, half:, half:]
        spin = torch.stack([uu + dd, 1j * (ud - du), uu - dd, ud + du]) / math.sqrt(2)  # s, y, z, x
        real_and_imaginary = (spin.real, spin.imag)
    else:
        real_and_imaginary = (h[None],)
    x = {ir: torch.zeros(2, ir.dim, mul, dtype=torch.float64) for mul, ir in expansion.irreps}
    starts = basis.shell_starts
    for (row, column, part), channels in expansion.channel_order().items():
        l1, l2 = basis.union[row], basis.union[column]
        block = real_and_imaginary[part][
            ..., starts[row] : starts[row] + 2 * l1 + 1, starts[column] : starts[column] + 2 * l2 + 1
        ]
        left = iter(channels)
        degrees = range(abs(l1 - l2), l1 + l2 + 1)
        for degree in degrees:
            ir, channel = next(left)
            table = oracle.w3j(l1, l2, degree, legacy)
            x[ir][:, :, channel] = ir.dim * torch.einsum("abm,nab->nm", table, block[0])
        for degree in degrees if spinful else ():
            for total in range(abs(degree - 1), degree + 2):
                ir, channel = next(left)
                table, spin = oracle.w3j(l1, l2, degree, legacy), oracle.w3j(degree, 1, total, legacy)
                both = torch.einsum("abm,mck,cnab->nk", table, spin, block[1:])
                x[ir][:, :, channel] = (2 * degree + 1) * ir.dim * both
    actual = expansion([x[ir] for _, ir in expansion.irreps])
    torch.testing.assert_close(actual, h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("improper", [False, True])
@SPIN
@BASES
def test_blocks_are_equivariant(shells, spinful, improper):
    basis = make_basis(shells, spinful=spinful)
    expansion = ShellPairExpansion(basis)
    rotation = random_rotation(4) * (-1 if improper else 1)
    x = make_feature(expansion)
    rotation_yzx = TO_E3NN @ rotation @ TO_E3NN.T
    rotated = [
        exact_representation(Irreps([(1, ir)]), rotation_yzx) @ part
        for part, (_, ir) in zip(x, expansion.irreps, strict=True)
    ]
    u = orbital_rotation(basis, rotation)
    torch.testing.assert_close(expansion(rotated), u @ expansion(x) @ u.mH, rtol=0, atol=1e-11)


@SPIN
def test_a_coupling_has_the_irreps_of_the_released_network(spinful):
    for l1, l2 in ((0, 0), (0, 1), (1, 2), (3, 3)):
        actual = [ir for ir, _ in pair_couplings(l1, l2, spinful=spinful, legacy=False)]
        assert actual == oracle_blocks.irreps_of_target(l1, l2, spinful)


def test_spin_rotations_represent_rotations():
    """A test of `spin_rotation`: U (sigma . v) U^dagger = sigma . (R v)."""
    rotation = random_rotation(7)
    u, v = spin_rotation(rotation), torch.randn(3, dtype=torch.float64)
    actual = u @ torch.einsum("i,iab->ab", v.to(PAULI), PAULI) @ u.mH
    torch.testing.assert_close(actual, torch.einsum("i,iab->ab", (rotation @ v).to(PAULI), PAULI))


def test_unknown_signs_are_refused():
    with pytest.raises(ConfigError, match=r"known up to degree 6, not for \(6, 1, 7\)"):
        ShellPairExpansion(make_basis(SHELLS[2], spinful=True), legacy=True)
