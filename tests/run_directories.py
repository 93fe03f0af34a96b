"""Synthetic directories of finished runs, in the layout that training leaves behind."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

LABELS = {"none": "QHNet", "trace": "QHNet+Trace", "grad": "QHNet+Grad", "tracegrad": "QHNet+TraceGrad"}
SHELLS = ("1s", "2s", "3s", "1p", "2p", "1d")
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


def write_run(directory: Path, content: dict[str, Any], *, files: bool = True) -> Path:
    """A run directory with its results and, if wanted, its curves and block errors."""
    directory.mkdir(parents=True)
    (directory / "results.json").write_text(json.dumps(content))
    if files:
        _write_curves(directory / "metrics.csv", content)
        with (directory / "block_mae.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["", *SHELLS])
            rows.writerows(
                [[shell, *(content["metrics"]["test/h_mae"] + np.arange(6.0))] for shell in SHELLS]
            )
    return directory


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
