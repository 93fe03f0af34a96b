"""Reads and checks the results in the directory of a training run: ``results.json`` and ``block_mae.csv``."""

import csv
import json
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import numpy as np
from jaxtyping import Float

from tracegrad.errors import ConfigError, TraceGradError
from tracegrad.metrics.columns import Column

FILE = "results.json"
# Files that a run writes when it begins.
START, CONFIG = "provenance.json", "config.yaml"
FORMAT = 1
_KINDS = {str: "text", int: "an integer", float: "a number", bool: "true or false"}


class ResultsError(TraceGradError):
    """Results that are missing, damaged, or of runs that cannot be compared."""


@dataclass(frozen=True)
class InferenceProtocol:
    """How inference was timed.

    Attributes:
        samples: test samples that were timed.
        repeats: timed inferences of each of them.
        batch_size: samples that went through the network at a time.
        device: model of the GPU, or of the CPU with the number of threads.
    """

    samples: int
    repeats: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class RunResult:
    """The result of one training run.

    Attributes:
        directory: of the run.
        experiment: name of the experiment.
        database, database_label: file or folder, and short name such as QS.
        split, split_hash: name of the split, and hash of its rows.
        arm, label: such as "tracegrad", and the printed name such as "QHNet+TraceGrad".
        backbone: printed name.
        seed: of the run.
        checkpoint, step: which checkpoint was tested, and its optimisation step.
        unit: of all energies; always "meV".
        metrics: by log name.
        trivial: the metrics of the trivial predictor.
        counts: samples of each part of the split.
        parameters: of the network.
        train_seconds: training time; None if it was not measured.
        part: the part of the split that was tested.
        crystal: whether the samples are crystals.
        repetition: number of the run among those of the same seed; the paper has ten runs of one seed (Appendix H).
        variant: settings that differ from the other runs of the arm, such as "loss.weight=0.3" in a sweep.
        inference: how inference was timed; None if it was not, or by a version that did not record it.
        columns: names, units and so on of the metrics that do not come with TraceGrad.
    """

    directory: Path
    experiment: str
    database: str
    database_label: str
    split: str
    split_hash: str
    arm: str
    label: str
    backbone: str
    seed: int
    checkpoint: str
    step: int
    unit: str
    metrics: dict[str, float]
    trivial: dict[str, float]
    counts: dict[str, int]
    parameters: int
    train_seconds: float | None = None
    part: str = "test"
    crystal: bool = False
    repetition: int = 0
    variant: str = ""
    inference: InferenceProtocol | None = None
    columns: tuple[Column, ...] = ()

    @property
    def repetition_key(self) -> tuple[int, int]:
        """(seed, repetition), which identifies a run among those of its row."""
        return self.seed, self.repetition

    @property
    def repetition_name(self) -> str:
        """The repetition key in words, such as "seed 0" or "seed 42, repetition 3"."""
        return f"seed {self.seed}" + (f", repetition {self.repetition}" if self.repetition else "")


@dataclass(frozen=True)
class BlockMAE:
    """MAE (meV) of the basic blocks: ``values[p, q]`` of shell ``rows[p]`` with shell ``columns[q]``.

    NaN stands for a block that no sample has.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[np.ndarray, "p q"]


def collect_results(directory: str | Path) -> list[RunResult]:
    """All results below ``directory``, in the order of their paths.

    Raises:
        ResultsError: no such directory, no results in it, or a file that is damaged or of another format.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ResultsError(f"{directory}: no such directory; give the directory of the training runs")
    paths = sorted(directory.rglob(FILE))
    if not paths:
        begun = unfinished_runs(directory)
        has = f"but unfinished runs, such as {begun[0]}" if begun else "and no unfinished run either"
        raise ResultsError(
            f"{directory}: no {FILE} in it or below, {has}; give the directory of finished runs"
        )
    return [read_result(path) for path in paths]


def unfinished_runs(directory: str | Path) -> list[Path]:
    """Run directories in or below ``directory`` that have no results yet, in the order of their paths."""
    starts = (path.parent for path in sorted(Path(directory).rglob(START)))
    return [run for run in starts if (run / CONFIG).is_file() and not (run / FILE).exists()]


