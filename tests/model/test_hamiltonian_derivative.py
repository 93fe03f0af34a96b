"""dH/dR of all networks, in the order of the files, against central differences of `hamiltonian`."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tests.backbones import deeph2_networks, test_deeph_e3, test_harmose
from tests.backbones.test_position_gradients import crystal
from tests.model import test_network
from tests.model.test_network import ARMS
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.model.network import HamiltonianModel

STEP = 1e-4  # angstrom; the differences of five points are exact to 1e-9 of H or better
NETWORKS = {
    "DeepH-E3": test_deeph_e3.make_model,
    "HarmoSE": test_harmose.make_model,
    "DeepH-2": deeph2_networks.make_model,
}
BASES = {"real": crystals.SPINLESS, "spin": crystals.SPINFUL}
SMALL = crystals.crystal([42, 16], [[0.1, 0.2, 0.0], [0.1, 0.2, 2.1]], np.diag([3.1, 3.3, 9.0]).tolist(), 2.4)


def flat(found: torch.Tensor | list[np.ndarray], lead: int = 0) -> np.ndarray:
    """The numbers of a matrix or of all blocks, behind ``lead`` dimensions."""
    parts = found if isinstance(found, list) else [found.numpy()]
    return np.concatenate([part.reshape(*part.shape[:lead], -1) for part in parts], axis=-1)


def central(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, displacement: np.ndarray
) -> np.ndarray:
    a, b, c, d = (function(x + step * STEP * displacement) for step in (-2, -1, 1, 2))
    return (a - 8 * b + 8 * c - d) / (12 * STEP)


def assert_exact(
    model: HamiltonianModel, numbers: np.ndarray, positions: np.ndarray, *rest: np.ndarray
) -> None:
    """In a direction without symmetry."""
    displacement = np.random.default_rng(0).normal(size=positions.shape)
    found = flat(model.hamiltonian_derivative(numbers, positions, *rest, along=displacement[None]), 1)[0]
    expected = central(lambda x: flat(model.hamiltonian(numbers, x, *rest)), positions, displacement)
    size = np.abs(expected).max()
    assert size > 1e-2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * size)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_derivatives_of_crystals(network, basis, arm):
    """On-site edges, edges along z and -z, and others."""
    assert_exact(NETWORKS[network](basis, arm), *crystal(0.0))


@pytest.mark.parametrize("arm", ARMS)
def test_derivatives_of_molecules(basis, arm):
    """Three atoms on a line along z, and one beside it: without it, norms vanish and have kinks."""
    model = test_network.make_model(basis, arm)
    positions = np.array([[0.0, 0, -1.06], [0, 0, 0], [0, 0, 1.16], [1.1, 0.4, 2.0]])
    assert_exact(model, np.array([1, 6, 7, 1]), positions)


def test_derivatives_of_molecules_by_a_network_of_crystals(basis):
    assert_exact(
        test_deeph_e3.make_model(basis, "tracegrad", irreps="4x0e+3x1o+2x2e+1x3o+1x4e"), *molecules.WATER
    )


def test_h0_moves_with_the_atoms(basis):
    model = HamiltonianModel(test_network.make_model(basis).backbone, h0="core").double()
    assert_exact(model, np.array([1, 9]), np.array([[0.0, 0.1, 0.2], [0.3, 0.1, 1.1]]))


def test_each_atom_along_each_axis_and_displacements_agree(basis):
    """The derivative is linear in the displacement; a displacement of all atoms changes nothing."""
    random = np.random.default_rng(1)
    for model, sample in (
        (test_network.make_model(basis), molecules.WATER),
        (test_deeph_e3.make_model(crystals.SPINFUL), SMALL),
    ):
        numbers = sample[0]
        whole = model.hamiltonian_derivative(*sample)
        shift, pattern = np.ones((len(numbers), 3)), random.normal(size=(len(numbers), 3))
        along = model.hamiltonian_derivative(*sample, along=np.stack([shift, pattern]))
        found, parts = flat(along, 1), flat(whole, 2)
        assert parts.shape[:2] == (len(numbers), 3)
        np.testing.assert_allclose(found[1], np.einsum("ax,axn->n", pattern, parts), rtol=0, atol=1e-11)
        assert np.abs(found[0]).max() < 1e-11 < np.abs(found[1]).max()
        if isinstance(whole, list):
            for one, block in zip(whole, model.hamiltonian(*sample), strict=True):
                assert one.shape == (len(numbers), 3, *block.shape)
                assert one.dtype == block.dtype
        else:
            torch.testing.assert_close(whole, whole.transpose(2, 3), rtol=0, atol=0)


def test_dh_turns_with_the_crystal():
    """For R x the derivative along R u is D dH D^H: also its frames are equivariant."""
    model = test_deeph_e3.make_model(crystals.SPINLESS, "tracegrad")
    numbers, positions, lattice, edges = crystals.MOS2
    displacement = np.random.default_rng(2).normal(size=positions.shape)
    rotation = molecules.random_rotation(3)
    turn = rotation.numpy().T
    d = test_deeph_e3.orbital_rotation(model.basis, rotation).numpy()
    for (*_, i, j), before, after in zip(
        edges,
        model.hamiltonian_derivative(numbers, positions, lattice, edges, along=displacement[None]),
        model.hamiltonian_derivative(
            numbers, positions @ turn, lattice @ turn, edges, along=(displacement @ turn)[None]
        ),
        strict=True,
    ):
        rows, columns = (model.basis.slots[numbers[atom]] for atom in (i, j))
        rows, columns = (
            np.argsort(np.where(rows < 0, 99, rows)),
            np.argsort(np.where(columns < 0, 99, columns)),
        )
        height, width = before.shape[1:]
        left, right = (d[np.ix_(p[:n], p[:n])] for p, n in ((rows, height), (columns, width)))
        np.testing.assert_allclose(after[0], left @ before[0] @ right.T, rtol=0, atol=1e-8)


def test_derivatives_exist_where_features_vanish_by_symmetry(basis):
    """Methane, carbon dioxide along z, and an atom alone: their norms have kinks, whose slopes count as 0."""
    tetrahedron = 0.63 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    methane = np.array([6, 1, 1, 1, 1]), np.concatenate([np.zeros((1, 3)), tetrahedron])
    dioxide = np.array([8, 6, 8]), np.array([[0.0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
    model = test_network.make_model(basis)
    for numbers, positions in (methane, dioxide):
        displacement = np.random.default_rng(0).normal(size=(1, *positions.shape))
        assert model.hamiltonian_derivative(numbers, positions, along=displacement).isfinite().all()
    fluorine = np.array([9]), np.zeros((1, 3))
    assert not model.hamiltonian_derivative(*fluorine).any()


@pytest.mark.parametrize("network", NETWORKS)
def test_derivatives_of_a_honeycomb_are_finite(network):
    """Both atoms are equivalent, so that deviations of their features in norms vanish."""
    basis = OrbitalBasis.openmx({"S": "s1p1"})
    lattice = [[2.46, 0, 0], [1.23, 2.130422, 0], [0, 0, 15.0]]
    sample = crystals.crystal([16, 16], [[0.0, 0, 0], [1.23, 0.710141, 0]], lattice, 2.6)
    optical = np.array([[[1.0, 0, 0], [-1, 0, 0]]])
    for block in NETWORKS[network](basis, "tracegrad").hamiltonian_derivative(*sample, along=optical):
        assert np.isfinite(block).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("along", "message"),
    [
        (
            np.zeros((3, 3)),
            r"the displacements have shape \(3, 3\); \(count, 3, 3\) is needed.*along=\[pattern\]",
        ),
        (np.zeros((1, 2, 3)), r"shape \(1, 2, 3\)"),
        (np.zeros((0, 3, 3)), "at least one displacement"),
        (3.0, r"shape \(\)"),
        (np.full((1, 3, 3), np.nan), "one of the displacements is not a finite number"),
        ([[["a"] * 3] * 3], "the displacements must be numbers"),
    ],
)
def test_impossible_displacements_are_refused(along, message):
    with pytest.raises(DataError, match=f"crystal: .*{message}"):
        test_deeph_e3.make_model(crystals.SPINLESS).hamiltonian_derivative(*crystals.MOS2, along=along)


def test_structures_are_checked_as_those_of_predictions():
    model = test_deeph_e3.make_model(crystals.SPINLESS)
    numbers, positions, lattice, edges = crystals.MOS2
    with pytest.raises(BasisError, match=r"atomic numbers \[6\] have no entry"):
        model.hamiltonian_derivative(np.where(numbers == 42, 6, 16), positions, lattice, edges)
    with pytest.raises(DataError, match="give lattice and edges, too"):
        model.hamiltonian_derivative(numbers, positions)
