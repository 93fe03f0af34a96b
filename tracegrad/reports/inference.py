"""Inference times: adds those that were measured after the training, says how, and computes the cost of TraceGrad.

Equivariance errors that were measured after the training are added in the same way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tracegrad.reports.arms import BASELINE
from tracegrad.reports.columns import TIME
from tracegrad.reports.results import InferenceProtocol, RunResult, read_result
from tracegrad.reports.table import Row

TRACEGRAD = "tracegrad"
EVALUATION = "evaluation.json"
_KEYS = (TIME, "test/inference_batch_size", "test/equivariance_")  # beginnings of log names


def with_inference(runs: Iterable[RunResult]) -> tuple[list[RunResult], list[str]]:
    """The runs with what ``evaluation_test_CHECKPOINT/evaluation.json`` in their directories has measured later.

    Times and equivariance errors replace those of the test of the run. Those of another checkpoint or of other data
    than those of the results are not used; the second list has a note on each of them.

    Raises:
        ResultsError: such a file is damaged.
    """
    timed, notes = [], []
    for run in runs:
        path = run.directory / f"evaluation_test_{run.checkpoint}" / EVALUATION
        if path.is_file():
            later = read_result(path)
            measured = {key: value for key, value in later.metrics.items() if key.startswith(_KEYS)}
            same = (later.step, later.split_hash, later.counts) == (run.step, run.split_hash, run.counts)
            if measured and same:
                columns = {column.key: column for column in (*run.columns, *later.columns)}
                run = replace(
                    run,
                    metrics={**run.metrics, **measured},
                    inference=later.inference if TIME in measured else run.inference,
                    columns=tuple(columns.values()),
                )
            elif measured:
                what = "inference times are" if TIME in measured else "equivariance errors are"
                notes.append(f"{path}: its {what} of another checkpoint or other data than results.json")
        timed.append(run)
    return timed, notes


def protocol_lines(rows: Sequence[Row]) -> list[str]:
    """How the inference times of rows were measured.

    One line if all were measured in the same way. Otherwise one line for each way, with its rows, and a warning that
    the times cannot be compared.
    """
    ways: dict[str, list[str]] = {}
    for row in rows:
        for run in row.runs:
            if TIME in run.metrics:
                named = ways.setdefault(_described(run.inference), [])
                named += [row.label] if row.label not in named else []
    if len(ways) == 1:
        return list(ways)
    lines = [f"{', '.join(labels)}: {way}" for way, labels in ways.items()]
    return lines + ["these times were measured in different ways and do not compare"] * bool(lines)


def cost(rows: Sequence[Row]) -> tuple[Row, Row, float] | None:
    """The rows of the plain backbone and of +TraceGrad, and by how many percent the latter is slower.

    None if one of the times is missing, or if they were measured in different ways.
    """
    by_arm = {row.arm: row for row in rows if not row.variant and TIME in row.cells}
    if not {BASELINE, TRACEGRAD} <= by_arm.keys():
        return None
    plain, full = by_arm[BASELINE], by_arm[TRACEGRAD]
    timed = [run for row in (plain, full) for run in row.runs if TIME in run.metrics]
    if len({_described(run.inference) for run in timed}) > 1:
        return None
    return plain, full, 100 * (full.cells[TIME].mean / plain.cells[TIME].mean - 1)


def _described(protocol: InferenceProtocol | None) -> str:
    if protocol is None:
        return "samples, repeats and device were not recorded (results of an earlier version)"
    samples = "1 sample" if protocol.samples == 1 else f"each of {protocol.samples} samples"
    times = "once" if protocol.repeats == 1 else f"{protocol.repeats} times"
    return f"{samples} timed {times}, batch size {protocol.batch_size}, on {protocol.device}"
