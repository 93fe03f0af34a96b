"""Time the networks, TraceGrad, metrics and the data path on this machine: `python -m experiments.benchmark --help`.

Every ratio compares times of one run, taken in turns, so that other load on the machine falls on both sides.
Run it from the repository: the plain e3nn forms of the networks are oracles of the tests.
"""

import argparse
import sys
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from experiments.benchmarks import crystals, molecules, orbitals, ranks
from experiments.runs import write_json
from experiments.timing import Timing, processor


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark", description=__doc__.split(":")[0]
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU (1)")
    parser.add_argument("--molecules", type=int, default=4, help="molecules in the batch (4)")
    parser.add_argument(
        "--atoms", type=int, default=18, help="atoms of each molecule, half of them hydrogen (18)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds of each task (3)")
    parser.add_argument(
        "--only", choices=("molecules", "crystals", "orbitals", "ranks"), help="one kind of task alone"
    )
    parser.add_argument("--small", action="store_true", help="tiny networks: does it run, not how fast")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda"
    )
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    options = parser.parse_args(arguments)
    for name in ("threads", "molecules", "atoms", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} has to be at least 1")
    if options.output is not None and not options.output.absolute().parent.is_dir():
        parser.error(f"--output: {options.output.parent} is no folder")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run all tasks and print one table."""
    options = parse(arguments)
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # e3nn, in the plain form
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shared = (options.repeats, options.device)
    sizes, crystal_sizes = (
        (molecules.SMALL, crystals.SMALL) if options.small else (molecules.FULL, crystals.FULL)
    )
    timings: list[Timing] = []
    notes: list[str] = []
    for wanted, tasks in (
        ("molecules", partial(molecules.molecule_tasks, sizes, rng, options.molecules, options.atoms)),
        ("crystals", partial(crystals.crystal_tasks, crystal_sizes, rng)),
        ("orbitals", partial(orbitals.orbital_tasks, rng, options.molecules, options.atoms)),
        ("ranks", partial(ranks.rank_tasks, sizes, rng)),
    ):
        if options.only in (None, wanted):
            found, said = tasks(*shared)
            timings += found
            notes += said

    machine = {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if options.device.startswith("cuda") else None,
        "torch": torch.__version__,
        "threads": options.threads,
        "networks": "small" if options.small else "full size",
        "repeats": options.repeats,
    }
    caption = ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)
    table = Table(box=SIMPLE, caption=caption)
    for column in ("task", "way", "seconds", "lowest", "highest", "relative time"):
        table.add_column(column, justify="left" if column in ("task", "way") else "right", no_wrap=True)
    for t in timings:
        seconds = (f"{value:.4g}" for value in (t.median, t.lowest, t.highest))
        table.add_row(t.task, t.way, *seconds, f"{t.relative:.3f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for note in notes:
        console.print(note)
    if options.output is not None:
        rows = [asdict(timing) for timing in timings]
        write_json(options.output, {"machine": machine, "timings": rows, "notes": notes})


if __name__ == "__main__":
    main()
