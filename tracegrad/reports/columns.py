"""The columns of a table: the metrics that results of molecules and of crystals can have, for each test subset."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tracegrad.metrics import columns as declared
from tracegrad.metrics.columns import Column, log_name

ALL = "test/h_mae"
TIME = "test/inference_seconds"
# Subset of a test set, in the order of tables -> its superscript, as in the paper (nt: not twisted, t: twisted).
MARKS = {"": "nt", "up": "up", "down": "down", "twisted": "t"}


def columns_of(crystal: bool, subsets: Sequence[str], others: Iterable[Column] = ()) -> tuple[Column, ...]:
    """All columns that a table can have, in the order in which it shows them; keys are log names of the test.

    Args:
        crystal: whether the samples are crystals.
        subsets: parts of the test set, which have separate columns.
        others: columns of metrics that do not come with TraceGrad (`RunResult.columns`).
    """
    columns = [*declared.HAMILTONIAN, *declared.ORBITALS, *declared.ACCELERATION, *declared.SCF]
    if crystal:
        columns = [declared.HAMILTONIAN[0], *declared.CHALLENGE, declared.SHIFTED]
    known = {column.key for column in declared.KNOWN}
    columns += {column.key: column for column in others if column.key not in known}.values()
    of_subsets = [
        replace(
            column,
            key=log_name("test", column.key, subset),
            name=column.name + superscript(subset, subsets),
        )
        for section in dict.fromkeys(column.panel for column in columns)
        for subset in subsets
        for column in columns
        if column.panel == section
    ]
    times = [replace(column, key=log_name("test", column.key)) for column in declared.INFERENCE]
    return (*of_subsets, *times)


def superscript(subset: str, subsets: Sequence[str]) -> str:
    """The paper's superscript of a subset in brackets; "" for a test set of which nothing is left out."""
    whole = subset == "" and "twisted" not in subsets
    return "" if whole else f" ({MARKS.get(subset, subset)})"
