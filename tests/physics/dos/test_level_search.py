"""The Fermi level from some bands is that from all bands."""

from dataclasses import replace

import numpy as np
import pytest

from tests.physics.bands.toys import graphene, supercell
from tracegrad.errors import ConfigError
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos.fermi_level import count_fermi_level
from tracegrad.physics.dos.kmesh import k_mesh
from tracegrad.physics.dos.level_search import search_fermi_level
from tracegrad.physics.dos.mesh_states import mesh_states
from tracegrad.physics.dos.orbital_groups import orbital_groups


@pytest.mark.parametrize(("electrons", "metal"), [(72.0, False), (30.0, True), (130.0, True)])
def test_the_same_level_as_from_all_bands(electrons, metal):
    structure = supercell(graphene(), (6, 6))
    # Two sublattices of different energy: a gap at half filling.
    diagonal = (structure.edges[:, :3] == 0).all(1) & (structure.edges[:, 3] == structure.edges[:, 4])
    entries = structure.hamiltonian + np.where(diagonal, 0.8 * (-1) ** structure.edges[:, 3], 0.0)
    structure = replace(structure, hamiltonian=entries)
    mesh = k_mesh(structure.lattice, periodic_axes(structure.edges), (2, 2, 1))
    states = mesh_states(structure, mesh, orbital_groups(structure.numbers, structure.basis, "element"))
    every = count_fermi_level(states.energies, mesh.weights, electrons, spins=2)
    found = search_fermi_level(structure, mesh, electrons, bands=20)
    assert found.metal == every.metal == metal
    assert found.level == pytest.approx(every.level, abs=1e-7)
    assert found.bands == every.bands
    assert found.gap == pytest.approx(every.gap, abs=1e-8)


def test_too_many_electrons():
    structure = supercell(graphene(), (2, 2))
    mesh = k_mesh(structure.lattice, periodic_axes(structure.edges), (1, 1, 1))
    with pytest.raises(ConfigError, match="supercell: 17 electrons do not fit 8 bands of 2 each"):
        search_fermi_level(structure, mesh, 17.0)
