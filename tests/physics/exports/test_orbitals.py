from dataclasses import replace

import numpy as np

from tests.physics.exports.conftest import structure
from tracegrad.physics.exports.orbitals import orbitals_of

# OpenMX's d and f shells, by m
IN_FILE = {0: [0], 1: [1, -1, 0], 2: [0, 2, -2, 1, -1], 3: [0, 1, -1, 2, -2, 3, -3]}


def one_atom(shells: tuple[int, ...], *, spinful: bool = False):
    crystal = structure(spinful=spinful)
    return orbitals_of(
        replace(crystal, numbers=np.array([16]), positions=np.zeros((1, 3)), shells={16: shells})
    )


def test_each_orbital_is_named():
    orbitals = one_atom((0, 0, 1, 2, 3))
    assert orbitals.degree.tolist() == [0, 0, 1, 1, 1] + 5 * [2] + 7 * [3]
    assert orbitals.m.tolist() == [0, 0, *IN_FILE[1], *IN_FILE[2], *IN_FILE[3]]
    assert orbitals.zeta.tolist() == [1, 2] + 15 * [1]


def test_order_of_wannier90():
    orbitals = one_atom((1, 2, 3), spinful=True)
    order = orbitals.wannier90_order
    assert orbitals.spin[order].tolist() == 15 * [0, 1]
    assert orbitals.m[order][::2].tolist() == [0, 1, -1, 0, 1, -1, 2, -2, 0, 1, -1, 2, -2, 3, -3]
    assert orbitals.degree[order][::2].tolist() == 3 * [1] + 5 * [2] + 7 * [3]


def test_order_and_signs_of_siesta():
    orbitals = one_atom((0, 1, 1, 2), spinful=True)
    order = orbitals.siesta_order
    assert orbitals.spin[order].tolist() == 12 * [0] + 12 * [1]
    assert orbitals.m[order][:12].tolist() == [0, -1, 0, 1, -1, 0, 1, -2, -1, 0, 1, 2]
    assert orbitals.zeta[order][:12].tolist() == [1, 1, 1, 1, 2, 2, 2] + 5 * [1]
    assert orbitals.siesta_signs[order][:12].tolist() == [1, -1, 1, -1, -1, 1, -1, 1, -1, 1, -1, 1]
