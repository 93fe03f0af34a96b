import multiprocessing
import pickle
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from tests.data import databases
from tracegrad.data.molecules.database import Molecule
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import DataError

BOHR = 1.8897259886  # per angstrom, as the released loader has it
EMBEDDED = Path(str(resources.files("tracegrad.data"))) / "embedded"


def read(database: QH9Database, row: int) -> bytes:
    molecule = database[row]
    return molecule.numbers.tobytes() + molecule.positions.tobytes() + molecule.hamiltonian.tobytes()


def everything(database: QH9Database) -> list[bytes]:
    return [read(database, row) for row in range(len(database))]


def assert_sample(molecule: Molecule, sample: databases.Sample, bohr: float = 1.0) -> None:
    numbers, positions, hamiltonian = sample
    assert np.array_equal(molecule.numbers, numbers)
    assert np.array_equal(molecule.positions, positions / bohr)
    assert np.array_equal(molecule.hamiltonian, hamiltonian)


def test_stable_rows(stable_path, samples):
    database = QH9Database(stable_path)
    assert database.flavour == "stable"
    assert len(database) == len(samples)
    for row, sample in enumerate(samples):
        assert database[row].row == row
        assert_sample(database[row], sample)
    assert database.atom_counts.tolist() == [len(sample[0]) for sample in samples]


def test_dynamic_rows_become_angstrom(dynamic_path, frames):
    database = QH9Database(dynamic_path)
    assert database.flavour == "dynamic"
    flat = [sample for _, trajectory in frames for sample in trajectory]
    assert len(database) == len(flat)
    for row, sample in enumerate(flat):
        assert_sample(database[row], sample, BOHR)


def test_embedded_databases_are_in_angstrom():
    stable, dynamic = (QH9Database(EMBEDDED / f"demo_{name}.db") for name in ("stable", "dynamic"))
    assert (stable.flavour, dynamic.flavour) == ("stable", "dynamic")
    bonds = {(1, 1): 0.74, (9, 1): 0.92, (8, 6): 1.13, (7, 7): 1.10}  # of the diatomics
    found = [molecule for molecule in stable if tuple(molecule.numbers.tolist()) in bonds]
    for molecule in found:
        length = np.linalg.norm(molecule.positions[0] - molecule.positions[1])
        assert length == pytest.approx(bonds[tuple(molecule.numbers.tolist())], abs=0.04)
    assert len(found) == 4
    for molecule in map(dynamic.__getitem__, range(*dynamic.trajectory_starts[:2].tolist())):
        assert molecule.numbers.tolist() == [8, 1, 1]
        lengths = np.linalg.norm(molecule.positions[1:] - molecule.positions[0], axis=1)
        assert lengths == pytest.approx([0.96, 0.96], abs=0.12)


def test_row_order_is_that_of_the_table(tmp_path, samples, frames):
    stable = databases.write_stable(tmp_path / "s.db", samples[:3], ids=[7, 3, 12])
    for row, expected in enumerate((samples[1], samples[0], samples[2])):
        assert_sample(QH9Database(stable)[row], expected)

    dynamic = databases.write_dynamic(tmp_path / "d.db", frames)
    databases.alter(dynamic, "DELETE FROM data WHERE rowid IN (1, 4, 11)")
    flat = [sample for _, trajectory in frames for sample in trajectory]
    kept = [sample for i, sample in enumerate(flat, 1) if i not in (1, 4, 11)]
    database = QH9Database(dynamic)
    assert len(database) == len(kept)
    for row, sample in enumerate(kept):
        assert_sample(database[row], sample, BOHR)
    assert database.trajectory_starts.tolist() == [0, 8, 19, 29]


def test_indices(stable_path, samples):
    database = QH9Database(stable_path)
    n = len(samples)
    assert database[-1].row == n - 1
    assert_sample(database[-n], samples[0])
    assert_sample(database[np.int64(2)], samples[2])
    for row in (n, -n - 1, 10**12):
        with pytest.raises(IndexError, match=rf"stable\.db: row {row} of a database of {n} rows"):
            database[row]
    assert [molecule.row for molecule in database] == list(range(n))
    with pytest.raises(DataError, match="a stable database has no trajectories"):
        _ = database.trajectory_starts


