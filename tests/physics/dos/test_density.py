"""Densities of states in closed form, projections, and charges."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg

from tests.data.crystals.scfout import small_structure
from tests.physics.bands.test_bands import literal
from tests.physics.bands.toys import chain, graphene, positive, supercell, tight_binding
from tracegrad.errors import ConfigError
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos.density import density_of_states, energy_grid
from tracegrad.physics.dos.kmesh import k_mesh
from tracegrad.physics.dos.mesh_states import mesh_states
from tracegrad.physics.dos.orbital_groups import orbital_groups


def states_of(structure, counts, kind="element", **settings):
    groups = orbital_groups(structure.numbers, structure.basis, kind)
    mesh = k_mesh(structure.lattice, periodic_axes(structure.edges), counts)
    return mesh_states(structure, mesh, groups, **settings), groups


def test_a_chain():
    """rho(E) = 2 / (pi sqrt(4 - E^2)) for both spins, and arccos for the number of states below."""
    structure = chain(overlap=0.0)
    states, groups = states_of(structure, (600, 1, 1))
    energies = np.linspace(-1.6, 1.6, 41)
    found = density_of_states(states, groups, energies, 0.02, spins=2)
    assert found.total == pytest.approx(2 / (np.pi * np.sqrt(4 - energies**2)), rel=2e-3)
    assert found.below == pytest.approx(2 * (1 - np.arccos(energies / 2) / np.pi), abs=1e-3)


def test_graphene_near_the_dirac_point():
    """rho(E) = 2 A |E| / (pi v^2) for both spins, with v = sqrt(3) a t / 2 and the area A of the cell."""
    structure = graphene(overlap=0.0)
    states, groups = states_of(structure, (6, 6, 1))
    size = 2.7 * np.abs(1 + np.exp(-2j * np.pi * states.mesh.points[:, :2]).sum(1))
    assert np.abs(states.energies - np.stack([-size, size], 1)).max() < 1e-12
    mesh = k_mesh(structure.lattice, periodic_axes(structure.edges), (300, 300, 1))
    size = 2.7 * np.abs(1 + np.exp(-2j * np.pi * mesh.points[:, :2]).sum(1))
    dense = replace(
        states,
        mesh=mesh,
        energies=np.stack([-size, size], 1),
        shares=np.ones((len(size), 1, 2)),
        mean_overlaps=np.ones((len(size), 2)),
    )
    energies = np.array([-0.6, -0.4, 0.4, 0.6])
    found = density_of_states(dense, groups, energies, 0.05, spins=2)
    a, t = 2.46, 2.7
    area, velocity = 3**0.5 / 2 * a**2, 3**0.5 / 2 * a * t
    assert found.total == pytest.approx(2 * area * np.abs(energies) / (np.pi * velocity**2), rel=0.04)


@pytest.mark.parametrize("spinful", [False, True])
def test_shares_by_loops(spinful):
    """Mulliken populations of each group by loops over orbitals; those of all groups add up to 1."""
    structure = positive(small_structure(spinful))
    states, groups = states_of(structure, (2, 1, 1), "shell")
    assert np.abs(states.shares.sum(1) - 1).max() < 1e-12
    for n, k in enumerate(states.mesh.points):
        h, s = (literal(structure, matrix, k) for matrix in ("hamiltonian", "overlap"))
        energies, vectors = scipy.linalg.eigh(h, s)
        assert np.abs(states.energies[n] - energies).max() < 1e-11
        expected = np.zeros_like(states.shares[n])
        for band, c in enumerate(vectors.T):
            for row in range(len(c)):
                population = sum(
                    (c[row].conj() * s[row, column] * c[column]).real for column in range(len(c))
                )
                expected[groups.of_orbital[row], band] += population
        assert np.abs(states.shares[n] - expected).max() < 1e-11


def test_another_gauge_changes_nothing():
    """Orbitals of other phases or a rotated shell have the same density of each group."""
    structure = positive(small_structure())
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = {"hamiltonian": [], "overlap": []}
    atoms = []
    for z in structure.numbers.tolist():
        matrix = [rotation if degree == 1 else -np.eye(2 * degree + 1) for degree in structure.shells[z]]
        atoms.append(scipy.linalg.block_diag(*matrix))
    for matrix, blocks in turned.items():
        for edge, block in zip(structure.edges.tolist(), structure.blocks(matrix), strict=True):
            blocks.append((atoms[edge[3]] @ block @ atoms[edge[4]].T).ravel())
    other = replace(structure, **{matrix: np.concatenate(blocks) for matrix, blocks in turned.items()})
    (one, groups), (two, _) = (states_of(s, (3, 1, 1), "shell") for s in (structure, other))
    energies = np.linspace(one.energies.min(), one.energies.max(), 50)
    first, second = (density_of_states(s, groups, energies, 0.3, spins=2) for s in (one, two))
    assert np.abs(first.projected - second.projected).max() < 1e-9 * first.projected.max()


def test_charges_add_up_to_the_electrons():
    structure = positive(small_structure())
    states, groups = states_of(structure, (3, 1, 1), "shell")
    occupations = (states.energies < np.median(states.energies)).astype(float)
    populations = states.populations(occupations, spins=2)
    electrons = 2 * float(states.mesh.weights @ occupations.sum(1))
    assert populations.sum() == pytest.approx(electrons, abs=1e-10)
    grid = energy_grid(states.energies.min() - 3, states.energies.max() + 3, 0.2)
    found = density_of_states(states, groups, grid, 0.2, spins=2)
    assert found.below[-1] == pytest.approx(2 * states.energies.shape[1], abs=1e-9)
    assert np.trapezoid(found.projected, grid, axis=1).sum() == pytest.approx(found.below[-1], rel=1e-6)
    assert found.total == pytest.approx(found.projected.sum(0))
    # A window in the middle counts the states below it.
    part = density_of_states(states, groups, grid[40:60], 0.2, spins=2)
    assert part.below == pytest.approx(found.below[40:60], abs=1e-7)
    assert part.projected == pytest.approx(found.projected[:, 40:60], abs=1e-7)


def test_a_basis_that_is_linearly_dependent():
    """The same orbital twice: one state is projected out, and the others are those of a single orbital."""
    pairs = {(1, 0, 0, 0, 0): -1.0, (1, 0, 0, 1, 1): -1.0, (1, 0, 0, 0, 1): -1.0, (-1, 0, 0, 0, 1): -1.0}
    overlaps = dict.fromkeys(pairs, 0.2) | {(0, 0, 0, 0, 1): 1.0}
    hoppings = {**pairs, (0, 0, 0, 0, 1): 0.0}
    double = tight_binding(np.diag([2, 10, 10]), [[0.1, 5, 5], [0.1, 6, 5]], hoppings, overlaps)
    single, _ = states_of(chain(), (8, 1, 1))
    found, _ = states_of(double, (8, 1, 1))
    assert (found.dropped, found.energies.shape[1]) == (1, 1)
    assert np.abs(found.energies - single.energies).max() < 1e-12
    assert np.abs(found.shares - 1).max() < 1e-12
    assert found.smallest_overlap < 1e-12


def test_groups():
    structure = small_structure(spinful=True)
    assert len(orbital_groups(structure.numbers, structure.basis, "element").names) == 2
    groups = orbital_groups(structure.numbers, structure.basis, {"first": [2], "others": [1]})
    sizes = structure.basis.sizes[structure.numbers].tolist()
    expected = ["others"] * sizes[0] + ["first"] * sizes[1] + ["rest"] * sizes[2]
    assert [groups.names[n] for n in groups.of_orbital] == expected
    shells = orbital_groups(structure.numbers, structure.basis, "shell")
    rows = np.arange(sizes[0])
    for name in set(shells.names):
        expected = [row for row in rows if shells.names[shells.of_orbital[row]] == name]
        assert len(expected) % 2 == 0  # both spins


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("orbital", "dos_groups=orbital is not one of element, shell; give one of them or a table of atoms"),
        ({"a": 1}, "dos_groups: a is 1; give a list of atoms"),
        ({"a": []}, r"dos_groups: a is \[\]"),
        ({"a": [1.5]}, "dos_groups: a is"),
        ({"a": [0]}, "dos_groups: a has the atom 0, but there are atoms 1 to 3"),
        ({"a": [1, 2], "b": [2]}, "dos_groups: atom 2 is in a and in b; give it once"),
    ],
)
def test_bad_groups(kind, message):
    structure = small_structure()
    with pytest.raises(ConfigError, match=message):
        orbital_groups(structure.numbers, structure.basis, kind)


def test_bad_grids():
    for width in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"dos_width=.* is not above 0"):
            energy_grid(-1.0, 1.0, width)
    with pytest.raises(ConfigError, match="dos_width=1e-06 eV makes 10,000,001 energies in the window"):
        energy_grid(-1.0, 1.0, 1e-6)


def test_ghost_states():
    structure = supercell(graphene(), (2, 1))
    states, _ = states_of(structure, (2, 2, 1))
    assert states.ghosts(0.0) == 0
    low = replace(states, energies=states.energies - 30.0 * (np.arange(4) == 0))
    assert low.ghosts(0.0) == 1
    thin = replace(
        states, mean_overlaps=np.where(np.arange(4) < 2, 0.01, 1.0) * np.ones((len(low.energies), 1))
    )
    assert thin.ghosts(0.0) == 2
    assert thin.ghosts(-100.0) == 0
