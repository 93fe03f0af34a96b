"""Results of one run on the console."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

NAMES = {"test/h_mae": "MAE^H_all", "test/h_mae_diag": "MAE^H_diag", "test/h_mae_nondiag": "MAE^H_nondiag"}


def print_results(results: dict[str, Any]) -> None:
    """Metrics of a run (meV) beside those of the trivial predictor."""
    table = Table(
        title=f"{results['database_label']}, split {results['split']}, seed {results['seed']} (meV)"
    )
    table.add_column("", no_wrap=True)
    for metric in results["metrics"]:
        table.add_column(NAMES.get(metric, metric), justify="right", no_wrap=True)
    for label, values in (
        ("mean block per species", results["trivial"]),
        (results["label"], results["metrics"]),
    ):
        cells = [f"{values[name]:.4g}" if name in values else "" for name in results["metrics"]]
        table.add_row(label, *cells)
    # Without a terminal rich would wrap at 80 columns.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