def read_run(directory: str | Path) -> RunResult:
    """The result of one run directory.

    Raises:
        ResultsError: there is no result, or its file is damaged.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        raise ResultsError(f"{directory}: no {FILE} in it; give the directory of a finished training run")
    return read_result(path)


def read_result(path: str | Path) -> RunResult:
    """Read one ``results.json``.

    Raises:
        ResultsError: the file is damaged, of another format, or lacks a field.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{path}: not readable as JSON ({error}); remove it and repeat the command that wrote it, which "
            "continues from the checkpoints"
        ) from error
    if not isinstance(content, dict) or "format" not in content:
        raise ResultsError(f"{path}: no result of a training run (no field 'format'); move it elsewhere")
    if content["format"] != FORMAT:
        raise ResultsError(
            f"{path}: format {content['format']!r}, this version reads {FORMAT}; "
            "use the version of TraceGrad that wrote it, or evaluate again"
        )
    entries = [entry for entry in fields(RunResult) if entry.name != "directory"]
    missing = [entry.name for entry in entries if entry.default is MISSING and entry.name not in content]
    if missing:
        raise ResultsError(
            f"{path}: fields {missing} are missing; the file is damaged or no result of a run, remove it"
        )
    values = {
        entry.name: _checked(path, entry.name, content[entry.name], entry.type)
        for entry in entries
        if entry.default is MISSING or content.get(entry.name) is not None
    }
    if values["unit"] != "meV":
        raise ResultsError(f"{path}: unit is {values['unit']!r}, but 'meV' is needed")
    return RunResult(directory=path.parent, **values)


def block_file(subset: str) -> str:
    """File name of the table of block errors of a subset of the test set, in a run directory."""
    return f"block_mae-{subset}.csv" if subset else "block_mae.csv"


def read_block_mae(path: str | Path) -> BlockMAE:
    """Read a ``block_mae.csv``: the first row and column name the shells, the cells are MAEs in meV (empty: NaN).

    Raises:
        ResultsError: the file is missing or is no such table.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = [row for row in csv.reader(file) if row]
        values = np.array([[float(cell) if cell.strip() else np.nan for cell in row[1:]] for row in rows])
        if values.shape != (len(rows), len(head) - 1) or not values.size:
            raise ValueError(f"{len(head) - 1} columns are named, the numbers have shape {values.shape}")
    except (OSError, ValueError, csv.Error) as error:
        raise ResultsError(f"{path}: not a readable table of block errors ({error})") from error
    return BlockMAE(tuple(row[0] for row in rows), tuple(head[1:]), values)


def _checked(path: Path, name: str, value: Any, expected: Any) -> Any:
    """A value of a file as the type of its field; ``name`` is for the message."""
    if get_origin(expected) is UnionType:  # None was left out before
        expected = get_args(expected)[0]
    if name == "columns":
        try:
            return tuple(Column(**entry) for entry in value)
        except (TypeError, ConfigError) as error:
            raise ResultsError(f"{path}: columns: {error}; correct them, or test the run again") from error
    if is_dataclass(expected):
        parts = {entry.name: entry.type for entry in fields(expected)}
        if not isinstance(value, dict) or not parts.keys() <= value.keys():
            raise ResultsError(f"{path}: {name} is {value!r}, an object with {', '.join(parts)} is needed")
        values = {key: _checked(path, f"{name}:{key}", value[key], kind) for key, kind in parts.items()}
        return expected(**values)  # type: ignore[operator]
    if get_origin(expected) is dict:
        if not isinstance(value, dict):
            raise ResultsError(f"{path}: {name} is {value!r}, an object of numbers is needed")
        kind = get_args(expected)[1]
        # A metric that does not exist for a test set is written as null.
        return {key: _checked(path, f"{name}.{key}", v, kind) for key, v in value.items() if v is not None}
    allowed = int | float if expected is float else expected
    # In Python a bool is an int too.
    if not isinstance(value, allowed) or isinstance(value, bool) != (expected is bool):
        raise ResultsError(f"{path}: {name} is {value!r}, {_KINDS[expected]} is needed")
    return expected(value)
