"""Points of a sweep as one array of SLURM jobs, submitted with submitit."""

import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.sweeps.local import TRAIN, attempt_command
from experiments.sweeps.points import Point
from tracegrad.errors import ConfigError, TrainingError

# A point whose time is over saves and is queued again, practically without end.
MOST_TIMEOUTS = 1000
# One task on one machine, which starts the processes of all its GPUs itself.
FIXED = ("nodes", "ntasks_per_node", "job_name", "array_parallelism", "use_srun")
DEFAULT_TIME = 24 * 60  # minutes


def submit(
    points: Sequence[Point],
    folder: Path,
    settings: dict[str, Any],
    *,
    name: str,
    at_a_time: int | None,
    retries: int,
    stop_limit: float,
    train: Sequence[str] = TRAIN,
) -> dict[str, str]:
    """Submit points as an array of jobs.

    Args:
        points: to run.
        folder: for the files of submitit, on a disk that all machines see.
        settings: of sbatch, such as partition; ``time`` is in minutes.
        name: of the array.
        at_a_time: jobs that may run together; None: as many as SLURM gives.
        retries: tries of a point after the first.
        stop_limit: seconds between the warning of the time limit and the limit.
        train: command of a training.

    Returns:
        The job of every point, by name.

    Raises:
        ConfigError: no SLURM here, or a setting that is fixed.
        TrainingError: SLURM refuses the jobs.
    """
    _check(settings)
    import submitit  # here: local sweeps do not need it

    from experiments.sweeps.task import Task

    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(folder.resolve(), max_num_timeout=MOST_TIMEOUTS)
    parameters = executor._valid_parameters()
    known = {key: value for key, value in settings.items() if key in parameters}
    other = {key: value for key, value in settings.items() if key not in parameters}
    executor.update_parameters(
        **{
            "time": DEFAULT_TIME,
            "signal_delay_s": int(stop_limit),
            "job_name": re.sub(r"\s+", "_", name),
            "array_parallelism": at_a_time or len(points),
            **known,
        },
        **({"additional_parameters": other} if other else {}),
    )
    jobs = []
    try:
        with executor.batch():
            for point in points:
                jobs.append(executor.submit(Task(attempt_command(point, retries, train))))
    except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
        raise TrainingError(f"SLURM refuses the jobs: {_reason(error)}") from error
    return {point.name: job.job_id for point, job in zip(points, jobs, strict=True)}


def queued_jobs() -> set[str]:
    """The jobs of this user that wait or run, each part of an array by itself.

    Raises:
        ConfigError: there is no squeue.
        TrainingError: it does not answer.
    """
    if shutil.which("squeue") is None:
        raise ConfigError(
            "points of this sweep were given to SLURM and have not ended; there is no squeue here to ask for them: "
            "go on where they were submitted"
        )
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TrainingError(f"squeue does not answer ({done.stderr.strip()}); try again")
    return set(done.stdout.split())


def _check(settings: dict[str, Any]) -> None:
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError("launcher=slurm needs sbatch and srun, which are not here; or give launcher=local")
    taken = sorted(set(settings) & set(FIXED))
    if taken:
        raise ConfigError(f"slurm.{taken[0]} is set by the sweep: every point is one task on one machine")


def _reason(error: Exception) -> str:
    """The last line that sbatch has printed."""
    output = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = output.decode(errors="replace") if isinstance(output, bytes) else str(output)
    return (text.strip().splitlines() or ["no reason given"])[-1]
