"""Training processes that SLURM has started."""

import os

from lightning.pytorch.plugins.environments import SLURMEnvironment

from tracegrad.errors import ConfigError

NEEDED = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


def slurm() -> SLURMEnvironment:
    """What srun says about this process and its partners.

    Lightning's own queueing again is off: the checkpoints of the run and `experiments.training.preemption` do that.

    Raises:
        ConfigError: srun has not started this process, or not with a number of tasks a node.
    """
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ConfigError(
            f"trainer=slurm, but srun has not started this process (no {', '.join(missing)}); "
            "start it as experiments/slurm/train.sbatch does, or choose trainer=ddp"
        )
    if int(os.environ["SLURM_NTASKS"]) > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ConfigError(
            f"trainer=slurm with {os.environ['SLURM_NTASKS']} tasks, but nothing says how many there are on a node; "
            "give sbatch or srun --ntasks-per-node"
        )
    return SLURMEnvironment(auto_requeue=False)
