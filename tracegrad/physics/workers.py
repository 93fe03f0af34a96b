"""A small pool of single-threaded processes that knows what a dead worker was working on.

`concurrent.futures` only says that some process died, and its workers outlive a killed parent; here a
worker whose parent is gone reads the end of its pipe and leaves.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from tracegrad.errors import GenerationError, TraceGradError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerDied(GenerationError):
    """A worker process that ended without a result, for example killed for want of memory."""

    def __init__(self, ending: str, key: Any) -> None:
        super().__init__(ending)
        self.key = key


@dataclass(frozen=True)
class TaskFailure:
    """An exception of a task, as text."""

    reason: str


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    key: Any | None = None


class WorkerPool:
    """Runs module-level functions in spawned processes; the caller keys each task."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        with _environment_of_workers():
            for _ in range(processes):
                pipe, child_pipe = context.Pipe()
                process = context.Process(target=_serve, args=(child_pipe,), daemon=True)
                process.start()
                child_pipe.close()
                self._workers.append(_Worker(process, pipe))

    @property
    def idle(self) -> int:
        """Number of workers without a task."""
        return sum(worker.key is None for worker in self._workers)

    @property
    def busy(self) -> bool:
        return self.idle < len(self._workers)

    def submit(self, key: Any, function: Callable[..., Any], *args: Any) -> None:
        """Give a task to an idle worker."""
        worker = next(worker for worker in self._workers if worker.key is None)
        worker.key = key
        # A worker that died while idle is found by the next `finished`, like one that dies at work.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send((function, args))

    def finished(self, timeout: float) -> Iterator[tuple[Any, Any]]:
        """Keys and results (or `TaskFailure`) of the tasks that ended, after at most `timeout` seconds.

        Raises:
            WorkerDied: a worker ended without a result; `key` is that of its task.
        """
        working = [worker for worker in self._workers if worker.key is not None]
        ready = wait([w.pipe for w in working] + [w.process.sentinel for w in working], timeout)
        for worker in working:
            if worker.pipe in ready or worker.process.sentinel in ready:
                try:
                    result = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join(1)
                    raise WorkerDied(_ending(worker.process.exitcode), worker.key) from None
                key, worker.key = worker.key, None
                yield key, result

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit status {exitcode}"


@contextmanager
def _environment_of_workers() -> Iterator[None]:
    """One BLAS thread a worker, set before it loads numpy, and deaf to the Ctrl-C of the terminal.

    Both are inherited: a spawned interpreter leaves SIGINT ignored where it finds it ignored. It would also import
    the main script of this process again, with all that it imports; it finds an empty one.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
