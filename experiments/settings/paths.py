"""Settings of a command that are paths, and ~ in them."""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tracegrad.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
LIST = "[]"


@cache
def path_keys(command: str) -> dict[str, bool]:
    """Keys of the settings of a command that are paths (``conf/paths.yaml``); True: a list of paths is allowed."""
    keys = yaml.safe_load((CONF / "paths.yaml").read_text(encoding="utf-8")).get(command, [])
    return {key.removesuffix(LIST): key.endswith(LIST) for key in keys}


def expand(config: DictConfig, command: str) -> DictConfig:
    """Replace ~ and ~user at the beginning of every path in the settings of a command, in place.

    Raises:
        ConfigError: there is no such user.
    """
    for key in (name for pattern in path_keys(command) for name in _matching(config, pattern)):
        try:
            value = OmegaConf.select(config, key, throw_on_missing=False)
        except OmegaConfBaseException:
            continue  # `plain` reports interpolations that fail
        if isinstance(value, ListConfig):
            value = list(value)
        new = [_home(key, entry) for entry in value] if isinstance(value, list) else _home(key, value)
        if new != value:
            OmegaConf.update(config, key, new)
    return config


def home(key: str, path: str) -> str:
    """A path with the home directory in place of ~ or ~user at its beginning.

    Raises:
        ConfigError: there is no such user.
    """
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = path[1:].split("/", 1)[0]
        raise ConfigError(
            f"{key}={path}: there is no user {user!r}; for a folder of that name write ./{path}"
        )
    return expanded


def _home(key: str, value: Any) -> Any:
    return home(key, value) if isinstance(value, str) else value


def _matching(config: DictConfig, pattern: str) -> Iterator[str]:
    """Keys of a configuration that match a pattern with at most one * in place of a name."""
    before, star, after = pattern.partition("*")
    if not star:
        yield pattern
        return
    names: Sequence[Any] = list(OmegaConf.select(config, before.rstrip("."), default=None) or [])
    yield from (f"{before}{name}{after}" for name in names)
