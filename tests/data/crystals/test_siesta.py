import gzip
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.linalg import eigh

from tests.data.crystals.orbital_files import assert_same_crystal, mos2, with_random_matrices
from tests.data.crystals.siesta_files import (
    LEVEL,
    hsx,
    ints,
    orb_indx,
    part,
    record,
    run_bytes,
    tshs,
    write_run,
)
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.siesta.reader import SiestaReader
from tracegrad.data.crystals.bloch_matrix import BlochMatrix
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.units import ANGSTROM_PER_BOHR


@pytest.fixture(scope="module")
def structure() -> Structure:
    return mos2()


@pytest.fixture(scope="module")
def content(structure) -> bytes:
    return run_bytes(structure)


def read(folder, spin=None) -> Structure:
    database = CrystalDatabase(folder, overlap=True, reader=lambda path: SiestaReader(path, spin))
    header = database.reader.header(database.names[0])
    found = database[0]
    assert (header.shells, header.spinful, header.fermi_level) == (
        found.shells,
        found.spinful,
        found.fermi_level,
    )
    assert np.array_equal(header.numbers, found.numbers)
    return found


def test_a_run_is_found_and_read_as_it_is(tmp_path, structure, content):
    write_run(structure, tmp_path / "db" / "00", content)
    write_run(structure, tmp_path / "db" / "01", content)
    for path in (tmp_path / "db" / "01").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    database = CrystalDatabase(tmp_path / "db", overlap=True)
    assert isinstance(database.reader, SiestaReader)
    assert database.names == ["00", "01"]
    for found in database:
        assert_same_crystal(found, structure)
        assert found.fermi_level == pytest.approx(LEVEL, abs=1e-12)
    assert [path.name for path in database.files("00")] == ["run.XV", "run.ORB_INDX", "run.HSX"]
    without = CrystalDatabase(tmp_path / "db")[0]
    assert without.overlap is None
    np.testing.assert_array_equal(without.hamiltonian, database[0].hamiltonian)


@pytest.mark.parametrize("options", [{"version": 2}, {"true": -1}, {"version": 2, "true": -1}])
def test_version_2_and_the_true_of_another_compiler(tmp_path, structure, options):
    assert_same_crystal(read(write_run(structure, tmp_path, run_bytes(structure, **options))), structure)


def test_single_precision(tmp_path, structure):
    found = read(write_run(structure, tmp_path, run_bytes(structure, double=False)))
    assert_same_crystal(found, structure, tolerance=1e-5)


def test_spin_orbit_coupling(tmp_path):
    structure = mos2(spinful=True)
    assert_same_crystal(read(write_run(structure, tmp_path)), structure)


def test_noncollinear(tmp_path):
    """uu = H1, dd = H2, ud = H3 - i H4, du = H3 + i H4."""
    parts = [mos2(seed=seed) for seed in range(4)]
    found = read(write_run(parts[0], tmp_path, hsx(parts[0], [part(one) for one in parts])))
    assert found.spinful
    for block, uu, dd, re, im in zip(
        found.blocks("hamiltonian"), *(one.blocks("hamiltonian") for one in parts), strict=True
    ):
        expected = np.block([[uu, re - 1j * im], [re + 1j * im, dd]])
        np.testing.assert_allclose(block, expected, rtol=0, atol=1e-12)


def test_collinear(tmp_path):
    up, down = mos2(), replace(mos2(seed=1), overlap=mos2().overlap)
    folder = write_run(up, tmp_path, hsx(up, [part(up), part(down)]))
    assert_same_crystal(read(folder, "up"), up)
    assert_same_crystal(read(folder, "down"), down)
    with pytest.raises(DataError, match=r"run\.HSX: a collinear .*choose one with spin=up"):
        read(folder)
    with pytest.raises(ConfigError, match="spin is 'left'; up or down is needed"):
        SiestaReader(folder, "left")
    write_run(up, tmp_path / "other")
    with pytest.raises(DataError, match=r"run\.HSX: not a collinear .* no spin down; leave spin out"):
        read(tmp_path / "other", "down")


