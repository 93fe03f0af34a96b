"""Sweeps as arrays of SLURM jobs: real submission files and jobs, with commands that stand in for SLURM."""

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from experiments.sweeps import engine
from experiments.sweeps.manifest import SweepState
from experiments.sweeps.points import SweepPoint
from experiments.sweeps.settings import SweepSettings, read_settings
from experiments.sweeps.slurm import queued_jobs, submit
from experiments.sweeps.status import FAILED, STOPPED, WAITING, Status, read_status, write_status
from tests.experiments.sweeping import TRAIN, make_state, points, wait_for
from tracegrad.errors import ConfigError, TrainingError

# Starts every job of an array at once; a job runs again if scontrol has said so. Jobs run a copy of the script, as
# those of SLURM do: submitit moves its file as soon as it knows the number.
SBATCH = """#!/bin/bash
id=$(cat "$FAKE/next"); echo $((id + 100)) > "$FAKE/next"; cp "$1" "$FAKE/submitted.sh"
script="$FAKE/$id.sh"; cp "$1" "$script"
[ -e "$FAKE/refuse" ] && { echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1; }
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$script")
for i in $(seq 0 ${last:-0}); do
  name=$id; [ -n "$last" ] && name=${id}_$i
  touch "$FAKE/queue/$name"
  [ -e "$FAKE/lost" ] && { rm "$FAKE/queue/$name"; continue; }
  (
    export SLURM_JOB_ID=$((id + i)) SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0
    export CUDA_VISIBLE_DEVICES=$i
    [ -n "$last" ] && export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$i
    while :; do
      bash "$script"
      [ -e "$FAKE/requeue/$name" ] || break
      rm "$FAKE/requeue/$name"
    done
    rm "$FAKE/queue/$name"
  ) > /dev/null 2>&1 &
done
echo "Submitted batch job $id"
"""
SRUN = """#!/bin/bash
while [ "${1#--}" != "$1" ]; do [ "$1" = --unbuffered ] || shift; shift; done
exec "$@"
"""
SQUEUE = '#!/bin/bash\nls "$FAKE/queue"\n'
SCONTROL = '#!/bin/bash\ntouch "$FAKE/requeue/$2"\n'


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "cluster"
    for folder in ("bin", "queue", "requeue"):
        (home / folder).mkdir(parents=True)
    (home / "next").write_text("4000")
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}.items():
        (home / "bin" / name).write_text(text)
        (home / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(home))
    return home


def give(state: SweepState, at_a_time: int | None = None, **settings: object) -> list[SweepPoint]:
    """Submit what is not finished and not queued, as the engine does."""
    states = state.states
    todo = [
        point
        for point in state.with_state(WAITING, FAILED, STOPPED)
        if states[point.name].status != WAITING or not states[point.name].job
    ]
    if todo:
        sweep = SweepSettings({}, [], [], jobs=at_a_time, retries=0, stop_limit=60, slurm=settings)
        state.submitted(submit(todo, state.runs, sweep, TRAIN))
    return todo


def states(state: SweepState) -> dict[str, str]:
    state.look()
    return {name: status.status for name, status in state.states.items()}


def test_an_array_of_jobs_from_the_same_manifest(tmp_path: Path, cluster: Path) -> None:
    runs = tmp_path / "my sweep"
    found = points(runs, ["ok", "crash", "wait"])
    state = make_state(runs, found, queued_jobs)
    settings = {"partition": "gpu", "time": 90, "gpus_per_node": 1, "mem": "8GB", "reservation": "mine"}
    give(state, 2, **settings)
    script = (cluster / "submitted.sh").read_text()
    for line in (
        "--partition=gpu",
        "--time=90",
        "--gpus-per-node=1",
        "--mem=8GB",
        "--reservation=mine",
        "--array=0-2%2",
        "--job-name=my_sweep",
        "--signal=USR2@60",
    ):
        assert f"#SBATCH {line}\n" in script
    wait_for(lambda: (runs / "c" / "ready").exists() and not list(cluster.glob("queue/4000_[01]")))
    assert states(state) == {"a": "finished", "b": "failed", "c": "running"}
    assert [state.states[name].job for name in "abc"] == ["4000_0", "4000_1", "4000_2"]
    assert [state.states[name].device for name in "abc"] == ["0", "1", "2"]
    assert state.states["b"].error == "ValueError: boom"

    later = make_state(runs, found, queued_jobs)  # another command, while the last job runs
    assert [point.name for point in give(later)] == ["b"]
    assert states(later)["c"] == "running"
    (runs / "go").touch()
    wait_for(lambda: not list(cluster.glob("queue/*")))
    assert states(later) == {"a": "finished", "b": "failed", "c": "finished"}
    assert later.states["b"].job == "4100"
    assert later.states["b"].attempts == 2


