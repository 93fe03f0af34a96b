"""Sweeps on one machine with a fake training: crashes, retries, kills, locks, GPUs."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.sweeps.local import LocalRunner
from experiments.sweeps.manifest import SweepState
from experiments.sweeps.progress import progress_of
from experiments.sweeps.settings import SweepSettings
from experiments.sweeps.status import KIND, Status, read_status, write_status
from experiments.sweeps.summary import missing_error
from tests.experiments.sweeping import TRAIN, make_state, point, points, run, wait_for
from tests.system.test_ownership import elsewhere, renewed
from tracegrad.errors import ConfigError, InUseError, TrainingError
from tracegrad.system.ownership import OwnerWatch, take_ownership
from tracegrad.system.processes import start_time


def states(state: SweepState) -> dict[str, str]:
    return {name: status.status for name, status in state.states.items()}


def calls(runs: Path, name: str) -> list[str]:
    return (runs / name / "calls").read_text().split()


def on_disk(runs: Path) -> dict[str, dict]:
    return {entry["name"]: entry for entry in json.loads((runs / "manifest.json").read_text())["points"]}


def test_a_crash_does_not_stop_the_others(tmp_path: Path) -> None:
    state = make_state(tmp_path, points(tmp_path, ["ok", "crash", "ok", "killed", "quiet"]))
    run(state, jobs=2, retries=0)
    assert list(states(state).values()) == ["finished", "failed", "finished", "failed", "stopped"]
    written = on_disk(tmp_path)
    assert {name: entry["status"] for name, entry in written.items()} == states(state)
    assert written["b"]["error"] == "ValueError: boom"
    assert written["d"]["error"] == "killed by SIGKILL; was the memory full?"
    assert written["b"]["directory"] == "b"
    assert written["b"]["overrides"][0] == "mode=crash"
    status = read_status(tmp_path / "a")
    assert status.started <= status.ended  # type: ignore[operator]
    message = missing_error(state) or ""
    assert message.startswith("3 of 5 runs failed; the same command goes on with them:")
    assert f"b: ValueError: boom ({tmp_path / 'b' / 'train.log'})" in message


@pytest.mark.parametrize(
    ("mode", "retries", "tries", "status"),
    [
        ("flaky", 1, 2, "finished"),
        ("flaky", 0, 1, "failed"),
        ("crash", 3, 4, "failed"),
        ("mistake", 9, 2, "failed"),  # the same error: line at once
        ("quiet", 2, 1, "stopped"),
    ],
)
def test_retries(tmp_path: Path, mode: str, retries: int, tries: int, status: str) -> None:
    state = make_state(tmp_path, points(tmp_path, [mode]))
    run(state, retries=retries)
    assert len(calls(tmp_path, "a")) == tries
    reached = state.states["a"]
    assert (reached.status, reached.attempts) == (status, tries)
    if mode == "mistake":
        assert reached.error == "optim.lr is wrong"


def test_finished_points_are_not_repeated_and_failed_ones_are(tmp_path: Path) -> None:
    found = points(tmp_path, ["ok", "flaky", "ok"])
    run(make_state(tmp_path, found), retries=0)
    again = make_state(tmp_path, found)
    assert states(again) == {"a": "finished", "b": "failed", "c": "finished"}
    (tmp_path / "c" / "results.json").unlink()  # by someone who wants it anew
    run(make_state(tmp_path, found), retries=0)
    assert [len(calls(tmp_path, name)) for name in "abc"] == [1, 2, 2]
    assert read_status(tmp_path / "b").attempts == 2


def test_points_of_earlier_commands_stay_in_the_manifest(tmp_path: Path) -> None:
    run(make_state(tmp_path, points(tmp_path, ["ok"])))
    run(make_state(tmp_path, [point(tmp_path, "z", "ok")]))
    assert {name: entry["status"] for name, entry in on_disk(tmp_path).items()} == {
        "a": "finished",
        "z": "finished",
    }


def test_a_run_without_results_is_finished_by_its_exit(tmp_path: Path) -> None:
    (quiet,) = points(tmp_path, ["quiet"])
    quiet = replace(quiet, result=None)
    state = make_state(tmp_path, [quiet])
    run(state)
    assert states(state) == {"a": "finished"}
    assert states(make_state(tmp_path, [quiet])) == {"a": "finished"}


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [
        ([["0"], ["1"], ["2"], ["3"]], 4, ["0", "1", "2", "3"]),
        ([["0", "1"], ["2", "3"]], 2, ["0,1", "0,1", "2,3", "2,3"]),
        ([["5"]], 2, ["5", "5", "5", "5"]),
        ([["GPU-a"], ["GPU-b"]], 4, ["GPU-a", "GPU-a", "GPU-b", "GPU-b"]),
    ],
)
def test_each_run_has_gpus_of_its_own(
    tmp_path: Path, gpus: list[list[str]], jobs: int, expected: list[str]
) -> None:
    state = make_state(tmp_path, points(tmp_path, ["wait"] * 4))
    together: list[str] = []

    def let_go() -> None:
        wait_for(lambda: len(list(tmp_path.glob("*/ready"))) == jobs)
        together.extend(calls(tmp_path, path.parent.name)[0] for path in tmp_path.glob("*/ready"))
        (tmp_path / "go").touch()

    thread = threading.Thread(target=let_go)
    thread.start()
    run(state, jobs=jobs, gpus=[gpu for group in gpus for gpu in group], gpus_per_run=len(gpus[0]))
    thread.join()
    seen = sorted(calls(tmp_path, name)[0] for name in "abcd")
    assert set(seen) == set(expected)
    assert {group: together.count(group) for group in together} == dict.fromkeys(
        (",".join(group) for group in gpus), jobs // len(gpus)
    )
    assert {read_status(tmp_path / name).device for name in "abcd"} == set(expected)


def sweep_in_a_process(runs: Path, modes: list[str], **options: object) -> multiprocessing.Process:
    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
        with take_ownership(runs, "sweep"):
            try:
                state = make_state(runs, points(runs, modes))
                state.settle()
                run(state, **options)
            except KeyboardInterrupt:
                os._exit(130)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process  # type: ignore[return-value]


def test_a_killed_sweep_is_taken_up_without_starting_anything_twice(tmp_path: Path) -> None:
    modes = ["wait", "wait", "ok"]
    sweep = sweep_in_a_process(tmp_path, modes, jobs=2)
    wait_for(lambda: len(list(tmp_path.glob("*/ready"))) == 2)
    with (
        pytest.raises(InUseError, match=rf"in use by sweep, process {sweep.pid} on "),
        take_ownership(tmp_path, "sweep"),
    ):
        pass
    sweep.kill()
    sweep.join()
    os.killpg(read_status(tmp_path / "b").pid, signal.SIGKILL)  # b dies with it, a lives on
    wait_for(lambda: OwnerWatch(tmp_path / "b").owner() is None)
    found = points(tmp_path, modes)
    with take_ownership(tmp_path, "sweep"):
        state = make_state(tmp_path, found)
        assert states(state) == {"a": "running", "b": "stopped", "c": "waiting"}
        assert state.states["b"].error.startswith("ended without a word")
        (tmp_path / "go").touch()
        run(state, jobs=1)
    assert set(states(state).values()) == {"finished"}
    assert [len(calls(tmp_path, name)) for name in "abc"] == [1, 2, 1]


def test_a_training_outlives_the_process_around_it(tmp_path: Path) -> None:
    sweep = sweep_in_a_process(tmp_path, ["wait"])
    wait_for(lambda: (tmp_path / "a" / "ready").exists() and read_status(tmp_path / "a").child)
    sweep.kill()
    sweep.join()
    os.kill(read_status(tmp_path / "a").pid, signal.SIGKILL)
    state = make_state(tmp_path, points(tmp_path, ["wait"]))
    assert states(state) == {"a": "running"}  # its lock went over to the training
    (tmp_path / "go").touch()
    run(state)
    assert states(state) == {"a": "finished"}
    assert len(calls(tmp_path, "a")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_lets_its_runs_save(tmp_path: Path, number: int) -> None:
    sweep = sweep_in_a_process(tmp_path, ["wait", "stubborn", "ok"], jobs=2, stop_limit=0.5)
    wait_for(lambda: len(list(tmp_path.glob("*/ready"))) == 2)
    os.kill(sweep.pid, number)  # type: ignore[arg-type]
    sweep.join(60)
    assert sweep.exitcode == 130
    assert (tmp_path / "a" / "saved").exists()
    written = on_disk(tmp_path)
    assert [written[name]["status"] for name in "abc"] == ["stopped", "stopped", "waiting"]
    assert written["a"]["error"] == "stopped before its end"
    assert not any(OwnerWatch(tmp_path / name).owner() for name in "ab")
    state = make_state(tmp_path, points(tmp_path, ["wait", "ok", "ok"]))
    (tmp_path / "go").touch()
    run(state)
    assert set(states(state).values()) == {"finished"}


def test_a_point_that_was_started_by_hand_is_waited_for_and_left_alone(tmp_path: Path) -> None:
    """Its end without results is no failed try: the sweep goes on with it."""
    ownership = take_ownership(tmp_path / "a", "training")
    (tmp_path / "a" / "config.yaml").write_text("seed: 0\n")
    state = make_state(tmp_path, points(tmp_path, ["ok", "ok"]))
    assert states(state) == {"a": "running", "b": "waiting"}
    assert state.states["a"].error.startswith(f"training, process {os.getpid()} on ")
    held: list[list[str]] = []

    def end() -> None:
        wait_for(lambda: (tmp_path / "b" / "results.json").exists())  # it takes no place of the sweep
        held.append(sorted(path.name for path in (tmp_path / "a").iterdir()))
        ownership.release()

    thread = threading.Thread(target=end)
    thread.start()
    run(state, jobs=1)
    thread.join()
    assert held == [[".owner", "config.yaml"]]
    assert states(state) == {"a": "finished", "b": "finished"}
    assert state.states["a"].attempts == 1


def test_a_start_by_hand_that_comes_first_is_not_disturbed(tmp_path: Path) -> None:
    """The sweep has looked before."""
    state = make_state(tmp_path, points(tmp_path, ["ok"]))
    waiting = state.with_state("waiting")
    ownership = take_ownership(tmp_path / "a", "training")
    held: list[list[str]] = []

    def end() -> None:
        wait_for(lambda: state.states["a"].error.startswith("training, process"))
        held.append([path.name for path in (tmp_path / "a").iterdir()])
        (tmp_path / "a" / "results.json").write_text("{}")
        ownership.release()

    thread = threading.Thread(target=end)
    thread.start()
    LocalRunner(state, SweepSettings({}, [], []), TRAIN, pause=0.02).run(waiting)
    thread.join()
    assert held == [[".owner"]]
    assert states(state) == {"a": "finished"}
    assert state.states["a"].attempts == 0


def test_points_on_another_machine_get_no_signals_and_go_on_here_when_it_is_gone(tmp_path: Path) -> None:
    """Processes of this machine have the numbers of those on the other one."""
    victim = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        values = elsewhere(tmp_path / "a", kind=KIND, processes=[[victim.pid, start_time(victim.pid)]])
        write_status(tmp_path / "a", Status("running", 1, host="node17", pid=victim.pid, child=victim.pid))
        with renewed(tmp_path / "a", values):
            state = make_state(tmp_path, points(tmp_path, ["ok"]))
            state.settle()
            assert state.states["a"].status == "running"
            assert state.states["a"].error.startswith(f"{KIND}, process {victim.pid} on node17")
            sweep = sweep_in_a_process(tmp_path, ["ok"], stop_limit=0.1)
            wait_for(lambda: (tmp_path / ".owner").exists())
            time.sleep(0.5)
            os.kill(sweep.pid, signal.SIGINT)  # type: ignore[arg-type]
            sweep.join(60)
            assert sweep.exitcode == 130
            assert victim.poll() is None
            state.look()
            assert states(state) == {"a": "running"}
        again = make_state(tmp_path, points(tmp_path, ["ok"]))
        again.settle()
        assert states(again) == {"a": "stopped"}
        assert again.states["a"].error.startswith("ended without a word")
        run(again)
        assert states(again) == {"a": "finished"}
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_a_number_that_another_process_has_by_now_gets_no_signal(tmp_path: Path) -> None:
    """The lock is held, so that something of the point lives, but it is not the process of the record."""
    victim = subprocess.Popen(["sleep", "60"], start_new_session=True)
    ownership = take_ownership(tmp_path / "a", KIND, every=60.0)
    try:
        record = tmp_path / "a" / ".owner"
        values = json.loads(record.read_text()) | {"processes": [[victim.pid, "1"]]}
        record.write_text(json.dumps(values))
        write_status(tmp_path / "a", Status("running", 1, host=socket.gethostname(), pid=victim.pid))
        sweep = sweep_in_a_process(tmp_path, ["ok"], stop_limit=0.1)
        wait_for(lambda: (tmp_path / "manifest.json").exists() or (tmp_path / ".owner").exists())
        time.sleep(0.5)
        os.kill(sweep.pid, signal.SIGTERM)  # type: ignore[arg-type]
        sweep.join(60)
        assert sweep.exitcode == 130
        assert victim.poll() is None
    finally:
        ownership.release()
        victim.kill()
        victim.wait()


def test_a_result_of_a_shorter_training_is_none_of_a_longer_one(tmp_path: Path) -> None:
    """Nor is it one when the longer training fails."""
    found = points(tmp_path, ["ok", "ok"])
    run(make_state(tmp_path, found))
    for name in "ab":
        (tmp_path / name / "config.yaml").write_text("trainer: {max_steps: 400, max_epochs: -1}\n")
    shorter = [replace(each, length={"trainer.max_steps": 200, "trainer.max_epochs": -1}) for each in found]
    assert set(states(make_state(tmp_path, shorter)).values()) == {"finished"}
    length = {"trainer.max_steps": 800, "trainer.max_epochs": -1}
    longer = [
        replace(each, length=length, overrides=(f"mode={mode}", *each.overrides[1:]))
        for each, mode in zip(found, ("ok", "crash"), strict=True)
    ]
    state = make_state(tmp_path, longer)
    assert set(states(state).values()) == {"waiting"}
    run(state, retries=0)
    assert [read_status(tmp_path / name).status for name in "ab"] == ["finished", "failed"]
    (tmp_path / "a" / "config.yaml").write_text("trainer: {max_steps: 800, max_epochs: -1}\n")
    assert states(make_state(tmp_path, longer)) == {"a": "finished", "b": "failed"}


def test_a_place_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "experiments.sweeps.attempt", str(tmp_path / "file" / "a"), "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'file' / 'a'}: cannot be written")
    assert done.stderr.count("\n") == 1


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"a/status\.json: not a status of a run"):
        make_state(tmp_path, points(tmp_path, ["ok"]))
    (tmp_path / "a" / "status.json").unlink()
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"manifest\.json: not a manifest of a sweep"):
        make_state(tmp_path, points(tmp_path, ["ok"]))


def test_progress_is_read_from_the_log(tmp_path: Path) -> None:
    assert progress_of(tmp_path) == (0, None, "starting")
    log = tmp_path / "train.log"
    log.write_text("data: all right\nstep 5/10  epoch 0  val/h_mae 12.5 meV  3 s left\nsomething\n")
    assert progress_of(tmp_path) == (5, 10, "val 12.5 meV, 3 s left")
    log.write_text("step 10/10  epoch 0  val/h_mae 1.5e-05 meV  0 s left\n")
    assert progress_of(tmp_path) == (10, 10, "val 1.5e-05 meV")
