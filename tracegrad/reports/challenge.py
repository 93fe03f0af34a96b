"""The challenging samples and blocks of Tables 1, 6 and 7: those with the largest errors of the plain backbone.

challenge = find_challenge("runs/none_seed0")
challenge_metrics("runs/tracegrad_seed0", challenge)  # test/h_mae_cha_s, test/h_mae_cha_b, .../twisted
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracegrad.errors import ConfigError
from tracegrad.metrics.columns import CHALLENGE, log_name
from tracegrad.reports.results import BlockMAE, ResultsError, block_file, read_block_mae
from tracegrad.reports.samples import FILE as SAMPLES
from tracegrad.reports.samples import NotMeasuredError, Sample, check_there, read_samples, set_name

DEFINITION = (
    "MAE_cha_s: mean MAE_all of the k test samples with the largest MAE_all of the baseline, a run of the "
    "plain backbone. MAE_cha_b: MAE_block of the basic block with the largest MAE_block of the baseline. "
    "Both are chosen once for each test subset and are the same for every arm and seed. The paper does not "
    "say how many samples it takes; k = 1 is our reading."
)


@dataclass(frozen=True)
class SampleMAE:
    """A test sample and its MAE over all matrix elements, ``h_mae`` (meV)."""

    sample: Sample
    h_mae: float


@dataclass(frozen=True)
class SubsetChallenge:
    """The samples and the block with the largest errors of the baseline in one test subset.

    Attributes:
        subset: name of the subset, "" where the test set has none.
        samples: the worst samples with their errors, largest error first.
        block: shells (p, q) of the worst basic block.
        block_mae: its error, meV.
    """

    subset: str
    samples: tuple[SampleMAE, ...]
    block: tuple[str, str]
    block_mae: float


@dataclass(frozen=True)
class Challenge:
    """The challenging samples and blocks of every test subset, chosen by the errors of one baseline run.

    Attributes:
        baseline: directory of that run.
        worst: number of samples of each subset (k).
        subsets: in the order of ``test_samples.csv``.
    """

    baseline: Path
    worst: int
    subsets: tuple[SubsetChallenge, ...]


def find_challenge(directory: str | Path, worst: int = 1) -> Challenge:
    """The ``worst`` samples and the worst block of each test subset of a baseline run.

    Among equal errors the sample in the lower row and the block of the earlier shells come first.

    Raises:
        NotMeasuredError: the run has no tables of its errors, or an error is not finite.
        ResultsError: a table is damaged or holds a name twice.
        ConfigError: ``worst`` is below 1 or more than a subset has.
    """
    directory = Path(directory)
    if worst < 1:
        raise ConfigError(f"worst is {worst}; at least 1 sample is needed")
    samples = _errors(directory)
    subsets = []
    for subset in dict.fromkeys(entry.sample.subset for entry in samples):
        members = [entry for entry in samples if entry.sample.subset == subset]
        if worst > len(members):
            raise ConfigError(
                f"worst is {worst}, but {set_name(subset)} has {len(members)} samples in {directory / SAMPLES}; "
                "choose fewer"
            )
        _check_finite(members, directory)
        members.sort(key=lambda entry: (-entry.h_mae, entry.sample.row))
        subsets.append(SubsetChallenge(subset, tuple(members[:worst]), *_worst_block(directory, subset)))
    return Challenge(directory, worst, tuple(subsets))


def challenge_metrics(directory: str | Path, challenge: Challenge) -> dict[str, float]:
    """``test/h_mae_cha_s`` and ``test/h_mae_cha_b`` (meV) of a run, for each subset of the challenge.

    Raises:
        NotMeasuredError: the run has no tables of its errors.
        ResultsError: a table is damaged, or lacks a sample or block of the challenge.
    """
    directory = Path(directory)
    h_mae = {entry.sample: entry.h_mae for entry in _errors(directory)}
    metrics = {}
    worst_samples, worst_block = CHALLENGE
    for part in challenge.subsets:
        samples = [entry.sample for entry in part.samples]
        for sample in samples:
            if sample not in h_mae:
                raise ResultsError(
                    f"{directory / SAMPLES}: {set_name(part.subset)} has no sample {sample.name!r} in row "
                    f"{sample.row}, which {challenge.baseline} has; these runs saw different data: report "
                    "them separately"
                )
        errors = [h_mae[sample] for sample in samples]
        metrics[log_name("test", worst_samples.key, part.subset)] = float(np.mean(errors))
        path = directory / block_file(part.subset)
        table = _blocks(path)
        p, q = part.block
        if p not in table.rows or q not in table.columns:
            raise ResultsError(
                f"{path}: no block {p} x {q}, which {challenge.baseline} has; these runs have different "
                "bases: report them separately"
            )
        value = table.values[table.rows.index(p), table.columns.index(q)]
        metrics[log_name("test", worst_block.key, part.subset)] = float(value)
    return metrics


def _errors(directory: Path) -> list[SampleMAE]:
    table = read_samples(directory / SAMPLES)
    return [
        SampleMAE(sample, float(error))
        for sample, error in zip(table.samples, table.values("h_mae"), strict=True)
    ]


def _worst_block(directory: Path, subset: str) -> tuple[tuple[str, str], float]:
    path = directory / block_file(subset)
    table = _blocks(path)
    # NaN stands for a block that no sample has; it cannot be the worst.
    values = np.where(np.isfinite(table.values), table.values, -np.inf)
    p, q = np.unravel_index(values.argmax(), values.shape)
    if not np.isfinite(values[p, q]):
        raise NotMeasuredError(f"{path}: no block has a finite error; choose another baseline run")
    return (table.rows[p], table.columns[q]), float(values[p, q])


def _blocks(path: Path) -> BlockMAE:
    check_there(path)
    return read_block_mae(path)


def _check_finite(errors: Sequence[SampleMAE], directory: Path) -> None:
    for entry in errors:
        if not np.isfinite(entry.h_mae):
            raise NotMeasuredError(
                f"{directory / SAMPLES}: the error of {entry.sample.name!r} is {entry.h_mae}; "
                "choose another baseline run"
            )
