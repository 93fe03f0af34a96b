"""Reads the ``metrics.csv`` of a training run."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tracegrad.errors import TraceGradError

Points = Float[np.ndarray, " _points"]
Curve = tuple[Points, Points]


def read_metrics(path: str | Path) -> dict[str, Curve]:
    """The curves of a ``metrics.csv`` of Lightning's CSVLogger; its empty cells are skipped.

    If a step occurs twice, as in a run that continued from an earlier checkpoint, the later row counts.

    Raises:
        TraceGradError: the file is missing, has no column ``step``, or has a cell that is no number.
    """
    path = Path(path)
    points: dict[str, dict[float, float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if "step" not in (rows.fieldnames or ()):
                raise TraceGradError(f"{path}: no column 'step'; this is no metrics.csv of a training run")
            for row in rows:
                step = float(row["step"])
                for name, cell in row.items():
                    if name and cell and name not in ("step", "epoch"):
                        points.setdefault(name, {})[step] = float(cell)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise TraceGradError(f"{path}: not a readable table of metrics ({error})") from error
    return {name: _arrays(curve) for name, curve in points.items()}


def _arrays(points: dict[float, float]) -> Curve:
    steps = np.array(sorted(points))
    return steps, np.array([points[step] for step in steps])
