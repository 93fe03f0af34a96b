"""A CSV log that goes on where an interrupted run left it."""

import csv
import os

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Keep the rows of an earlier session of the same run; Lightning would delete them."""
        if os.path.isfile(self.metrics_file_path):
            with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])


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
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _Writer(log_dir=str(self.save_dir))
        return self._experiment  # type: ignore[return-value]
