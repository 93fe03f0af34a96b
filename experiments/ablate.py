"""Train several arms and seeds of one experiment and report them."""

import sys

from rich.console import Console

from experiments.settings.cli import clean_errors
from experiments.settings.help import show_help_if_asked
from experiments.sweeps.engine import run_sweep
from experiments.sweeps.manifest import SweepState
from experiments.sweeps.settings import ABLATE, read_settings


@clean_errors
def main() -> None:
    """Run the ablation that the command line describes."""
    show_help_if_asked(ABLATE)
    run_sweep(read_settings(ABLATE, sys.argv[1:]), _report)


def _report(state: SweepState, console: Console) -> None:
    from experiments.report import (  # here: torch and matplotlib take seconds to import
        make_report,
        print_summary,
    )

    print_summary(make_report(state.runs), console)


if __name__ == "__main__":
    main()
