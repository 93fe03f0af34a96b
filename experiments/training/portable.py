"""Plain data that may leave the machine: without its paths and without secret keys."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Beginning of a path outside the working directory.
_ROOT = r"(?:file://)?(?:~[\w.-]*|\.\.)?/"
_BEGINNING = re.compile(_ROOT)
_QUOTED = re.compile(rf"""(['"])({_ROOT}[^'"]*)\1""")
_PATH = re.compile(rf"""(?:(?<=[\s=,;'"(\[{{<])|^){_ROOT}[^\s,;'")\]}}>]+""")
_SETTING = re.compile(r"([+~\w.@-]+=)(.+)", re.DOTALL)
_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
# Shorter values of variables with such names are switches and counts.
_SHORTEST_SECRET = 8


def portable(value: Any, run_dir: Path) -> Any:
    """A copy of plain data in which no text contains a path or a secret of this machine.

    Absolute paths and paths that begin with ``~`` or ``..`` become their last part, the run directory becomes
    ``<run_dir>``, and the values of environment variables whose names contain key, token, secret, password or
    credential become ``<secret>``. Relative paths, names and numbers do not change.
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
    setting = _SETTING.fullmatch(text)  # key=value of a command line
    head, text = setting.groups() if setting else ("", text)
    if _BEGINNING.match(text):
        return head + Path(text).name
    text = _QUOTED.sub(lambda match: match[1] + Path(match[2]).name + match[1], text)
    text = _PATH.sub(lambda match: Path(match[0]).name, text)
    home = str(Path.home())
    return head + (text.replace(home, "~") if len(home) > 1 else text)


def _secrets() -> list[str]:
    """Secret values of the environment; those that are files are left out, because paths are removed anyway."""
    return [
        value
        for name, value in os.environ.items()
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET and not Path(value).exists()
    ]
