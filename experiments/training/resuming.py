"""Rules of resuming: which run a directory holds, and whether it may continue with the present settings and data."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from experiments.settings.configuration import differences, flat
from experiments.training.rank import process_rank
from experiments.training.run_length import LENGTH, is_longer, length_of
from tracegrad.errors import ConfigError
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.weights.file_names import LAST, PREVIOUS
from tracegrad.weights.renamed import with_new_names

# Settings, and prefixes of settings, that may differ when a run is resumed, and its length: it may be made longer.
MAY_CHANGE = (
    *yaml.safe_load(Path(__file__).with_name("may_change.yaml").read_text(encoding="utf-8")),
    *LENGTH,
)
RESUME = ("auto", "never", "force")
CONFIG = "config.yaml"


def find_run(directory: Path, values: dict[str, Any], resume: str, *, say: bool = True) -> bool:
    """Whether the directory holds a run that may continue with these settings.

    A run exists once its first step has written its settings; a start that fails earlier leaves no run.

    Args:
        resume: the setting of that name: auto, never or force.
        say: whether the first rank prints the settings that change with ``resume=force``.

    Raises:
        ConfigError: the directory holds a run and ``resume`` is never, or one with other settings and ``resume`` is
            not force, or the optimizer or schedule differs from that of the checkpoint.
    """
    if resume not in RESUME:
        raise ConfigError(f"resume is {resume!r}; choose one of {', '.join(RESUME)}")
    has_checkpoint = any(path.exists() for path in checkpoint_files(directory))
    if not has_checkpoint and not any((directory / name).exists() for name in (CONFIG, RESULTS)):
        return False
    if resume == "never":
        raise ConfigError(f"{directory} holds a run already; choose another run_dir or remove it")
    changed = _changed(directory, values)
    lines = "\n  ".join(changed)
    if has_checkpoint and resume == "force" and any(line.startswith("optim.") for line in changed):
        raise ConfigError(
            f"{directory} continues with the optimizer and schedule of its checkpoint; for others start a run of "
            f"another name with init_from={directory}:\n  {lines}"
        )
    if changed and resume != "force":
        ending = (
            "; choose another run_dir or name, remove it, or continue anyway with resume=force"
            if has_checkpoint
            else " and no checkpoint yet; choose another run_dir or name, remove it, "
            "or start it anew with the new settings by resume=force"
        )
        raise ConfigError(f"{directory} holds a run with other settings{ending}:\n  {lines}")
    if changed and say and process_rank() == 0:
        how = "continuing" if has_checkpoint else "starting anew"
        print(f"resume=force: {directory}: {how} with other settings than before:\n  {lines}", flush=True)
    return True


def is_outgrown(directory: Path, length: Mapping[str, Any]) -> bool:
    """Whether a run is to be longer than the length that its directory records.

    Args:
        directory: run directory; without recorded settings the answer is False.
        length: limits of the run, see `length_of`; empty if they are unknown, then the answer is False.
    """
    path = directory / CONFIG
    if not length:
        return False
    try:
        return is_longer(_recorded_length(path, path.stat().st_mtime_ns), length)
    except FileNotFoundError:
        return False


def read_config(directory: Path) -> dict[str, Any]:
    """The settings that a run directory records, as plain data.

    Raises:
        ConfigError: ``config.yaml`` is missing or damaged.
    """
    path = directory / CONFIG
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable ({error}); is {directory} a run directory?") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, a mapping of settings is needed")
    return with_new_names(values)


def checkpoint_files(directory: Path) -> tuple[Path, Path]:
    """The checkpoints from which a run may continue, the newest first."""
    return directory / "checkpoints" / LAST, directory / "checkpoints" / PREVIOUS


def _changed(directory: Path, values: dict[str, Any]) -> list[str]:
    """Lines for the settings in which a run differs from those that its directory records.

    The directory may have been moved since then.
    """
    old, new = (_with_relative_paths(flat(settings)) for settings in (read_config(directory), values))
    return differences(old, new, MAY_CHANGE)


def _with_relative_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, with paths inside the run directory relative to it."""
    run_dir = str(settings.get("run_dir"))

    def relative(value: Any) -> Any:
        inside = isinstance(value, str) and (value == run_dir or value.startswith(f"{run_dir}/"))
        return os.path.normpath(f"<run_dir>/{value[len(run_dir) :]}") if inside else value

    return {key: relative(value) for key, value in settings.items()}


@lru_cache(maxsize=4096)
def _recorded_length(path: Path, _written: int) -> dict[str, Any]:
    """Limits in a ``config.yaml``; the time (ns) at which it was written makes the cached answer out of date."""
    return length_of(read_config(path.parent))
