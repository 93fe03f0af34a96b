"""Checks of converted matrices, on a crystal whose matrices turn with it by construction."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.data.crystals.scfout import SHELLS, small_structure
from tests.data.crystals.test_angular_momentum import functions
from tracegrad.data.crystals.angular_momentum import orbital_generators
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.conversion_checks import (
    RotatedCopies,
    check_bands,
    check_matrices,
    one_sided_pairs,
)
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.structure import Structure, species_entries

PAULI = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])


def crystal(
    turned: np.ndarray | None = None, *, spinful: bool = False, name: str = "one", seed: int = 0
) -> Structure:
    """H and S of a pair are products of the orbitals in the direction of the bond; spin-orbit coupling is on-site."""
    structure = small_structure(spinful, name=name, seed=seed)
    q = np.eye(3) if turned is None else turned
    x, lattice = structure.positions @ q.T, structure.lattice @ q.T
    blocks: dict[str, list[np.ndarray]] = {"hamiltonian": [], "overlap": []}
    for *cell, i, j in structure.edges.tolist():
        shells = [SHELLS[int(structure.numbers[atom])] for atom in (i, j)]
        vector = x[j] + np.array(cell) @ lattice - x[i]
        r = np.linalg.norm(vector)
        if r < 1e-6:
            overlap = np.eye(sum(2 * degree + 1 for degree in shells[0]))
            h = -3.0 * overlap + sum(0.1 * np.outer(y, y) for y in _neighbours(structure, x, i, shells[0]))
        else:
            rows, columns = (
                np.concatenate([functions(vector[None] / r)[degree][:, 0] for degree in one])
                for one in shells
            )
            parity = np.concatenate([np.full(2 * degree + 1, (-1.0) ** degree) for degree in shells[1]])
            overlap = 0.1 * np.exp(-0.3 * r) * np.outer(rows, parity * columns)
            h = -4.0 * overlap
        if spinful:
            h = np.kron(np.eye(2), h)
            if r < 1e-6:
                g = orbital_generators(shells[0])
                h = h + 0.2j * sum(np.kron(PAULI[a], g[a]) for a in range(3))
        blocks["hamiltonian"].append(h.ravel())
        blocks["overlap"].append(overlap.ravel())
    entries = {matrix: np.concatenate(parts) for matrix, parts in blocks.items()}
    return replace(structure, positions=x, lattice=lattice, **entries)


def _neighbours(structure: Structure, x: np.ndarray, i: int, shells: tuple[int, ...]) -> list[np.ndarray]:
    vectors = (x[np.arange(len(x)) != i] - x[i]).copy()
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    return list(np.concatenate([functions(vectors)[degree] for degree in shells]).T)


def wrong(structure: Structure) -> list[str]:
    return [one.text for one in check_matrices(structure) if not one.passed]


def changed(structure: Structure, matrix: str, **factors: np.ndarray) -> Structure:
    """Signs, or another order, of the orbitals of sulphur (s, x, y, z)."""
    entries = getattr(structure, matrix).copy()
    basis = structure.basis_of(matrix)
    for chosen, where in species_entries(structure.edges, structure.numbers, basis):
        blocks = entries[where]
        for side, axis in ((3, 1), (4, 2)):
            if structure.numbers[structure.edges[chosen[0], side]] == 16:
                blocks = np.take(blocks, factors.get("order", np.arange(4)), axis=axis)
                signs = factors.get("signs", np.ones(4))
                blocks = blocks * (signs[:, None] if axis == 1 else signs)
        entries[where] = blocks
    return replace(structure, **{matrix: entries})


@pytest.mark.parametrize("spinful", [False, True])
def test_right_matrices_pass(spinful: bool) -> None:
    structure = crystal(spinful=spinful)
    assert wrong(structure) == []
    assert len(check_matrices(structure)) == 6
    assert len(check_matrices(replace(structure, overlap=None))) == 2
    assert len(check_matrices(replace(structure, hamiltonian=None))) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"signs": np.array([1, -1, -1, 1])},
        {"signs": np.array([1, 1, -1, 1])},
        {"order": np.array([0, 2, 3, 1])},
        {"order": np.array([0, 3, 1, 2])},
    ],
)
def test_wrong_orders_and_signs_show_in_the_overlaps(change: dict[str, np.ndarray]) -> None:
    (text,) = wrong(changed(crystal(), "overlap", **change))
    assert "overlaps are symmetric about their bonds to" in text
    assert "order or the signs of the orbitals are wrong" in text


def test_atoms_that_have_moved_to_another_cell() -> None:
    structure = crystal()
    positions = structure.positions.copy()
    positions[1] += structure.lattice[0]
    texts = wrong(replace(structure, positions=positions))
    assert any("positions and R do not belong together" in text for text in texts)


def test_hermiticity() -> None:
    structure = crystal()
    for matrix, letter in (("hamiltonian", "H"), ("overlap", "S")):
        entries = getattr(structure, matrix).copy()
        entries[-3] += 0.01
        texts = wrong(replace(structure, **{matrix: entries}))
        assert any(f"{letter} is hermitian to 1.0e-02" in text for text in texts)


def test_shells_and_smallest_eigenvalue() -> None:
    structure = crystal()
    overlap = np.concatenate([block.ravel() for block in structure.blocks("overlap")])
    bad = replace(structure, overlap=overlap.copy())
    bad.overlap[0] = -1.0  # s of molybdenum with itself
    assert any("has to be positive" in text for text in wrong(bad))
    bad = replace(structure, overlap=overlap.copy(), hamiltonian=structure.hamiltonian.copy())
    bad.overlap[1] = bad.overlap[10] = 0.0
    bad.overlap[22] = 1.5
    bad.hamiltonian[22] = 40.0
    texts = wrong(bad)
    assert any("shells or the order of the orbitals are wrong" in text for text in texts)
    assert any(
        "the on-site levels of a shell lie within" in text and "more than 30" in text for text in texts
    )


def test_pairs_of_one_matrix() -> None:
    structure = crystal()
    entries = {matrix: getattr(structure, matrix).copy() for matrix in ("hamiltonian", "overlap")}
    one = replace(structure, **entries)
    for edge, h, s in zip(one.edges.tolist(), one.blocks("hamiltonian"), one.blocks("overlap"), strict=True):
        h *= edge not in ([1, 0, 0, 1, 1], [-1, 0, 0, 1, 1])
        s *= edge not in ([1, 0, 0, 0, 2], [-1, 0, 0, 2, 0], [1, 1, 0, 2, 2], [-1, -1, 0, 2, 2])
    blocks = {matrix: one.blocks(matrix) for matrix in entries}
    one = replace(
        one, **{matrix: np.concatenate([b.ravel() for b in parts]) for matrix, parts in blocks.items()}
    )
    h, s = one_sided_pairs(one)
    assert h.startswith("4 of 45 pairs have H, up to ")
    assert s.startswith("2 of 45 pairs have S, up to ")
    assert one_sided_pairs(structure) == []


def test_bands_of_the_code() -> None:
    structure = crystal()
    k = np.random.default_rng(0).random((3, 3))
    solved = [
        np.linalg.eigvals(
            np.linalg.solve(
                *(BlochMatrix(structure, one).at(p).toarray() for one in ("overlap", "hamiltonian"))
            )
        )
        for p in k
    ]
    levels = np.sort(np.real(solved))[:, :12]
    both = np.stack([levels + 1, levels])

    def check(energies: np.ndarray, spin: str | None = None, absolute: bool = True):
        return check_bands(structure, ReferenceBands("eig.txt", k, energies, absolute), spin)

    right = check(levels[None])
    assert right.passed
    assert "eig.txt by at most" in right.text
    assert "(12 bands, 3 k)" in right.text
    assert check(both, "down").passed
    assert not check(both, "up").passed
    assert check(both, "up", absolute=False).passed
    assert "rydberg taken for hartree" in check(levels[None] / 2).text
    assert "hartree taken for rydberg" in check(2 * levels[None]).text
    assert "wrong unit, orders or signs" in check(levels[None] + np.arange(12)).text
    bad = replace(structure, overlap=-structure.overlap)
    found = check_bands(bad, ReferenceBands("x", k, levels[None], True))
    assert "S is not positive definite at k = (" in found.text


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("spinful", [False, True])
def test_rotated_copies(spinful: bool, improper: bool) -> None:
    turned = Rotation.from_euler("xyz", [0.4, 1.1, -0.6]).as_matrix() * (-1 if improper else 1)
    first, second = crystal(spinful=spinful), crystal(turned, spinful=spinful, name="two")
    copies = RotatedCopies()
    assert copies.check(first) is None
    found = copies.check(second)
    assert found.passed
    assert "of one, of which this is a rotated copy, by at most" in found.text
    assert float(found.text.split("at most ")[1].split()[0]) < 1e-12
    assert copies.check(replace(first, name="again")) is None
    stretched = replace(second, positions=second.positions * 1.01)
    assert copies.check(stretched) is None


def test_wrong_signs_in_both_copies_do_not_turn() -> None:
    turned = Rotation.from_euler("xyz", [0.4, 1.1, -0.6]).as_matrix()
    signs = np.array([1, -1, -1, 1])
    copies = RotatedCopies()
    copies.check(changed(crystal(), "hamiltonian", signs=signs))
    found = copies.check(changed(crystal(turned), "hamiltonian", signs=signs))
    assert not found.passed
    assert "order or the signs of the orbitals are wrong, or one is no copy" in found.text
