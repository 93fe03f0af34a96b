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
from experiments.sweeps.manifest import FILE, Manifest
from experiments.sweeps.points import ARM, Point, first_point, literal, make_points
from experiments.sweeps.progress import SweepProgress
from experiments.sweeps.settings import SweepSettings
from experiments.sweeps.status import FAILED, FINISHED, RUNNING, STOPPED, WAITING
from experiments.sweeps.summary import missing_error, print_states
from experiments.sweeps.wandb_file import write_wandb_sweep
from experiments.training.resuming import CONFIG, find_run
from experiments.training.run_length import length_of
from experiments.training.wandb_run import print_wandb_hint
from tracegrad.errors import ConfigError, TrainingError
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.system.ownership import take_ownership

Report = Callable[[Manifest, Console], None]
WATCH = 15.0  # seconds between two questions to SLURM


Plan = tuple[list[Point], Path, DictConfig]


def run_sweep(
    settings: SweepSettings, report: Report, train: Sequence[str] = TRAIN, planned: Plan | None = None
) -> None:
    """Run the points of a sweep that are not finished, and report those that are.

    Args:
        settings: of the sweep.
        report: is called when there are finished points.
        train: command of a training.
        planned: what `plan` says of the settings; None: it is asked.

    Raises:
        ConfigError: a setting that cannot be, of the sweep or of a run, before anything starts.
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
        "definition": _definition(settings),
    }
    if settings.dry_run:
        print_states(Manifest(runs, points, about, slurm.queued_jobs), console, everything=True)
        return
    with take_ownership(runs, "sweep"):
        manifest = Manifest(runs, points, about, slurm.queued_jobs)
        manifest.settle()
        manifest.save()
        print(
            f"{len(points)} runs in {runs}, {len(manifest.with_state(FINISHED))} of them finished", flush=True
        )
        if settings.seeds.repetitions:
            print(
                f"all seeds are {settings.seeds.values[0]}, as in the paper: the spread over repetitions is that of "
                "the hardware's rounding, not that of training; on a CPU it is zero"
            )
        try:
            _launch(manifest, settings, train)
        except KeyboardInterrupt:
            print_states(manifest, console)
            raise
        manifest.look()
        manifest.save()
        if len(manifest.with_state(FINISHED)) < len(points):
            print_states(manifest, console)
        if manifest.with_state(FINISHED):
            report(manifest, console)
            print_wandb_hint([point.directory for point in manifest.with_state(FINISHED)])
    error = missing_error(manifest)
    if error:
        raise TrainingError(error)
    print(f"runs: {runs} (state of each in {FILE}; each with config.yaml, metrics.csv, {RESULTS}, figures/)")
    print(f"time: {time.monotonic() - began:.0f} s")


def plan(settings: SweepSettings) -> Plan:
    """The points, their directory and the configuration of the first.

    A mistake in any of their configurations, or runs with other settings in their places, show here.
    """
    overrides = settings.overrides
    config = composed("train", first_point(overrides, settings.grid))
    _check_machine(settings, config)
    _check_values(overrides, settings.grid)
    runs = settings.runs or _directory(settings, Path(config.run_dir).parent)
    points = make_points(
        runs,
        overrides,
        settings.grid,
        settings.seeds,
        group=runs.name,
        result=RESULTS if config.test else None,
    )
    return _checked(points), runs, config


def _directory(settings: SweepSettings, base: Path) -> Path:
    """Where the runs go: an ablation is the experiment itself, a grid stands beside it."""
    if set(settings.grid) == {ARM}:
        return base
    name = settings.sweep or "_".join(sorted(key.rpartition(".")[2] for key in settings.grid))
    return base.with_name(f"{base.name}_{name}")


def _check_values(overrides: Sequence[str], grid: Mapping[str, Sequence[Any]]) -> None:
    """Compose with every option of a group, and with every kind of value of a setting, which is what can be wrong."""
    first = {key: f"{key}={literal(values[0])}" for key, values in grid.items()}
    for key, values in grid.items():
        group = (CONF / key).is_dir()
        seen = {values[0] if group else type(values[0])}
        for value in values[1:]:
            if (kind := value if group else type(value)) in seen:
                continue
            seen.add(kind)
            composed("train", [*overrides, *(first | {key: f"{key}={literal(value)}"}).values()])


def _checked(points: Sequence[Point]) -> list[Point]:
    """The points, with their lengths where they have run before; runs with other settings are refused.

    Seeds of a point differ in plain settings only, so that few configurations have to be composed.
    """
    own_settings = ("seed", "run_dir", "repetition")
    known: dict[tuple[str, ...], DictConfig] = {}
    checked = []
    for point in points:
        if not (point.directory / CONFIG).exists():
            checked.append(point)
            continue
        shared = tuple(entry for entry in point.overrides if entry.partition("=")[0] not in own_settings)
        if shared not in known:
            known[shared] = composed("train", shared)
        config = known[shared]
        OmegaConf.update(config, "seed", point.seed)
        OmegaConf.update(config, "run_dir", str(point.directory))
        OmegaConf.update(config, "repetition", point.repetition)
        values = plain(config)
        find_run(point.directory, values, config.resume)
        checked.append(replace(point, length=length_of(values)))
    return checked


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


def _launch(manifest: Manifest, settings: SweepSettings, train: Sequence[str]) -> None:
    states = manifest.states
    queued = [point for point in manifest.with_state(WAITING) if states[point.name].job]
    todo = [point for point in manifest.with_state(WAITING, FAILED, STOPPED) if point not in queued]
    if settings.launcher == "local":
        groups = settings.gpu_groups
        with SweepProgress() as progress:
            LocalRunner(
                manifest,
                settings.jobs or max(1, len(groups)),
                gpu_groups=groups,
                retries=settings.retries,
                stop_limit=settings.stop_limit,
                train=train,
                watcher=progress,
            ).run(todo)
        return
    if todo:
        jobs = slurm.submit(
            todo,
            manifest.runs / "slurm",
            settings.slurm,
            name=manifest.runs.name,
            at_a_time=settings.jobs,
            retries=settings.retries,
            stop_limit=settings.stop_limit,
            train=train,
        )
        manifest.submitted(jobs)
        print(
            f"{len(jobs)} jobs given to SLURM: {', '.join(sorted({job.split('_')[0] for job in jobs.values()}))}"
        )
    if not settings.wait:
        print(
            "the same command says how far they are, submits again what has failed, and reports what is finished"
        )
        return
    while manifest.with_state(RUNNING) or any(
        manifest.states[point.name].job for point in manifest.with_state(WAITING)
    ):
        time.sleep(WATCH)
        if changed := manifest.look():
            manifest.save()
            for point in changed:
                print(
                    f"{point.name}: {states[point.name].status} {states[point.name].error}".rstrip(),
                    flush=True,
                )


def _definition(settings: SweepSettings) -> dict[str, object]:
    return {
        "overrides": settings.overrides,
        "grid": settings.grid,
        "seeds": list(settings.seeds.values),
        "repetitions": settings.seeds.repetitions,
    }
