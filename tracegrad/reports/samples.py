"""Reads the errors of the single test samples of a run, ``test_samples.csv`` in its directory."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tracegrad.reports.results import ResultsError

FILE = "test_samples.csv"


class NotMeasuredError(ResultsError):
    """A run has no errors of single samples or blocks."""


@dataclass(frozen=True)
class Sample:
    """The identity of a test sample: row of the database, name, and subset of the test set."""

    row: int
    name: str
    subset: str


@dataclass(frozen=True)
class SampleTable:
    """The test samples in the order of the file; ``lines`` are its rows as texts, by the name of the column."""

    path: Path
    samples: tuple[Sample, ...]
    lines: tuple[dict[str, str], ...]

    def __contains__(self, column: str) -> bool:
        return column in self.lines[0]

    def values(self, column: str) -> Float[np.ndarray, " samples"]:
        """A column as numbers; an empty cell, such as MAE_nondiag of a single atom, is NaN.

        Raises:
            ResultsError: there is no such column, or a cell is no number.
        """
        try:
            return np.array([float(line[column] if line[column] != "" else "nan") for line in self.lines])
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(self.path, error) from error


def read_samples(path: str | Path) -> SampleTable:
    """Read a ``test_samples.csv``.

    Raises:
        NotMeasuredError: there is no such file.
        ResultsError: the file is damaged, empty, or holds a name twice.
    """
    path = Path(path)
    check_there(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = tuple(csv.DictReader(file))
        samples = tuple(Sample(int(line["row"]), line["name"], line["subset"] or "") for line in lines)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from error
    if not samples:
        raise ResultsError(f"{path}: holds no sample; evaluate the run again")
    (name, subset), times = Counter((s.name, s.subset) for s in samples).most_common(1)[0]
    if times > 1:
        raise ResultsError(
            f"{path}: {times} samples of {set_name(subset)} are named {name!r}; "
            "give the structures of the database different names"
        )
    return SampleTable(path, samples, lines)


def check_there(path: Path) -> None:
    """Raise `NotMeasuredError` if a run did not write a table of errors."""
    if not path.is_file():
        raise NotMeasuredError(f"{path} is missing; train with callbacks.test_report, which writes it")


def set_name(subset: str) -> str:
    """The name of a subset in messages."""
    return f"the {subset} test set" if subset else "the test set"


def _unreadable(path: Path, error: Exception) -> ResultsError:
    return ResultsError(f"{path}: not a readable table of samples ({error!r}); evaluate the run again")
