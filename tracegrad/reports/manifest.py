"""What a sweep planned: points without a result, and what tells its points apart."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracegrad.reports.results import FILE, RunResult

MANIFEST = "manifest.json"
# Settings that rows and means take care of.
_USUAL = ("seed", "run_dir", "name", "experiment", "tracegrad", "repetition")


@dataclass(frozen=True)
class PlannedRun:
    """A planned run of a sweep."""

    name: str
    directory: Path
    status: str
    error: str
    overrides: tuple[str, ...]

    @property
    def missing(self) -> bool:
        """Whether it left no result."""
        return not (self.directory / FILE).is_file()

    @property
    def state(self) -> str:
        """Its name and why it has no result, such as "none_seed3: failed (no space left)"."""
        return f"{self.name}: {self.status}" + (f" ({self.error})" if self.error else "")


@dataclass(frozen=True)
class SweepPlan:
    """The plan of the sweep whose runs lie below ``directory``."""

    directory: Path
    points: tuple[PlannedRun, ...]
    grid: frozenset[str] | None = None  # settings that it varies; None: not told


def read_manifests(directory: Path) -> list[SweepPlan]:
    """The manifests in a directory and below, in the order of their paths; others of this name are skipped."""
    found = (_read(path) for path in sorted(directory.rglob(MANIFEST)))
    return [manifest for manifest in found if manifest is not None]


def with_variants(runs: Iterable[RunResult], manifests: Sequence[SweepPlan]) -> list[RunResult]:
    """The runs of each sweep named by the settings in which its points differ, seeds and arms apart.

    Points of a grid carry experiments of their own; here they become rows of one, named as their directory.
    """
    variants: dict[Path, tuple[str, str]] = {}
    for manifest in manifests:
        settings = [_settings(point) for point in manifest.points]
        keys = dict.fromkeys(key for found in settings for key in found)
        # Points of one sweep may also differ in what only says how they were run.
        wanted = [key for key in keys if manifest.grid is None or key in manifest.grid]
        varied = [key for key in wanted if len({found.get(key) for found in settings}) > 1]
        for point, found in zip(manifest.points, settings, strict=True):
            text = ", ".join(f"{key}={found[key]}" for key in varied if key in found)
            if text:
                variants[point.directory.resolve()] = (manifest.directory.resolve().name, text)
    named = []
    for run in runs:
        experiment, variant = variants.get(run.directory.resolve(), (run.experiment, run.variant))
        named.append(replace(run, experiment=experiment, variant=variant))
    return named


def _settings(point: PlannedRun) -> dict[str, str]:
    pairs = (override.partition("=") for override in point.overrides)
    found = {key.lstrip("+~"): value.strip("'\"") for key, _, value in pairs}
    return {key: value for key, value in found.items() if key not in _USUAL}


def _read(path: Path) -> SweepPlan | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(_point(path.parent, entry) for entry in content["points"])
        grid = content.get("definition", {}).get("grid")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return SweepPlan(path.parent, points, None if grid is None else frozenset(grid))


def _point(directory: Path, entry: dict[str, Any]) -> PlannedRun:
    name = str(entry["name"])
    own = Path(str(entry.get("directory") or name))
    # Written relative to where the sweep was started; what counts is where the runs lie now.
    own = own if (directory / own).is_dir() else Path(own.name)
    error = " ".join(str(entry.get("error") or "").split())
    overrides = tuple(str(override) for override in entry.get("overrides") or ())
    return PlannedRun(name, directory / own, str(entry.get("status") or "not run"), error, overrides)
