"""Train an experiment with all combinations of some values."""

import sys
from pathlib import Path

from rich.console import Console

from experiments.settings.cli import clean_errors
from experiments.settings.help import show_help_if_asked
from experiments.sweeps.databases import by_experiment, sweep_together
from experiments.sweeps.engine import run_sweep
from experiments.sweeps.manifest import SweepState
from experiments.sweeps.settings import SWEEP, read_settings
from experiments.sweeps.summary import grid_numbers, grid_rows, grid_table, show_table


@clean_errors
def main() -> None:
    """Run the sweep that the command line describes."""
    show_help_if_asked(SWEEP)
    arguments = sys.argv[1:]
    command_lines = by_experiment(arguments)
    if command_lines:
        places = [argument.partition("=")[2] for argument in arguments if argument.startswith("runs=")]
        sweep_together(command_lines, Path(places[-1]) if places else None, _report)
    else:
        run_sweep(read_settings(SWEEP, arguments), _report)


def _report(state: SweepState, console: Console) -> None:
    from experiments.report import (  # here: torch and matplotlib take seconds to import
        make_report,
        print_report,
    )

    print_report(make_report(state.runs), console)
    rows = grid_rows(state)
    show_table(grid_table(rows), grid_numbers(rows), state.runs / "report", "sweep", console)


if __name__ == "__main__":
    main()