def test_released_files_are_recognised(released, stable_path, tmp_path):
    for name, path in released.items():
        database = QH9Database(path)
        assert database.release == name
        database.require_release(name)
    assert QH9Database(stable_path).release is None
    with pytest.raises(DataError) as caught:
        QH9Database(released["dynamic_300k"]).require_release("dynamic_100k")
    message = str(caught.value)
    assert message.startswith(str(released["dynamic_300k"]))
    for part in (
        "dynamic_100k (99,900 rows)",
        "the released dynamic_300k file with 299,800 rows",
        "to dynamic_300k",
    ):
        assert part in message
    with pytest.raises(DataError, match=r"stable \(130,831 rows\).*a stable database with 7 rows.*to custom"):
        QH9Database(stable_path).require_release("stable")
    shuffled = databases.write_released_stable(tmp_path / "a.db", [18] * 130_831)
    databases.alter(shuffled, "UPDATE data SET id = 200000 WHERE id = 0")
    assert QH9Database(shuffled).release is None
    with pytest.raises(
        DataError, match=r"a stable database in another order \(column id\) with 130,831 rows"
    ):
        QH9Database(shuffled).require_release("stable")
    with pytest.raises(DataError, match="unknown QH9 release 'QD'; known"):
        QH9Database(stable_path).require_release("QD")


def test_pickled_copies_read_the_same(stable_path):
    database = QH9Database(stable_path)
    expected = everything(database)
    copy = pickle.loads(pickle.dumps(database))
    assert everything(copy) == expected
    assert copy.flavour == "stable"


def test_read_after_a_fork(stable_path):
    database = QH9Database(stable_path)
    expected = everything(database)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    inherited = database.file._connection()

    def child_reads() -> None:
        queue.put(everything(database))
        queue.put(database.file._connection() is not inherited)

    children = [context.Process(target=child_reads) for _ in range(2)]
    for child in children:
        child.start()
    assert everything(database) == expected
    answers = [queue.get() for _ in range(4)]
    assert answers.count(expected) == 2
    assert answers.count(True) == 2  # SQLite forbids the use of a connection across a fork
    for child in children:
        child.join()
    assert everything(database) == expected


def test_read_in_threads(dynamic_path):
    database = QH9Database(dynamic_path)
    expected = everything(QH9Database(dynamic_path))
    rows = np.random.default_rng(0).integers(len(expected), size=400).tolist()
    barrier = threading.Barrier(4)

    def work(part: list[int]) -> list[bytes]:
        barrier.wait()
        return [read(database, row) for row in part]

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(work, [rows[i::4] for i in range(4)]))
    for i, part in enumerate(parts):
        assert part == [expected[row] for row in rows[i::4]]


@pytest.mark.parametrize(
    "name", ["a b.db", "a#b.db", "a?mode=rwc.db", "100%41.db", "ä&=+;.db", "a\nb.db", "a\udcff.db"]
)
def test_paths_with_special_characters(tmp_path, stable_path, samples, name):
    folder = tmp_path / f"folder of {name}"
    folder.mkdir()
    path = Path(shutil.copy(stable_path, folder / name))
    assert_sample(QH9Database(path)[0], samples[0])
    assert_sample(QH9Database(str(path))[1], samples[1])
    assert sorted(folder.iterdir()) == [path]


def test_relative_paths_and_doubled_slashes(tmp_path, stable_path, samples, monkeypatch):
    shutil.copy(stable_path, tmp_path / "a.db")
    assert_sample(QH9Database(f"/{tmp_path}/a.db")[0], samples[0])
    monkeypatch.chdir(tmp_path)
    assert_sample(QH9Database("a.db")[0], samples[0])


def test_files_are_opened_for_reading_only(tmp_path, stable_path):
    folder = tmp_path / "readonly"
    folder.mkdir()
    path = Path(shutil.copy(stable_path, folder / "a.db"))
    content = path.read_bytes()
    path.chmod(stat.S_IRUSR)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        database = QH9Database(path)
        everything(database)
        database.split("random", fractions=(0.5, 0.25, 0.25))
        assert [file.name for file in folder.iterdir()] == ["a.db"]
        assert path.read_bytes() == content
        with pytest.raises(DataError, match="readonly database"):
            database.file.query("DELETE FROM data")
    finally:
        folder.chmod(stat.S_IRWXU)


