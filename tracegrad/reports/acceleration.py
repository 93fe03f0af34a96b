"""Adds to the results of runs the SCF accelerations that were measured after the training (`accelerate` command)."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace

from tracegrad.reports.results import ResultsError, RunResult


def with_acceleration(runs: Iterable[RunResult]) -> list[RunResult]:
    """The runs with the metrics of ``acceleration_CHECKPOINT/acceleration.json`` in their directories.

    A metric that the test of the run has measured itself keeps that value.

    Raises:
        ResultsError: such a file is damaged.
    """
    return [replace(run, metrics={**_acceleration_metrics(run), **run.metrics}) for run in runs]


def _acceleration_metrics(run: RunResult) -> dict[str, float]:
    path = run.directory / f"acceleration_{run.checkpoint}" / "acceleration.json"
    if not path.is_file():
        return {}
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        values = {str(key): float(value) for key, value in metrics.items() if value is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(
            f"{path}: not a readable result of tracegrad accelerate ({error!r}); run it again"
        ) from error
    return {key: value for key, value in values.items() if math.isfinite(value)}
