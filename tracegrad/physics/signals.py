"""The end of long work by a signal, at a moment that suits the work."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(*more: int) -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and ``more`` instead of dying of them; only the main thread can."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    stopping = (signal.SIGINT, signal.SIGTERM, *more)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in stopping]
    try:
        yield received
    finally:
        for number, handler in zip(stopping, before, strict=True):
            signal.signal(number, handler)
