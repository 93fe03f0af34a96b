"""Environment of training processes that SLURM has started."""

import os

from lightning.pytorch.plugins.environments import SLURMEnvironment

from tracegrad.errors import ConfigError

NEEDED = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


def slurm() -> SLURMEnvironment:
    """Lightning's environment of a process that srun has started: its rank and those of the other processes.

    Lightning does not requeue the job; the checkpoints of the run and `experiments.training.preemption` do.

    Raises:
        ConfigError: srun has not started this process, or without a number of tasks per node.
    """
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ConfigError(
            f"trainer=slurm, but srun has not started this process (no {', '.join(missing)}); "
            "start it as experiments/slurm/train.sbatch does, or choose trainer=ddp"
        )
    if int(os.environ["SLURM_NTASKS"]) > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ConfigError(
            f"trainer=slurm with {os.environ['SLURM_NTASKS']} tasks, but without their number per node; "
            "give sbatch or srun the option --ntasks-per-node"
        )
    return SLURMEnvironment(auto_requeue=False)
