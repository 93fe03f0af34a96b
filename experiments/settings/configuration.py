"""Composition of the settings of a command, with errors that name the nearest existing settings."""

import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from experiments.settings.added_choices import with_added
from experiments.settings.arguments import readable
from experiments.settings.cli import clean_errors, first_line
from experiments.settings.paths import CONF, expand
from experiments.settings.plugins import config_folders, search_path
from tracegrad.errors import ConfigError
from tracegrad.reports.arms import arm_of
from tracegrad.weights.plugins import allow_plugins


def arm_in(tracegrad: Mapping[str, Any]) -> str:
    """The arm of the settings ``tracegrad``; those of earlier versions have no ``lean``."""
    trace, grad, lean = (bool(tracegrad.get(name)) for name in ("trace", "grad", "lean"))
    return arm_of(trace=trace, grad=grad, lean=lean)


OmegaConf.register_new_resolver("arm", arm_in, replace=True)


def command(
    config_name: str, *, help_without_arguments: bool = False
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """A decorator that turns a function of the settings into a command line program.

    The arguments are checked before Hydra sees them, so that the error for a wrong key or name can list the nearest
    existing ones, and values that Hydra would misread are put into quotes. ~ in paths becomes the home directory.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        def run(config: DictConfig) -> Any:
            allow_plugins(config.get("plugins") or [])
            return function(config)

        @clean_errors
        def entry() -> Any:
            arguments = readable(sys.argv[1:], config_name)
            if help_without_arguments and not arguments:
                arguments = ["--help"]
            sys.argv[1:] = arguments
            settings, folders = config_folders(arguments)
            if not any(argument.startswith("-") for argument in settings):
                return run(composed(config_name, settings, folders))
            return _with_options(config_name, run, function.__doc__)

        entry.__doc__ = function.__doc__
        return entry

    return decorate


def _with_options(config_name: str, run: Callable[[DictConfig], Any], description: str | None) -> Any:
    """Call ``run`` by Hydra's own program, which knows options such as --help, --cfg and --multirun."""
    sys.argv[1:] += search_path(sys.argv[1:])

    def task(config: DictConfig) -> Any:
        return run(expand(config, config_name))

    task.__doc__ = description
    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    return main(clean_errors(task))()


def composed(config_name: str, overrides: Sequence[str], folders: Sequence[Path] = ()) -> DictConfig:
    """The settings of a command, composed by Hydra from ``conf/``, plugins and overrides, with ~ in paths replaced.

    Args:
        folders: with further files, of --config-dir.

    Raises:
        ConfigError: an argument that is no setting, an unknown key, group option or experiment (the message has the
            nearest names), a value of another type than the default, or a plugin that does not exist.
    """
    overrides = readable(overrides, config_name)
    path = search_path(overrides, folders)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            overrides = with_added(config_name, overrides, path)
            config = compose(config_name, [*overrides, *path])
        except MissingConfigException as error:
            raise ConfigError(_missing_option(error)) from error
        except OverrideParseException as error:
            raise ConfigError(
                f"not understood: {error.override!s}; settings are written key=value"
            ) from error
        except ConfigCompositionException as error:
            message = _unknown_group(error) or _unknown_key(config_name, overrides, path)
            raise ConfigError(message or first_line(error)) from error
        if folders:
            _check_keys(config, config_name)
        if not all(map(_is_group, overrides)):
            _check_types(config, _defaults(config_name, overrides, path), overrides)
    return expand(config, config_name)


def plain(config: DictConfig) -> dict[str, Any]:
    """The settings as plain Python data, with interpolations resolved.

    Raises:
        ConfigError: a setting without a value, or an interpolation that fails.
    """
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a setting"
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{key} is needed; give {key}=VALUE") from error
        raise ConfigError(f"{key}: {first_line(error)}") from error


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one mapping with dotted keys; lists count as values."""
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    entries: dict[str, Any] = {}
    for key, value in values.items():
        entries |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return entries


def differences(old: dict[str, Any], new: dict[str, Any], ignore: Sequence[str] = ()) -> list[str]:
    """Lines ``key: old -> new`` for the settings in which two configurations differ.

    Args:
        ignore: dotted keys that are left out, together with all keys below them.
    """
    before, after = flat(old), flat(new)
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in changed
        if not any(key == name or key.startswith(f"{name}.") for name in ignore)
    ]


def _missing_option(error: MissingConfigException) -> str:
    name = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, option = name.rpartition("/")
    options = sorted(set(error.options or []) - {"base"})
    beginning = re.split(r"[_\W]", option)[0]
    related = [known for known in options if re.split(r"[_\W]", known)[0] == beginning]
    nearest = list(dict.fromkeys([*difflib.get_close_matches(option, options, n=3), *related])) or options
    return f"no {group or 'configuration'} named {option!r}; nearest: {', '.join(nearest)}"


def _defaults(config_name: str, overrides: Sequence[str], path: Sequence[str]) -> DictConfig:
    """The settings of a command with the chosen options of groups, before any other override."""
    return _composed_groups(
        config_name, (*(override for override in overrides if _is_group(override)), *path)
    )


@functools.lru_cache(maxsize=64)
def _composed_groups(config_name: str, choices: tuple[str, ...]) -> DictConfig:
    return compose(config_name, list(choices))


def _unknown_key(config_name: str, overrides: Sequence[str], path: Sequence[str]) -> str | None:
    known = list(_keys(_defaults(config_name, overrides, path)))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_add() or _is_group(override.input_line or "") or key in known:
            continue
        leaf = key.rpartition(".")[2]
        same_leaf = [other for other in known if other.rpartition(".")[2] == leaf]
        nearest = same_leaf or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        close = f"; nearest: {', '.join(nearest[:3])}" if nearest else ""
        return f"there is no setting {key!r}{close}"
    return None


def _unknown_group(error: ConfigCompositionException) -> str | None:
    """The message for a recipe that overrides a group which does not exist, with the nearest groups."""
    match = re.match(r"In '(.+)': Could not override '([^']+)'", first_line(error))
    if match is None:
        return None
    groups = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
    nearest = difflib.get_close_matches(match[2], groups, n=3, cutoff=0.5) or groups
    return f"{match[1]}.yaml overrides {match[2]!r}, which is no group of settings; nearest: {', '.join(nearest)}"


def _check_keys(config: DictConfig, config_name: str) -> None:
    """Raise `ConfigError` for a top-level key that a file of the user adds; nothing would read it."""
    known = [str(key) for key in _composed_groups(config_name, ())]
    for key in config:
        if str(key) not in known and not (CONF / str(key)).is_dir():
            nearest = difflib.get_close_matches(str(key), known, n=3, cutoff=0.5) or known
            raise ConfigError(
                f"there is no setting {str(key)!r}, which a file of --config-dir has; nearest: {', '.join(nearest)}"
            )


def _check_types(config: DictConfig, base: DictConfig, overrides: Sequence[str]) -> None:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if _is_group(override.input_line or "") or override.is_delete():
            continue
        default = OmegaConf.select(base, key, default=None, throw_on_missing=False)
        value = OmegaConf.select(config, key, default=None)
        if default is None or value is None or _same_type(default, value):
            continue
        raise ConfigError(f"{key} is {value!r}, but it must be {_type_name(default)} (default: {default!r})")


def _same_type(default: Any, value: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) == isinstance(value, bool)
    if isinstance(default, int | float):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return whole if isinstance(default, int) else isinstance(value, int | float)
    if isinstance(default, ListConfig | DictConfig):
        return isinstance(value, type(default))
    return True


def _type_name(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", ListConfig: "a list"}
    return names.get(type(default), "a mapping")


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        name = f"{prefix}{key!s}"
        yield name
        node = None if OmegaConf.is_missing(config, key) else config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            yield from _keys(node, f"{name}.")


def _is_group(override: str) -> bool:
    key = override.split("=", 1)[0].lstrip("+~").split("@")[0]
    return (CONF / key).is_dir()
