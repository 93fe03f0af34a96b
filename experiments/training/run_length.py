"""Length of a run: it ends at the first of its limits."""

from collections.abc import Mapping
from datetime import timedelta
from math import inf
from typing import Any

from experiments.settings.configuration import flat

LENGTH = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")


def length_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The limits among the settings of a run, by dotted key; a limit of time has a key for each of its parts."""
    settings = flat(dict(values))
    return {key: value for key, value in settings.items() if key.startswith(LENGTH)}


def is_longer(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether any limit (see `length_of`) is higher in ``after``, so that there may be more to train."""
    return any(_limit(after, key) > _limit(before, key) for key in LENGTH)


def _limit(length: Mapping[str, Any], key: str) -> float:
    """A limit in steps, epochs or seconds; infinite if it is not set."""
    parts = {
        name.removeprefix(f"{key}."): value for name, value in length.items() if name.startswith(f"{key}.")
    }
    value = length.get(key)
    if parts:
        return timedelta(**parts).total_seconds()
    if isinstance(value, str):  # days:hours:minutes:seconds
        days, hours, minutes, seconds = map(int, value.split(":"))
        return timedelta(days, seconds, 0, 0, minutes, hours).total_seconds()
    return inf if value is None or value < 0 else float(value)
