"""The settings of a sweep itself; everything else on its command line belongs to the runs."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from experiments.settings.arguments import path_value, quoted, readable, shell_word
from experiments.settings.configuration import ARMS, CONF, composed
from experiments.settings.paths import home
from experiments.sweeps.points import ARM, Seeds, first_point
from tracegrad.errors import ConfigError

LAUNCHERS = ("local", "slurm")
# Set by the sweep for every run.
TAKEN = ("run_dir", "seed", "repetition")
SHARED = (
    *("seeds", "equal_seeds", "runs", "jobs", "gpus", "gpus_per_run", "retries", "stop_limit"),
    *("launcher", "wait", "dry_run"),
)
HELP = """\
  runs=runs/NAME                   directory of the runs; a report goes to <runs>/report
  jobs=1                           runs at a time; with gpus= as many as there are places on them
  gpus=0,1,2,3                     GPUs to use, one for each run
  gpus_per_run=1                   more than one for each run, with trainer=ddp
  retries=1                        tries of a failed run after the first; a mistake that shows twice ends them
  stop_limit=120                   seconds that a run may take to save when the sweep is stopped
  launcher=local                   slurm: one array of jobs; settings of sbatch are slurm.partition=, slurm.time=,
                                   slurm.gpus_per_node=, slurm.cpus_per_task=, slurm.mem=, slurm.account=, ...
  wait=false                       with SLURM: true stays until all jobs have ended
  dry_run=false                    true: list all runs, their directories and states, and start nothing
"""


@dataclass
class SweepSettings:
    """What is run, and how; the command's help says what each means."""

    grid: dict[str, list[Any]] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    seeds: Seeds = field(default_factory=lambda: Seeds((0,)))
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
    sweep: str = ""
    description: str = ""

    @property
    def gpu_groups(self) -> list[list[str]]:
        """The GPUs of each place for a run."""
        size = self.gpus_per_run
        return [self.gpus[i : i + size] for i in range(0, len(self.gpus) - size + 1, size)]


def read_settings(arguments: Sequence[str], defaults: dict[str, str], more: Collection[str]) -> SweepSettings:
    """Take the settings of the sweep out of a command line.

    Args:
        arguments: key=value.
        defaults: of settings that are not given.
        more: settings of this command beside the shared ones: arms; or sweep, and with it ``grid.KEY``.

    Raises:
        ConfigError: a value that cannot be, or a key that the sweep itself sets.
    """
    own, slurm, grid, overrides = dict(defaults), {}, {}, []
    for argument in readable(arguments, "train", own=(*SHARED, *more, "slurm.", "grid.")):
        key, _, value = argument.partition("=")
        if key in SHARED or key in more:
            own[key] = value.strip()
        elif key.startswith("slurm."):
            slurm[key.removeprefix("slurm.")] = _slurm_value(key, value)
        elif key.startswith("grid.") and "sweep" in more:
            grid[key.removeprefix("grid.")] = parse_values(key.removeprefix("grid."), value)
        else:
            overrides.append(argument)
    settings = SweepSettings(slurm=slurm)
    if "arms" in more:
        settings.grid = {ARM: _arms(own["arms"])}
    else:
        sweep = _path(own, "sweep")
        named = read_sweep(str(sweep)) if sweep else {}
        settings.sweep = sweep.stem if sweep else ""
        settings.description = named.get("description", "")
        settings.grid = {**named.get("grid", {}), **grid}
        if not settings.grid:
            raise ConfigError(
                "nothing to vary; give sweep=NAME (see conf/sweep/) or grid.KEY=VALUE,VALUE,..."
            )
    equal = _switch("equal_seeds", own.get("equal_seeds", "false"))
    settings.seeds, settings.overrides = _seeds(own["seeds"], equal, overrides, settings.grid)
    _refuse_taken(settings)
    settings.runs = _path(own, "runs")
    settings.jobs = _whole("jobs", own["jobs"], 1) if own.get("jobs") else None
    settings.gpus = _gpus(own.get("gpus", ""))
    settings.gpus_per_run = _whole("gpus_per_run", own.get("gpus_per_run", "1"), 1)
    settings.retries = _whole("retries", own.get("retries", "1"), 0)
    settings.stop_limit = float(_whole("stop_limit", own.get("stop_limit", "120"), 0))
    settings.wait = _switch("wait", own.get("wait", "false"))
    settings.dry_run = _switch("dry_run", own.get("dry_run", "false"))
    settings.wandb_sweep = _path(own, "wandb_sweep")
    settings.launcher = own.get("launcher", "local")
    _check_places(settings)
    return settings


def parse_values(key: str, text: str) -> list[Any]:
    """Values of a key in the grammar of Hydra's sweeps: ``0.1,0.2``, ``range(0,1,0.1)``, ``[mse],[mse,mae]``.

    What Hydra cannot read is text with a comma between two values.

    Raises:
        ConfigError: not understood, or the same value twice.
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
    """A sweep of ``conf/sweep/`` or of a file of one's own.

    Raises:
        ConfigError: there is none, or it is not one.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONF / "sweep" / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        names = ", ".join(sorted(file.stem for file in (CONF / "sweep").glob("*.yaml")))
        raise ConfigError(
            f"no sweep {name!r}; there are {names}, or give the path of a .yaml file"
        ) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable ({error})") from error
    if not isinstance(content, dict) or content.keys() - {"description", "grid"}:
        raise ConfigError(f"{path}: a sweep has description and grid, and nothing else")
    grid = content.get("grid")
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ConfigError(f"{path}: grid must hold a list of values for each key")
    return {**content, "grid": {str(key): _distinct(key, values) for key, values in grid.items()}}


