"""The end of long work by a signal, at a moment that suits the work."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HANGUP = getattr(signal, "SIGHUP", None)  # of a terminal that closes; Windows has none


@contextmanager
def stop_signals(*more: int) -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM, SIGHUP and ``more`` instead of dying of them; only the main thread can.

    A SIGHUP that is ignored, as under nohup, stays so.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    stopping = [signal.SIGINT, signal.SIGTERM, *more]
    if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:
        stopping.append(HANGUP)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in stopping]
    try:
        yield received
    finally:
        for number, handler in zip(stopping, before, strict=True):
            signal.signal(number, handler)
