"""Errors that a user can cause are one line on stderr instead of a traceback, for every command."""

import functools
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.settings.entry import interruptible, missing_package
from tracegrad.errors import TraceGradError

# Errors with which constructors refuse a setting; as names, because the import of Lightning takes seconds.
REFUSALS = {"ValueError", "ImportError", "MisconfigurationException"}


def user_error(error: BaseException | None) -> str | None:
    """The message of an error that the user has caused, or None if the error is a bug.

    `hydra.utils.instantiate` wraps the errors of constructors, so that the chain of causes is searched.
    """
    if missing := missing_package(error):
        return missing
    configuration: Exception | None = None
    while error is not None:
        if isinstance(error, TraceGradError):
            return _without_worker_traceback(error)
        if isinstance(error, HydraException | OmegaConfBaseException):
            configuration = configuration or error
        elif configuration is not None:
            return _refused_setting(configuration, error)
        error = error.__cause__
    return _first_line_with_key(configuration) if configuration is not None else None


def _without_worker_traceback(error: TraceGradError) -> str:
    """The message of an error, without the traceback that a DataLoader adds to errors of its workers."""
    kind = type(error)
    return str(error).rsplit(f"{kind.__module__}.{kind.__qualname__}: ", 1)[-1].strip()


def _refused_setting(configuration: Exception, cause: BaseException) -> str | None:
    """The key of a setting and why a constructor refuses its value; None for other causes, which are bugs."""
    if REFUSALS.isdisjoint(kind.__name__ for kind in type(cause).__mro__):
        return None
    key = re.search(r"^full_key: (\S+)$", str(configuration), re.MULTILINE)
    where = f"{key[1]}: " if key else ""
    return where + " ".join(str(cause).split())


def first_line(error: BaseException) -> str:
    """The first line of a message; those of OmegaConf go on for several lines with types of no interest to users."""
    return str(error).split("\n", 1)[0]


def _first_line_with_key(error: BaseException) -> str:
    line = first_line(error)
    key = getattr(error, "full_key", None)
    return f"{key}: {line}" if key and key not in line else line


def clean_errors(main: Callable[..., Any]) -> Callable[..., Any]:
    """Print an error that a user can cause as `error: ...` on stderr and exit with status 1.

    It is applied below `hydra.main`:

        @hydra.main(config_path="../conf", config_name="train", version_base="1.3")
        @clean_errors
        def main(config): ...

    Bugs keep their traceback, and HYDRA_FULL_ERROR=1 shows it for user errors as well.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with interruptible():
                return main(*args, **kwargs)
        except Exception as error:
            message = user_error(error)
            if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {message}", file=sys.stderr)
        except KeyboardInterrupt:
            _interrupted()
        except SystemExit as end:  # Lightning ends like this after Ctrl-C
            if end.code != 1 or not isinstance(end.__context__, KeyboardInterrupt):
                raise
            _interrupted()
        sys.exit(1)

    return run


def _interrupted() -> NoReturn:
    print("error: interrupted", file=sys.stderr)
    sys.exit(130)
