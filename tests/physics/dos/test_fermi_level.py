"""Fermi levels that are known in closed form."""

import numpy as np
import pytest
from scipy.special import erfc, expit

from tests.physics.bands.toys import chain, graphene
from tracegrad.errors import ConfigError
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos.fermi_level import count_fermi_level
from tracegrad.physics.dos.kmesh import k_mesh
from tracegrad.physics.dos.mesh_states import mesh_states
from tracegrad.physics.dos.orbital_groups import orbital_groups


def counted(structure, counts, electrons, **settings):
    mesh = k_mesh(structure.lattice, periodic_axes(structure.edges), counts)
    states = mesh_states(structure, mesh, orbital_groups(structure.numbers, structure.basis, "element"))
    return count_fermi_level(states.energies, mesh.weights, electrons, spins=2, **settings)


@pytest.mark.parametrize("smearing", ["gaussian", "fermi-dirac"])
@pytest.mark.parametrize("electrons", [0.5, 1.0, 1.4])
def test_a_chain(smearing, electrons):
    """E = -2 cos k without overlap: with n electrons the Fermi vector is pi n / 2."""
    found = counted(chain(overlap=0.0), (400, 1, 1), electrons, smearing=smearing, width=0.01)
    assert found.metal
    assert found.level == pytest.approx(-2 * np.cos(np.pi * electrons / 2), abs=2e-3)
    assert (found.gap, found.direct_gap, found.bands) == (0.0, None, (1, 1))


def test_a_chain_with_overlap():
    """At half filling k is a quarter of the zone, where neither hopping nor overlap counts."""
    assert counted(chain(), (400, 1, 1), 1.0, width=0.01).level == pytest.approx(0, abs=2e-3)


def test_graphene_at_half_filling():
    """The Dirac point is at the energy of the orbital, with any overlap; without K on the mesh there is a gap."""
    found = counted(graphene(on_site=-0.7, overlap=0.0), (30, 30, 1), 2.0, smearing="gaussian", width=0.02)
    assert found.level == pytest.approx(-0.7, abs=1e-9)
    found = counted(graphene(overlap=0.0), (31, 31, 1), 2.0)
    assert (found.metal, found.bands) == (False, (1, 2))
    assert found.level == pytest.approx(0, abs=1e-9)
    assert found.gap == pytest.approx(2 * found.conduction)
    assert found.valence_point == found.conduction_point == found.direct_point


@pytest.mark.parametrize(
    ("smearing", "f"), [("gaussian", lambda x: erfc(x) / 2), ("fermi-dirac", lambda x: expit(-x))]
)
def test_occupations_add_up_to_the_electrons(smearing, f):
    energies = np.sort(np.random.default_rng(0).normal(size=(7, 5)), axis=1)
    weights = np.random.default_rng(1).random(7)
    weights /= weights.sum()
    found = count_fermi_level(energies, weights, 4.3, spins=2, smearing=smearing, width=0.3)
    total = sum(
        2 * w * f((e - found.level) / 0.3) for w, row in zip(weights, energies, strict=True) for e in row
    )
    assert total == pytest.approx(4.3, abs=1e-8)


def test_indirect_gaps():
    energies = np.array([[-2.0, 0.0, 3.0], [-2.0, -1.0, 1.5], [-2.0, 0.5, 2.0]])
    found = count_fermi_level(energies, np.full(3, 1 / 3), 2.0, spins=1, smearing=None)
    assert not found.metal
    assert (found.level, found.gap, found.direct_gap) == (1.0, 1.0, 1.5)
    assert (found.valence_point, found.conduction_point, found.direct_point) == (2, 1, 2)
    assert (found.valence, found.conduction, found.bands) == (0.5, 1.5, (2, 3))


ENERGIES = np.array([[-1.0, 0.2], [-1.0, 0.4], [0.3, 0.5]])


@pytest.mark.parametrize(
    ("electrons", "settings", "message"),
    [
        (2.0, {"smearing": None}, "toy: with 2 electrons the bands 1 and 2 overlap by 0.1000 eV, so it is a metal"),
        (3.0, {"smearing": None}, "toy: 3 electrons fill band 2 only in part, so it is a metal; set smearing="),
        (4.0, {}, "toy: 4 electrons do not fit 2 bands of 2 each; correct electrons or valence"),
        (-1.0, {}, "toy: -1 electrons do not fit"),
        (2.0, {"smearing": "cold"}, "smearing=cold is not one of gaussian, fermi-dirac and null"),
        (2.0, {"width": 0.0}, "smearing_width=0.0 is not above 0"),
    ],
)  # fmt: skip
def test_bad_input(electrons, settings, message):
    with pytest.raises(ConfigError, match=message):
        count_fermi_level(ENERGIES, np.full(3, 1 / 3), electrons, spins=2, name="toy", **settings)
