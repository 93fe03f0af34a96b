"""Signals that stop long work, collected so that the work can end at a suitable moment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(*more: int) -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM, SIGHUP and ``more`` in a list instead of ending the process.

    It has an effect only in the main thread. A SIGHUP that is ignored, as under nohup, stays ignored.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    stopping = [signal.SIGINT, signal.SIGTERM, *more]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stopping.append(signal.SIGHUP)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in stopping]
    try:
        yield received
    finally:
        for number, handler in zip(stopping, before, strict=True):
            signal.signal(number, handler)
