"""Points of a sweep as processes of this machine, several at a time, each on its own GPUs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from experiments.sweeps.attempt import BUSY
from experiments.sweeps.manifest import SweepState
from experiments.sweeps.points import SweepPoint
from experiments.sweeps.progress import SweepProgress
from experiments.sweeps.settings import SweepSettings
from experiments.sweeps.status import FINISHED, RUNNING

TRAIN = (sys.executable, "-m", "experiments.train")
GONE = 5.0  # seconds until killed processes have disappeared


@dataclass(frozen=True)
class RunningPoint:
    """A point that runs.

    Attributes:
        point: that runs.
        process: around its training; None where an earlier command, killed since, has started it.
        gpus: that it uses; empty where the sweep hands out none.
        elsewhere: it runs on another machine or was started by hand: it counts as none of the jobs, and gets no
            signals.
    """

    point: SweepPoint
    process: subprocess.Popen[bytes] | None = None
    gpus: tuple[str, ...] = ()
    elsewhere: bool = False


class LocalRunner:
    """Keeps several points running until all have ended; more ``jobs`` than groups of GPUs share them.

    Args:
        train: command of a training, to which the overrides of a point are added.
        pause: seconds between two looks at the processes.
    """

    def __init__(
        self,
        state: SweepState,
        settings: SweepSettings,
        train: Sequence[str] = TRAIN,
        pause: float = 0.2,
    ) -> None:
        self.state, self.settings, self.train, self.pause = state, settings, train, pause
        self.jobs = settings.jobs or max(1, len(settings.gpu_groups))
        self.progress = SweepProgress()
        self.running: list[RunningPoint] = []
        self.queue: list[SweepPoint] = []

    def run(self, waiting: Sequence[SweepPoint]) -> None:
        """Run these points, and wait for those that an earlier command has left running.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; the points have been stopped by then.
        """
        self.queue = list(waiting)
        with self.progress:
            try:
                with _termination_as_interrupt():
                    for point in self.state.with_state(RUNNING):
                        status = self.state.states[point.name]
                        if not status.job:
                            self._adopt(point, tuple(filter(None, status.device.split(","))))
                    while self.queue or self.running:
                        while self.queue and sum(not run.elsewhere for run in self.running) < self.jobs:
                            self._start(self.queue.pop(0))
                        time.sleep(self.pause)
                        for run in list(self.running):
                            self._look(run)
            finally:
                self._stop()

    def _adopt(self, point: SweepPoint, gpus: tuple[str, ...] = ()) -> None:
        """Wait for a point that runs already."""
        elsewhere = not self.state.pids(point)
        self.running.append(RunningPoint(point, None, gpus, elsewhere))
        self.progress.show_start(point)
        owner = self.state.owner(point)
        if elsewhere and owner is not None:
            print(f"{point.name}: waiting for the end of {owner}", flush=True)

    def _start(self, point: SweepPoint) -> None:
        gpus = self._free_gpus()
        environment = dict(os.environ)
        if gpus:
            environment |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        process = subprocess.Popen(
            attempt_command(point, self.settings.retries, self.train),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only the sweep, which stops its points in order
        )
        self.running.append(RunningPoint(point, process, gpus))
        self.progress.show_start(point)
        self.state.started_here(point)

    def _free_gpus(self) -> tuple[str, ...]:
        """The group of GPUs with the fewest runs."""
        return min(
            self.settings.gpu_groups,
            key=lambda group: sum(bool({*run.gpus} & {*group}) for run in self.running),
            default=(),
        )

    def _look(self, run: RunningPoint) -> None:
        if run.process is not None and run.process.poll() is None:
            self.progress.show_step(run.point)
            return
        busy = run.process is not None and run.process.returncode == BUSY
        if self.state.owner(run.point) is None:
            self._end(run)
            finished = self.state.states[run.point.name].status == FINISHED
            if (busy or run.elsewhere) and not finished:
                self.queue.append(run.point)
        elif busy:  # somebody else has started it first
            self.running.remove(run)
            self.state.update()
            self._adopt(run.point)
        else:
            self.progress.show_step(run.point)

    def _end(self, run: RunningPoint) -> None:
        self.running.remove(run)
        self.state.update()
        self.progress.show_end(run.point, self.state.states[run.point.name])

    def _stop(self) -> None:
        """End what this sweep has started and what still runs of it, after ``stop_limit`` seconds by force."""
        own = [run for run in self.running if not run.elsewhere]
        try:
            asked = [run for run in own if self._terminate(run)]
            self._await_end(asked, self.settings.stop_limit)
        finally:
            for run in own:
                self._kill(run)
            for run in own:
                if run.process is not None:
                    run.process.wait()
            self._await_end(own, GONE)
            for run in list(self.running):
                self._end(run)

    def _await_end(self, runs: Sequence[RunningPoint], seconds: float) -> None:
        until = time.monotonic() + seconds
        while any(map(self._pids, runs)) and time.monotonic() < until:
            time.sleep(min(self.pause, 0.1))

    def _pids(self, run: RunningPoint) -> list[int]:
        """Its processes that live and are known to be its own: other processes may have got their numbers since."""
        if run.process is not None and run.process.poll() is None:
            return [run.process.pid]
        return self.state.pids(run.point)  # only the training, where the process around it was killed

    def _terminate(self, run: RunningPoint) -> bool:
        """Ask it to end; False where it has ended, or belongs to another user."""
        with suppress(ProcessLookupError, PermissionError):
            for pid in self._pids(run)[:1]:
                os.kill(pid, signal.SIGTERM)
                return True
        return False

    def _kill(self, run: RunningPoint) -> None:
        """All processes of a point: the one around the training leads their group."""
        owner = self.state.owner(run.point)
        leaders = {owner.processes[0][0]} if owner is not None else set()
        leaders |= {run.process.pid} if run.process is not None else set()
        for pid in self._pids(run):
            with suppress(ProcessLookupError, PermissionError):
                group = os.getpgid(pid)
                if group in leaders:
                    os.killpg(group, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGKILL)


def attempt_command(point: SweepPoint, retries: int, train: Sequence[str]) -> list[str]:
    """The command that runs a point, tries again and writes its status."""
    options = ["--retries", str(retries), *(["--result", point.result] if point.result else [])]
    attempt = [sys.executable, "-m", "experiments.sweeps.attempt", *options]
    return [*attempt, str(point.directory), "--", *train, *point.overrides]


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
