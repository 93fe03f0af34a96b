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

from experiments.sweeps.attempt import BUSY
from experiments.sweeps.manifest import Manifest
from experiments.sweeps.points import Point
from experiments.sweeps.status import FINISHED, RUNNING, Status

TRAIN = (sys.executable, "-m", "experiments.train")
GONE = 5.0  # seconds that killed processes may take to be gone


@dataclass(frozen=True)
class Running:
    """A point that runs; ``process`` is None where an earlier sweep, killed since, has started it.

    One that runs ``elsewhere``, on another machine or started by hand, takes no place here and gets no signals.
    """

    point: Point
    process: subprocess.Popen[bytes] | None = None
    gpus: tuple[str, ...] = ()
    elsewhere: bool = False


class Watcher:
    """What is told about a sweep while it runs; does nothing."""

    def started(self, point: Point) -> None:
        """A point was started, or runs already."""

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
        self.queue: list[Point] = []

    def run(self, waiting: Sequence[Point]) -> None:
        """Run these points, and wait for those that an earlier sweep has left running.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; the points have been stopped by then.
        """
        self.queue = list(waiting)
        try:
            with _termination_as_interrupt():
                for point in self.manifest.with_state(RUNNING):
                    state = self.manifest.states[point.name]
                    if not state.job:
                        self._adopt(point, tuple(filter(None, state.device.split(","))))
                while self.queue or self.running:
                    while self.queue and sum(not run.elsewhere for run in self.running) < self.jobs:
                        self._start(self.queue.pop(0))
                    time.sleep(self.pause)
                    for run in list(self.running):
                        self._look(run)
        finally:
            self._stop()

    def _adopt(self, point: Point, gpus: tuple[str, ...] = ()) -> None:
        """Wait for a point that runs already."""
        elsewhere = not self.manifest.pids(point)
        self.running.append(Running(point, None, gpus, elsewhere))
        self.watcher.started(point)
        owner = self.manifest.owner(point)
        if elsewhere and owner is not None:
            print(f"{point.name}: waiting for the end of {owner}", flush=True)

    def _start(self, point: Point) -> None:
        group = self._free_group()
        environment = dict(os.environ)
        if group:
            environment |= {"CUDA_VISIBLE_DEVICES": ",".join(group), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        process = subprocess.Popen(
            attempt_command(point, self.retries, self.train),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only the sweep, which stops its points in order
        )
        self.running.append(Running(point, process, group))
        self.watcher.started(point)
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
        busy = run.process is not None and run.process.returncode == BUSY
        if self.manifest.owner(run.point) is None:
            self.running.remove(run)
            state = self.manifest.update(run.point)
            self.watcher.ended(run.point, state)
            if (busy or run.elsewhere) and state.status != FINISHED:
                self.queue.append(run.point)
        elif busy:  # somebody else has started it first
            self.running.remove(run)
            self.manifest.update(run.point)
            self._adopt(run.point)
        else:
            self.watcher.looked(run.point)

    def _stop(self) -> None:
        """End what this sweep has started and still runs: it may write a checkpoint first, but not for ever."""
        mine = [run for run in self.running if not run.elsewhere]
        try:
            told = [run for run in mine if self._terminate(run)]
            until = time.monotonic() + self.stop_limit
            while any(map(self._alive, told)) and time.monotonic() < until:
                time.sleep(min(self.pause, 0.1))
        finally:
            for run in mine:
                self._kill(run)
            for run in mine:
                if run.process is not None:
                    run.process.wait()
            until = time.monotonic() + GONE
            while any(map(self._alive, mine)) and time.monotonic() < until:
                time.sleep(0.02)
            for run in self.running:
                self.watcher.ended(run.point, self.manifest.update(run.point))
            self.running = []

    def _alive(self, run: Running) -> bool:
        return bool(self._pids(run))

    def _pids(self, run: Running) -> list[int]:
        """Its processes that are known to be its own: their numbers may have gone to others since."""
        if run.process is not None and run.process.poll() is None:
            return [run.process.pid]
        return self.manifest.pids(run.point)  # the training alone, where the process around it was killed

    def _terminate(self, run: Running) -> bool:
        """Ask it to end; False where it has ended, or belongs to another user."""
        with suppress(ProcessLookupError, PermissionError):
            for pid in self._pids(run)[:1]:
                os.kill(pid, signal.SIGTERM)
                return True
        return False

    def _kill(self, run: Running) -> None:
        """All processes of a point: the one around it leads their group."""
        owner = self.manifest.owner(run.point)
        leaders = {owner.processes[0][0]} if owner is not None else set()
        leaders |= {run.process.pid} if run.process is not None else set()
        for pid in self._pids(run):
            with suppress(ProcessLookupError, PermissionError):
                group = os.getpgid(pid)
                if group in leaders:
                    os.killpg(group, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGKILL)


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
