"""Set-up of `python -m experiments.NAME` before any large import: Ctrl-C, output, missing packages.

`experiments/__init__.py` calls `prepare` for a command; if the package is imported as a library nothing changes.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TextIO

from tracegrad.extras import EXTRAS, MissingExtraError, installed

# Packages whose name for pip differs from the name of the import.
DISTRIBUTIONS = {"hydra": "hydra-core", "yaml": "PyYAML", "torch_geometric": "torch-geometric"}
OWN = ("tracegrad", "callbacks", "experiments", "conf", "tests")
# Errors of a terminal or a pipe that nobody reads any more.
NO_READER = (errno.EPIPE, errno.EIO)

_prepared = False


def prepare() -> None:
    """Let Ctrl-C end the process without a traceback, and let it continue if nobody reads its output any more."""
    global _prepared
    _prepared = True
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A KeyboardInterrupt during an import is printed as a traceback, or the import suppresses it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout, sys.stderr = lasting(sys.stdout), lasting(sys.stderr)
    sys.excepthook = _except_hook


@contextmanager
def interruptible() -> Iterator[None]:
    """A block in which Ctrl-C raises KeyboardInterrupt; before and after it, Ctrl-C ends the process at once.

    A terminal that closes does not end the work in the block, as under nohup; before and after the block it does.
    """
    # Not those that this process ignores: shells let commands in the background ignore Ctrl-C, nohup the terminal.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: _ignore_hangup}
    changed = [number for number in handlers if _prepared and signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def end_by_hangup() -> None:
    """From now on, let a terminal that closes end the process: for work that is not lost by this."""
    if signal.getsignal(signal.SIGHUP) is _ignore_hangup:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _ignore_hangup(number: int, frame: object) -> None:
    """A handler that does nothing. Unlike SIG_IGN, programs that the process starts do not inherit it."""


def lasting(stream: TextIO) -> TextIO:
    """The same standard stream; an error of writing does not end the process, see `_Output`."""
    if not isinstance(stream, io.TextIOWrapper) or isinstance(getattr(stream.buffer, "raw", None), _Output):
        return stream  # also None, for a closed stream
    raw = _Output(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # type: ignore[arg-type]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Output(io.FileIO):
    """A standard stream that is redirected to /dev/null, also for child processes, at the first error of writing."""

    def write(self, data: object) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in NO_READER and self.fileno() != 2:
                with suppress(OSError):
                    os.write(2, f"warning: no more output ({error.strerror}); the work goes on\n".encode())
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)  # type: ignore[arg-type]


def missing_package(error: BaseException | None) -> str | None:
    """The message about a package that is not installed, if that is the cause of an error; else None."""
    while error is not None:
        name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if name and name not in OWN and not installed(name):
            if name in EXTRAS:
                return str(MissingExtraError(name))
            return f"the package {name} is not installed; pip install {DISTRIBUTIONS.get(name, name)}"
        error = error.__cause__
    return None


def _except_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line if a package is missing at the import of a command; print other errors as usual."""
    message = missing_package(error)
    if message is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {message}", file=sys.stderr)
