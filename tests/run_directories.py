"""Synthetic directories of finished runs, in the layout that training leaves behind."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracegrad.data.published import PUBLISHED

LABELS = {"none": "QHNet", "trace": "QHNet+Trace", "grad": "QHNet+Grad", "tracegrad": "QHNet+TraceGrad"}
SHELLS = ("1s", "2s", "3s", "1p", "2p", "1d")
# Test samples of crystals: row, name, subset.
SAMPLES = (
    (3, "shift_3", ""),
    (6, "shift_6", ""),
    (16, "twist_16", "twisted"),
    (17, "twist_17", "twisted"),
)
# Errors of test molecules as parts of their mean.
MOLECULES = np.array([0.7, 0.9, 1.0, 1.1, 1.3])
HEAD = ["row", "name", "subset", "formula", "atoms", "h_mae", "h_mae_diag", "h_mae_nondiag"]
CURVES = ["epoch", "step", "train/loss", "train/loss_h", "train/loss_t", "lr", "val/h_mae"]


def result(arm: str, seed: int, h_mae: float, **changes: Any) -> dict[str, Any]:
    """Content of a results.json; the diagonal MAE is twice, the non-diagonal half of ``h_mae`` (meV)."""
    metrics = {"test/h_mae": h_mae, "test/h_mae_diag": 2 * h_mae, "test/h_mae_nondiag": h_mae / 2}
    return {
        "format": 1,
        "experiment": "qh9_demo",
        "database": "demo_dynamic.db",
        "database_label": "QD",
        "split": "geometry",
        "split_hash": "0123456789abcdef",
        "arm": arm,
        "label": LABELS[arm],
        "backbone": "QHNet",
        "seed": seed,
        "checkpoint": "best",
        "step": 1200,
        "unit": "meV",
        "metrics": metrics,
        "trivial": {"test/h_mae": 123.0, "test/h_mae_diag": 234.0, "test/h_mae_nondiag": 98},
        "counts": {"train": 240, "val": 30, "test": 30},
        "parameters": 123456,
        "train_seconds": 31.5,
        **changes,
    }


def crystal_result(arm: str, seed: int, h_mae: float, **changes: Any) -> dict[str, Any]:
    """Content of a results.json of crystals; the MAE on the twisted ones is twice ``h_mae`` (meV)."""
    crystals = {
        "experiment": "bilayers",
        "database": "bilayers.h5",
        "database_label": "BG",
        "split": "shuffle",
        "label": LABELS[arm].replace("QHNet", "DeepH-E3"),
        "backbone": "DeepH-E3",
        "crystal": True,
        "metrics": {"test/h_mae": h_mae, "test/h_mae_diag": 3 * h_mae, "test/h_mae/twisted": 2 * h_mae},
        "trivial": {"test/h_mae": 123.0, "test/h_mae/twisted": 246.0},
        "counts": {"train": 10, "val": 3, "test": 2, "twisted": 2},
    }
    return result(arm, seed, h_mae, **{**crystals, **changes})


def write_run(directory: Path, content: dict[str, Any], *, files: bool = True) -> Path:
    """A run directory with its results and, if wanted, its curves and block errors."""
    directory.mkdir(parents=True)
    (directory / "results.json").write_text(json.dumps(content))
    if files:
        _write_curves(directory / "metrics.csv", content)
        h_mae = content["metrics"]["test/h_mae"]
        if content.get("crystal"):
            _write_crystals(directory, content["arm"], h_mae)
        else:
            write_blocks(directory / "block_mae.csv", np.tile(h_mae + np.arange(6.0), (6, 1)))
            write_molecules(directory, h_mae * MOLECULES)
    return directory


def write_blocks(path: Path, values: np.ndarray) -> None:
    """A table of block errors of `SHELLS`."""
    write_table(path, ["shell", *SHELLS], [[shell, *row] for shell, row in zip(SHELLS, values, strict=True)])


def write_table(path: Path, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def write_samples(directory: Path, rows: Iterable[Sequence[Any]]) -> None:
    """The table of samples of a run directory; rows of row, name, subset and error."""
    full = [(*row[:3], "C8", 8, row[3], row[3], row[3]) for row in rows]
    write_table(directory / "test_samples.csv", HEAD, full)


def write_molecules(directory: Path, h_mae: Sequence[float] | np.ndarray) -> None:
    """The table of samples of a run on molecules, with diagonal and non-diagonal MAE as in `result`."""
    rows = [(i, str(i), "", "H2O", 3, error, 2 * error, error / 2) for i, error in enumerate(h_mae)]
    write_table(directory / "test_samples.csv", HEAD, rows)


def _write_crystals(directory: Path, arm: str, h_mae: float) -> None:
    """Errors of samples and blocks; the plain backbone is worst at others than all other arms."""
    plain = arm == "none"
    offsets = (-1, 1, -1, 1) if plain else (1, -1, 1, -1)
    sizes = (h_mae, h_mae, 2 * h_mae, 2 * h_mae)
    samples = zip(SAMPLES, sizes, offsets, strict=True)
    write_samples(directory, [(*sample, size + offset) for sample, size, offset in samples])
    for ending, size, worst in (("", h_mae, (1, 3)), ("-twisted", 2 * h_mae, (5, 5))):
        values = np.full((6, 6), size)
        values[worst if plain else (0, 0)] += 5
        write_blocks(directory / f"block_mae{ending}.csv", values)


def _write_curves(path: Path, content: dict[str, Any]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, CURVES)
        rows.writeheader()
        for step in range(9, 300, 10):
            loss = float(np.exp(-step / 100 - content["seed"] / 10))
            trace = {"train/loss_t": 20 * loss} if "trace" in content["arm"] else {}
            training = {"train/loss": loss, "train/loss_h": loss, "lr": 1e-3, **trace}
            rows.writerow({"epoch": 0, "step": step, **training})
            if step % 50 == 49:
                rows.writerow({"epoch": 0, "step": step, "val/h_mae": 100 * loss})


def paper_result(
    database: str, arm: str, seed: int, metrics: dict[str, float], **changes: Any
) -> dict[str, Any]:
    """Content of a results.json of a database of the paper, with the numbers of samples of its Tables 4 and 5."""
    counts = {part: numbers.samples for part, numbers in PUBLISHED[database].parts.items()}
    same = {"database": f"{database}.h5", "database_label": database, "counts": counts, "metrics": metrics}
    if database in ("QS", "QD"):
        return result(arm, seed, 1.0, **{**same, "split": {"QS": "ood", "QD": "mol"}[database], **changes})
    return crystal_result(
        arm, seed, 1.0, **{**same, "experiment": database.lower(), "trivial": {}, **changes}
    )
