"""A CSV log that goes on where an interrupted run left it."""

import csv
import os
from itertools import islice

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from tracegrad.system.whole_files import replacing


class _Writer(ExperimentWriter):
    rows = 0  # in the file

    def _check_log_dir_exists(self) -> None:
        """Keep the rows of an earlier session of the same run; Lightning would delete them."""
        if os.path.isfile(self.metrics_file_path):
            with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                self.metrics_keys = next(reader, [])
                self.rows = sum(1 for _ in reader)

    def save(self) -> None:
        self.rows += len(self.metrics)
        super().save()

    def keep(self, rows: int) -> None:
        """Cut the file to its first rows; what is not written yet is dropped."""
        self.metrics = []
        if rows >= self.rows:
            return
        with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
            kept = list(islice(csv.reader(file), rows + 1))
        with (
            replacing(self.metrics_file_path) as draft,
            draft.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows(kept)
        self.rows = rows


class RunCSVLogger(CSVLogger):
    """Writes ``metrics.csv`` into the run directory and appends to it when the run is resumed.

    Args:
        save_dir: run directory.
        flush_logs_every_n_steps: rows are held in memory this long.
    """

    def __init__(self, save_dir: str, flush_logs_every_n_steps: int = 100):
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)

    @property
    @rank_zero_experiment
    def experiment(self) -> _Writer:  # type: ignore[override]
        if self._experiment is None:
            self._experiment = _Writer(log_dir=str(self.save_dir))
        return self._experiment  # type: ignore[return-value]

    def flushed_rows(self) -> int:
        """Write what is held in memory and give the number of rows in the file."""
        self.save()
        return self.experiment.rows

    def keep_rows(self, rows: int) -> None:
        """Drop all rows but the first ones."""
        self.experiment.keep(rows)
