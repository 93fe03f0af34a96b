"""One sweep on several databases: a sweep of each in its own directory, and one choice of values for all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from experiments.sweeps import slurm
from experiments.sweeps.engine import Report, plan, run_sweep
from experiments.sweeps.local import TRAIN
from experiments.sweeps.manifest import SweepState
from experiments.sweeps.overall import overall, overall_numbers, overall_table, unfinished
from experiments.sweeps.settings import SWEEP, SweepSettings, read_settings
from experiments.sweeps.summary import grid_rows, show_table
from tracegrad.errors import ConfigError, TrainingError


def by_experiment(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The command line of each of the experiments in ``experiment=NAME,NAME,...``, by name; {} for a single one.

    ``NAME.KEY=VALUE`` is a setting of that experiment only, and ``runs=DIRECTORY`` becomes ``runs=DIRECTORY/NAME``.

    Raises:
        ConfigError: a name is empty or stands twice.
    """
    experiments = [argument for argument in arguments if argument.startswith("experiment=")]
    value = experiments[-1].partition("=")[2].strip() if experiments else ""
    if "," not in value or value.startswith("["):
        return {}
    names = [name.strip() for name in value.split(",")]
    if len(set(names)) < len(names) or not all(names):
        raise ConfigError(f"experiment={value}: write each experiment once, such as experiment=mg,mm")
    command_lines = {name: [f"experiment={name}"] for name in names}
    for argument in arguments:
        key, _, text = argument.partition("=")
        owner, _, rest = key.partition(".")
        if owner in command_lines:
            command_lines[owner].append(f"{rest}={text}")
        elif key == "runs" and text:
            for name in names:
                command_lines[name].append(f"runs={Path(text) / name}")
        elif argument not in experiments:
            for name in names:
                command_lines[name].append(argument)
    return command_lines


def sweep_together(
    command_lines: Mapping[str, Sequence[str]],
    output: Path | None,
    report: Report,
    train: Sequence[str] = TRAIN,
) -> None:
    """Run the sweep of each experiment and choose the values that are best over all.

    Each sweep continues where it was, so that after any end the same command continues all of them.

    Args:
        output: directory of the table of all; None: beside the sweep of the first experiment.
        report: is called for each sweep with finished points.

    Raises:
        ConfigError: a setting that is not possible, before anything starts.
        TrainingError: points have failed; all others and the table are done by then.
    """
    settings = {name: read_settings(SWEEP, arguments) for name, arguments in command_lines.items()}
    first_name, first = next(iter(settings.items()))
    if first.wandb_sweep is not None:
        raise ConfigError("wandb_sweep writes the sweep of one experiment; give them one by one")
    for name, entry in settings.items():
        if _values(entry) != _values(first):
            raise ConfigError(f"the grid of {name} has other values than that of {first_name}; give the same")
    plans = {name: plan(entry) for name, entry in settings.items()}
    places: dict[Path, str] = {}
    for name, (_, runs, _) in plans.items():
        other = places.setdefault(runs.absolute(), name)
        if other != name:
            raise ConfigError(f"the sweeps of {other} and {name} would share {runs}; give runs=DIRECTORY")
    if first.launcher == "slurm" and first.wait and not first.dry_run:
        for name, entry in settings.items():  # all jobs into the queue before the first is waited for
            run_sweep(replace(entry, wait=False), lambda *_: None, train, plans[name])
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
        name: grid_rows(SweepState(runs, points, {}, slurm.queued_jobs))
        for name, (points, runs, _) in plans.items()
    }
    rows, missing = overall(grids), unfinished(grids)
    if output is None:
        output = plans[first_name][1].with_name("_".join([*settings, first.sweep or "sweep"]))
    table, numbers = overall_table(rows, missing), overall_numbers(rows, missing)
    show_table(table, numbers, output / "report", "overall", Console())
    if errors:
        raise TrainingError("\n".join(errors))


def _values(settings: SweepSettings) -> dict[str, list[str]]:
    """The values of a grid in an order of their own, for comparison."""
    return {key: sorted(map(str, values)) for key, values in settings.grid.items()}
