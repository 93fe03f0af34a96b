"""Time networks, TraceGrad, metrics and loading of data on this machine: `python -m benchmarks --help`.

The implementations of a task are timed alternately in one run, so that other load on the machine affects all of them
equally. Run it from the repository: the plain e3nn forms of the networks are oracles of the tests.
"""

import argparse
import gc
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import (
    cells,
    crystals,
    data,
    deeph2,
    harmose,
    launches,
    molecules,
    orbitals,
    ranks,
    tracegrad_block,
    waiting,
)
from benchmarks.products import product_rates
from benchmarks.table import markdown, show, with_floors
from benchmarks.timing import Timing, processor
from tracegrad.system.text_files import write_json
from tracegrad.system.whole_files import replacing

TASKS = {
    "molecules": "QHNet without and with TraceGrad (low-rank W) against plain e3nn; the arms of the ablation",
    "crystals": "DeepH-E3 on graphene without and with TraceGrad (full W) against plain e3nn; the arms",
    "spinful": "the same on a bilayer of Bi2Te3 with spin-orbit coupling, but not the arms",
    "deeph2": "the DeepH-2-style network on graphene without and with TraceGrad against DeepH-E3",
    "harmose": "a HarmoSE-style network on MoS2 against its first stage, with and without TraceGrad",
    "tracegrad": "one TraceGrad block: the closed form of v against automatic differentiation",
    "sizes": "DeepH-E3 on twisted bilayers of graphene of 148 to 1,876 atoms, edges in chunks",
    "data": "reading and batching of molecules and crystals; the cache of crystals",
    "waiting": "share of a training that is spent waiting for data: batches of the recipes, 2 workers",
    "orbitals": "metrics of orbitals, and the cache of references",
    "launches": "what a GPU would launch, wait for, read and write in a training step, counted on a stand-in device",
    "ranks": "step of the slowest of 4 ranks if molecules are divided by number or by pairs of atoms",
}
REPORT = ["molecules", "crystals", "launches"]
ABOUT = """\
The table has a row for each implementation ("way") of a task:
  seconds, lowest, highest  median and range of the timed rounds, in which the implementations alternate
  peak MiB                  largest memory that the call allocates in addition to what was there before (tensors on
                            the CPU, CUDA's allocator on a GPU)
  GFLOP                     operations of its matrix products, except those in compiled kernels
  floor s                   time of these operations at the best rate of float32 matrix products in the same run
  relative ...              ratio to the first implementation of the task

On a GPU, QHNet predicts one molecule and trains on the batch of the recipe. Both networks also run in TF32 and
bfloat16, and without the kernels for GPUs; the errors of H are printed below the table.

tasks:
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__.split(":")[0] + ".",
        epilog=ABOUT + "\n".join(f"  {name:10} {what}" for name, what in TASKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (1)")
    parser.add_argument("--molecules", type=int, default=4, help="number of molecules in the batch (4)")
    parser.add_argument(
        "--atoms", type=int, default=18, help="atoms of each molecule, half of them hydrogen (18)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="number of timed rounds of each task (3)")
    parser.add_argument(
        "--only", nargs="+", choices=tuple(TASKS), metavar="TASK", help="run only these tasks, see below"
    )
    parser.add_argument("--small", action="store_true", help="tiny networks, to test whether it runs")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda"
    )
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    parser.add_argument(
        "--report",
        type=Path,
        help=f"write the table as Markdown; without --only of the tasks {', '.join(REPORT)}, in minutes on a GPU",
    )
    options = parser.parse_args(arguments)
    for name in ("threads", "molecules", "atoms", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} has to be at least 1")
    for name in ("output", "report"):
        path = getattr(options, name)
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"--{name}: {path.parent} is not a folder")
    if options.report is not None and options.only is None:
        options.only = REPORT
    return options


def tasks_of(options: argparse.Namespace) -> dict[str, Callable[[], tuple[list[Timing], list[str]]]]:
    """The chosen tasks. Each has its own random generator, so that its data do not depend on the other tasks."""
    small, repeats, device = options.small, options.repeats, options.device
    sizes = molecules.SMALL if small else molecules.FULL
    crystal = crystals.SMALL if small else crystals.FULL
    spinful = crystals.SPINFUL_SMALL if small else crystals.SPINFUL
    twisted = cells.SMALL if small else cells.FULL
    rng = partial(np.random.default_rng, 0)
    size = (options.molecules, options.atoms)
    tasks = {
        "molecules": partial(molecules.molecule_tasks, sizes, rng(), *size, repeats, device),
        "crystals": partial(crystals.crystal_tasks, crystal, rng(), repeats, device),
        "spinful": partial(crystals.spinful_tasks, spinful, rng(), repeats, device),
        "deeph2": partial(deeph2.deeph2_tasks, crystal, rng(), repeats, device, small=small),
        "harmose": partial(
            harmose.harmose_tasks, harmose.SMALL if small else harmose.FULL, rng(), repeats, device
        ),
        "tracegrad": partial(
            tracegrad_block.block_tasks,
            tracegrad_block.SMALL if small else tracegrad_block.FULL,
            repeats,
            device,
        ),
        "sizes": partial(cells.cell_tasks, twisted, crystal, rng(), repeats, device),
        "data": partial(data.data_tasks, sizes, crystal, rng(), options.atoms, repeats),
        "waiting": partial(waiting.waiting_tasks, sizes, crystal, rng(), options.atoms, device),
        "orbitals": partial(orbitals.orbital_tasks, rng(), *size, repeats, device),
        "launches": partial(launches.launch_tasks, options.molecules, options.atoms, small=small),
        "ranks": partial(ranks.rank_tasks, sizes, rng(), repeats, device),
    }
    return {name: task for name, task in tasks.items() if options.only is None or name in options.only}


def main(arguments: list[str] | None = None) -> None:
    """Run the chosen tasks and print one table."""
    options = parse(arguments)
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # e3nn, in the plain form
    torch.set_num_threads(options.threads)
    timings: list[Timing] = []
    notes: list[str] = []
    rates = product_rates(options.device)
    for task in tasks_of(options).values():
        torch.manual_seed(0)
        task_timings, task_notes = task()
        timings += task_timings
        notes += task_notes
        gc.collect()
    # Measured again, because there may have been other load at the start.
    rates = {shape: max(rate, rates[shape]) for shape, rate in product_rates(options.device).items()}
    timings = with_floors(timings, max(rates.values()))
    products = ", ".join(f"{shape}: {rate:,.1f}" for shape, rate in rates.items())
    notes.append(f"matrix products in float32, GFLOP/s: {products}; the best is the rate of the floors")

    machine = {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if options.device.startswith("cuda") else None,
        "torch": torch.__version__,
        "threads": options.threads,
        "networks": "small" if options.small else "full size",
        "repeats": options.repeats,
    }
    caption = ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)
    show(timings, notes, caption)
    if options.report is not None:
        with replacing(options.report) as draft:
            draft.write_text(markdown(timings, notes, caption), encoding="utf-8")
    if options.output is not None:
        rows = [asdict(timing) for timing in timings]
        content = {"machine": machine, "product_rates": rates, "timings": rows, "notes": notes}
        write_json(options.output, content)


if __name__ == "__main__":
    main()
