"""The settings of a sweep, separated from those of its runs on the same command line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from experiments.settings.arguments import path_value, quoted, readable, shell_word
from experiments.settings.configuration import CONF, composed, plain
from experiments.settings.paths import home
from experiments.sweeps.points import ARM, first_point
from tracegrad.errors import ConfigError
from tracegrad.reports.arms import ARM_LABELS, ARMS

ABLATE, SWEEP = "ablate", "sweep"
LAUNCHERS = ("local", "slurm")
SET_BY_SWEEP = ("run_dir", "seed", "repetition")  # settings of a run that no grid may vary
LISTS = ("arms", "gpus")  # written without brackets, too


@dataclass(frozen=True)
class SweepSettings:
    """What is run, and how. Fields without a description here are explained in conf/sweep.yaml.

    Attributes:
        grid: values of each key that varies.
        overrides: settings of every run, as on a command line.
        seeds: settings of the repeated runs of each combination: ``seed``, with equal seeds also ``repetition``.
        sweep: name of the sweep; "" where the command line alone describes the grid.
        description: of the sweep.
    """

    grid: dict[str, list[Any]]
    overrides: list[str]
    seeds: list[dict[str, int]]
    sweep: str = ""
    description: str = ""
    equal_seeds: bool = False
    runs: Path | None = None
    jobs: int | None = None
    gpus: list[str] = field(default_factory=list)
    gpus_per_run: int = 1
    retries: int = 1
    stop_limit: float = 120.0
    launcher: str = "local"
    slurm: dict[str, Any] = field(default_factory=dict)
    wait: bool = False
    dry_run: bool = False
    wandb_sweep: Path | None = None

    @property
    def gpu_groups(self) -> list[tuple[str, ...]]:
        """The GPUs in groups, each of which serves one run at a time."""
        size = self.gpus_per_run
        return [tuple(self.gpus[i : i + size]) for i in range(0, len(self.gpus) - size + 1, size)]


def read_settings(command: str, arguments: Sequence[str]) -> SweepSettings:
    """The settings that a command line describes.

    Args:
        command: "ablate", whose grid begins with arms, or "sweep". The keys of its file in conf/ are settings of the
            sweep, ``sweep`` and ``grid.KEY`` describe the grid, and all others are settings of the runs.
        arguments: words ``key=value``.

    Raises:
        ConfigError: a value that is not possible, or a key that the sweep itself sets.
    """
    files = [OmegaConf.load(CONF / f"{name}.yaml") for name in (SWEEP, command)]
    known = {str(key) for file in files for key in file} - {"defaults", "hydra"}
    own_words, overrides, grid, named, sweep = [], [], {}, {}, ""
    for word in readable(arguments, "train", own=(*known, SWEEP, "slurm.", "grid.")):
        key, _, value = word.partition("=")
        if key in known or key.startswith("slurm."):
            own_words.append(_hydra_word(key, value.strip()))
        elif key.startswith("grid."):
            grid[key.removeprefix("grid.")] = parse_values(key.removeprefix("grid."), value)
        elif key == SWEEP and value.lower() != "null":
            path = Path(home(key, path_value(key, value)))
            named, sweep = read_sweep(str(path)), path.stem
        elif key != SWEEP:
            overrides.append(word)
    values = plain(composed(command, own_words))
    arms = {ARM: _arms(values.pop("arms"))} if "arms" in values else {}
    grid = {**arms, **named.get("grid", {}), **grid}
    if not grid:
        raise ConfigError("nothing to vary; give sweep=NAME (see conf/sweep/) or grid.KEY=VALUE,VALUE,...")
    values["seeds"], overrides = _seeds(values["seeds"], values["equal_seeds"], overrides, grid)
    for key in ("runs", "wandb_sweep"):
        values[key] = values[key] and Path(values[key])
    for key, least in {"jobs": 1, "gpus_per_run": 1, "retries": 0, "stop_limit": 0}.items():
        number = values[key]
        if number is not None and (type(number) is not int or number < least):
            raise ConfigError(f"{key}={number} must be a whole number of at least {least}")
    values["gpus"] = [str(gpu) for gpu in values["gpus"]]
    if "time" in values["slurm"]:
        values["slurm"]["time"] = _minutes(str(values["slurm"]["time"]))
    description = named.get("description", "")
    settings = SweepSettings(**values, grid=grid, overrides=overrides, sweep=sweep, description=description)
    _check_keys(settings)
    _check_launcher(settings)
    return settings


@lru_cache(maxsize=32)
def first_config(arguments: tuple[str, ...]) -> DictConfig:
    """The configuration of the first point of a sweep, which is needed more than once and only read."""
    return composed("train", arguments)


def parse_values(key: str, text: str) -> list[Any]:
    """Values of a key in the grammar of Hydra's sweeps: ``0.1,0.2``, ``range(0,1,0.1)``, ``[mse],[mse,mae]``.

    Text that Hydra cannot read is split at its commas.

    Raises:
        ConfigError: brackets or quotes do not match, or a value stands twice.
    """
    if not text.strip():
        raise ConfigError(f"grid.{key} has no values; write grid.{key}=VALUE,VALUE,...")
    parser = OverridesParser.create()
    try:
        override = parser.parse_override(f"{key}={text}")
        texts = list(override.sweep_string_iterator()) if override.is_sweep_override() else [text]
        values = [parser.parse_override(f"{key}={entry}").value() for entry in texts]
    except HydraException as error:
        if not re.search(r"""[\[\]{}'"]""", text):
            return _distinct(key, [word.strip() for word in text.split(",")])
        example = shell_word(f"grid.{key}={quoted('a b')},{quoted('c=d')}")
        raise ConfigError(
            f"grid.{key}={text} is not understood: do its brackets and quotes match? Text with such characters is "
            f"written {example}"
        ) from error
    return _distinct(key, values)


def read_sweep(name: str) -> dict[str, Any]:
    """The ``description`` and ``grid`` of a sweep of ``conf/sweep/`` or of the path of a .yaml file.

    Raises:
        ConfigError: there is no such file, or it describes no sweep.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONF / "sweep" / f"{name}.yaml"
    if not path.exists():
        names = ", ".join(sorted(file.stem for file in (CONF / "sweep").glob("*.yaml")))
        raise ConfigError(f"no sweep {name!r}; there are {names}, or give the path of a .yaml file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable ({error})") from error
    grid = content.get("grid") if isinstance(content, dict) else None
    if (
        not isinstance(grid, dict)
        or not all(isinstance(values, list) and values for values in grid.values())
        or content.keys() - {"description", "grid"}
    ):
        raise ConfigError(
            f"{path}: a sweep has description and grid, which holds a list of values for each key"
        )
    return {**content, "grid": {str(key): _distinct(key, values) for key, values in grid.items()}}


def _hydra_word(key: str, value: str) -> str:
    """A setting of the sweep in Hydra's grammar, which asks for brackets around lists and quotes around text."""
    if key in LISTS or (key == "seeds" and "," in value):
        return f"{key}=[{value.strip('[], ')}]"
    if key.startswith("slurm."):
        readable_value = re.fullmatch(r"\d+|true|false", value.lower())
        return f"+{key}={value if readable_value else quoted(value)}"
    return f"{key}={value}"


def _distinct(key: str, values: list[Any]) -> list[Any]:
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ConfigError(f"the grid of {key} has a value twice: {values}")
    return values


def _arms(names: Sequence[Any]) -> list[str]:
    arms = list(ARMS) if names == ["all"] else list(dict.fromkeys(map(str, names)))
    unknown = sorted(set(arms) - ARM_LABELS.keys())
    if unknown:
        raise ConfigError(f"unknown arms {unknown}; choose from {','.join(ARM_LABELS)}, or all")
    return arms


def _seeds(
    value: Any, equal: bool, overrides: Sequence[str], grid: Mapping[str, Sequence[Any]]
) -> tuple[list[dict[str, int]], list[str]]:
    """The seeds of a sweep, and the settings of its runs without ``seed``.

    ``value`` is a list of seeds or their number, which are then counted from the seed of the experiment.
    """
    seed_words = [word for word in overrides if word.startswith("seed=")]
    overrides = [word for word in overrides if word not in seed_words]
    if seed_words and not equal:
        raise ConfigError("seed is set by the sweep; choose with seeds=")
    if isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value):
        if equal:
            raise ConfigError(
                "equal_seeds=true repeats one seed; say how often, seeds=10, and which, seed=42, not "
                f"seeds={','.join(map(str, value))}"
            )
        return [{"seed": seed} for seed in dict.fromkeys(value)], overrides
    if not str(value).isdigit():
        raise ConfigError(f"seeds={value} must be whole numbers separated by commas, or how many: seeds=10")
    count = int(value)
    if count < 1:
        raise ConfigError("seeds=0 asks for no run; for the seed 0 write seeds=[0]")
    if seed_words:
        text = seed_words[-1].removeprefix("seed=")
        if not text.isdigit():
            raise ConfigError(f"seed={text} must be a whole number of at least 0")
        first = int(text)
    else:
        first = first_config(tuple(first_point(overrides, grid))).seed
    if equal:
        return [{"seed": first, "repetition": i} for i in range(count)], overrides
    return [{"seed": first + i} for i in range(count)], overrides