def _other_table(path: Path) -> None:
    path.unlink()
    databases._write(path, "CREATE TABLE systems (id INTEGER)", "INSERT INTO systems VALUES (?)", [])


def _truncate(fraction: float) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(fraction * len(content))])

    return cut


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "no such database; give the path of a QH9 .db file"),
        (_directory, "no such database; give the path of a QH9 .db file"),
        (lambda path: path.write_bytes(b""), r"not a QH9 database: tables \[\]"),
        (lambda path: path.write_text("id,N,Z\n" * 100), "not a readable SQLite database"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(9000)), "not a readable SQLite database"),
        (_truncate(0.5), "not a readable SQLite database.*download or generate it again"),
        (_truncate(0.99), "not a readable SQLite database"),
        (_truncate(0.001), "not a readable SQLite database"),
        (_other_table, r"not a QH9 database: tables \['systems'\], columns of 'data' \[\]; expected"),
        (
            lambda path: databases.alter(path, "ALTER TABLE data RENAME Ham TO H"),
            r"columns of 'data' .*'H'\]",
        ),
        (lambda path: databases.alter(path, "ALTER TABLE data ADD extra"), r"columns of 'data' .*'extra'\]"),
        (lambda path: databases.alter(path, "DELETE FROM data"), "the table 'data' has no rows"),
    ],
)
def test_files_that_are_no_qh9_database(tmp_path, change, message):
    path = Path(shutil.copy(EMBEDDED / "demo_stable.db", tmp_path / "QH9.db"))
    change(path)
    with pytest.raises(DataError, match=message) as caught:
        len(QH9Database(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_paths_that_cannot_be_files(tmp_path):
    for path in (tmp_path / ("x" * 300), tmp_path / "a\0b.db"):
        with pytest.raises(DataError, match="no such database"):
            QH9Database(path)


def test_a_page_damaged_in_the_middle_names_the_row(tmp_path):
    path = Path(shutil.copy(EMBEDDED / "demo_stable.db", tmp_path / "QH9.db"))
    expected = everything(QH9Database(path))
    content = bytearray(path.read_bytes())
    pages = range(len(content) // 8192 * 4096, len(content), 4096)
    # An overflow page starts with the number of the next one; pages of other kinds have a flag there.
    start = next(page for page in pages if 0 < int.from_bytes(content[page : page + 4]) < 1000)
    content[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)

    damaged = QH9Database(path)
    messages = []
    for row in range(len(expected)):
        try:
            assert read(damaged, row) == expected[row]
        except DataError as error:
            messages.append((row, str(error)))
    ((row, message),) = messages
    assert message.startswith(f"{path}: row {row}: not a readable SQLite database")


NAN = np.full(24 * 24, np.nan)
INFINITE = np.zeros((24, 24))
INFINITE[3, 4] = INFINITE[4, 3] = np.inf
LOPSIDED = np.zeros((24, 24))
LOPSIDED[3, 4] = 2e-6
POSITIONS = np.zeros((3, 3))
POSITIONS[1, 2] = np.nan


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Z", b"\1\0\0\0\1\0\0\0", "column Z is 8 bytes, but 12 bytes are needed"),
        ("Z", bytes(16), "column Z is 16 bytes, but 12 bytes are needed"),
        ("Z", None, "column Z is NoneType, but 12 bytes"),
        ("Z", "OHH", "column Z is str, but 12 bytes"),
        ("Z", 8, "column Z is int, but 12 bytes"),
        ("Z", np.array([8, 1, 0], "<i4").tobytes(), r"column Z holds \[8, 1, 0\], which are not all atomic"),
        ("Z", np.array([8, 1, -1], "<i4").tobytes(), "not all atomic numbers"),
        ("Z", np.array([8, 1, 119], "<i4").tobytes(), "not all atomic numbers"),
        ("Z", np.array([8, 47, 92], "<i4").tobytes(), r"atomic numbers \[47, 92\].*def2-SVP"),
        (
            "Z",
            np.array([8, 8, 1], "<i4").tobytes(),
            "column Ham is 4608 bytes, but 8712 bytes.*another basis",
        ),
        ("pos", np.zeros((3, 3), "<f4").tobytes(), "column pos is 36 bytes, but 72 bytes are needed"),
        ("pos", bytes(80), "column pos is 80 bytes, but 72 bytes"),
        ("pos", b"", "column pos is 0 bytes"),
        ("pos", None, "column pos is NoneType"),
        ("pos", "0 0 0", "column pos is str"),
        ("pos", POSITIONS.tobytes(), "NaN or infinite numbers in column pos; leave this row out"),
        ("pos", (POSITIONS + np.inf).tobytes(), "NaN or infinite numbers in column pos"),
        ("Ham", bytes(8 * 575), "column Ham is 4600 bytes, but 4608 bytes are needed"),
        ("Ham", bytes(8 * 577), "column Ham is 4616 bytes, but 4608 bytes are needed"),
        ("Ham", None, "column Ham is NoneType"),
        ("Ham", "H", "column Ham is str"),
        ("Ham", NAN.tobytes(), "NaN or infinite numbers in column Ham"),
        ("Ham", INFINITE.tobytes(), "NaN or infinite numbers in column Ham"),
        ("Ham", LOPSIDED.tobytes(), r"column Ham is not symmetric: max \|H - H\^T\| = 2.0e-06 hartree"),
        ("N", 0, "column N is 0, a positive integer is needed"),
        ("N", -3, "column N is -3"),
        ("N", None, "column N is None"),
        ("N", "three", "column N is 'three'"),
        ("N", 3.5, "column N is 3.5"),
        ("N", b"\3\0\0\0", "column N is b'"),
        ("N", 4, "column Z is 12 bytes, but 16 bytes are needed"),
        ("N", 2**62, "column Z is 12 bytes"),
    ],
)
@pytest.mark.parametrize("flavour", ["stable", "dynamic"])
def test_damaged_rows(tmp_path, flavour, column, value, message):
    water = [databases.random_sample([8, 1, 1], seed) for seed in range(4)]
    path = tmp_path / "QH9.db"
    if flavour == "stable":
        databases.write_stable(path, water)
    else:
        databases.write_dynamic(path, [(0, water)])
    first = 0 if flavour == "stable" else 1
    databases.alter(path, f"UPDATE data SET {column} = ? WHERE rowid = ?", value, first + 2)
    database = QH9Database(path)
    for row in (0, 1, 3):
        database[row]
    with pytest.raises(DataError, match=message) as caught:
        database[2]
    assert str(caught.value).startswith(f"{path}: row 2: ")


@pytest.mark.parametrize("value", [0, None, "three", 3.5])
def test_damaged_atom_counts_do_not_enter_a_split(tmp_path, samples, value):
    path = databases.write_stable(tmp_path / "QH9.db", samples)
    databases.alter(path, "UPDATE data SET N = ? WHERE id = 4", value)
    with pytest.raises(DataError, match=rf"QH9\.db: row 4: column N is {value!r}, a positive integer"):
        QH9Database(path).split("ood", thresholds=(2, 3))


def test_convergence_noise_is_no_asymmetry(tmp_path):
    numbers, positions, hamiltonian = databases.random_sample([8, 1, 1], 0)
    hamiltonian[2, 3] += 5e-7
    path = databases.write_stable(tmp_path / "QH9.db", [(numbers, positions, hamiltonian)])
    assert np.array_equal(QH9Database(path)[0].hamiltonian, hamiltonian)


def test_a_row_that_vanishes_while_reading(tmp_path, samples):
    path = databases.write_stable(tmp_path / "QH9.db", samples)
    database = QH9Database(path)
    assert len(database) == 7
    databases.alter(path, "DELETE FROM data WHERE id = 3")
    with pytest.raises(DataError, match=r"QH9\.db: row 3 is gone; the file changed"):
        database[3]
