"""What two generations of databases share: the settings that must stay the same, and versions for the provenance."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from tracegrad import __version__
from tracegrad.errors import GenerationError


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, TraceGrad and packages."""
    own = {"python": platform.python_version(), "tracegrad": __version__}
    return own | {package: version(package) for package in packages}


def check_same_settings(
    place: str, stored: Mapping[str, Any], current: Mapping[str, Any], remedy: str
) -> None:
    """Raise `GenerationError` with one line for each setting that differs.

    Args:
        place: the unfinished output.
        stored: its settings, read from JSON.
        current: the settings of the command.
        remedy: what the user can do, besides continuing with the stored settings.
    """
    current = json.loads(json.dumps(current))
    lines = [
        f"  {name}: {stored.get(name, 'not set')} there, {current.get(name, 'not set')} now"
        for name in sorted({*stored, *current})
        if stored.get(name) != current.get(name)
    ]
    if lines:
        raise GenerationError(
            f"{place} was begun with other settings:\n" + "\n".join(lines) + "\n"
            f"continue with those settings, {remedy}"
        )
