"""A CSV log that a resumed run continues where the interrupted one stopped."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from tracegrad.errors import TraceGradError
from tracegrad.system.whole_files import replacing, sync


class _Writer(ExperimentWriter):
    """Writer of a log that a kill cannot damage: at most the row that is being appended is cut off.

    Lightning's writer deletes the log of an earlier session, and empties the file when a new column appears.
    """

    rows = 0  # complete rows in the file
    _complete = False  # whether this session has rewritten the file, so that no row in it is cut off

    def _check_log_dir_exists(self) -> None:
        """Continue the log of an earlier session of the same run."""
        self.metrics_keys, rows = _read(self.metrics_file_path)
        self.rows = len(rows)

    def save(self) -> None:
        """Write the rows that are held in memory."""
        if not self.metrics:
            return
        new_columns = self._record_new_keys()
        if new_columns or not self._complete or not os.path.isfile(self.metrics_file_path):
            keys, rows = _read(self.metrics_file_path)
            before = [dict(zip(keys, row, strict=True)) for row in rows[: self.rows]]
            self._replace([*before, *self.metrics])
        else:
            try:
                with open(self.metrics_file_path, "a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self.metrics_keys).writerows(self.metrics)
            except OSError as error:
                self._complete = False  # some of the rows may have been written
                raise TraceGradError(
                    f"{self.metrics_file_path}: cannot be written ({error.strerror})"
                ) from error
            self.rows += len(self.metrics)
        self.metrics = []

    def keep(self, rows: int) -> None:
        """Cut the file to its first ``rows`` rows; rows that are not written yet are dropped."""
        self.metrics = []
        if rows > self.rows:
            print(
                f"warning: {self.metrics_file_path}: has {self.rows} rows, but had {rows} at the checkpoint from "
                "which the run is resumed; learning curves lack the others, the training is not affected",
                flush=True,
            )
        if os.path.isfile(self.metrics_file_path):
            keys, kept = _read(self.metrics_file_path)
            self._replace(dict(zip(keys, row, strict=True)) for row in kept[:rows])

    def _replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rewrite the file with a header and these rows."""
        rows = list(rows)
        with (
            replacing(self.metrics_file_path) as draft,
            draft.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        self.rows, self._complete = len(rows), True


def _read(path: str) -> tuple[list[str], list[list[str]]]:
    """Columns and complete rows of a log, without a last row that a kill has cut off; empty if there is no file.

    Raises:
        TraceGradError: the file is not a table.
    """
    if not os.path.isfile(path):
        return [], []
    content = Path(path).read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    try:
        table = list(csv.reader(io.StringIO(complete.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceGradError(
            f"{path}: is not a table ({error}); move it elsewhere to continue without it"
        ) from error
    for number, row in enumerate(table, 1):
        if len(row) != len(table[0]):
            raise TraceGradError(
                f"{path}: line {number} has {len(row)} cells, but the header {len(table[0])}; it is not the log "
                "of a run: move it elsewhere to continue without it"
            )
    return (table[0], table[1:]) if table else ([], [])


class RunCSVLogger(CSVLogger):
    """Writes ``metrics.csv`` into the run directory and appends to it when the run is resumed.

    Args:
        save_dir: run directory.
        flush_logs_every_n_steps: number of rows that are held in memory before they are written.
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
        """Write the rows in memory to the disk and return the number of rows in the file."""
        self.save()
        if os.path.isfile(self.experiment.metrics_file_path):
            sync(Path(self.experiment.metrics_file_path))
        return self.experiment.rows

    def keep_rows(self, rows: int) -> None:
        """Keep the first ``rows`` rows of the file; print a warning if there are fewer."""
        self.experiment.keep(rows)
