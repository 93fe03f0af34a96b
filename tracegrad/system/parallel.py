"""Tasks in worker processes, as iterators over their results."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tracegrad.errors import DataError
from tracegrad.system.workers import TaskFailure, WorkerPool


def work_through(
    pool: WorkerPool, queue: deque[Any], task: Callable[[Any], tuple[Any, ...]], stopped: Sequence[int] = ()
) -> Iterator[tuple[Any, Any]]:
    """Give the keys of a queue to the workers, and yield each key with its result (or `TaskFailure`).

    Args:
        pool: of the workers.
        queue: keys, from left to right; more may be added while the iteration goes on.
        task: returns the function and the arguments of a key, when a worker is free.
        stopped: signals, see `stop_signals`; the iteration ends when there is one.

    Raises:
        WorkerDied: a worker ended without a result.
    """
    while (queue or pool.busy) and not stopped:
        for _ in range(min(pool.idle, len(queue))):
            key = queue.popleft()
            pool.submit(key, *task(key))
        yield from pool.finished(timeout=0.5)


def map_unordered(
    work: Callable[[Any], Any], items: Sequence[Any], processes: int
) -> Iterator[tuple[int, Any]]:
    """Yield the index of each item and ``work(item)``, in the order in which they are finished.

    Args:
        work: a picklable function; every process receives it once.
        items: picklable too.
        processes: number of processes of one thread each; 1: this process does the work.

    Raises:
        DataError: ``work`` has raised an error in a process; in this process its errors are passed on.
        WorkerDied: a process ended without a result; its ``key`` is the index of the item, or -1 if it had none yet.
    """
    if processes == 1:
        yield from enumerate(map(work, items))
        return
    with WorkerPool(min(processes, len(items))) as pool:
        for _ in range(pool.idle):  # all are idle, so each of them receives one of these tasks
            pool.submit(_KEEP, _keep, work)
        for index, result in work_through(pool, deque(range(len(items))), lambda n: (_work, items[n])):
            if isinstance(result, TaskFailure):
                raise DataError(result.reason)
            if index != _KEEP:
                yield index, result


_KEEP = -1  # key of the task that sends the function
_kept: list[Callable[[Any], Any]] = []  # the function of a worker process


def _keep(work: Callable[[Any], Any]) -> None:
    _kept[:] = [work]


def _work(item: Any) -> Any:
    return _kept[0](item)
