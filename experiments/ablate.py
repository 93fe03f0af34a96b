"""Train several arms and seeds of one experiment, each in a process of its own, and report them together.

  python -m experiments.ablate experiment=demo
  python -m experiments.ablate experiment=qd_tracegrad arms=none,tracegrad seeds=0,1,2 jobs=1 data.path=...

Settings of the ablation itself:
  arms=none,trace,grad,tracegrad   which arms
  seeds=0,1,2                      one run of every arm for each seed
  jobs=1                           runs at a time
  runs=runs/NAME                   directory of the runs; the report goes to <runs>/report

Everything else is given to every run as it is: see python -m experiments.train --help. Finished runs are not
repeated and interrupted ones go on, so the same command can be given again at any time.
"""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from experiments.cli import clean_errors
from experiments.configuration import ARMS, composed, plain, quoted
from experiments.loggers import print_wandb_hint
from experiments.report import make_report, print_report
from experiments.runs import RESULTS, find_run
from tracegrad.errors import ConfigError, TrainingError

STEP = re.compile(r"^step (\d+)/(\d+)(?:.*?val/h_mae ([\d.e+-]+) meV)?")
LOG = "train.log"


@dataclass
class Point:
    """One run of the ablation."""

    arm: str
    seed: int
    directory: Path
    overrides: list[str]
    process: subprocess.Popen | None = field(default=None, repr=False)
    task: TaskID | None = None

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def finished(self) -> bool:
        return (self.directory / RESULTS).exists()


@clean_errors
def main() -> None:
    """Run the ablation that the command line describes."""
    arguments = sys.argv[1:]
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return
    started = time.monotonic()
    own, overrides = _own_settings(arguments)
    points, runs = _points(own, overrides)
    waiting = [point for point in points if not point.finished]
    print(f"{len(points)} runs in {runs}, {len(points) - len(waiting)} of them finished", flush=True)
    failed = _run(waiting, int(own["jobs"]))
    if failed:
        logs = "\n  ".join(
            f"{point.name}: {_last_error(point)} ({point.directory / LOG})" for point in failed
        )
        raise TrainingError(
            f"{len(failed)} of {len(points)} runs failed; the same command goes on with them:\n  {logs}"
        )
    print_report(make_report(runs))
    print_wandb_hint([point.directory for point in points])
    print(f"runs: {runs} (each with config.yaml, metrics.csv, {RESULTS}, figures/)")
    print(f"time: {time.monotonic() - started:.0f} s")


def _own_settings(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    own = {"arms": ",".join(ARMS.values()), "seeds": "0,1,2", "jobs": "1", "runs": ""}
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in own:
            own[key] = value.strip("[] ")
        elif key in ("tracegrad", "seed", "run_dir"):
            raise ConfigError(f"{key} is set by the ablation; choose with arms=, seeds= and runs=")
        else:
            overrides.append(argument)
    unknown = sorted(set(own["arms"].split(",")) - set(ARMS.values()))
    if unknown:
        raise ConfigError(f"unknown arms {unknown}; choose from {','.join(ARMS.values())}")
    if not all(seed.strip().isdigit() for seed in own["seeds"].split(",")):
        raise ConfigError(f"seeds={own['seeds']} must be whole numbers separated by commas")
    if not own["jobs"].isdigit() or int(own["jobs"]) < 1:
        raise ConfigError(f"jobs={own['jobs']} must be a whole number of at least 1")
    return own, overrides


def _points(own: dict[str, str], overrides: list[str]) -> tuple[list[Point], Path]:
    """All runs, seeds slow; a mistake in any configuration shows before the first run starts."""
    runs = Path(own["runs"] or Path(composed("train", overrides).run_dir).parent)
    points = []
    for seed in dict.fromkeys(map(int, own["seeds"].split(","))):
        for arm in dict.fromkeys(own["arms"].split(",")):
            directory = runs / f"{arm}_seed{seed}"
            settings = [*overrides, f"tracegrad={arm}", f"seed={seed}", f"run_dir={quoted(directory)}"]
            config = composed("train", settings)
            find_run(directory, plain(config), "auto")
            points.append(Point(arm, seed, directory, settings))
    return points, runs


def _run(waiting: list[Point], jobs: int) -> list[Point]:
    """Keep ``jobs`` processes busy; the runs that failed."""
    queue = list(waiting)
    running: list[Point] = []
    failed: list[Point] = []
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[error]}"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            while queue or running:
                while queue and len(running) < jobs:
                    point = queue.pop(0)
                    _start(point)
                    point.task = progress.add_task(point.name, total=None, error="")
                    running.append(point)
                time.sleep(0.5)
                for point in list(running):
                    _show(point, progress)
                    assert point.process is not None
                    if point.process.poll() is None:
                        continue
                    running.remove(point)
                    if point.process.returncode != 0:
                        failed.append(point)
                    if not console.is_terminal:
                        state = "failed" if point in failed else _state(point)[2]
                        print(f"{point.name}: {state}", flush=True)
    finally:
        for point in running:  # an interrupted ablation leaves no runs behind
            if point.process is not None:
                point.process.terminate()
                point.process.wait()
    return failed


def _start(point: Point) -> None:
    point.directory.mkdir(parents=True, exist_ok=True)
    with (point.directory / LOG).open("a", encoding="utf-8") as log:
        point.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.train", *point.overrides],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _show(point: Point, progress: Progress) -> None:
    step, last, state = _state(point)
    if point.task is not None:
        progress.update(point.task, completed=step, total=last, error=state)


def _state(point: Point) -> tuple[int, int | None, str]:
    """Steps done and to do, and the last validation error, from the log of a run."""
    for line in reversed((point.directory / LOG).read_text(encoding="utf-8", errors="replace").splitlines()):
        match = STEP.match(line)
        if match:
            return int(match[1]), int(match[2]), f"val {match[3]} meV" if match[3] else ""
    return 0, None, "starting"


def _last_error(point: Point) -> str:
    lines = (point.directory / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else (lines[-1] if lines else "no output")


if __name__ == "__main__":
    main()
