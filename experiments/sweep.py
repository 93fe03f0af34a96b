"""Train an experiment with every combination of some values, each in a process of its own, and compare them.

  python -m experiments.sweep experiment=qs sweep=lambda gpus=0,1,2,3 data.path=...
  python -m experiments.sweep experiment=mg sweep=lambda_trace_error seeds=3 dry_run=true
  python -m experiments.sweep experiment=demo grid.optim.schedule.peak=3e-3,1e-2 grid.tracegrad=none,tracegrad
  python -m experiments.sweep experiment=mg,mm,bg sweep=lambda mg.data.path=/data/MG mm.data.path=... bg.data.path=...

Settings of the sweep itself:
  sweep=NAME                       a grid of conf/sweep/ (lambda, trace_error, lambda_trace_error), or a .yaml file
  grid.KEY=VALUE,VALUE,...         values of any setting or group; range(0.1,1.1,0.1) is understood, too
  experiment=NAME,NAME,...         a sweep of each experiment, in a directory of its own (with runs=DIR in DIR/NAME),
                                   and one choice of values for all of them, from their validation sets together
  NAME.KEY=VALUE                   a setting for one of several experiments, such as mg.data.path=/data/MG
  seeds=1                          number of runs of every combination; seeds count from that of the experiment (42
                                   for crystals, 0 for molecules); seeds=5,7: these two; seeds=[7]: 7 alone
  equal_seeds=false                true, with seeds=3: three repetitions with one seed: the experiment's, or seed=SEED
{shared}
  wandb_sweep=FILE                 write the grid as a sweep of W&B, for `wandb sweep FILE`, and run nothing

Everything else is given to every run as it is: see python -m experiments.train --help. Finished runs are not
repeated and interrupted ones go on, so the same command can be given again at any time. Values are compared on the
validation set, as in the paper's Appendices E and F; the table goes to <runs>/report. Over several experiments the
values are chosen by the geometric mean of their validation errors, each divided by the lowest one of its database.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.report import make_report, print_report
from experiments.settings.cli import clean_errors
from experiments.sweeps.databases import by_experiment, sweep_together
from experiments.sweeps.engine import run_sweep
from experiments.sweeps.manifest import Manifest
from experiments.sweeps.settings import HELP, SweepSettings, read_settings
from experiments.sweeps.summary import grid_rows, print_grid, write_grid


@clean_errors
def main() -> None:
    """Run the sweep that the command line describes."""
    arguments = sys.argv[1:]
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print((__doc__ or "").replace("{shared}\n", HELP))
        return
    parts = by_experiment(arguments)
    if parts:
        places = [argument.partition("=")[2] for argument in arguments if argument.startswith("runs=")]
        sweep_together(parts, _settings, Path(places[-1]) if places else None, _report)
    else:
        run_sweep(_settings(arguments), _report)


def _settings(arguments: Sequence[str]) -> SweepSettings:
    return read_settings(arguments, {"seeds": "1"}, ("sweep", "wandb_sweep"))


def _report(manifest: Manifest, console: Console) -> None:
    print_report(make_report(manifest.runs), console)
    rows = grid_rows(manifest)
    print_grid(rows, console)
    output = manifest.runs / "report"
    names = ", ".join(path.name for path in write_grid(rows, output))
    console.print(f"wrote {names} into {output}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