def test_pairs_that_only_h_has_keep_an_overlap_of_zero(tmp_path, structure):
    far = structure.edges[:, 0] == 1
    far |= structure.edges[:, 0] == -1
    starts = block_starts(structure.edges[:, 3:].T, structure.numbers, structure.basis)
    overlap = np.where(np.repeat(far, np.diff(starts)), 0.0, structure.overlap)
    structure = replace(structure, overlap=overlap)
    assert_same_crystal(read(write_run(structure, tmp_path)), structure)


def test_elements_without_xv(tmp_path, structure, content):
    folder = write_run(structure, tmp_path / "a", content)
    (folder / "run.XV").unlink()
    assert_same_crystal(read(folder), structure)
    folder = write_run(structure, tmp_path / "b", run_bytes(structure, labels=["metal", "S_2"]))
    assert_same_crystal(read(folder), structure)
    (folder / "run.XV").unlink()
    with pytest.raises(DataError, match=r"the label 'metal' of a species .* run\.XV.*copy it there"):
        read(folder)


def alone() -> Structure:
    """The molecule S2 in a box, with all pairs in cell 0."""
    edges = np.array([[0, 0, 0, i, j] for i, j in product(range(2), repeat=2)])
    structure = Structure(
        "s2",
        np.array([16, 16]),
        np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 2.3]]),
        9.0 * np.eye(3),
        {16: (0, 1)},
        False,
        None,
        edges[edge_order(edges)],
    )
    return with_random_matrices(structure)


def test_a_run_at_gamma_is_read_if_no_orbital_reaches_an_image(tmp_path):
    """The images of the atoms are 7 angstrom away at least."""
    structure = alone()
    folder = write_run(structure, tmp_path, run_bytes(structure, labels=["S"]))
    (folder / "run.ORB_INDX").write_text(orb_indx(structure, 3.4 / ANGSTROM_PER_BOHR))
    assert_same_crystal(read(folder), structure)
    (folder / "run.ORB_INDX").write_text(orb_indx(structure, 3.6 / ANGSTROM_PER_BOHR))
    with pytest.raises(DataError, match=r"a run at Gamma only.*reach an image .*, 7\.00 angstrom"):
        read(folder)
    (folder / "run.ORB_INDX").write_text(orb_indx(mos2()))
    with pytest.raises(DataError, match=r"run\.ORB_INDX: its 18 orbitals are not those of run\.HSX"):
        read(folder)
    (folder / "run.ORB_INDX").write_text(orb_indx(structure).replace("5.000", "*****"))
    with pytest.raises(DataError, match=r"run\.ORB_INDX: not understood"):
        read(folder)
    (folder / "run.ORB_INDX").unlink()
    with pytest.raises(DataError, match=r"run\.HSX: a run at Gamma only.*run\.ORB_INDX.* copy it there"):
        read(folder)


