"""The errors of single test samples, ``test_samples.csv`` of a run directory."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tracegrad.reports.results import ResultsError

FILE = "test_samples.csv"


class NotMeasuredError(ResultsError):
    """A run that does not tell its errors by sample or block."""


@dataclass(frozen=True)
class Sample:
    """What tells a test sample from others: position in the database, name, and subset of the test set."""

    row: int
    name: str
    subset: str


@dataclass(frozen=True)
class SampleTable:
    """Test samples in the order of the file, and its other columns as they are written."""

    path: Path
    samples: tuple[Sample, ...]
    lines: tuple[dict[str, str], ...]

    def __contains__(self, column: str) -> bool:
        return column in self.lines[0]

    def values(self, column: str) -> Float[np.ndarray, " samples"]:
        """A column of numbers; an empty cell, such as MAE_nondiag of a single atom, is NaN.

        Raises:
            ResultsError: there is no such column, or it holds something else.
        """
        try:
            return np.array([float(line[column] if line[column] != "" else "nan") for line in self.lines])
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(self.path, error) from error


def read_samples(path: str | Path) -> SampleTable:
    """A ``test_samples.csv``.

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
            "give every structure of the database its own name"
        )
    return SampleTable(path, samples, lines)


def check_there(path: Path) -> None:
    """Raise `NotMeasuredError` for a table of errors that a run did not write."""
    if not path.is_file():
        raise NotMeasuredError(f"{path} is missing; train with callbacks.test_report, which writes it")


def set_name(subset: str) -> str:
    """What messages call a subset."""
    return f"the {subset} test set" if subset else "the test set"


def _unreadable(path: Path, error: Exception) -> ResultsError:
    return ResultsError(f"{path}: not a readable table of samples ({error!r}); evaluate the run again")
