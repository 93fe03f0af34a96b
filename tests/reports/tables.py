"""Tables of runs that the tests write, and how they are printed."""

import io

from rich.console import Console

from tests.run_directories import write_run
from tracegrad.reports.comparison import results_table
from tracegrad.reports.results import collect_results
from tracegrad.reports.terminal import print_tables

# Two seeds an arm: the means are 5, 4.5, 4 and 3 meV.
VALUES = {"tracegrad": (2.0, 4.0), "none": (4.0, 6.0), "grad": (4.0, 4.0), "trace": (4.0, 5.0)}


def tables_of(directory, **options):
    return results_table(collect_results(directory), **options)


def write_all(directory, contents):
    for i, content in enumerate(contents):
        write_run(directory / f"run{i}", content, files=False)
    return directory


def printed(tables, encoding="utf-8", width=20):
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    print_tables(tables, Console(file=stream, width=width))
    stream.flush()
    return buffer.getvalue().decode(encoding)