def test_truncated_files(tmp_path, structure, content):
    folder = write_run(structure, tmp_path, content)
    ends = [*range(0, 600, 37), *range(600, len(content), len(content) // 40), len(content) - 1]
    for end in ends:
        (folder / "run.HSX").write_bytes(content[:end])
        with pytest.raises(DataError, match=r"run\.HSX: ends within the .*bytes are missing"):
            read(folder)
    (folder / "run.HSX").write_bytes(content + b"\0")
    with pytest.raises(DataError, match=r"run\.HSX: something stands behind the matrices"):
        read(folder)
    (folder / "run.HSX").unlink()
    packed = gzip.compress(content)
    (folder / "run.HSX.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"run\.HSX\.gz: cannot be read"):
        read(folder)


def test_other_versions(tmp_path, structure, content):
    folder = write_run(structure, tmp_path, content)
    for start, message in [
        (record(ints(26, 650, 1, 100)), r"version 0 of the file.*run a newer SIESTA \(5\.0 or later\)"),
        (record(ints(3)), r"version 3; versions 1 and 2 of \.HSX files are read"),
        (b"\0\0\0\x04\0\0\0\x01\0\0\0\x04", "the first record has 67108864 bytes, not 4"),
    ]:
        (folder / "run.HSX").write_bytes(start + content[12:])
        with pytest.raises(DataError, match=message):
            read(folder)


def test_damage_in_the_header_is_refused_or_changes_nothing(tmp_path, structure, content):
    """Damaged counts raise no other error and allocate no excessive memory."""
    folder = write_run(structure, tmp_path, content)
    random = np.random.default_rng(0)
    for position in range(0, 1000, 17):
        damaged = bytearray(content)
        damaged[position] ^= int(random.integers(1, 256))
        (folder / "run.HSX").write_bytes(damaged)
        message = str(folder)
        try:
            read(folder)
        except DataError as error:
            message = str(error)
        assert message.startswith(str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"charge": 0.0}, "species Mo has no electrons; ghost atoms are not supported"),
        ({"labels": ["Mo", "Mo"]}, "the species Mo and Mo of Mo have different orbitals"),
    ],
)
def test_species(tmp_path, structure, options, message):
    folder = write_run(structure, tmp_path, run_bytes(structure, **options))
    (folder / "run.XV").unlink()
    with pytest.raises(DataError, match=message):
        read(folder)


def test_an_xv_file_of_another_run(tmp_path, structure, content):
    folder = write_run(structure, tmp_path, content)
    lines = (folder / "run.XV").read_text().splitlines()
    for changed, message in [
        (lines[:-1], "has 2 atoms whose species are not those of the 3 atoms in run.HSX"),
        ([*lines[:-1], lines[-1].replace("    16", "   -16")], "atom 3 has atomic number -16; ghost atoms"),
        ([*lines[:-1], "x y"], "not understood"),
    ]:
        (folder / "run.XV").write_text("\n".join(changed))
        with pytest.raises(DataError, match=rf"run\.XV: {message}"):
            read(folder)


def test_two_species_of_one_element_with_other_radii(tmp_path):
    """The files of S2 say that both atoms are of one species; those of two species differ in radii alone."""
    structure = alone()
    content = hsx(structure, [part(structure)], labels=["S_1", "S_2"], kinds=[1, 2])
    folder = write_run(structure, tmp_path, content)
    (folder / "run.XV").unlink()
    text = orb_indx(structure, 3.0, kinds=[1, 2])
    (folder / "run.ORB_INDX").write_text(text)
    assert_same_crystal(read(folder), structure)
    lines = text.splitlines()
    lines[-5] = lines[-5].replace(" 3.000", " 3.100")
    (folder / "run.ORB_INDX").write_text("\n".join(lines))
    with pytest.raises(DataError, match="the species S_1 and S_2 of S have different orbitals"):
        read(folder)


