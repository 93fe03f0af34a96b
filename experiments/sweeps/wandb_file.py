"""The grid of a sweep as a sweep of Weights & Biases, for its agent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.settings.arguments import quoted
from experiments.settings.configuration import CONF
from experiments.sweeps.points import ARM, folder, literal, plain_text
from experiments.sweeps.settings import SweepSettings
from tracegrad.errors import ConfigError
from tracegrad.system.text_files import write_text


def write_wandb_sweep(
    path: Path, settings: SweepSettings, runs: Path, experiment: str, project: Mapping[str, Any]
) -> None:
    """Write a file for ``wandb sweep``.

    The agent starts the same trainings in the same directories as the sweep itself, so that either continues what
    the other has begun.

    Args:
        path: of the file.
        settings: of the sweep.
        runs: directory of its runs.
        experiment: name of the experiment.
        project: settings of logger.wandb.

    Raises:
        ConfigError: a value that cannot name a directory, or repetitions with one seed.
    """
    if settings.equal_seeds:
        raise ConfigError("wandb_sweep knows no runs that are all the same; leave out equal_seeds")
    for key, values in settings.grid.items():
        _check(key, values)
    # The training itself fills the values into the name of its directory.
    arm = "${arm:${tracegrad}}"
    name = ",".join(arm if key == ARM else f"{key}=${{{key}}}" for key in sorted(settings.grid))
    fixed = [*settings.overrides, f"run_dir={quoted(f'{runs}/{name}_seed${{seed}}')}"]
    if not any(override.startswith("logger.wandb.group=") for override in fixed):
        fixed.insert(-1, f"logger.wandb.group={literal(runs.name)}")
    content = {
        "description": settings.description or f"grid over {', '.join(settings.grid)} of {experiment}",
        "name": runs.name,
        **{key: project[key] for key in ("project", "entity") if project[key] is not None},
        "program": "experiments/train.py",
        "method": "grid",
        "metric": {"name": "val/h_mae", "goal": "minimize"},
        "parameters": {
            **{key: {"values": values} for key, values in settings.grid.items()},
            "seed": {"values": [seed["seed"] for seed in settings.seeds]},
        },
        "command": ["${env}", "${interpreter}", "-m", "tracegrad", "train", *fixed, "${args_no_hyphens}"],
    }
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _check(key: str, values: list[Any]) -> None:
    """Values must read the same in YAML, in Hydra's grammar and in the name of a directory."""
    if key != ARM and (CONF / key).is_dir():
        raise ConfigError(f"wandb_sweep cannot vary the group {key}; vary a setting in it")
    for value in values:
        if not literal(value) == plain_text(value) == folder({ARM: value}):
            raise ConfigError(
                f"wandb_sweep cannot hold the value {plain_text(value)!r} of {key}; use plain words and numbers"
            )
