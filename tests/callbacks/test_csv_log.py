"""The log of a run survives new columns and killed processes, and lost rows are reported."""

import csv
import itertools
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from callbacks.csv_log import RunCSVLogger
from tests.system.test_whole_files import FAULT
from tracegrad.errors import TraceGradError

# For each folder below "before" and "after", fork a process that continues a log with two rows of an earlier session,
# appends a row, and then one with a new column. It is killed before or after its n-th system call.
SESSIONS = """
    from callbacks.csv_log import RunCSVLogger

    def session():
        logger = RunCSVLogger(".")
        logger.keep_rows(2)
        for step, metrics in ((2, {"b": 2.0}), (3, {"b": 3.0, "a": 0.5})):
            logger.log_metrics(metrics, step)
            logger.flushed_rows()

    for when in ("before", "after"):
        for number, folder in enumerate(sorted(Path(when).absolute().iterdir()), 1):
            process = os.fork()
            if not process:
                os.chdir(folder)
                count = 0
                session()
                os._exit(0)
            status = os.waitpid(process, 0)[1]
            (folder / "status").write_text(str(os.waitstatus_to_exitcode(status)))
"""
CALLS = 40  # more than a session makes
FIRST = [{"b": "0.0", "step": "0"}, {"b": "1.0", "step": "1"}]
LATER = [{"b": "2.0", "step": "2"}, {"a": "0.5", "b": "3.0", "step": "3"}]


def table(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if cell} for row in csv.DictReader(file)]


def logged(folder, steps, **metrics) -> RunCSVLogger:
    logger = RunCSVLogger(str(folder))
    for step in steps:
        logger.log_metrics({"b": float(step)} | metrics, step)
    logger.save()
    return logger


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> dict[str, list[Path]]:
    """Folders of the sessions, which were killed before and after each call."""
    folder = tmp_path_factory.mktemp("killed")
    code = textwrap.dedent(FAULT) + textwrap.dedent(SESSIONS)
    places = {
        when: [folder / when / f"{number:03}" for number in range(1, CALLS + 1)]
        for when in ("before", "after")
    }
    for place in itertools.chain(*places.values()):
        place.mkdir(parents=True)
        logged(place, [0, 1])
    done = subprocess.run(
        [sys.executable, "-c", code, "0", "never"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return places


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_rows_of_the_disk_outlive_a_kill_at_any_call_of_the_system(killed, when):
    places = killed[when]
    statuses = [int((place / "status").read_text()) for place in places]
    assert set(statuses) == {-signal.SIGKILL, 0}
    assert statuses[-1] == 0
    counts = []
    for place, status in zip(places, statuses, strict=True):
        rows = table(place)
        assert rows == [*FIRST, *LATER][: len(rows)]
        if status:  # a call that fails, such as to make a folder that exists, does not end "after" it
            counts.append(len(rows))
        else:
            assert len(rows) == 4
    assert counts == sorted(counts)
    assert set(counts) == {2, 3, 4}


def test_a_row_that_was_cut_off_is_no_row(tmp_path, capsys):
    logged(tmp_path, [0, 1, 2])
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-2] + b"5")
    for keep in (True, False):
        logger = RunCSVLogger(str(tmp_path))
        if keep:
            logger.keep_rows(2)
        logger.log_metrics({"b": 7.0}, 7)
        logger.save()
        assert table(tmp_path) == [*FIRST, {"b": "7.0", "step": "7"}]
        path.write_bytes(path.read_bytes() + b"3,")
        path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"7.0")])
    assert capsys.readouterr().out == ""


def test_the_file_is_cut_to_the_rows_of_a_checkpoint(tmp_path):
    logged(tmp_path, range(5))
    RunCSVLogger(str(tmp_path)).keep_rows(2)
    assert table(tmp_path) == FIRST


@pytest.mark.parametrize("gone", [True, False])
def test_missing_rows_are_named(tmp_path, capsys, gone):
    logged(tmp_path, range(2))
    path = tmp_path / "metrics.csv"
    if gone:
        path.unlink()
    RunCSVLogger(str(tmp_path)).keep_rows(3)
    found = 0 if gone else 2
    assert f"warning: {path}: has {found} rows, but had 3 at the checkpoint" in capsys.readouterr().out
    assert gone or table(tmp_path) == FIRST


def test_rows_after_a_disk_that_was_full_stand_in_lines_of_their_own(tmp_path, monkeypatch):
    logger = logged(tmp_path, [0])

    def full(writer, rows):
        writer.writerow(rows[0])
        raise OSError(28, "No space left on device")

    logger.log_metrics({"b": 1.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", full)
        with pytest.raises(TraceGradError, match="No space left"):
            logger.save()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2.")  # of the next row
    logger.log_metrics({"b": 2.0}, 2)
    logger.save()
    assert table(tmp_path) == [{"b": f"{step}.0", "step": str(step)} for step in range(3)]
    assert logger.flushed_rows() == 3


def test_columns_are_in_alphabetical_order_whenever_they_come(tmp_path):
    logger = logged(tmp_path, [0])
    logger.log_metrics({"c": 1.0, "a": 2.0}, 1)
    logger.save()
    assert (tmp_path / "metrics.csv").read_bytes() == b"a,b,c,step\r\n,0.0,,0\r\n2.0,,1.0,1\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,step\r\n1,2\r\n1,2,3\r\n", r"line 3 has 3 cells, but the header 2"),
        (b"a\xff\n", "is not a table"),
    ],
)
def test_what_is_no_log_is_refused_and_kept(tmp_path, content, message):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(TraceGradError, match=rf"metrics\.csv: .*{message}.*move it elsewhere"):
        RunCSVLogger(str(tmp_path)).keep_rows(1)
    assert path.read_bytes() == content
