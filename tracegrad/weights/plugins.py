"""Packages of users whose networks may be built from the settings in a file.

The settings in a checkpoint, a model file or a run directory name classes, and to build a class its module has to be
imported. A file alone must not make this program import anything, so two kinds of packages are allowed besides this
one: those that the user names (``plugins=[my_package]`` for a command, ``load_model(..., plugins=["my_package"])``),
and those that were installed with an entry point of the group ``tracegrad.plugins``:

    [project.entry-points."tracegrad.plugins"]
    my_package = "my_package"
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tracegrad.errors import CheckpointError, ConfigError

GROUP = "tracegrad.plugins"
# What the settings of a run name besides plugins: this project, optimizers, and the trainer with its timeout.
OWN = ("tracegrad.", "callbacks.", "experiments.", "torch.optim.", "lightning.", "datetime.timedelta")

_named: set[str] = set()


def allow_plugins(names: Iterable[str]) -> None:
    """Allow this process to build networks of these packages.

    Raises:
        ConfigError: a package that cannot be imported.
    """
    for name in names:
        package_folder(name)
        _named.add(name)


def is_allowed(package: str) -> bool:
    """Whether classes of a package may be built from the settings in a file."""
    return package == "tracegrad" or package in _named or package in installed_plugins()


@cache
def installed_plugins() -> tuple[str, ...]:
    """Packages with an entry point of the group ``tracegrad.plugins``."""
    return tuple(sorted({entry.module.partition(".")[0] for entry in entry_points(group=GROUP)}))


def package_folder(name: str) -> Path | None:
    """The folder of a package; None for a package that is a single file. The package is not imported.

    Raises:
        ConfigError: there is no such package.
    """
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None:
        raise ConfigError(
            f"plugins: there is no package {name!r}; give the name of a package that Python can import from here "
            "(installed, or in a folder of PYTHONPATH)"
        )
    return Path(spec.submodule_search_locations[0]) if spec.submodule_search_locations else None


def advice(package: str) -> str:
    """What to do about a package that is not allowed."""
    in_python = f'load_model(..., plugins=["{package}"])'
    return f"if you trust {package}, allow it by plugins=[{package}], in Python {in_python}"


def check_packages(settings: Any, where: str) -> None:
    """Check the packages that the settings of a run name before anything of them is imported.

    Args:
        settings: nested mappings and lists.
        where: their file, for messages.

    Raises:
        CheckpointError: a ``_target_`` in a package that is not allowed.
    """
    if isinstance(settings, list):
        for entry in settings:
            check_packages(entry, where)
    if not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        check_packages(value, where)
        if key == "_target_" and not str(value).startswith(OWN):
            package = str(value).partition(".")[0]
            if not is_allowed(package):
                raise CheckpointError(
                    f"{where}: _target_ is {value!r}, which was not imported; {advice(package)}"
                )
