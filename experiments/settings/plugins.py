"""Configuration files of the user: folders of --config-dir, and the folder conf/ of each plugin."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.settings.arguments import quoted
from tracegrad.errors import ConfigError
from tracegrad.weights.plugins import installed_plugins, package_folder

KEY = "plugins"
SEARCH_PATH = "hydra.searchpath"
CONFIG_DIR = ("--config-dir", "-cd")


def config_folders(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Arguments without --config-dir, and the folders that it names.

    Raises:
        ConfigError: there is no such folder.
    """
    rest, folders, waiting = [], [], list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if name not in CONFIG_DIR or not (equals or waiting):
            rest.append(word)
            continue
        folder = Path(value if equals else waiting.pop(0)).expanduser().resolve()
        if not folder.is_dir():
            raise ConfigError(f"{name} {folder}: no such folder; give one with recipes in experiment/")
        folders.append(folder)
    return rest, folders


def search_path(overrides: Sequence[str], folders: Sequence[Path] = ()) -> list[str]:
    """The override that lets Hydra find the files of the user.

    It is empty if there are none, or if the overrides set Hydra's search path themselves.

    Args:
        overrides: may name plugins, besides the installed ones.
        folders: of --config-dir.

    Raises:
        ConfigError: there is no such package.
    """
    if any(override.startswith(f"{SEARCH_PATH}=") for override in overrides):
        return []
    packages = [package_folder(name) for name in (*installed_plugins(), *_named(overrides))]
    paths = [folder / "conf" for folder in packages if folder is not None and (folder / "conf").is_dir()]
    paths = [*folders, *paths]
    words = ",".join(quoted(f"file://{path}") for path in paths)
    return [f"{SEARCH_PATH}=[{words}]"] if paths else []


def _named(overrides: Sequence[str]) -> list[str]:
    words = [override for override in overrides if override.startswith(f"{KEY}=")]
    if not words:
        return []
    value = OverridesParser.create().parse_override(words[-1]).value()
    return [str(name) for name in value] if isinstance(value, list) else []
