"""Checks which runs may share a row or a table; runs that may not are refused with a `ResultsError`."""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

from tracegrad.reports.arms import BASELINE
from tracegrad.reports.results import ResultsError, RunResult

# Relative. The trivial predictor follows from the data only, so runs that differ by more were trained on other data.
TRIVIAL_TOLERANCE = 1e-3

Data = tuple[str | bool, ...]


def data_of(run: RunResult) -> Data:
    """The properties of the data and of the backbone that runs of one table share."""
    data = (run.database_label, run.database, run.split, run.split_hash, run.part)
    return (*data, run.backbone, run.crystal)


def samples_name(crystal: bool) -> str:
    """The samples of a database in a sentence: "structures" or "molecules"."""
    return "structures" if crystal else "molecules"


def check_baseline(baseline: RunResult, known: Iterable[Data]) -> None:
    """Raise `ResultsError` if a run cannot define MAE_cha of any table; ``known`` are the data of the tables."""
    if baseline.arm != BASELINE:
        raise ResultsError(
            f"{baseline.directory} is a run of {baseline.label}; the baseline of MAE_cha must be one of the "
            "plain backbone"
        )
    if not baseline.crystal or data_of(baseline) not in set(known):
        raise ResultsError(
            f"{baseline.directory} is a run of {baseline.backbone} on {baseline.database} "
            f"({baseline.split} split {baseline.split_hash}, {baseline.part} set); no table of crystals has "
            "these data: set baseline to a run on the data of the runs, or to null"
        )


def check_row(runs: Sequence[RunResult]) -> None:
    """Raise `ResultsError` if runs of one arm differ in more than their seed and repetition."""
    for one, other in combinations(runs, 2):
        if one.repetition_key == other.repetition_key:
            raise ResultsError(
                f"{one.repetition_name} of {one.label} occurs twice: {one.directory} and {other.directory}; "
                "remove one of them or report them separately"
            )
        for name in ("label", "parameters", "checkpoint"):
            if getattr(one, name) != getattr(other, name):
                raise ResultsError(
                    f"runs of {one.label} differ in more than their seed: {name} is "
                    f"{getattr(one, name)!r} in {one.directory}, {getattr(other, name)!r} in {other.directory}; "
                    "report them separately"
                )


def check_data(runs: Sequence[RunResult]) -> None:
    """Raise `ResultsError` if runs of one table saw different data."""
    first = runs[0]
    for run in runs[1:]:
        if first.counts != run.counts:
            raise ResultsError(
                f"{first.directory} used {first.counts} {samples_name(first.crystal)} and {run.directory} "
                f"{run.counts}; runs on different parts of the data are no ablation: report them separately"
            )
        for name in first.trivial.keys() & run.trivial.keys():
            if not math.isclose(first.trivial[name], run.trivial[name], rel_tol=TRIVIAL_TOLERANCE):
                raise ResultsError(
                    f"the trivial predictor has {name} {first.trivial[name]:g} in {first.directory} and "
                    f"{run.trivial[name]:g} in {run.directory}: these runs saw different data under the "
                    f"name {run.database}; report them separately"
                )
