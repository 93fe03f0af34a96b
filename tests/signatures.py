"""Checks of the types and shapes in signatures: of the first calls of each function in a test.

A network calls the same few functions again and again. Checking every call would take a third of the tests' time, and
so would preparing checks of functions that no test of a process calls.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from beartype import beartype

CHECKS = 12  # of a function in a test: its arguments, and its arguments with its result, count one each
_checks: Counter[tuple[str, str]] = Counter()


def start_test() -> None:
    """Check first calls again."""
    _checks.clear()


def checked(function: Callable) -> Callable:
    """The type checker of `jaxtyping.jaxtyped`; ``function`` has the signature and does nothing."""
    key = function.__module__, function.__qualname__
    prepared = cache(lambda: beartype(function))

    def check(*args: Any, **kwargs: Any) -> None:
        if _checks[key] < CHECKS:
            _checks[key] += 1
            prepared()(*args, **kwargs)

    return check
