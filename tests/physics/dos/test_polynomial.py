"""The polynomial method against diagonalisation."""

from dataclasses import replace

import numpy as np
import pytest

from tests.data.crystals.scfout import small_structure
from tests.physics.bands.toys import chain, graphene, positive, supercell
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos import polynomial
from tracegrad.physics.dos.kmesh import k_mesh
from tracegrad.physics.dos.mesh_states import mesh_states
from tracegrad.physics.dos.orbital_groups import orbital_groups
from tracegrad.physics.dos.polynomial import jackson_kernel, polynomial_density


def mesh_of(structure, counts):
    return k_mesh(structure.lattice, periodic_axes(structure.edges), counts)


def every_unit_vector(monkeypatch, structure):
    """All vectors L D^(1/2) e_i in place of random ones: their mean of z z^H is S / size, so nothing is random."""
    size = int(structure.basis.sizes[structure.numbers].sum())

    def columns(factors, pivots, count, random):
        return ((factors.L.toarray() * pivots**0.5) * size**0.5)[factors.perm_c]

    monkeypatch.setattr(polynomial, "_correlated", columns)
    return size


@pytest.mark.parametrize("spinful", [False, True])
def test_moments_without_noise_are_sums_over_states(monkeypatch, spinful):
    """mu_m of a group is the sum of T_m(E) times its Mulliken population over all states, at complex k too."""
    structure = positive(small_structure(spinful))
    size = every_unit_vector(monkeypatch, structure)
    groups, mesh = orbital_groups(structure.numbers, structure.basis, "shell"), mesh_of(structure, (3, 1, 1))
    states = mesh_states(structure, mesh, groups)
    density = polynomial_density(structure, mesh, groups, width=1.0, vectors=size)
    for n, moments in enumerate(density.moments):
        x = (states.energies[n] - moments.centre) / moments.half
        assert np.abs(x).max() < 1
        orders = np.arange(moments.groups.shape[1])
        expected = states.shares[n] @ np.cos(orders * np.arccos(x)[:, None])
        assert np.abs(moments.groups - expected).max() < 1e-9 * size
        assert np.abs(moments.total.mean(0) - expected.sum(0)).max() < 1e-9 * size


def test_the_density_is_that_of_kernels_at_the_energies(monkeypatch):
    structure = graphene(on_site=0.3)
    size = every_unit_vector(monkeypatch, structure)
    groups, mesh = (
        orbital_groups(structure.numbers, structure.basis, "element"),
        mesh_of(structure, (4, 4, 1)),
    )
    energies = np.linspace(-12, 14, 4001)
    density = polynomial_density(structure, mesh, groups, width=0.4, vectors=size)
    found = density.at(energies)
    assert found.total.min() > -1e-12
    assert found.below[-1] == pytest.approx(4, abs=1e-6)
    slopes = np.gradient(found.below, energies)
    assert np.abs(slopes - found.total).max() < 2e-3 * found.total.max()
    states = mesh_states(structure, mesh, groups)
    centre = float((2 * mesh.weights[:, None] * states.energies).sum())
    assert np.trapezoid(found.total * energies, energies) == pytest.approx(centre, abs=0.02)
    variance = np.trapezoid(found.total * energies**2, energies)
    expected = float((2 * mesh.weights[:, None] * states.energies**2).sum())
    assert abs(variance - expected) < 0.4**2  # of the four states


def test_the_statistical_error_is_right():
    """The density of random vectors differs from that of many by about its standard error."""
    structure = supercell(graphene(), (4, 4))
    groups, mesh = (
        orbital_groups(structure.numbers, structure.basis, "element"),
        mesh_of(structure, (2, 1, 1)),
    )
    energies = np.linspace(-5, 8, 60)
    many = polynomial_density(structure, mesh, groups, width=0.4, vectors=800).at(energies)
    few = polynomial_density(structure, mesh, groups, width=0.4, vectors=20).at(energies)
    ratio = np.abs(few.total - many.total) / few.error
    assert 0.3 < np.median(ratio) < 1.5
    assert many.error.max() < few.error.max() / 4


def test_jackson_kernel_by_its_formula():
    found = jackson_kernel(5)
    expected = [
        ((5 - m + 1) * np.cos(np.pi * m / 6) + np.sin(np.pi * m / 6) / np.tan(np.pi / 6)) / 6
        for m in range(5)
    ]
    assert found == pytest.approx(expected, abs=1e-15)
    assert found[0] == 1


def test_small_overlaps_are_refused():
    structure = chain(overlap=0.4999999)
    large = supercell(structure, (3, 1))
    groups, mesh = (
        orbital_groups(large.numbers, large.basis, "element"),
        k_mesh(np.diag([6.0, 10, 10]), np.array([True, False, False]), (2, 1, 1)),
    )
    with pytest.raises(DataError, match=r"below overlap_threshold=1e-05, and the polynomial method cannot"):
        polynomial_density(large, mesh, groups, width=0.5, threshold=1e-5)
    negative = replace(large, overlap=np.where(large.overlap == 1, 1.0, 0.7))
    with pytest.raises(DataError, match="S is not positive definite"):
        polynomial_density(negative, mesh, groups, width=0.5)
    with pytest.raises(ConfigError, match="dos_vectors=1: at least 2 are needed"):
        polynomial_density(large, mesh, groups, width=0.5, vectors=1)
