"""The density matrix against that of a supercell at Gamma, which has no phases."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.special import erfc

from tests.physics.bands.toys import graphene, supercell
from tests.physics.exports.conftest import structure
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import DataError
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos.density_matrix import DensityMatrix, density_matrix
from tracegrad.physics.dos.kmesh import k_mesh

MESH = (4, 5, 1)


def found(structures: list[Structure], electrons: float, **settings) -> DensityMatrix:
    first = structures[0]
    mesh = k_mesh(first.lattice, periodic_axes(first.edges), MESH)
    return density_matrix(structures, mesh, electrons, **settings)


def literal(crystal: Structure, level: float, width: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Energies of a supercell, and the blocks of its f(H) between each atom i of its first cell and each j."""
    large = supercell(crystal, MESH[:2])
    h, s = (BlochMatrix(large, name).at(np.zeros(3)).toarray().real for name in ("hamiltonian", "overlap"))
    energies, states = eigh(h, s)
    density = (states * erfc((energies - level) / width) / 2) @ states.T
    sizes = large.basis.sizes[large.numbers]
    bounds = np.cumsum([0, *sizes])
    blocks = []
    for rx, ry, _, i, j in crystal.edges.tolist():
        atom = ((rx % MESH[0]) * MESH[1] + ry % MESH[1]) * len(crystal.numbers) + j
        blocks.append(density[bounds[i] : bounds[i + 1], bounds[atom] : bounds[atom + 1]])
    return energies, blocks


def test_a_metal_equals_its_supercell():
    crystal, width = structure(), 0.3
    density = found([crystal], 7.0, width=width)
    assert density.counted.metal
    energies, blocks = literal(crystal, density.counted.level, width)
    cells = MESH[0] * MESH[1]
    assert erfc((energies - density.counted.level) / width).sum() / cells == pytest.approx(7.0, abs=1e-8)
    expected = 2 * np.concatenate([block.ravel() for block in blocks])
    np.testing.assert_allclose(density.entries[0], expected, rtol=0, atol=1e-10)
    assert density.electrons == pytest.approx([7.0], abs=1e-8)


def test_both_spins_share_the_electrons():
    """The Fermi level is one for both, and pairs that one of them lacks are 0 there."""
    up = structure()
    down = replace(up, hamiltonian=up.hamiltonian + 0.4 * up.overlap)
    kept = ~(np.abs(up.edges[:, :3]).sum(1) > 1)
    blocks = [block.ravel() for block, keep in zip(down.blocks("hamiltonian"), kept, strict=True) if keep]
    overlap = [block.ravel() for block, keep in zip(down.blocks("overlap"), kept, strict=True) if keep]
    shorter = replace(
        down,
        edges=down.edges[kept],
        hamiltonian=np.concatenate(blocks),
        overlap=np.concatenate(overlap),
    )
    assert 0 < kept.sum() < len(kept)
    density = found([up, down], 7.0, width=0.3)
    for one, entries in zip((up, down), density.entries, strict=True):
        _, blocks = literal(one, density.counted.level, 0.3)
        np.testing.assert_allclose(entries, np.concatenate([b.ravel() for b in blocks]), rtol=0, atol=1e-10)
    assert sum(density.electrons) == pytest.approx(7.0, abs=1e-8)
    assert density.electrons[0] > density.electrons[1]
    mixed = found([up, shorter], 7.0, width=0.3)
    assert np.array_equal(mixed.structures[1].edges, up.edges)
    assert sum(mixed.electrons) == pytest.approx(7.0, abs=1e-8)


def test_an_insulator_and_its_energy():
    """All bands below the gap are filled: D of a bond is that of the occupied states, whatever the smearing is."""
    crystal = graphene(overlap=0.1, on_site=0.5)
    levels = np.where(np.arange(2) == 0, 3.0, -3.0)
    on_site = (crystal.edges[:, :3] == 0).all(1) & (crystal.edges[:, 3] == crystal.edges[:, 4])
    h = crystal.hamiltonian.copy()
    h[on_site] = levels[crystal.edges[on_site, 3]]
    crystal = replace(crystal, hamiltonian=h)
    density = found([crystal], 2.0, smearing=None)
    assert not density.counted.metal
    assert density.electrons == pytest.approx([2.0], abs=1e-12)
    assert np.array_equal(density.entries[0], found([crystal], 2.0).entries[0])
    energy = density.entries[0] @ crystal.hamiltonian
    large = supercell(crystal, MESH[:2])
    matrices = (BlochMatrix(large, name).at(np.zeros(3)).toarray() for name in ("hamiltonian", "overlap"))
    levels = eigh(*matrices, eigvals_only=True)
    assert energy == pytest.approx(2 * levels[: len(levels) // 2].sum() / (MESH[0] * MESH[1]), abs=1e-10)


def test_what_is_refused():
    with pytest.raises(DataError, match="MoS2: density matrices are written without spin and for collinear"):
        found([structure(spinful=True)], 7.0)
    moved = replace(structure(), positions=structure().positions + 0.1)
    with pytest.raises(DataError, match="not two spins of one structure"):
        found([structure(), moved], 7.0)
