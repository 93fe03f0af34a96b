"""The challenging samples and block of Tables 1, 6 and 7: those at which the plain backbone is worst.

challenge = find_challenge("runs/none_seed0")
challenge_metrics("runs/tracegrad_seed0", challenge)  # test/h_mae_cha_s, test/h_mae_cha_b, .../twisted
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracegrad.errors import ConfigError
from tracegrad.results import BlockMAE, ResultsError, block_file, read_block_mae

SAMPLES = "test_samples.csv"
METRIC_S = "test/h_mae_cha_s"
METRIC_B = "test/h_mae_cha_b"
DEFINITION = (
    "MAE_cha_s: mean MAE_all of the k test samples with the largest MAE_all of the baseline, a run of the "
    "plain backbone. MAE_cha_b: MAE_block of the basic block with the largest MAE_block of the baseline. "
    "Both are found once for each test subset and are the same for every arm and seed. The paper does not "
    "say how many samples it takes; k = 1 is our reading."
)


class NoChallengeError(ResultsError):
    """A run that does not tell its errors by sample and block."""


@dataclass(frozen=True)
class Sample:
    """A sample of a test set and its error (meV)."""

    row: int
    name: str
    subset: str
    h_mae: float


@dataclass(frozen=True)
class SubsetChallenge:
    """The worst samples, worst first, and the worst block of one subset, with the errors of the baseline."""

    subset: str
    samples: tuple[Sample, ...]
    block: tuple[str, str]
    block_mae: float


@dataclass(frozen=True)
class Challenge:
    """What one baseline run finds hardest, subset by subset."""

    baseline: Path
    worst: int
    subsets: tuple[SubsetChallenge, ...]


def metric_key(metric: str, subset: str) -> str:
    """The log name of a metric on a subset of the test set."""
    return f"{metric}/{subset}" if subset else metric


def find_challenge(directory: str | Path, worst: int = 1) -> Challenge:
    """The ``worst`` samples and the worst block of each test subset of a baseline run.

    Equal errors: the lower row and the earlier shells count as worse.

    Raises:
        NoChallengeError: the run lacks the tables of its errors, or they are not finite.
        ResultsError: a table is damaged or holds a name twice.
        ConfigError: ``worst`` is below 1 or more than a subset has.
    """
    directory = Path(directory)
    if worst < 1:
        raise ConfigError(f"worst is {worst}; at least 1 sample is needed")
    samples = read_samples(directory / SAMPLES)
    found = []
    for subset in dict.fromkeys(sample.subset for sample in samples):
        own = [sample for sample in samples if sample.subset == subset]
        if worst > len(own):
            raise ConfigError(
                f"worst is {worst}, but {_named(subset)} has {len(own)} samples in {directory / SAMPLES}; "
                "choose fewer"
            )
        _check_finite(own, directory)
        own.sort(key=lambda sample: (-sample.h_mae, sample.row))
        found.append(SubsetChallenge(subset, tuple(own[:worst]), *_worst_block(directory, subset)))
    return Challenge(directory, worst, tuple(found))


def challenge_metrics(directory: str | Path, challenge: Challenge) -> dict[str, float]:
    """``test/h_mae_cha_s`` and ``test/h_mae_cha_b`` (meV) of a run, for each subset of the challenge.

    Raises:
        NoChallengeError: the run lacks the tables of its errors.
        ResultsError: a table is damaged, or lacks a sample or block of the challenge.
    """
    directory = Path(directory)
    samples = {(sample.subset, sample.name): sample for sample in read_samples(directory / SAMPLES)}
    metrics = {}
    for part in challenge.subsets:
        errors = []
        for wanted in part.samples:
            sample = samples.get((part.subset, wanted.name))
            if sample is None or sample.row != wanted.row:
                raise ResultsError(
                    f"{directory / SAMPLES}: {_named(part.subset)} has no sample {wanted.name!r} in row "
                    f"{wanted.row}, which {challenge.baseline} has; these runs saw different data: report "
                    "them separately"
                )
            errors.append(sample.h_mae)
        metrics[metric_key(METRIC_S, part.subset)] = float(np.mean(errors))
        path = directory / block_file(part.subset)
        table = _blocks(path)
        p, q = part.block
        if p not in table.rows or q not in table.columns:
            raise ResultsError(
                f"{path}: no block {p} x {q}, which {challenge.baseline} has; these runs have different "
                "bases: report them separately"
            )
        value = table.values[table.rows.index(p), table.columns.index(q)]
        metrics[metric_key(METRIC_B, part.subset)] = float(value)
    return metrics


def read_samples(path: str | Path) -> list[Sample]:
    """The samples of a ``test_samples.csv`` in the order of the file.

    Raises:
        NoChallengeError: there is no such file.
        ResultsError: the file is damaged, empty, or holds a name twice.
    """
    path = Path(path)
    _check_there(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            samples = [
                Sample(int(line["row"]), line["name"], line["subset"] or "", float(line["h_mae"]))
                for line in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ResultsError(
            f"{path}: not a readable table of samples ({error!r}); evaluate the run again"
        ) from error
    if not samples:
        raise ResultsError(f"{path}: holds no sample; evaluate the run again")
    (name, subset), times = Counter((s.name, s.subset) for s in samples).most_common(1)[0]
    if times > 1:
        raise ResultsError(
            f"{path}: {times} samples of {_named(subset)} are named {name!r}; "
            "give every structure of the database its own name"
        )
    return samples


def _worst_block(directory: Path, subset: str) -> tuple[tuple[str, str], float]:
    path = directory / block_file(subset)
    table = _blocks(path)
    values = np.where(np.isfinite(table.values), table.values, -np.inf)  # no sample has such a block
    p, q = np.unravel_index(values.argmax(), values.shape)
    if not np.isfinite(values[p, q]):
        raise NoChallengeError(f"{path}: no block has a finite error; choose another baseline run")
    return (table.rows[p], table.columns[q]), float(values[p, q])


def _blocks(path: Path) -> BlockMAE:
    _check_there(path)
    return read_block_mae(path)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise NoChallengeError(f"{path} is missing; train with callbacks.test_report, which writes it")


def _check_finite(samples: Sequence[Sample], directory: Path) -> None:
    for sample in samples:
        if not np.isfinite(sample.h_mae):
            raise NoChallengeError(
                f"{directory / SAMPLES}: the error of {sample.name!r} is {sample.h_mae}; "
                "choose another baseline run"
            )


def _named(subset: str) -> str:
    return f"the {subset} test set" if subset else "the test set"
