"""What may leave the machine: plain data without its paths and its keys."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# How a path outside the working directory begins.
_ROOT = r"(?:file://)?(?:~[\w.-]*|\.\.)?/"
_BEGINNING = re.compile(_ROOT)
_QUOTED = re.compile(rf"""(['"])({_ROOT}[^'"]*)\1""")
_PATH = re.compile(rf"""(?:(?<=[\s=,;'"(\[{{<])|^){_ROOT}[^\s,;'")\]}}>]+""")
_SETTING = re.compile(r"([+~\w.@-]+=)(.+)", re.DOTALL)
_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
# Shorter values of such variables are switches and counts.
_SHORTEST_SECRET = 8


def portable(value: Any, run_dir: Path) -> Any:
    """A copy of plain data in which no text names a place of this machine.

    Absolute paths and those that begin with ``~`` or ``..`` become their last part, the run directory becomes
    ``<run_dir>``, and the values of environment variables that are called keys, tokens, secrets or
    passwords become ``<secret>``. Relative paths, names and numbers stay.

    Args:
        value: mappings, lists, texts, numbers.
        run_dir: directory of the run.
    """
    return _portable(value, run_dir, _secrets())


def _portable(value: Any, run_dir: Path, secrets: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _portable(entry, run_dir, secrets) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(entry, run_dir, secrets) for entry in value]
    return _text(value, run_dir, secrets) if isinstance(value, str) else value


def _text(text: str, run_dir: Path, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "<secret>")
    text = text.replace(str(run_dir.resolve()), "<run_dir>")
    if run_dir.is_absolute():
        text = text.replace(str(run_dir), "<run_dir>")
    setting = _SETTING.fullmatch(text)  # an argument of the command line
    head, text = setting.groups() if setting else ("", text)
    if _BEGINNING.match(text):
        return head + Path(text).name
    text = _QUOTED.sub(lambda match: match[1] + Path(match[2]).name + match[1], text)
    text = _PATH.sub(lambda match: Path(match[0]).name, text)
    home = str(Path.home())
    return head + (text.replace(home, "~") if len(home) > 1 else text)


def _secrets() -> list[str]:
    """Values of the environment that must not be told; those that are files are paths, which go anyway."""
    return [
        value
        for name, value in os.environ.items()
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET and not Path(value).exists()
    ]
