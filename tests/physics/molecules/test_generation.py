import dataclasses
import hashlib
import json
import os
import signal
import sqlite3

import numpy as np
import pytest

from tests.processes import workers
from tracegrad.errors import ConfigError, GenerationError
from tracegrad.physics.molecules.dft import fock_label
from tracegrad.physics.molecules.dynamics import LabelledFrame
from tracegrad.physics.molecules.generation import generate
from tracegrad.physics.molecules.generation_settings import GenerationSettings, resume_key
from tracegrad.physics.molecules.geometries import named_molecules
from tracegrad.physics.molecules.partial import PartialFile
from tracegrad.system.workers import TaskFailure, WorkerPool

# The columns of the released files.
STABLE = "CREATE TABLE data (id INTEGER NOT NULL PRIMARY KEY,  N INTEGER, Z BLOB, pos BLOB, Ham BLOB)"
DYNAMIC = (
    "CREATE TABLE data (id INTEGER NOT NULL, geo_id INTEGER NOT NULL, N INTEGER, Z BLOB, pos BLOB, "
    "ekin FLOAT, epot FLOAT, etot FLOAT, time FLOAT, Ham BLOB, converged INT)"
)


def table(path):
    db = sqlite3.connect(path)
    schema = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master")]
    rows = db.execute("SELECT * FROM data").fetchall()
    db.close()
    return schema, rows


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A stable and a dynamic database of H2 and HF, with the lines reported about each."""
    folder = tmp_path_factory.mktemp("generated")
    molecules = named_molecules(["HF", "H2"])
    generate(molecules, GenerationSettings(), folder / "stable.db", processes=2)
    dynamic = GenerationSettings(flavour="dynamic", frames=3, stride=2, equilibration=1, seed=5)
    generate(molecules, dynamic, folder / "dynamic.db", processes=2)
    return folder


@pytest.mark.slow
def test_a_stable_database_has_the_released_schema_and_the_labels(both):
    schema, rows = table(both / "stable.db")
    assert schema == [STABLE]
    assert [row[0] for row in rows] == [0, 1]
    for (_, size, z, pos, ham), geometry in zip(rows, named_molecules(["HF", "H2"]), strict=True):
        assert size == 2
        np.testing.assert_array_equal(np.frombuffer(z, np.int32), geometry.numbers)
        np.testing.assert_array_equal(np.frombuffer(pos).reshape(2, 3), geometry.positions)
        label = fock_label(geometry.numbers, geometry.positions, "b3lyp5")
        np.testing.assert_allclose(np.frombuffer(ham), label.hamiltonian.ravel(), atol=1e-6)


@pytest.mark.slow
def test_a_dynamic_database_has_the_released_schema_and_contiguous_trajectories(both):
    schema, rows = table(both / "dynamic.db")
    assert schema == [DYNAMIC]
    assert [np.frombuffer(row[0], np.int64).tolist() for row in rows] == [[0]] * 3 + [[1]] * 3
    assert [row[1] for row in rows] == [0, 1, 2, 0, 1, 2]
    assert [row[8] for row in rows] == [50, 150, 250, 50, 150, 250]
    for row in rows:
        assert [type(value) for value in row] == [bytes, int, int, bytes, bytes, *[float] * 4, bytes, int]
        assert row[5] + row[6] == pytest.approx(row[7], abs=1e-12)
        assert row[10] == 1
    lengths = [np.linalg.norm(np.diff(np.frombuffer(row[4]).reshape(2, 3), axis=0)) for row in rows]
    np.testing.assert_allclose(lengths[:3], 0.94 * 1.89, atol=0.15)  # HF, bohr
    np.testing.assert_allclose(lengths[3:], 0.74 * 1.89, atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("flavour", "functional"), [("stable", "b3lyp5"), ("dynamic", "b3lyp")])
def test_the_provenance_says_what_was_made(both, flavour, functional):
    text = (both / f"{flavour}.provenance.json").read_text()
    content = json.loads(text)
    assert content["functional"] == functional
    assert content["flavour"] == flavour
    assert content["sha256"] == hashlib.sha256((both / f"{flavour}.db").read_bytes()).hexdigest()
    assert [molecule["formula"] for molecule in content["molecules"]] == ["HF", "H2"]
    assert content["counts"]["rows"] == (2 if flavour == "stable" else 6)
    assert {"python", "numpy", "pyscf", "libxc", "ase"} <= content["versions"].keys()
    assert content["left out"] == []
    assert str(both) not in text


@pytest.mark.slow
def test_nothing_else_stays_beside_the_database(both):
    assert {path.name for path in both.iterdir()} == {
        "stable.db",
        "stable.provenance.json",
        "dynamic.db",
        "dynamic.provenance.json",
    }


@pytest.mark.slow
def test_an_existing_output_is_replaced_only_when_told(both):
    before = (both / "stable.db").read_bytes()
    with pytest.raises(GenerationError, match=r"exists; choose another output or set overwrite=true"):
        generate(named_molecules(["H2"]), GenerationSettings(), both / "stable.db")
    assert (both / "stable.db").read_bytes() == before


def test_what_is_no_database_is_never_overwritten(tmp_path):
    geometries = tmp_path / "mine.xyz"
    geometries.write_text("1\n\nHe 0 0 0\n")
    with pytest.raises(
        GenerationError, match=r"mine.xyz exists and is no database, so it is not overwritten"
    ):
        generate(named_molecules(["H2"]), GenerationSettings(), geometries, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.xyz"]
    assert geometries.read_text().startswith("1")


def test_other_settings_are_refused_with_their_differences(tmp_path):
    settings = GenerationSettings(flavour="dynamic", seed=1)
    geometries = named_molecules(["H2"])
    PartialFile(tmp_path / "md.db.partial", resume_key(settings, geometries)).close()
    changed = dataclasses.replace(settings, functional="b3lyp5", seed=2)
    with pytest.raises(GenerationError) as caught:
        generate(geometries, changed, tmp_path / "md.db")
    lines = str(caught.value).splitlines()
    assert lines[1:3] == ["  functional: b3lyp there, b3lyp5 now", "  seed: 1 there, 2 now"]
    assert len(lines) == 4
    with pytest.raises(GenerationError, match=r"molecules: H2 there, HF now"):
        generate(named_molecules(["HF"]), settings, tmp_path / "md.db")


def test_a_foreign_partial_file_is_named(tmp_path):
    (tmp_path / "a.db.partial").write_text("not a database, but long enough to look at " * 30)
    with pytest.raises(GenerationError, match=r"a\.db\.partial: not the partial file"):
        generate(named_molecules(["H2"]), GenerationSettings(), tmp_path / "a.db")


def test_a_second_writer_of_the_same_output_is_refused(tmp_path):
    settings = GenerationSettings()
    first = PartialFile(tmp_path / "a.db.partial", resume_key(settings, named_molecules(["H2"])))
    with pytest.raises(GenerationError, match="another process is writing"):
        generate(named_molecules(["H2"]), settings, tmp_path / "a.db")
    first.close()


def test_a_frame_goes_in_once(tmp_path):
    partial = PartialFile(tmp_path / "a.db.partial", {})
    row = LabelledFrame(0, np.zeros((2, 3)), np.eye(10), -1.0)
    partial.add(0, row)
    with pytest.raises(sqlite3.IntegrityError):
        partial.add(0, row)
    assert partial.frame_counts() == {0: 1}
    partial.close()


def test_what_does_not_converge_is_reported_and_left_out(tmp_path):
    """HF needs more SCF cycles than H2 from the minao guess, so it does not converge within max_cycle."""
    lines = []
    settings = GenerationSettings(max_cycle=6)
    molecules = named_molecules(["HF", "H2"])
    summary = generate(molecules, settings, tmp_path / "a.db", report=lines.append)
    assert lines == ["left out HF (number 0): the SCF did not converge in 6 cycles"]
    assert summary.left_out == ["HF (number 0)"]
    _, rows = table(tmp_path / "a.db")
    assert [(row[0], np.frombuffer(row[2], np.int32).tolist()) for row in rows] == [(0, [1, 1])]
    content = json.loads((tmp_path / "a.provenance.json").read_text())
    assert content["left out"][0]["geometry"] == "HF (number 0)"
    assert [molecule["name"] for molecule in content["molecules"]] == ["H2"]

    with pytest.raises(GenerationError, match=r"HF \(number 0\).*did not converge.*strict=true"):
        generate(molecules, settings, tmp_path / "b.db", strict=True)


def test_a_trajectory_that_failed_on_its_way_is_left_out_whole(tmp_path):
    settings = GenerationSettings(flavour="dynamic", frames=2)
    molecules = named_molecules(["HF", "H2"])
    partial = PartialFile(tmp_path / "a.db.partial", resume_key(settings, molecules))
    partial.add(0, LabelledFrame(0, np.zeros((2, 3)), np.eye(10), 0.0, 0.0, 0.0, 0.0))
    partial.fail(0, 1, "the SCF did not converge in 50 cycles")
    partial.close()
    lines = []
    summary = generate(molecules, settings, tmp_path / "a.db", report=lines.append)
    assert lines == ["left out HF (number 0), frame 1: the SCF did not converge in 50 cycles"]
    assert (summary.rows, summary.items) == (2, 1)
    _, rows = table(tmp_path / "a.db")
    assert [(np.frombuffer(row[0], np.int64)[0], row[1], row[3]) for row in rows] == [
        (0, frame, np.array([1, 1], np.int32).tobytes()) for frame in (0, 1)
    ]


def test_nothing_converged_is_an_error_and_leaves_no_file(tmp_path):
    settings = GenerationSettings(flavour="dynamic", frames=2, max_cycle=1)
    with pytest.raises(
        GenerationError, match=r"nothing could be written, 1 left out: H2 \(number 0\), frame 0"
    ):
        generate(named_molecules(["H2"]), settings, tmp_path / "a.db", report=lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_worker_is_an_error_that_says_what_it_worked_on(tmp_path):
    frames = []

    def kill_first_worker(done, total):
        frames.append(done)
        if done == 1:
            os.kill(workers()[0], signal.SIGKILL)

    settings = GenerationSettings(flavour="dynamic", frames=50)
    with pytest.raises(
        GenerationError, match=r"at H2 \(number 0\), frame 1 died \(killed by SIGKILL\).*go on"
    ):
        generate(named_molecules(["H2"]), settings, tmp_path / "a.db", on_progress=kill_first_worker)
    assert max(frames) < 50
    assert (tmp_path / "a.db.partial").exists()
    assert workers() == []


def test_workers_have_one_thread_and_failures_come_back_as_text():
    results = {}
    with WorkerPool(2) as pool:
        pool.submit("threads", _threads)
        pool.submit("failure", divmod, 1, 0)
        while pool.busy:
            results |= dict(pool.finished(timeout=5.0))
    assert results["threads"] == 1
    assert results["failure"] == TaskFailure("ZeroDivisionError: integer division or modulo by zero")


def _threads():
    from pyscf import lib

    return lib.num_threads()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"flavour": "solid"}, "flavour=solid"),
        ({"functional": "pbe0"}, "functional=pbe0"),
        ({"frames": 0}, "frames=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"rattle": [-0.1]}, "rattle="),
        ({"flavour": "dynamic", "rattle": [0.1]}, "rattle is for flavour=stable"),
    ],
)
def test_settings_without_sense_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        GenerationSettings(**changed)


def test_no_geometry_is_an_error(tmp_path):
    with pytest.raises(GenerationError, match="give molecules or geometries"):
        generate([], GenerationSettings(), tmp_path / "a.db")
