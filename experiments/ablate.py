"""Train several arms and seeds of one experiment, each in a process of its own, and report them together.

  python -m experiments.ablate experiment=demo
  python -m experiments.ablate experiment=mg arms=all seeds=10 gpus=0,1,2,3 data.path=...
  python -m experiments.ablate experiment=qd arms=none,tracegrad seeds=0,1,2 launcher=slurm slurm.time=2-00:00:00

Settings of the ablation itself:
  arms=all                         which arms: all, or some of none,trace,grad,tracegrad
  seeds=3                          number of runs of every arm; seeds count from that of the experiment (42, 43, 44
                                   for crystals, 0, 1, 2 for molecules); seeds=5,7: these two; seeds=[7]: 7 alone
  equal_seeds=false                true, with seeds=10: ten repetitions with one seed, as in the paper: that of the
                                   experiment, or seed=SEED
{shared}

Everything else is given to every run as it is: see python -m experiments.train --help. Finished runs are not
repeated and interrupted ones go on, so the same command can be given again at any time.
"""

import sys

from rich.console import Console

from experiments.report import make_report, print_report
from experiments.settings.cli import clean_errors
from experiments.settings.configuration import ARMS
from experiments.sweeps.engine import run_sweep
from experiments.sweeps.manifest import Manifest
from experiments.sweeps.settings import HELP, read_settings

DEFAULTS = {"arms": ",".join(ARMS.values()), "seeds": "3"}


@clean_errors
def main() -> None:
    """Run the ablation that the command line describes."""
    arguments = sys.argv[1:]
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print((__doc__ or "").replace("{shared}\n", HELP))
        return
    run_sweep(read_settings(arguments, DEFAULTS, ("arms",)), _report)


def _report(manifest: Manifest, console: Console) -> None:
    print_report(make_report(manifest.runs), console)


if __name__ == "__main__":
    main()
