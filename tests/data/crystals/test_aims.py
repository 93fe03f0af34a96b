import gzip
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.data.crystals.aims_files import shifts_into_central_cell, write_calculation, write_molecule
from tests.data.crystals.orbital_files import assert_same_crystal, mos2, with_random_matrices
from tracegrad.data.crystal_files.aims import AimsReader, unwrapped_cells
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystals.orbital_blocks import cell_orbitals
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.errors import DataError
from tracegrad.hamiltonian.neighbours import pairs_within


@pytest.fixture(scope="module")
def structure() -> Structure:
    return mos2()


def read(folder, spin=None) -> Structure:
    database = CrystalDatabase(folder, overlap=True, reader=lambda path: AimsReader(path, spin))
    header = database.reader.header(database.names[0])
    found = database[0]
    assert (header.shells, header.spinful, header.fermi_level) == (found.shells, False, None)
    assert np.array_equal(header.numbers, found.numbers)
    return found


@pytest.mark.parametrize("rounding", [1e-9, -1e-9])
def test_a_calculation_is_found_and_read_as_it_is(tmp_path, structure, rounding):
    """The code moves S into the central cell; Mo, at 1/2, is moved or not depending on rounding."""
    shifts = shifts_into_central_cell(structure, rounding)
    assert shifts[0].tolist() == [0, 0, 0 if rounding > 0 else -1]
    assert (shifts[1:, 1] == -1).all()
    for name in ("00", "01"):
        write_calculation(structure, tmp_path / name, rounding=rounding)
    for file in (tmp_path / "01").iterdir():
        (tmp_path / "01" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    database = CrystalDatabase(tmp_path, overlap=True)
    assert isinstance(database.reader, AimsReader)
    assert database.names == ["00", "01"]
    for found in database:
        assert found.fermi_level is None
        assert_same_crystal(found, structure)
    without = CrystalDatabase(tmp_path)[0]
    assert without.overlap is None
    np.testing.assert_array_equal(without.hamiltonian, database[0].hamiltonian)
    files = database.reader.files("00")
    assert [path.name for path in files] == [
        "geometry.in",
        "basis-indices.out",
        "rs_indices.out",
        "rs_overlap.out",
        "rs_hamiltonian.out",
    ]


def test_spin_orbit_coupling_is_not_in_the_matrices(tmp_path, structure):
    folder = write_calculation(structure, tmp_path / "run")
    reader = AimsReader(folder)
    assert reader.notes("run") == []
    with (folder / "control.in").open("a") as file:
        file.write("include_spin_orbit  # scalar in rs_hamiltonian.out\n")
    assert reader.notes("run") == ["without the spin-orbit coupling of the calculation"]


def test_shifts_do_not_depend_on_the_shape_of_the_cell():
    """Random atoms, many at the border of skewed cells, with overlaps that decrease with distance."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        lattice = np.diag(random.uniform(3, 9, 3)) + np.triu(random.uniform(-9, 9, (3, 3)), 1)
        positions = random.choice([-0.5, 0.0, 0.25, 0.5, 0.9], size=(4, 3)) @ lattice
        positions += 0.1 * random.normal(size=(4, 3))
        edges, lengths = pairs_within(positions, lattice, 6.0)
        shifts = random.integers(-2, 3, size=(4, 3))
        moved = np.concatenate(
            [edges[:, :3] - shifts[edges[:, 4]] + shifts[edges[:, 3]], edges[:, 3:]], axis=1
        )
        orbitals = cell_orbitals(np.ones(4, dtype=np.int64), [[0]] * 4, lambda m: 1, "test")
        found = unwrapped_cells(orbitals, moved, np.exp(-lengths), positions, lattice, "test")
        np.testing.assert_array_equal(found, edges[:, :3])


def test_atoms_far_from_the_central_cell(tmp_path, structure):
    """Each atom is given in another cell; R of the blocks is that between the given positions."""
    moves = np.array([[2, 0, 0], [0, -1, 0], [-3, 1, 0]])
    edges = structure.edges.copy()
    edges[:, :3] += moves[edges[:, 3]] - moves[edges[:, 4]]
    order = edge_order(edges)
    blocks = {m: structure.blocks(m) for m in ("hamiltonian", "overlap")}
    moved = replace(
        structure,
        positions=structure.positions + moves @ structure.lattice,
        edges=edges[order],
        **{m: np.concatenate([blocks[m][n].ravel() for n in order]) for m in blocks},
    )
    assert_same_crystal(read(write_calculation(moved, tmp_path)), moved)


def test_collinear(tmp_path):
    up, down = mos2(), replace(mos2(seed=1), overlap=mos2().overlap)
    folder = write_calculation(up, tmp_path, down=down)
    assert_same_crystal(read(folder, "up"), up)
    assert_same_crystal(read(folder, "down"), down)
    with pytest.raises(DataError, match=r"a collinear .*choose one with spin=up"):
        read(folder)
    (folder / "rs_hamiltonian.out").write_text("")
    with pytest.raises(DataError, match=r"has rs_hamiltonian\.out and a file of spin up or down"):
        read(folder, "up")
    (folder / "rs_hamiltonian_up.out").unlink()
    (folder / "rs_hamiltonian_dn.out").unlink()
    with pytest.raises(DataError, match="not a collinear"):
        read(folder, "up")


def test_fractional_positions(tmp_path, structure):
    folder = write_calculation(structure, tmp_path)
    fractions = structure.positions @ np.linalg.inv(structure.lattice)
    lines = ["lattice_vector " + " ".join(map(str, row)) for row in structure.lattice.tolist()]
    lines += [f"atom_frac {x} {y} {z} {s}" for (x, y, z), s in zip(fractions, ("Mo", "S", "S2"), strict=True)]
    (folder / "geometry.in").write_text("\n".join(lines))
    assert_same_crystal(read(folder), structure)


def molecule() -> Structure:
    """H and S of all pairs of four atoms, in the box of the reader."""
    edges = np.array([[0, 0, 0, i, j] for i, j in product(range(4), repeat=2)])
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.3], [0.0, 1.9, 0.9], [0.3, 0.1, 5.3]])
    structure = Structure(
        "molecule",
        np.array([42, 16, 16, 42]),
        positions,
        (40.0 + 2 * 5.3) * np.eye(3),
        {16: (0, 1), 42: (0, 0, 1, 2)},
        False,
        None,
        edges[edge_order(edges)],
    )
    return with_random_matrices(structure)


def test_molecules(tmp_path):
    structure = molecule()
    folder = write_molecule(structure, tmp_path)
    assert_same_crystal(read(folder), structure, tolerance=1e-8)
    text = (folder / "hamiltonian.out").read_text()
    for changed, message in [
        (
            text[: len(text) // 2].rsplit("\n", 1)[0],
            r"numbers, but the triangle of 28 orbitals has 406 rows of 3",
        ),
        (text.replace("     1     2 ", "     1     1 "), "not each pair of 28 orbitals has one row"),
        (text.replace("     1     2 ", "     1    29 "), "not each pair of 28 orbitals has one row"),
        (text.replace("     1     2 ", "     1     x "), "could not convert"),
    ]:
        (folder / "hamiltonian.out").write_text(changed)
        with pytest.raises(DataError, match=rf"hamiltonian\.out: .*{message}"):
            read(folder)


def test_fortran_leaves_out_the_e_of_exponents_of_three_digits(tmp_path, structure):
    folder = write_calculation(structure, tmp_path)
    path = folder / "rs_hamiltonian.out"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], "  0.1234567890123456-100"]))
    assert_same_crystal(read(folder), structure)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("rs_indices.out", "n_basis:           ", "n_basis: 1", "has 118 orbitals, but basis-indices.out 18"),
        ("rs_indices.out", "cell_index", "cells", "has 'cells' where cell_index is expected"),
        ("rs_indices.out", "index_hamiltonian(2", "index_hamiltonian(3", "is expected"),
        ("rs_indices.out", " 0\n", "\n", "ends after .* whole numbers; the file is truncated"),
        ("rs_indices.out", "999999999 ", "99999999x ", "not understood"),
        (
            "rs_hamiltonian.out",
            "E-01\n",
            "E-01\n 1.0\n",
            "values, but rs_indices.out .*truncated or of another",
        ),
        ("rs_overlap.out", "E-04\n", "E-04x\n", "could not convert"),
        ("rs_overlap.out", "  0.0000000000000000E+00", "NaN", "is not finite"),
        (
            "basis-indices.out",
            "    1 atomic     1 ",
            "    1 atomic     2 ",
            "orbital 1 .* is not of a whole shell",
        ),
        ("basis-indices.out", "  18 atomic", "  19 atomic", "is not of a whole shell"),
        ("basis-indices.out", "   1  -1\n", "   1   0\n", "is not of a whole shell"),
        ("basis-indices.out", "   1  -1\n", "   1\n", "not understood"),
        ("geometry.in", "atom 0.0", "empty 0.0", "line 6: not understood .empty sites"),
        ("geometry.in", " Mo ", " metal ", "line 5: .*'metal' starts with no symbol"),
        ("geometry.in", "lattice_vector 3.16", "#", "3 atoms and 2 lattice vectors"),
        (
            "geometry.in",
            "lattice_vector",
            "#",
            "has no lattice vectors, but the matrices are those of a crystal",
        ),
        ("control.in", "relax_geometry none", "relax_geometry bfgs 1e-2", "relax_geometry moves the atoms"),
    ],
)
def test_files_that_do_not_fit(tmp_path, structure, file, old, new, message):
    folder = write_calculation(structure, tmp_path)
    text = (folder / file).read_text()
    assert old in text
    everywhere = old == "lattice_vector"
    (folder / file).write_text(text.replace(old, new) if everywhere else new.join(text.rsplit(old, 1)))
    with pytest.raises(DataError, match=message) as caught:
        read(folder)
    assert str(caught.value).startswith(str(folder / file))


def test_files_that_are_missing(tmp_path, structure):
    for name in ("geometry.in", "basis-indices.out", "rs_overlap.out", "rs_hamiltonian.out"):
        folder = write_calculation(structure, tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(DataError, match=rf"{name}: cannot be read \(No such file or directory\)"):
            CrystalDatabase(folder, overlap=True)[0]
        with pytest.raises(DataError, match=rf"{name}: cannot be read"):
            CrystalDatabase(folder, overlap=True).reader.check_files(name, "hamiltonian")


def test_positions_of_another_calculation(tmp_path, structure):
    folder = write_calculation(structure, tmp_path)
    text = (folder / "geometry.in").read_text().replace("7.4500000000000002", "3.4500000000000002")
    (folder / "geometry.in").write_text(text)
    with pytest.raises(DataError, match="contradict"):
        read(folder)
