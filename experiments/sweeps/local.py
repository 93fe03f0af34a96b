"""Points of a sweep as processes of this machine, a given number at a time, each on its own GPUs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from experiments.sweeps.manifest import Manifest
from experiments.sweeps.points import Point
from experiments.sweeps.status import LOCK, LOG, RUNNING, Status, read_status
from tracegrad.system.locks import is_locked

TRAIN = (sys.executable, "-m", "experiments.train")


@dataclass(frozen=True)
class Running:
    """A point that runs; ``process`` is None where an earlier sweep, killed since, has started it."""

    point: Point
    process: subprocess.Popen[bytes] | None
    gpus: tuple[str, ...]


class Watcher:
    """What is told about a sweep while it runs; does nothing."""

    def started(self, point: Point) -> None:
        """A point was started or found running."""

    def looked(self, point: Point) -> None:
        """A point still runs."""

    def ended(self, point: Point, status: Status) -> None:
        """A point has ended, one way or another."""


class LocalRunner:
    """Keeps ``jobs`` points running until all have ended.

    Args:
        manifest: of the sweep.
        jobs: points at a time.
        gpu_groups: GPUs of each place; empty: the runs choose themselves. More jobs than places share them.
        retries: tries of a point after the first.
        stop_limit: seconds that a point may take for its checkpoint when the sweep is stopped.
        train: command of a training, to which the overrides of a point are added.
        watcher: is told what happens.
        pause: seconds between two looks.
    """

    def __init__(
        self,
        manifest: Manifest,
        jobs: int,
        *,
        gpu_groups: Sequence[Sequence[str]] = (),
        retries: int = 1,
        stop_limit: float = 120.0,
        train: Sequence[str] = TRAIN,
        watcher: Watcher | None = None,
        pause: float = 0.2,
    ) -> None:
        self.manifest, self.jobs, self.retries = manifest, jobs, retries
        self.groups = [tuple(group) for group in gpu_groups]
        self.stop_limit, self.train, self.pause = stop_limit, tuple(train), pause
        self.watcher = watcher or Watcher()
        self.running: list[Running] = []

    def run(self, waiting: Sequence[Point]) -> None:
        """Run these points, and wait for those that an earlier sweep has left running.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; the points have been stopped by then.
        """
        queue = list(waiting)
        try:
            with _termination_as_interrupt():
                for point in self.manifest.with_state(RUNNING):
                    state = self.manifest.states[point.name]
                    if not state.job:
                        self._add(Running(point, None, tuple(filter(None, state.device.split(",")))))
                while queue or self.running:
                    while queue and len(self.running) < self.jobs:
                        self._start(queue.pop(0))
                    time.sleep(self.pause)
                    for run in list(self.running):
                        self._look(run)
        finally:
            self._stop()

    def _add(self, run: Running) -> None:
        self.running.append(run)
        self.watcher.started(run.point)

    def _start(self, point: Point) -> None:
        group = self._free_group()
        environment = dict(os.environ)
        if group:
            environment |= {"CUDA_VISIBLE_DEVICES": ",".join(group), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        point.directory.mkdir(parents=True, exist_ok=True)
        with (point.directory / LOG).open("ab") as log:
            process = subprocess.Popen(
                attempt_command(point, self.retries, self.train),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only the sweep, which stops its points in order
            )
        self._add(Running(point, process, group))
        self.manifest.started(point, process.pid, environment.get("CUDA_VISIBLE_DEVICES", ""))

    def _free_group(self) -> tuple[str, ...]:
        """The GPUs with the fewest runs."""
        if not self.groups:
            return ()
        return min(self.groups, key=lambda group: sum(bool({*run.gpus} & {*group}) for run in self.running))

    def _look(self, run: Running) -> None:
        if run.process is not None and run.process.poll() is None:
            self.watcher.looked(run.point)
            return
        if is_locked(run.point.directory / LOCK):  # another process runs it
            self.watcher.looked(run.point)
            return
        self.running.remove(run)
        self.watcher.ended(run.point, self.manifest.update(run.point))

    def _stop(self) -> None:
        """End what still runs: it may write a checkpoint first, but not for ever."""
        try:
            for run in self.running:
                self._terminate(run)
            until = time.monotonic() + self.stop_limit
            while any(map(self._alive, self.running)) and time.monotonic() < until:
                time.sleep(min(self.pause, 0.1))
        finally:
            for run in self.running:
                if self._alive(run):
                    self._kill(run)
            for run in self.running:
                if run.process is not None:
                    run.process.wait()
            for run in self.running:
                self.watcher.ended(run.point, self.manifest.update(run.point))
            self.running = []

    def _alive(self, run: Running) -> bool:
        if run.process is not None and run.process.poll() is None:
            return True
        return is_locked(run.point.directory / LOCK)

    def _terminate(self, run: Running) -> None:
        if run.process is not None and run.process.poll() is None:
            run.process.terminate()
            return
        state = read_status(run.point.directory)
        for pid in (state.pid, state.child):  # the training alone, where the process around it was killed
            if pid is not None and is_locked(run.point.directory / LOCK):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                    return

    def _kill(self, run: Running) -> None:
        """All processes of a point: they are one group."""
        pid = run.process.pid if run.process is not None else read_status(run.point.directory).pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def attempt_command(point: Point, retries: int, train: Sequence[str] = TRAIN) -> list[str]:
    """The command that runs a point, tries again and writes its status."""
    options = ["--retries", str(retries), *(["--result", point.result] if point.result else [])]
    attempt = [sys.executable, "-m", "experiments.sweeps.attempt", *options]
    return [*attempt, str(point.directory), "--", *train, *point.overrides]


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Callable | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
