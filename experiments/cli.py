"""What every command shares: an error a user can cause is one clean line, not a traceback."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tracegrad.errors import TraceGradError


def user_error(error: BaseException | None) -> str | None:
    """The message of the user's error in a chain of causes, or None where the error is a bug.

    `hydra.utils.instantiate` wraps what a constructor raises, so that the chain has to be walked.
    """
    configuration = None
    while error is not None:
        if isinstance(error, TraceGradError):
            return str(error)
        if configuration is None and isinstance(error, HydraException | OmegaConfBaseException):
            configuration = _first_line(error)
        elif configuration is not None and not isinstance(error, HydraException | OmegaConfBaseException):
            return None
        error = error.__cause__
    return configuration


def _first_line(error: BaseException) -> str:
    """OmegaConf explains its types over several lines; the first one and the key are what helps."""
    line = str(error).split("\n", 1)[0]
    key = getattr(error, "full_key", None)
    return f"{key}: {line}" if key and key not in line else line


def clean_errors(main: Callable[..., Any]) -> Callable[..., Any]:
    """Print an error that a user can cause as `error: ...` on stderr and exit with status 1.

    Goes under `hydra.main`:

        @hydra.main(config_path="../conf", config_name="train", version_base="1.3")
        @clean_errors
        def main(config): ...

    Bugs keep their traceback, and HYDRA_FULL_ERROR=1 shows it for user errors as well.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return main(*args, **kwargs)
        except Exception as error:
            message = user_error(error)
            if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {message}", file=sys.stderr)
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            sys.exit(130)
        sys.exit(1)

    return run
