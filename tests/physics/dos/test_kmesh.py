import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.data.crystals.scfout import small_structure
from tests.physics.bands.toys import HEXAGONAL, LAYER
from tracegrad.errors import ConfigError
from tracegrad.physics.dos.kmesh import has_time_reversal, k_mesh


@pytest.mark.parametrize("counts", [(1, 1, 1), (4, 3, 1), (2, 2, 2), (5, 1, 4)])
def test_one_point_for_k_and_minus_k(counts):
    whole, half = (k_mesh(np.eye(3), np.ones(3, bool), counts, time_reversal=t) for t in (False, True))
    assert whole.weights.sum() == pytest.approx(1)
    assert half.weights.sum() == pytest.approx(1)
    expected = {tuple(p) for p in itertools.product(*map(range, counts))}
    assert {tuple(np.rint(k * counts).astype(int)) for k in whole.points} == expected
    found = []
    for k, weight in zip(half.points, half.weights, strict=True):
        place = np.rint(k * counts).astype(int)
        pair = {tuple(place % counts), tuple(-place % counts)}
        assert weight == pytest.approx(len(pair) / np.prod(counts))
        found += pair
    assert len(found) == len(expected) == len(set(found))


def test_the_default_mesh():
    """Points of graphene are at most 0.04/angstrom apart, and the corner of the zone is one of them."""
    mesh = k_mesh(HEXAGONAL, LAYER)
    assert mesh.counts == (78, 78, 1)
    assert np.abs(mesh.points - [1 / 3, 1 / 3, 0]).max(1).min() < 1e-12
    assert k_mesh(100 * HEXAGONAL, LAYER).counts == (1, 1, 1)
    assert k_mesh(HEXAGONAL, np.zeros(3, bool)).counts == (1, 1, 1)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([2, 2], "is not understood; give three whole numbers"),
        ([2, 2, 0], "is not understood"),
        ([2, 2.5, 1], "is not understood"),
        (12, "is not understood"),
        ("121", "is not understood"),
        (
            [4, 4, 2],
            r"k_mesh=\[4, 4, 2\]: no block connects cells along c, where there is vacuum; give 1 there",
        ),
        ([9000, 9000, 1], "has more than 10,000,000 points"),
    ],
)
def test_bad_meshes(counts, message):
    with pytest.raises(ConfigError, match=message):
        k_mesh(HEXAGONAL, LAYER, counts)


def test_magnetic_structures_need_all_points():
    assert has_time_reversal(small_structure())
    structure = small_structure(spinful=True)
    blocks = []
    for block in structure.blocks("hamiltonian"):
        n, m = block.shape[0] // 2, block.shape[1] // 2
        up, mixed = block[:n, :m], block[:n, m:]
        blocks.append(np.block([[up, mixed], [-mixed.conj(), up.conj()]]).ravel())
    structure = replace(structure, hamiltonian=np.concatenate(blocks))
    assert has_time_reversal(structure)
    magnetic = structure.hamiltonian.copy()
    magnetic[0] += 0.1
    assert not has_time_reversal(replace(structure, hamiltonian=magnetic))
