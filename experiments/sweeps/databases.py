"""One sweep on several databases: each is a sweep of its own in its own directory, and the choice is one for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from experiments.sweeps import slurm
from experiments.sweeps.engine import Report, plan, run_sweep
from experiments.sweeps.local import TRAIN
from experiments.sweeps.manifest import Manifest
from experiments.sweeps.overall import overall, print_overall, unfinished, write_overall
from experiments.sweeps.settings import SweepSettings
from experiments.sweeps.summary import grid_rows
from tracegrad.errors import ConfigError, TrainingError

EXPERIMENT, RUNS = "experiment", "runs"


def by_experiment(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The command line of each of the experiments in ``experiment=NAME,NAME,...``, by name; {} for a single one.

    ``NAME.KEY=VALUE`` is for that experiment alone, and ``runs=DIRECTORY`` stands for ``DIRECTORY/NAME``.

    Raises:
        ConfigError: a name is empty or stands twice.
    """
    named = [argument for argument in arguments if argument.startswith(f"{EXPERIMENT}=")]
    value = named[-1].partition("=")[2].strip() if named else ""
    if "," not in value or value.startswith("["):
        return {}
    names = [name.strip() for name in value.split(",")]
    if len(set(names)) < len(names) or not all(names):
        raise ConfigError(f"{EXPERIMENT}={value}: write each experiment once, such as {EXPERIMENT}=mg,mm")
    found: dict[str, list[str]] = {name: [f"{EXPERIMENT}={name}"] for name in names}
    for argument in arguments:
        key, _, text = argument.partition("=")
        owner, _, rest = key.partition(".")
        for name, own in found.items():
            if argument in named or (owner in found and owner != name):
                continue
            if owner == name:
                own.append(f"{rest}={text}")
            else:
                own.append(f"{RUNS}={Path(text) / name}" if key == RUNS and text else argument)
    return found


def sweep_together(
    parts: Mapping[str, Sequence[str]],
    read: Callable[[Sequence[str]], SweepSettings],
    output: Path | None,
    report: Report,
    train: Sequence[str] = TRAIN,
) -> None:
    """Run the sweep of each experiment and choose the values that are best over all.

    Each sweep goes on where it was, so that after any end the same command goes on with all of them.

    Args:
        parts: command line of each experiment's sweep.
        read: makes the settings of a command line.
        output: directory of the table of all; None: beside the sweep of the first experiment.
        report: is called for each sweep with finished points.
        train: command of a training.

    Raises:
        ConfigError: a setting that cannot be, before anything starts.
        TrainingError: points have failed; all others and the table are done by then.
    """
    settings = {name: read(arguments) for name, arguments in parts.items()}
    first = next(iter(settings.values()))
    if first.wandb_sweep is not None:
        raise ConfigError("wandb_sweep writes the sweep of one experiment; give them one by one")
    for name, entry in settings.items():
        if _values(entry) != _values(first):
            raise ConfigError(
                f"the grid of {name} has other values than that of {next(iter(settings))}; give the same"
            )
    plans = {name: plan(entry) for name, entry in settings.items()}
    places: dict[Path, str] = {}
    for name, (_, runs, _) in plans.items():
        other = places.setdefault(runs.absolute(), name)
        if other != name:
            raise ConfigError(f"the sweeps of {other} and {name} would share {runs}; give runs=DIRECTORY")
    if first.launcher == "slurm" and first.wait and not first.dry_run:
        for name, entry in settings.items():  # all jobs into the queue before the first is waited for
            run_sweep(replace(entry, wait=False), _no_report, train, plans[name])
    errors = []
    for name, entry in settings.items():
        print(f"{name}:", flush=True)
        try:
            run_sweep(entry, report, train, plans[name])
        except TrainingError as error:
            errors.append(f"{name}: {error}")
    if first.dry_run:
        return
    grids = {
        name: grid_rows(Manifest(runs, points, {}, slurm.queued_jobs))
        for name, (points, runs, _) in plans.items()
    }
    rows, missing = overall(grids), unfinished(grids)
    print_overall(rows, list(grids), missing, Console())
    if output is None:
        name = "_".join([*settings, first.sweep or "sweep"])
        output = next(iter(plans.values()))[1].with_name(name)
    files = write_overall(rows, list(grids), missing, output / "report")
    print(f"wrote {', '.join(path.name for path in files)} into {output / 'report'}")
    if errors:
        raise TrainingError("\n".join(errors))


def _values(settings: SweepSettings) -> dict[str, list[str]]:
    """The values of a grid, whatever their order."""
    return {key: sorted(map(str, values)) for key, values in settings.grid.items()}


def _no_report(_manifest: Manifest, _console: Console) -> None:
    """Nothing is said of the finished points yet."""
