"""Points of a sweep as one array of SLURM jobs, submitted with submitit."""

import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from experiments.sweeps.local import TRAIN, attempt_command
from experiments.sweeps.points import SweepPoint
from experiments.sweeps.settings import SweepSettings
from tracegrad.errors import ConfigError, TrainingError

# A point whose time is over saves and is queued again, practically without limit.
MOST_TIMEOUTS = 1000
# The same for every point: one task on one machine, which starts the processes of all its GPUs itself.
FIXED = {"nodes", "ntasks_per_node", "job_name", "array_parallelism", "use_srun"}
DEFAULT_TIME = 24 * 60  # minutes


def submit(
    points: Sequence[SweepPoint], runs: Path, settings: SweepSettings, train: Sequence[str] = TRAIN
) -> dict[str, str]:
    """Submit points as an array of jobs; ``settings.jobs`` of them may run together.

    Args:
        runs: directory of the sweep, on a disk that all machines see; ``slurm`` in it holds the files of submitit.

    Returns:
        The job of every point, by name.

    Raises:
        ConfigError: no SLURM here, or a setting that is fixed.
        TrainingError: SLURM refuses the jobs.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError("launcher=slurm needs sbatch and srun, which are not here; or give launcher=local")
    for key in settings.slurm.keys() & FIXED:
        raise ConfigError(f"slurm.{key} is set by the sweep: every point is one task on one machine")
    import submitit  # here: local sweeps do not need it

    from experiments.sweeps.task import Task

    folder = runs.resolve() / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_TIMEOUTS)
    known = executor._valid_parameters()
    parameters = {
        "time": DEFAULT_TIME,
        "signal_delay_s": int(settings.stop_limit),  # SLURM warns so many seconds before the end
        "job_name": re.sub(r"\s+", "_", runs.name),
        "array_parallelism": settings.jobs or len(points),
        **{key: value for key, value in settings.slurm.items() if key in known},
    }
    if other := {key: value for key, value in settings.slurm.items() if key not in known}:
        parameters["additional_parameters"] = other
    executor.update_parameters(**parameters)
    try:
        with executor.batch():
            jobs = [
                executor.submit(Task(attempt_command(point, settings.retries, train))) for point in points
            ]
    except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
        raise TrainingError(f"SLURM refuses the jobs: {_reason(error)}") from error
    return {point.name: job.job_id for point, job in zip(points, jobs, strict=True)}


def queued_jobs() -> set[str]:
    """The jobs of this user that wait or run; every task of an array counts as a job.

    Raises:
        ConfigError: there is no squeue.
        TrainingError: it fails.
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


def _reason(error: Exception) -> str:
    """The last line that sbatch has printed."""
    output = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = output.decode(errors="replace") if isinstance(output, bytes) else str(output)
    return (text.strip().splitlines() or ["no reason given"])[-1]