@pytest.mark.parametrize("spinful", [False, True])
def test_tshs(tmp_path, spinful):
    structure = mos2(spinful=spinful)
    folder = write_run(structure, tmp_path)
    (folder / "run.TSHS").write_bytes(b"not read where there is an .HSX file")
    assert_same_crystal(read(folder), structure)
    content = tshs(structure)
    (folder / "run.TSHS").write_bytes(content)
    (folder / "run.HSX").unlink()
    found = read(folder)
    assert_same_crystal(found, structure)
    assert found.fermi_level == pytest.approx(LEVEL, abs=1e-12)
    for end in (0, 3, 10, 200, len(content) // 2, len(content) - 1):
        (folder / "run.TSHS").write_bytes(content[:end])
        with pytest.raises(DataError, match=r"run\.TSHS: ends within the"):
            read(folder)
    for changed, message in [
        (record(ints(2)) + content[12:], r"another version than 1 of \.TSHS files"),
        (record(ints(3, 18, 99, 1, 0)) + content[12:], r"another version than 1 of \.TSHS files"),
        (tshs(structure, only_overlap=1), "has S but no H"),
        (content + b"\0", "something stands behind the matrices"),
    ]:
        (folder / "run.TSHS").write_bytes(changed)
        with pytest.raises(DataError, match=rf"run\.TSHS: .*{message}"):
            read(folder)
    (folder / "run.TSHS").write_bytes(content)
    (folder / "run.ORB_INDX").write_text(orb_indx(alone()))
    with pytest.raises(DataError, match=r"has 18 orbitals of 3 atoms, which are not those of the \.ORB_INDX"):
        read(folder)
    (folder / "run.ORB_INDX").unlink()
    with pytest.raises(DataError, match=r"run\.TSHS: run\.ORB_INDX, which has the shells .* copy it there"):
        read(folder)


def test_tshs_at_gamma(tmp_path):
    structure = alone()
    folder = write_run(structure, tmp_path, b"")
    (folder / "run.HSX").unlink()
    (folder / "run.TSHS").write_bytes(tshs(structure))
    (folder / "run.ORB_INDX").write_text(orb_indx(structure, 3.4 / ANGSTROM_PER_BOHR))
    assert_same_crystal(read(folder), structure)
    (folder / "run.ORB_INDX").write_text(orb_indx(structure, 3.6 / ANGSTROM_PER_BOHR))
    with pytest.raises(DataError, match=r"a run at Gamma only.*reach an image"):
        read(folder)


def eigenvalues(structure: Structure, k: np.ndarray) -> np.ndarray:
    matrices = [BlochMatrix(structure, matrix).at(k).toarray() for matrix in ("hamiltonian", "overlap")]
    return eigh(*matrices, eigvals_only=True)


@pytest.mark.parametrize("parts", [1, 2])
def test_bands_of_the_run(tmp_path, structure, parts):
    other = replace(mos2(seed=1), overlap=structure.overlap)
    both = [structure, other][:parts]
    folder = write_run(structure, tmp_path, hsx(structure, [part(one) for one in both]))
    reader = SiestaReader(folder, "up" if parts == 2 else None)
    (name,) = reader.places
    assert reader.reference_bands(name) is None
    k = np.array([[0.0, 0.0, 0.0], [0.1, -0.3, 0.0]])
    energies = np.array([[eigenvalues(one, point) for point in k] for one in both])
    rows = [f"{LEVEL}", f"{energies.shape[2]} {parts} {len(k)}"]
    for n in range(len(k)):
        rows.append(f"{n + 1} " + " ".join(f"{e:.9E}" for e in energies[:, n].ravel()))
    (folder / "run.EIG").write_text("\n".join(rows) + "\n")
    cartesian = 2 * np.pi * k @ np.linalg.inv(structure.lattice).T * ANGSTROM_PER_BOHR
    lines = [f"{n} {x:.9E} {y:.9E} {z:.9E} 0.5" for n, (x, y, z) in enumerate(cartesian, 1)]
    (folder / "run.KP").write_text("\n".join(["2", *lines]) + "\n")
    bands = reader.reference_bands(name)
    assert bands.absolute
    np.testing.assert_allclose(bands.k, k, rtol=0, atol=1e-8)
    np.testing.assert_allclose(bands.energies, energies, rtol=0, atol=1e-7)

    for file, changed, message in [
        ("EIG", ["-4.20", *rows[1:]], "is of .* -4.2000 eV, but the binary file of .* -4.2500 eV"),
        ("EIG", [rows[0], rows[1].replace(f" {parts} ", " 4 "), *rows[2:]], "take all files|truncated"),
        ("EIG", rows[:-1], "truncated or damaged"),
        ("EIG", ["-4.25"], "has 1 numbers"),
        ("EIG", [*rows[:-1], rows[-1].replace("2 ", "** ", 1)], "could not convert"),
        ("EIG", [rows[0], rows[1], rows[2][:-6] + " NaN", *rows[3:]], "not finite|truncated"),
        ("KP", ["2", lines[0]], "are not those of the 2 k of run.EIG"),
    ]:
        kept = (folder / f"run.{file}").read_text()
        (folder / f"run.{file}").write_text("\n".join(changed))
        with pytest.raises(DataError, match=message):
            reader.reference_bands(name)
        (folder / f"run.{file}").write_text(kept)
