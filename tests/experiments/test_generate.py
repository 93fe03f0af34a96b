import contextlib
import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.generate import main, public_command
from tests import forked

TRAJECTORIES = ["flavour=dynamic", "molecules=[H2]", "copies=2", "frames=7", "conv_tol=1e-11", "seed=4"]


def run(*arguments):
    return forked.run("experiments.generate", *arguments)


@pytest.fixture
def here(monkeypatch, capsys):
    """The command in this process: what it prints, and its error."""

    def call(*arguments):
        monkeypatch.chdir(forked.ROOT)
        monkeypatch.setattr("sys.argv", ["generate", *arguments])
        with contextlib.suppress(SystemExit):
            main()
        return capsys.readouterr()

    return call


def rows(path):
    db = sqlite3.connect(path)
    found = db.execute("SELECT id, geo_id, Z, pos, ekin, epot, etot, time, Ham FROM data").fetchall()
    db.close()
    return found


def stored_frames(partial):
    """Number of frames in a partial file that another process has locked; 0 if it cannot be read at the moment."""
    db = None
    try:
        db = sqlite3.connect(f"file:{partial}?mode=ro&immutable=1", uri=True)
        return db.execute("SELECT count(*) FROM frames").fetchone()[0]
    except sqlite3.Error:
        return 0
    finally:
        if db is not None:
            db.close()


def stop_at(output, frames, number):
    """Start the command, send a signal once it has stored some frames, and return its error output."""
    process = forked.start("experiments.generate", f"output={output}", *TRAJECTORIES, "processes=2")
    end = time.monotonic() + 60
    while stored_frames(f"{output}.partial") < frames and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.poll() is None, "the command ended before it could be stopped"
    os.kill(process.pid, number)
    done = process.wait(60)
    return done.stderr, done.returncode


@pytest.mark.slow
def test_a_stopped_and_killed_run_goes_on_to_the_uninterrupted_result(tmp_path):
    whole, broken = tmp_path / "whole.db", tmp_path / "broken.db"
    assert run(f"output={whole}", *TRAJECTORIES, "processes=2").returncode == 0

    error, status = stop_at(broken, 2, signal.SIGTERM)
    assert status == 1
    assert error.startswith("error: stopped by SIGTERM after ")
    assert "run the same command again" in error
    assert not broken.exists()
    before = stored_frames(f"{broken}.partial")
    _, status = stop_at(broken, before + 3, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert before + 3 <= stored_frames(f"{broken}.partial") < 14

    refused = run(f"output={broken}", *TRAJECTORIES, "time_step=20")
    assert refused.returncode == 1
    assert "time_step: 50.0 there, 20.0 now" in refused.stderr
    assert run(f"output={broken}", *TRAJECTORIES, "processes=1").returncode == 0

    expected, found = rows(whole), rows(broken)
    assert len(found) == 14
    for one, other in zip(expected, found, strict=True):
        assert one[:3] == other[:3]
        np.testing.assert_allclose(np.frombuffer(one[3]), np.frombuffer(other[3]), atol=1e-8)
        np.testing.assert_allclose(one[4:8], other[4:8], atol=1e-8)
        np.testing.assert_allclose(np.frombuffer(one[8]), np.frombuffer(other[8]), atol=1e-7)
    assert not Path(f"{broken}.partial").exists()


@pytest.mark.slow
def test_files_and_copies_from_the_command_line(tmp_path):
    (tmp_path / "bond.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    output = tmp_path / "a.db"
    done = run(f"output={output}", f"geometries={tmp_path}/bond.xyz", "rattle=[0.03]", "copies=2")
    assert done.returncode == 0, done.stderr
    assert "functional b3lyp5" in done.stdout
    assert "2 rows" in done.stdout
    content = json.loads((tmp_path / "a.provenance.json").read_text())
    assert content["molecules"] == [{"name": "bond", "formula": "H2", "rows": 2}]
    assert str(tmp_path) not in json.dumps(content)
    assert {path.name for path in tmp_path.iterdir()} == {"bond.xyz", "a.db", "a.provenance.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["molecules=[H2]"], "output is needed; give output=VALUE"),
        (["output=a.db", "molecules=[water]"], "molecule 'water' is not in the G2 collection"),
        (["output=a.db"], "no geometry to compute: give molecules or geometries"),
        (["output=README.md", "molecules=[H2]"], "README.md exists; choose another output"),
        (["output=a.db", "molecules=[H2]", "frames=many"], "frames is 'many', but it must be a whole number"),
    ],
)
def test_errors_are_one_clean_line(here, arguments, message):
    out, error = here(*arguments)
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert "flavour" not in out


def test_help_says_what_the_command_does(here):
    out, error = here("--help")
    assert error == ""
    assert "tracegrad generate output=" in out
    assert "temperature: 300.0" in out


def test_the_command_of_the_provenance_has_no_absolute_paths():
    arguments = ["output=/home/me/x.db", "geometries=[/data/a.xyz,b/c.xyz]", "seed=1"]
    assert public_command(arguments) == ("tracegrad generate output=x.db 'geometries=[a.xyz,b/c.xyz]' seed=1")
