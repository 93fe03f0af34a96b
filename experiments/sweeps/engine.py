"""A sweep from its settings to its tables: checked, run or submitted, and summed up."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from experiments.settings.configuration import CONF, composed, plain
from experiments.sweeps import slurm
from experiments.sweeps.local import TRAIN, LocalRunner
from experiments.sweeps.manifest import FILE, SweepState
from experiments.sweeps.points import ARM, SweepPoint, first_point, make_points
from experiments.sweeps.settings import SweepSettings, first_config
from experiments.sweeps.status import FAILED, FINISHED, RUNNING, STOPPED, WAITING
from experiments.sweeps.summary import missing_error, print_states
from experiments.sweeps.wandb_file import write_wandb_sweep
from experiments.training.resuming import CONFIG, find_run
from experiments.training.run_length import length_of
from experiments.training.wandb_run import print_wandb_hint
from tracegrad.errors import ConfigError, TrainingError
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.system.ownership import take_ownership

Report = Callable[[SweepState, Console], None]
Plan = tuple[list[SweepPoint], Path, DictConfig]
WATCH = 15.0  # seconds between two questions to SLURM


def run_sweep(
    settings: SweepSettings, report: Report, train: Sequence[str] = TRAIN, planned: Plan | None = None
) -> None:
    """Run the points of a sweep that are not finished, and report those that are.

    Args:
        report: is called when there are finished points.
        planned: what `plan` has returned for the settings; None: it is called here.

    Raises:
        ConfigError: a setting of the sweep or of a run that is not possible, before anything starts.
        TrainingError: points have failed; the others and the report are done by then.
    """
    began = time.monotonic()
    points, runs, config = planned or plan(settings)
    console = Console()
    if settings.wandb_sweep is not None:
        write_wandb_sweep(settings.wandb_sweep, settings, runs, config.name, config.logger.wandb)
        print(
            f"wrote {settings.wandb_sweep}: {len(points)} runs; start them with: wandb sweep "
            f"{shlex.quote(str(settings.wandb_sweep))}"
        )
        return
    about = {
        "name": runs.name,
        "command": [Path(sys.argv[0]).stem, *sys.argv[1:]],
        "definition": {
            "overrides": settings.overrides,
            "grid": settings.grid,
            "seeds": settings.seeds,
        },
    }
    if settings.dry_run:
        print_states(SweepState(runs, points, about, slurm.queued_jobs), console, everything=True)
        return
    with take_ownership(runs, "sweep"):
        state = SweepState(runs, points, about, slurm.queued_jobs)
        state.settle()
        state.save()
        print(f"{len(points)} runs in {runs}, {len(state.with_state(FINISHED))} of them finished", flush=True)
        if settings.equal_seeds:
            print(
                f"all seeds are {settings.seeds[0]['seed']}, as in the paper: the spread over repetitions is that of "
                "the hardware's rounding, not that of training; on a CPU it is zero"
            )
        try:
            _launch(state, settings, train)
        except KeyboardInterrupt:
            print_states(state, console)
            raise
        state.update()
        finished = [point.directory for point in state.with_state(FINISHED)]
        if len(finished) < len(points):
            print_states(state, console)
        if finished:
            report(state, console)
            print_wandb_hint(finished)
    error = missing_error(state)
    if error:
        raise TrainingError(error)
    print(f"runs: {runs} (state of each in {FILE}; each with config.yaml, metrics.csv, {RESULTS}, figures/)")
    print(f"time: {time.monotonic() - began:.0f} s")


def plan(settings: SweepSettings) -> Plan:
    """The points of a sweep, the directory of its runs, and the configuration of the first point.

    Raises:
        ConfigError: the configuration of a point is wrong, or its directory holds a run with other settings.
    """
    overrides = settings.overrides
    config = first_config(tuple(first_point(overrides, settings.grid)))
    _check_machine(settings, config)
    _check_values(overrides, settings.grid)
    runs = settings.runs or _directory(settings, Path(config.run_dir).parent)
    result = RESULTS if config.test else None
    points = make_points(runs, overrides, settings.grid, settings.seeds, group=runs.name, result=result)
    return _with_lengths(points), runs, config


def _directory(settings: SweepSettings, base: Path) -> Path:
    """Where the runs go: those of an ablation into ``base``, those of a grid into a directory beside it."""
    if set(settings.grid) == {ARM}:
        return base
    name = settings.sweep or "_".join(sorted(key.rpartition(".")[2] for key in settings.grid))
    return base.with_name(f"{base.name}_{name}")


def _check_values(overrides: Sequence[str], grid: Mapping[str, Sequence[Any]]) -> None:
    """Compose with every option of a group and every type of value, because these are what can be wrong."""
    for key, values in grid.items():
        is_group = (CONF / key).is_dir()
        kinds = {value if is_group else type(value): value for value in reversed(values)}
        for value in kinds.values():
            if value is not values[0]:  # the first point was composed before
                composed("train", first_point(overrides, {**grid, key: [value]}))


def _with_lengths(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """The points, with their lengths where they have run before; runs with other settings are refused."""
    known: dict[tuple[str, ...], DictConfig] = {}
    result = []
    for point in points:
        if not (point.directory / CONFIG).exists():
            result.append(point)
            continue
        # Composing takes long, so that the seeds of a combination share one configuration.
        own_settings = {**point.seed, "run_dir": str(point.directory)}
        shared = tuple(word for word in point.overrides if word.partition("=")[0] not in own_settings)
        if shared not in known:
            known[shared] = composed("train", shared)
        config = known[shared]
        for key, value in own_settings.items():
            OmegaConf.update(config, key, value)
        values = plain(config)
        find_run(point.directory, values, config.resume)
        result.append(replace(point, length=length_of(values)))
    return result


def _check_machine(settings: SweepSettings, config: DictConfig) -> None:
    if "trainer=slurm" in settings.overrides:
        raise ConfigError(
            "trainer=slurm needs srun for every run; a sweep starts its runs itself: trainer=ddp"
        )
    if config.trainer.num_nodes != 1:
        raise ConfigError(
            f"trainer.num_nodes={config.trainer.num_nodes}: a point of a sweep runs on one machine; "
            "start trainings over several machines one by one"
        )
    many = settings.gpus_per_run if settings.gpus else settings.slurm.get("gpus_per_node", 1)
    if isinstance(many, int) and many > 1 and config.trainer.devices == 1:
        raise ConfigError(f"every run gets {many} GPUs but uses one (trainer.devices=1); add trainer=ddp")


def _launch(state: SweepState, settings: SweepSettings, train: Sequence[str]) -> None:
    def in_queue(point: SweepPoint) -> bool:
        status = state.states[point.name]
        return status.status == WAITING and bool(status.job)

    waiting = [point for point in state.with_state(WAITING, FAILED, STOPPED) if not in_queue(point)]
    if settings.launcher == "local":
        LocalRunner(state, settings, train).run(waiting)
        return
    if waiting:
        jobs = slurm.submit(waiting, state.runs, settings, train)
        state.submitted(jobs)
        arrays = sorted({job.split("_")[0] for job in jobs.values()})
        print(f"{len(jobs)} jobs given to SLURM: {', '.join(arrays)}")
    if not settings.wait:
        print(
            "the same command says how far they are, submits again what has failed, and reports what is finished"
        )
        return
    while state.with_state(RUNNING) or any(map(in_queue, state.points)):
        time.sleep(WATCH)
        for point in state.update():
            status = state.states[point.name]
            print(f"{point.name}: {status.status} {status.error}".rstrip(), flush=True)