def _path(own: dict[str, str], key: str) -> Path | None:
    """A setting of the sweep that is a path; None: not given."""
    text = own.get(key, "null")
    return None if text.lower() == "null" else Path(home(key, path_value(key, text)))


def _distinct(key: str, values: list[Any]) -> list[Any]:
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ConfigError(f"the grid of {key} has a value twice: {values}")
    return values


def _arms(text: str) -> list[str]:
    arms = [arm.strip() for arm in text.strip("[] ").split(",")]
    arms = list(ARMS.values()) if arms == ["all"] else list(dict.fromkeys(arms))
    unknown = sorted(set(arms) - set(ARMS.values()))
    if unknown:
        raise ConfigError(f"unknown arms {unknown}; choose from {','.join(ARMS.values())}, or all")
    return arms


def _seeds(
    text: str, equal: bool, overrides: list[str], grid: Mapping[str, Sequence[Any]]
) -> tuple[Seeds, list[str]]:
    """The seeds, and the arguments of the runs without ``seed``; a number of seeds counts from the experiment's."""
    given = [override for override in overrides if override.startswith("seed=")]
    rest = [override for override in overrides if override not in given]
    if given and not equal:
        raise ConfigError("seed is set by the sweep; choose with seeds=")
    if not re.fullmatch(r"\d+|\[?\s*\d+\s*(,\s*\d+\s*)*,?\s*\]?", text):
        raise ConfigError(f"seeds={text} must be whole numbers separated by commas, or how many: seeds=10")
    if text.isdigit():
        count = int(text)
        if count < 1:
            raise ConfigError("seeds=0 asks for no run; for the seed 0 alone write seeds=[0]")
        if given:
            return Seeds((_whole("seed", given[-1].removeprefix("seed="), 0),), count), rest
        first = composed("train", first_point(rest, grid)).seed
        return (Seeds((first,), count) if equal else Seeds(tuple(range(first, first + count)))), rest
    if equal:
        raise ConfigError(
            f"equal_seeds=true repeats one seed; say how often, seeds=10, and which, seed=42, not seeds={text}"
        )
    return Seeds(tuple(dict.fromkeys(map(int, re.findall(r"\d+", text))))), rest


def _refuse_taken(settings: SweepSettings) -> None:
    for key in settings.grid:
        if key in TAKEN:
            raise ConfigError(f"{key} cannot be varied: every run gets its own; vary seeds with seeds=")
    for override in settings.overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key in settings.grid or key in ("run_dir", "repetition"):
            hint = "arms=, seeds= and runs=" if key == ARM or key not in settings.grid else f"grid.{key}="
            raise ConfigError(f"{key} is set by the sweep; choose with {hint}")


def _gpus(text: str) -> list[str]:
    gpus = [gpu.strip() for gpu in text.strip("[] ").split(",") if gpu.strip()]
    if len(set(gpus)) < len(gpus):
        raise ConfigError(f"gpus={text} names a GPU twice; for several runs on one give jobs=")
    return gpus


def _check_places(settings: SweepSettings) -> None:
    if settings.launcher not in LAUNCHERS:
        raise ConfigError(f"launcher={settings.launcher} is unknown; choose from {','.join(LAUNCHERS)}")
    if settings.slurm and settings.launcher != "slurm":
        raise ConfigError("slurm.* is for launcher=slurm")
    if settings.gpus and settings.launcher == "slurm":
        raise ConfigError("gpus= is for this machine; with launcher=slurm give slurm.gpus_per_node=")
    if settings.gpus and not settings.gpu_groups:
        raise ConfigError(f"gpus_per_run={settings.gpus_per_run}, but there are {len(settings.gpus)} gpus")


def _slurm_value(key: str, text: str) -> Any:
    if key == "slurm.time":
        return _minutes(text)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.isdigit() else text


def _minutes(text: str) -> int:
    """Minutes of SLURM's ways to write a time: minutes, [days-]hours:minutes[:seconds], days-hours."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise ConfigError(f"slurm.time={text} must be minutes, HH:MM:SS or D-HH:MM:SS")
    days, first, second, third = (int(part) if part else None for part in match.groups())
    assert first is not None
    if days is None and second is None:
        minutes = first
    elif days is None and third is None:
        minutes = first + (1 if second else 0)  # MM:SS
    else:
        minutes = 60 * (24 * (days or 0) + first) + (second or 0) + (1 if third else 0)
    if minutes < 1:
        raise ConfigError(f"slurm.time={text} is no time")
    return minutes


def _whole(key: str, text: str, least: int) -> int:
    if not text.isdigit() or int(text) < least:
        raise ConfigError(f"{key}={text} must be a whole number of at least {least}")
    return int(text)


def _switch(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{key}={text} must be true or false")
    return text.lower() == "true"
