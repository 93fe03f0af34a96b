"""Configuration files of plugins: a package of the user that has a folder conf/ adds it to those of this project."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.settings.arguments import quoted
from tracegrad.weights.plugins import installed_plugins, package_folder

KEY = "plugins"
SEARCH_PATH = "hydra.searchpath"


def search_path(overrides: Sequence[str]) -> list[str]:
    """The override that lets Hydra find the files of plugins: those that the overrides name, and installed ones.

    It is empty if there are none, or if the overrides set Hydra's search path themselves.

    Raises:
        ConfigError: there is no such package.
    """
    if any(override.startswith(f"{SEARCH_PATH}=") for override in overrides):
        return []
    folders = [package_folder(name) for name in (*installed_plugins(), *_named(overrides))]
    paths = [folder / "conf" for folder in folders if folder is not None and (folder / "conf").is_dir()]
    words = ",".join(quoted(f"file://{path}") for path in paths)
    return [f"{SEARCH_PATH}=[{words}]"] if paths else []


def _named(overrides: Sequence[str]) -> list[str]:
    words = [override for override in overrides if override.startswith(f"{KEY}=")]
    if not words:
        return []
    value = OverridesParser.create().parse_override(words[-1]).value()
    return [str(name) for name in value] if isinstance(value, list) else []
