"""What every command shares: an error a user can cause is one clean line, not a traceback."""

import functools
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.errors import HydraException
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from experiments.settings.entry import interruptible, missing_package
from tracegrad.errors import TraceGradError

# How the libraries of a configuration refuse a value.
REFUSALS = (ValueError, MisconfigurationException, ImportError)


def user_error(error: BaseException | None) -> str | None:
    """The message of the user's error in a chain of causes, or None where the error is a bug.

    `hydra.utils.instantiate` wraps what a constructor raises, so that the chain has to be walked.
    """
    if missing := missing_package(error):
        return missing
    configuration: Exception | None = None
    while error is not None:
        if isinstance(error, TraceGradError):
            return _original_words(error)
        if isinstance(error, HydraException | OmegaConfBaseException):
            configuration = configuration or error
        elif configuration is not None:
            return _refused_setting(configuration, error)
        error = error.__cause__
    return _first_line(configuration) if configuration is not None else None


def _original_words(error: TraceGradError) -> str:
    """The message without the traceback that a DataLoader puts around an error of its workers."""
    kind = type(error)
    return str(error).rsplit(f"{kind.__module__}.{kind.__qualname__}: ", 1)[-1].strip()


def _refused_setting(configuration: Exception, cause: BaseException) -> str | None:
    """What a library's constructor says of a value it refuses; other causes are bugs."""
    if not isinstance(cause, REFUSALS):
        return None
    key = re.search(r"^full_key: (\S+)$", str(configuration), re.MULTILINE)
    where = f"{key[1]}: " if key else ""
    return where + " ".join(str(cause).split())


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
            with interruptible():
                return main(*args, **kwargs)
        except Exception as error:
            message = user_error(error)
            if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {message}", file=sys.stderr)
        except KeyboardInterrupt:
            _interrupted()
        except SystemExit as leaving:  # so Lightning ends after Ctrl-C
            if leaving.code != 1 or not isinstance(leaving.__context__, KeyboardInterrupt):
                raise
            _interrupted()
        sys.exit(1)

    return run


def _interrupted() -> NoReturn:
    print("error: interrupted", file=sys.stderr)
    sys.exit(130)
