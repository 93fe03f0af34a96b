"""Reads the plan of a sweep, ``manifest.json``: which runs have no result, and which settings distinguish them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracegrad.reports.results import FILE, RunResult

MANIFEST = "manifest.json"
# Settings that a table shows otherwise: as its rows (arms), its means (seeds) or its heading.
_USUAL = ("seed", "run_dir", "name", "experiment", "tracegrad", "repetition")


@dataclass(frozen=True)
class PlannedRun:
    """A planned run of a sweep.

    Attributes:
        name: of the run.
        directory: of the run, where the sweep lies now.
        status: last status that the sweep wrote.
        error: reason of a failure, in one line; "" if there is none.
        overrides: settings KEY=VALUE of the run.
    """

    name: str
    directory: Path
    status: str
    error: str
    overrides: tuple[str, ...]

    @property
    def missing(self) -> bool:
        """Whether the run has no result."""
        return not (self.directory / FILE).is_file()

    @property
    def state(self) -> str:
        """Name, status and error, such as "none_seed3: failed (no space left)"."""
        return f"{self.name}: {self.status}" + (f" ({self.error})" if self.error else "")


@dataclass(frozen=True)
class SweepPlan:
    """The plan of the sweep whose runs lie below ``directory``.

    Attributes:
        directory: of the sweep.
        points: its runs.
        grid: settings that the sweep varies; None if its manifest does not name them.
    """

    directory: Path
    points: tuple[PlannedRun, ...]
    grid: frozenset[str] | None = None


def read_manifests(directory: Path) -> list[SweepPlan]:
    """The plans of all sweeps in a directory and below, in the order of their paths.

    Files of the same name that are no manifest of a sweep are skipped.
    """
    plans = (_read(path) for path in sorted(directory.rglob(MANIFEST)))
    return [plan for plan in plans if plan is not None]


def with_variants(runs: Iterable[RunResult], manifests: Sequence[SweepPlan]) -> list[RunResult]:
    """The runs with their variant: the settings, besides seed and arm, that distinguish the runs of their sweep.

    Each run of a sweep over settings is an experiment of its own. So that they become rows of one table, their
    experiment is replaced by the name of the directory of the sweep.
    """
    variants: dict[Path, tuple[str, str]] = {}
    for manifest in manifests:
        settings = [_settings(point) for point in manifest.points]
        keys = dict.fromkeys(key for values in settings for key in values)
        # Runs may also differ in settings that the sweep does not vary, such as the device they ran on.
        relevant = [key for key in keys if manifest.grid is None or key in manifest.grid]
        varied = [key for key in relevant if len({values.get(key) for values in settings}) > 1]
        for point, values in zip(manifest.points, settings, strict=True):
            text = ", ".join(f"{key}={values[key]}" for key in varied if key in values)
            if text:
                variants[point.directory.resolve()] = (manifest.directory.resolve().name, text)
    named = []
    for run in runs:
        experiment, variant = variants.get(run.directory.resolve(), (run.experiment, run.variant))
        named.append(replace(run, experiment=experiment, variant=variant))
    return named


def _settings(point: PlannedRun) -> dict[str, str]:
    pairs = (override.partition("=") for override in point.overrides)
    values = {key.lstrip("+~"): value.strip("'\"") for key, _, value in pairs}
    return {key: value for key, value in values.items() if key not in _USUAL}


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
    written = Path(str(entry.get("directory") or name))
    # A sweep that was moved lies elsewhere than its manifest says: its runs are looked for beside the manifest.
    relative = written if (directory / written).is_dir() else Path(written.name)
    error = " ".join(str(entry.get("error") or "").split())
    overrides = tuple(str(override) for override in entry.get("overrides") or ())
    return PlannedRun(name, directory / relative, str(entry.get("status") or "not run"), error, overrides)