def _check_keys(settings: SweepSettings) -> None:
    for key in settings.grid:
        if key in SET_BY_SWEEP:
            raise ConfigError(f"{key} cannot be varied: every run gets its own; vary seeds with seeds=")
    for word in settings.overrides:
        key = word.partition("=")[0].lstrip("+~")
        if key in settings.grid or key in SET_BY_SWEEP:
            hint = "arms=, seeds= and runs=" if key == ARM or key not in settings.grid else f"grid.{key}="
            raise ConfigError(f"{key} is set by the sweep; choose with {hint}")


def _check_launcher(settings: SweepSettings) -> None:
    if settings.launcher not in LAUNCHERS:
        raise ConfigError(f"launcher={settings.launcher} is unknown; choose from {','.join(LAUNCHERS)}")
    if settings.slurm and settings.launcher != "slurm":
        raise ConfigError("slurm.* is for launcher=slurm")
    if settings.gpus and settings.launcher == "slurm":
        raise ConfigError("gpus= is for this machine; with launcher=slurm give slurm.gpus_per_node=")
    if len(set(settings.gpus)) < len(settings.gpus):
        raise ConfigError(
            f"gpus={','.join(settings.gpus)} names a GPU twice; for several runs on one give jobs="
        )
    if settings.gpus and not settings.gpu_groups:
        raise ConfigError(f"gpus_per_run={settings.gpus_per_run}, but there are {len(settings.gpus)} gpus")


def _minutes(text: str) -> int:
    """Minutes of SLURM's ways to write a time: minutes, [days-]hours:minutes[:seconds], days-hours."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", text)
    if not match or not re.search(r"[1-9]", text):
        raise ConfigError(f"slurm.time={text} must be minutes, HH:MM:SS or D-HH:MM:SS")
    parts = [int(part) for part in match[2].split(":")]
    if match[1]:
        parts = [*parts, 0, 0]  # they begin with hours
    elif len(parts) < 3:
        parts = [0, *parts, 0]  # they begin with minutes
    hours, minutes, seconds = parts[:3]
    return 60 * (24 * int(match[1] or 0) + hours) + minutes + (seconds > 0)
