"""The cache of solved molecules: its content, and its behaviour after kills, damage and a change of the database."""

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests import forked
from tests.experiments.sweeping import wait_for
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.molecules.database import Molecule
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.physics.molecules import cached_molecules
from tracegrad.physics.molecules.cached_molecules import COMMIT
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.molecule_cache import (
    DamagedCache,
    MoleculeCache,
    about_database,
    molecule_cache_paths,
)
from tracegrad.physics.molecules.solved import SOLVED, solve_molecule

SUFFIX = SOLVED.suffix

DEMO = database_path("embedded:demo_dynamic.db")


@pytest.fixture
def database(tmp_path: Path) -> QH9Database:
    shutil.copy(DEMO, tmp_path / "demo.db")
    return QH9Database(tmp_path / "demo.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"cache{SUFFIX}"


class Counted:
    """Counts the molecules that are solved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.rows: list[int] = []
        original = cached_molecules._compute

        def compute(database, kind, row):
            self.rows.append(row)
            return original(database, kind, row)

        monkeypatch.setattr(cached_molecules, "_compute", compute)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def prepare_references(database: QH9Database, rows, paths: list[Path], **options):
    return cached_molecules.prepare_molecules(database, SOLVED, rows, paths, **options)


def cache_of(database: QH9Database, path: Path, **options) -> MoleculeCache:
    return MoleculeCache(path, SOLVED, about_database(database.path, SOLVED), **options)


def prepare(database: QH9Database, rows, path: Path, **options):
    references = prepare_references(database, rows, [path], **options)
    references.close()
    return references


def test_a_solved_molecule_solves_its_problem():
    molecule = QH9Database(DEMO)[300]
    solved = solve_molecule(molecule, "here")
    n = solved.size
    overlap = np.zeros((n, n))
    overlap[np.tril_indices(n)] = solved.overlap
    overlap += np.tril(overlap, -1).T
    expected = build_molecule(molecule.numbers, molecule.positions).intor("int1e_ovlp")
    np.testing.assert_allclose(overlap, expected, atol=1e-14)
    assert np.array_equal(solved.hamiltonian, molecule.hamiltonian[np.tril_indices(n)])
    np.testing.assert_allclose(
        molecule.hamiltonian @ solved.orbitals, overlap @ solved.orbitals * solved.energies, atol=1e-9
    )
    np.testing.assert_allclose(solved.orbitals.T @ overlap @ solved.orbitals, np.eye(n), atol=1e-10)
    assert (np.diff(solved.energies) >= 0).all()
    assert 2 * solved.occupied == molecule.numbers.sum()


def test_molecules_without_a_solution_are_named():
    molecule = QH9Database(DEMO)[0]
    odd = Molecule(0, molecule.numbers[:2], molecule.positions[:2], np.eye(19))
    with pytest.raises(DataError, match="here: 9 electrons cannot be all paired"):
        solve_molecule(odd, "here")
    double = Molecule(
        0, molecule.numbers, molecule.positions * np.array([[1], [1], [1]]), molecule.hamiltonian
    )
    double.positions[2] = double.positions[1]
    with pytest.raises(DataError, match="here: the overlap of its basis functions is not positive definite"):
        solve_molecule(double, "here")


def test_rows_are_solved_once_and_added_later(database, path, counted):
    lines: list[str] = []
    seen: list[tuple[int, int]] = []
    prepare(database, [3, 200], path, report=lines.append, on_progress=lambda *n: seen.append(n))
    assert counted.rows == [3, 200]
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert "computing orbitals of 2 molecules" in lines[0]
    prepare(database, [200, 3], path, report=lines.append)
    assert len(lines) == 1
    references = prepare_references(database, [3, 7], [path])
    assert counted.rows == [3, 200, 7]
    fresh = solve_molecule(database[7], "")
    found = references(7)
    assert found.occupied == fresh.occupied
    for name in ("energies", "orbitals", "overlap", "hamiltonian"):
        assert np.array_equal(getattr(found, name), getattr(fresh, name))
    assert counted.rows == [3, 200, 7]
    references(8)  # is not in the cache
    assert counted.rows == [3, 200, 7, 8]
    references.close()
    assert [p.name for p in path.parent.iterdir()] == unordered(["demo.db", path.name])


def unordered(names: list[str]):
    class Names(list):
        def __eq__(self, other):
            return sorted(self) == sorted(other)

        __hash__ = None  # type: ignore[assignment]

    return Names(names)


@pytest.mark.slow
def test_several_processes_give_the_same(database, path, tmp_path):
    rows = [0, 150, 260, 370, 480]
    prepare(database, rows, path, processes=2)
    references = prepare_references(database, rows, [path])
    for row in rows:
        assert np.allclose(references(row).energies, solve_molecule(database[row], "").energies, atol=1e-12)
    references.close()


def _flipped(content: bytes) -> bytes:
    broken = bytearray(content)
    broken[1000] ^= 1
    return bytes(broken)


def _exchanged(content: bytes) -> bytes:
    return content[8:16] + content[:8] + content[16:]


@pytest.mark.parametrize("damage", [_flipped, _exchanged])
def test_a_damaged_row_is_solved_when_it_is_used_and_replaced(database, path, counted, damage):
    prepare(database, [1, 2, 3], path)
    with sqlite3.connect(path) as connection:
        (content,) = connection.execute("SELECT numbers FROM solved WHERE row = 2").fetchone()
        connection.execute("UPDATE solved SET numbers = ? WHERE row = 2", (damage(content),))
    connection.close()
    cache = cache_of(database, path)
    with pytest.raises(DamagedCache, match="row 2 is damaged"):
        cache.get(2)
    cache.close()
    for _ in range(2):
        references = prepare_references(database, [1, 2, 3], [path])
        expected = solve_molecule(database[2], "")
        assert np.array_equal(references(2).energies, expected.energies)
        assert references(3).occupied == solve_molecule(database[3], "").occupied
        references.close()
    assert counted.rows == [1, 2, 3, 2]


def test_rows_of_an_earlier_version_are_replaced(database, path, counted):
    """Caches of earlier versions have checksums of 24 bytes and no index of their rows; the rows are replaced."""
    prepare(database, [1, 2], path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE solved SET checksum = ?", (bytes(24),))
        connection.execute("DROP INDEX current")
    connection.close()
    prepare(database, [1, 2], path)
    assert counted.rows == [1, 2, 1, 2]
    prepare(database, [1, 2], path)
    assert counted.rows == [1, 2, 1, 2]


def test_a_cache_that_has_all_rows_is_not_read_to_prepare_it(database, path):
    prepare(database, range(30), path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE solved SET numbers = zeroblob(8)")
    connection.close()
    lines: list[str] = []
    prepare(database, range(30), path, report=lines.append)
    assert lines == []


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "pages"])
def test_a_damaged_file_is_built_anew(database, path, counted, damage):
    prepare(database, range(10), path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "text": b"something else\n" * 500,
            "empty": b"",
            "pages": content[:4096] + bytes(len(content) - 4096),
        }[damage]
    )
    prepare(database, [1, 2], path)
    assert set(counted.rows[10:]) <= {1, 2}
    assert len(counted.rows) > 10 or damage == "cut"
    references = prepare_references(database, [1, 2], [path])
    assert np.allclose(references(2).energies, solve_molecule(database[2], "").energies, atol=1e-12)
    references.close()


def test_a_cache_of_another_database_is_built_anew(database, path, counted):
    prepare(database, [1], path)
    with sqlite3.connect(database.path) as connection:
        connection.execute("UPDATE data SET etot = 0 WHERE rowid = 1")
    connection.close()
    lines: list[str] = []
    prepare(QH9Database(database.path), [1], path, report=lines.append)
    assert counted.rows == [1, 1]
    assert "belongs to another database" in lines[0]
    with pytest.raises(DamagedCache, match="another database"):
        MoleculeCache(path, SOLVED, "")


def test_what_is_no_cache_is_not_removed(database, tmp_path):
    other = tmp_path / "valuable.db"
    shutil.copy(DEMO, other)
    before = other.read_bytes()
    with pytest.raises(DataError, match=r"valuable\.db: no .*cache of orbitals"):
        prepare(database, [1], other)
    assert other.read_bytes() == before


def start_solving(database: QH9Database, path: Path, *, rows: int, commit: int = COMMIT) -> forked.Forked:
    words = (str(database.path), str(path), str(rows), str(commit))
    return forked.start("tests.physics.molecules.solve_molecules", *words)


@pytest.mark.slow
def test_a_killed_build_keeps_what_was_committed(database, path, counted):
    """Killed without mercy while it solves; the next build takes over the whole rows and solves only the others."""
    process = start_solving(database, path, rows=500, commit=5)
    wait_for(lambda: "done 23\n" in process.printed(), 120)
    process.kill()
    cache = cache_of(database, path, create=True)
    kept = len(cache.present(range(500)))
    cache.close()
    assert kept >= 20
    assert kept % 5 == 0
    prepare(database, range(kept + 3), path)
    assert counted.rows == [kept, kept + 1, kept + 2]


def test_a_molecule_that_fails_leaves_those_before_it(database, path):
    with sqlite3.connect(database.path) as connection:
        connection.execute(
            "UPDATE data SET Ham = x'00' WHERE rowid = (SELECT rowid FROM data LIMIT 1 OFFSET 5)"
        )
    connection.close()
    with pytest.raises(DataError, match=r"demo\.db: row 5: column Ham"):
        prepare(database, range(8), path)
    cache = cache_of(database, path)
    assert cache.present(range(8)) == {0, 1, 2, 3, 4}
    cache.close()


def test_places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    database = tmp_path / "data" / "mine.db"
    database.parent.mkdir()
    shutil.copy(DEMO, database)
    beside, home = molecule_cache_paths(database, SOLVED, "auto")
    assert (beside.parent, home.parent) == (database.parent, tmp_path / "home" / "tracegrad")
    assert beside.name.startswith("mine.db-")
    assert beside.name.endswith(SUFFIX)
    assert [place.parent for place in molecule_cache_paths(DEMO, SOLVED, "auto")] == [
        tmp_path / "home" / "tracegrad"
    ]
    assert molecule_cache_paths(database, SOLVED, str(beside)) == [beside]
    assert molecule_cache_paths(database, SOLVED, None) == []


def test_places_that_cannot_be_written(tmp_path, database, counted):
    closed = tmp_path / "closed"
    closed.mkdir()
    paths = [closed / f"a{SUFFIX}", closed / f"b{SUFFIX}"]
    os.chmod(closed, 0o555)
    lines: list[str] = []
    references = prepare_references(database, [4], paths, report=lines.append)
    assert "no cache of orbitals" in lines[0]
    assert counted.rows == []
    assert references(4).occupied == 5
    with pytest.raises(TraceGradError, match="choose another"):
        prepare(database, [4], paths[0])
    os.chmod(closed, 0o755)
    open_place = prepare_references(database, [4], [closed / f"b{SUFFIX}"])
    open_place.close()
    os.chmod(closed, 0o555)
    counted.rows.clear()
    references = prepare_references(database, [4], paths)  # whole, though it cannot be written
    assert references(4).occupied == 5
    assert counted.rows == []
    references.close()
    os.chmod(closed, 0o755)


def test_no_cache_that_would_fill_the_disk(database, path, monkeypatch):
    monkeypatch.setattr(cached_molecules, "MOST_OF_DISK", 1e-9)
    lines: list[str] = []
    references = prepare_references(database, range(500), [path], report=lines.append)
    assert "orbitals of 500 molecules are computed as they come" in lines[0]
    assert references(3).occupied == 5
    references.close()


def test_processes_are_checked(database, path):
    with pytest.raises(ConfigError, match="processes is 0"):
        prepare(database, [1], path, processes=0)


@pytest.mark.slow
def test_two_builds_at_the_same_time_share_the_work(database, path):
    started = [start_solving(database, path, rows=60) for _ in range(2)]
    ended = [process.wait() for process in started]
    assert [done.returncode for done in ended] == [0, 0], [done.stderr for done in ended]
    outputs = [done.stdout for done in ended]
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1]
    assert sum("computing orbitals of 60 molecules" in output for output in outputs) == 1