def test_a_job_whose_time_is_over_saves_and_goes_on_in_the_queue(tmp_path: Path, cluster: Path) -> None:
    runs = tmp_path / "runs"
    state = make_state(runs, points(runs, ["wait"]), queued_jobs)
    give(state)
    wait_for(lambda: (runs / "a" / "ready").exists() and read_status(runs / "a").child)
    first = read_status(runs / "a")
    parent = int(Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[1])
    (runs / "a" / "ready").unlink()
    for pid in (parent, first.pid, first.child):  # SLURM tells every process of the job
        with suppress(ProcessLookupError):  # one that heard of it from its parent may have ended
            os.kill(pid, signal.SIGUSR2)  # type: ignore[arg-type]
    wait_for(lambda: (runs / "a" / "ready").exists())
    assert (runs / "a" / "saved").exists()
    wait_for(lambda: read_status(runs / "a").attempts == 2)
    (runs / "go").touch()
    wait_for(lambda: not list(cluster.glob("queue/*")))
    assert states(state) == {"a": "finished"}
    assert state.states["a"].job == first.job == "4000"


def test_jobs_that_never_started_are_failed_and_submitted_again(tmp_path: Path, cluster: Path) -> None:
    runs = tmp_path / "runs"
    state = make_state(runs, points(runs, ["ok", "ok"]), queued_jobs)
    (cluster / "lost").touch()
    give(state)
    assert states(state) == {"a": "failed", "b": "failed"}
    assert state.states["a"].error.startswith("job 4000_0 left the queue without a start")
    (cluster / "lost").unlink()
    again = make_state(runs, state.points, queued_jobs)
    assert len(give(again)) == 2
    wait_for(lambda: states(again) == {"a": "finished", "b": "finished"})


def test_a_job_that_starts_and_ends_while_the_queue_is_asked_has_started(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    found = points(runs, ["crash"])

    def queue() -> set[str]:
        write_status(found[0].directory, Status(FAILED, 1, "boom", job="4000"))
        return set()

    state = make_state(runs, found, queue)
    state.submitted({"a": "4000"})
    found[0].directory.mkdir()
    assert states(state) == {"a": "failed"}
    assert state.states["a"].error == "boom"


def test_the_command_submits_says_and_reports(
    tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["experiment=demo", "arms=none,grad", "seeds=[4]", f"runs={tmp_path / 'runs'}"]
    reported: list[int] = []

    def command(mode: str, *more: str) -> str:
        settings = read_settings("ablate", [*arguments, "launcher=slurm", *more])
        engine.run_sweep(
            settings,
            lambda state, _: reported.append(len(state.with_state("finished"))),
            (*TRAIN, mode),
        )
        return capsys.readouterr().out

    out = command("mode=wait", "slurm.partition=gpu")
    assert "2 jobs given to SLURM: 4000" in out
    assert "2 runs in" in out
    wait_for(lambda: len(list(tmp_path.glob("runs/*/ready"))) == 2)
    out = command("mode=wait")
    assert "jobs given" not in out
    assert "grad seed 4: running, job 4000_1" in out
    assert reported == []
    sleep = time.sleep

    def let_go(_: float) -> None:
        (tmp_path / "runs" / "go").touch()
        sleep(0.05)

    monkeypatch.setattr(time, "sleep", let_go)
    assert "none seed 4: finished" in command("mode=wait", "wait=true")
    assert reported == [2]


def test_what_slurm_refuses(tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state(tmp_path, points(tmp_path, ["ok"]), queued_jobs)
    with pytest.raises(ConfigError, match=re.escape("slurm.nodes is set by the sweep")):
        give(state, nodes=2)
    (cluster / "refuse").touch()
    with pytest.raises(TrainingError, match=r"SLURM refuses the jobs: .*invalid partition"):
        give(state, partition="nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="needs sbatch and srun"):
        give(state)
    with pytest.raises(ConfigError, match="there is no squeue here"):
        queued_jobs()
