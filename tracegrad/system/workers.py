"""A pool of single-threaded worker processes that reports which task a worker was doing when it died.

`concurrent.futures` only reports that some process died, and its workers outlive a killed parent. Here a worker ends
when its pipe to the parent is closed.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from tracegrad.errors import GenerationError, TraceGradError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerDied(GenerationError):
    """A worker process that ended without a result, for example because it was killed when memory ran out.

    Args:
        ending: exit status or signal of the process.
        key: key of its task.
    """

    def __init__(self, ending: str, key: Any) -> None:
        super().__init__(ending)
        self.key = key


@dataclass(frozen=True)
class TaskFailure:
    """Result of a task that raised an exception, whose text is ``reason``."""

    reason: str


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    key: Any | None = None


class WorkerPool:
    """Runs functions of modules in new single-threaded interpreters; a key identifies each task.

    Args:
        processes: number of workers. They do not import the main script of this process, and Ctrl-C does not reach
            them.
    """

    def __init__(self, processes: int) -> None:
        self._workers: list[_Worker] = []
        for _ in range(processes):
            self._workers.append(_start())

    @property
    def idle(self) -> int:
        """Number of workers without a task."""
        return sum(worker.key is None for worker in self._workers)

    @property
    def busy(self) -> bool:
        """Whether any worker has a task."""
        return self.idle < len(self._workers)

    def submit(self, key: Any, function: Callable[..., Any], *args: Any) -> None:
        """Give a task to an idle worker."""
        worker = next(worker for worker in self._workers if worker.key is None)
        worker.key = key
        # If the worker has died, the next call of `finished` reports it.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send((function, args))

    def finished(self, timeout: float) -> Iterator[tuple[Any, Any]]:
        """Keys and results (or `TaskFailure`) of tasks that have ended; waits at most ``timeout`` seconds for one.

        Raises:
            WorkerDied: a worker ended without a result; its ``key`` is that of the task.
        """
        working = [worker for worker in self._workers if worker.key is not None]
        ready = wait([worker.pipe for worker in working], timeout)
        for worker in working:
            if worker.pipe in ready:
                try:
                    result = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    with suppress(subprocess.TimeoutExpired):
                        worker.process.wait(1)
                    raise WorkerDied(_ending(worker.process.returncode), worker.key) from None
                key, worker.key = worker.key, None
                yield key, result

    def close(self) -> None:
        """End all workers immediately."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.wait()
            worker.pipe.close()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit status {exitcode}"


def _start() -> _Worker:
    """Start a worker. The environment sets its number of threads before it loads numpy."""
    pipe, other = Pipe()
    # The worker gets the present module path of this process, which may differ from that at its start.
    path = [str(entry) for entry in sys.path]
    program = f"import sys; sys.path[:] = {path!r}; from {__name__} import serve; serve({other.fileno()})"
    with other, _without_interrupts():
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, "1")},
            pass_fds=[other.fileno()],
        )
    return _Worker(process, pipe)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C does not reach processes started in the block, because they inherit the blocked signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(descriptor: int) -> None:
    """Main function of a worker process: do the tasks from a pipe until its other end is closed."""
    for number in (signal.SIGINT, signal.SIGHUP):  # sent by a terminal; the parent ends this process
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(descriptor)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            result = function(*args)
        except TraceGradError as error:
            result = TaskFailure(str(error))
        except Exception as error:
            result = TaskFailure(f"{type(error).__name__}: {error}")
        try:
            pipe.send(result)
        except BrokenPipeError:
            return
