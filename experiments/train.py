"""Train a network, test it, and write everything about the run into one directory."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from experiments.reporting.run_page import write_run_page
from experiments.settings.configuration import command, plain
from experiments.settings.entry import end_by_hangup
from experiments.training.dry_run import dry_run
from experiments.training.rank import process_rank
from experiments.training.runs import train
from experiments.training.wandb_run import print_wandb_hint
from tracegrad.reports.comparison import results_table
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.reports.results import read_result
from tracegrad.reports.terminal import print_tables


@command("train", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Train a network, resume an interrupted run, or print a forecast of its cost."""
    end_by_hangup()  # during its steps a training itself saves a checkpoint when the terminal closes
    if config.dry_run:
        sys.exit(0 if dry_run(config, plain(config)) else 1)
    train(config, plain(config))
    if process_rank() != 0:
        return
    directory = Path(config.run_dir)
    if (directory / RESULTS).exists():
        tables = results_table([read_result(directory / RESULTS)])
        print_tables(tables)
        page = write_run_page(directory, tables)
        print(f"all of it as one page: {page}")
    print(f"run directory: {directory} (figures in {directory / 'figures'})")
    print_wandb_hint([directory])


if __name__ == "__main__":
    main()
