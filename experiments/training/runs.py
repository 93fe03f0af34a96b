"""A run directory: built from a configuration, trained, resumed, tested, described."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.first_step import AfterFirstStep
from callbacks.inference_time import InferenceTime
from callbacks.last_checkpoint import LAST, PREVIOUS, TrainingStopped
from experiments.settings.configuration import ARM_LABELS, ARMS, differences, flat
from experiments.training.loggers import log_results, make_loggers
from experiments.training.precision import check_precision, on_cpu
from experiments.training.preemption import await_requeue, end_by_signal
from experiments.training.provenance import process_rank, provenance
from experiments.training.run_length import LENGTH, is_longer, length_of
from experiments.training.run_owner import owned
from experiments.training.warm_start import warm_start
from tracegrad.data.loading.datamodule import HamiltonianDataModule
from tracegrad.errors import CheckpointError, ConfigError, TrainingError
from tracegrad.metrics.mean_blocks import MeanBlocks
from tracegrad.plots.learning_curves import RunCurves, learning_curves, read_metrics
from tracegrad.plots.style import save
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.reports.results import FORMAT
from tracegrad.system.whole_files import replacing
from tracegrad.training.module import HamiltonianModule
from tracegrad.units import MEV
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, check_architecture, load_checkpoint
from tracegrad.weights.renamed import with_new_names

# Settings that may differ when a run is continued: they change how fast and how long, not what is computed.
MAY_CHANGE = (
    *("resume", "threads", "logger", "test", "dry_run", *LENGTH),
    *("data.num_workers", "data.pin_memory", "data.path", "data.cache", "data.in_memory"),
    *("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator", "trainer.plugins"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.log_every_n_steps"),
    *("callbacks.last", "callbacks.progress", "callbacks.timer", "callbacks.test_report"),
    *("callbacks.orbitals", "callbacks.acceleration", "callbacks.inference_time"),
)
RESUME = ("auto", "never", "force")
CONFIG = "config.yaml"
METRICS = "metrics.csv"
# What tells databases and splits apart, wherever the file lies.
IDENTITY = ("bytes", "head_sha256", "split_hash")
# Mean blocks of so many training rows stand still; more would only read a large database once more.
TRIVIAL_ROWS = 5000


@dataclass
class Parts:
    """Everything a configuration builds."""

    datamodule: HamiltonianDataModule
    module: HamiltonianModule
    fingerprint: dict[str, Any]


def build(config: DictConfig, values: dict[str, Any]) -> Parts:
    """Data and model of a configuration; ``values`` is its plain form, which checkpoints carry."""
    check_precision(config.trainer, config.data.dtype)
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"seed is {config.seed}; it must lie between 0 and 2^32 - 1")
    if config.threads is not None and config.threads < 1:
        raise ConfigError(f"threads is {config.threads}; at least 1 is needed (null: torch's own choice)")
    if config.threads:
        torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = instantiate(config.data)
    with quiet():
        datamodule.setup()
    if process_rank() == 0:
        for line in datamodule.differences + datamodule.remarks:
            print(f"data: {line}")
    fingerprint = datamodule.fingerprint()
    module = HamiltonianModule(
        instantiate(config.model),
        instantiate(config.loss),
        instantiate(config.optim.optimizer),
        instantiate(config.optim.schedule),
        {"config": values, "data": fingerprint},
    )
    return Parts(datamodule, module, fingerprint)


def make_trainer(config: DictConfig, callbacks: list[Callback], loggers: list[Logger]) -> lightning.Trainer:
    """The trainer of a configuration; its progress bar is for terminals only."""
    if config.trainer.get("limit_train_batches") not in (None, 1.0):
        raise ConfigError(
            "trainer.limit_train_batches ends epochs at a place from which a run cannot go on; use data.train_size"
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with quiet():
        return instantiate(
            config.trainer,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO(), *instantiate(config.trainer.get("plugins") or [])],
            default_root_dir=config.run_dir,
            enable_progress_bar=config.trainer.enable_progress_bar and sys.stdout.isatty(),
        )


def make_callbacks(config: DictConfig) -> list[Callback]:
    """Callbacks of a configuration; entries set to null are left out.

    Raises:
        ConfigError: settings of a callback that the chosen group does not have.
    """
    entries = {name: entry for name, entry in config.callbacks.items() if entry is not None}
    for name, entry in entries.items():
        if "_target_" not in entry:
            raise ConfigError(
                f"callbacks.{name} has settings, but this group of callbacks has none of that name; choose another "
                f"group, such as callbacks=molecules, or set callbacks.{name}=null"
            )
    return [instantiate(entry) for entry in entries.values()]


def find_run(directory: Path, values: dict[str, Any], resume: str, *, say: bool = True) -> bool:
    """Whether the directory holds a run that may go on with these settings.

    A run exists from its first step on, which writes its settings: a start that fails before leaves no run. With
    ``say`` the first rank says which settings change with ``resume=force``.

    Raises:
        ConfigError: it holds one with other settings and ``resume`` is not force, or ``resume`` is never.
    """
    if resume not in RESUME:
        raise ConfigError(f"resume is {resume!r}; choose one of {', '.join(RESUME)}")
    begun = any(path.exists() for path in _checkpoints(directory))
    if not begun and not any((directory / name).exists() for name in (CONFIG, RESULTS)):
        return False
    if resume == "never":
        raise ConfigError(f"{directory} holds a run already; choose another run_dir or remove it")
    changed = _changed(directory, values)
    lines = "\n  ".join(changed)
    if begun and resume == "force" and any(line.startswith("optim.") for line in changed):
        raise ConfigError(
            f"{directory} goes on with the optimizer and schedule of its checkpoint; for others start a run of "
            f"another name with init_from={directory}:\n  {lines}"
        )
    if changed and resume != "force":
        ending = (
            "; choose another run_dir or name, remove it, or go on all the same with resume=force"
            if begun
            else " and no checkpoint yet; choose another run_dir or name, remove it, "
            "or start it anew with the new settings by resume=force"
        )
        raise ConfigError(f"{directory} holds a run with other settings{ending}:\n  {lines}")
    if changed and say and process_rank() == 0:
        how = "going on" if begun else "starting anew"
        print(f"resume=force: {directory}: {how} with other settings than before:\n  {lines}", flush=True)
    return True


def _changed(directory: Path, values: dict[str, Any]) -> list[str]:
    """Settings in which a run differs from the one that its directory records, wherever that lies by now."""
    old, new = (_without_place(flat(settings)) for settings in (read_config(directory), values))
    return differences(old, new, (*MAY_CHANGE, "run_dir"))


def _without_place(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, with paths in the run directory relative to it."""
    place = str(settings.get("run_dir"))

    def relative(value: Any) -> Any:
        inside = isinstance(value, str) and (value == place or value.startswith(f"{place}/"))
        return os.path.normpath(f"<run_dir>/{value[len(place) :]}") if inside else value

    return {key: relative(value) for key, value in settings.items()}


def is_outgrown(directory: Path, length: Mapping[str, Any]) -> bool:
    """Whether a run is to be longer (`length_of` its settings; {}: not told) than what its directory records."""
    path = directory / CONFIG
    if not length:
        return False
    try:
        return is_longer(_recorded_length(path, path.stat().st_mtime_ns), length)
    except FileNotFoundError:
        return False


@lru_cache(maxsize=4096)
def _recorded_length(path: Path, _written: int) -> dict[str, Any]:
    return length_of(read_config(path.parent))


def resume_point(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run and its content; None where there is none yet.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    damaged: CheckpointError | None = None
    for path in _checkpoints(directory):
        if not path.exists():
            continue
        try:
            content = load_checkpoint(path)
        except CheckpointError as error:
            damaged = damaged or error
            continue
        if damaged and process_rank() == 0:
            print(f"warning: {damaged}\nwarning: the checkpoint before it is used instead", flush=True)
        return path, content
    if damaged:
        raise CheckpointError(
            f"{damaged}, or remove {LAST} and {PREVIOUS} of the run to start anew"
        ) from damaged
    return None


def _checkpoints(directory: Path) -> tuple[Path, Path]:
    """Where a run goes on, the newest first."""
    return directory / "checkpoints" / LAST, directory / "checkpoints" / PREVIOUS


def read_config(directory: Path) -> dict[str, Any]:
    """The plain configuration of a run directory."""
    path = directory / CONFIG
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable ({error}); is {directory} a run directory?") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, a mapping of settings is needed")
    return with_new_names(values)


def check_data(checkpoint: dict[str, Any], fingerprint: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` if a checkpoint was trained on other data or on another split of it."""
    before = checkpoint.get(CHECKPOINT_KEY, {}).get("data", {})
    changed = [key for key in IDENTITY if before.get(key) != fingerprint[key]]
    if changed:
        raise CheckpointError(
            f"{path} was trained on {before.get('database')} (split {before.get('split_hash')}, "
            f"{before.get('bytes')} bytes), but the data now are {fingerprint['database']} "
            f"(split {fingerprint['split_hash']}, {fingerprint['bytes']} bytes); they differ in "
            f"{', '.join(changed)}: give the database of the training, or start a run of another name"
        )


def train(config: DictConfig, values: dict[str, Any]) -> None:
    """Train a run, or go on with it, and test it; leaves ``results.json`` unless ``test=false``.

    Raises:
        InUseError: another training runs in the directory; nothing in it was touched.
        SystemExit: a signal has ended the training; the status is 128 + its number, or 0 where SLURM starts it again.
    """
    await_requeue()
    directory = Path(config.run_dir)
    if _is_finished(directory, values, config.resume):
        return
    with owned(directory):
        if not _is_finished(directory, values, config.resume):  # the one before may have ended just now
            _train(config, values, directory)


def _is_finished(directory: Path, values: dict[str, Any], resume: str) -> bool:
    """Whether the results of a run stand for the length that it is to have, which is said."""
    if not (directory / RESULTS).exists():
        return False
    find_run(directory, values, resume, say=False)
    if is_outgrown(directory, length_of(values)):
        return False
    if process_rank() == 0:
        print(
            f"{directory} is finished; its results stand in {directory / RESULTS}{_other_length(directory, values)}"
        )
    return True


def _other_length(directory: Path, values: dict[str, Any]) -> str:
    """What to add for a run that was to be longer than what is asked now."""
    asked, before = length_of(values), length_of(read_config(directory))
    if not is_longer(asked, before):
        return ""
    limits = ", ".join(f"{key}={value}" for key, value in before.items() if value not in (None, -1))
    return f" and are those of {limits}; for a shorter training choose another name or run_dir"


def _train(config: DictConfig, values: dict[str, Any], directory: Path) -> None:
    known = find_run(directory, values, config.resume)
    parts = build(config, values)
    found = resume_point(directory) if known else None
    if found:
        check_data(found[1], parts.fingerprint, found[0])
        if process_rank() == 0:
            print(f"going on from {found[0]} (step {found[1]['global_step']})", flush=True)
    origin = provenance() | {"data": parts.fingerprint}
    origin |= warm_start(parts.module.model, config.init_from, directory, resumed=found is not None)

    def record() -> None:
        (directory / RESULTS).unlink(missing_ok=True)
        with replacing(directory / CONFIG) as draft:
            draft.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        write_json(directory / "provenance.json", origin)

    recorded = AfterFirstStep(record)  # not before: a start that fails leaves the directory as it was
    callbacks = [recorded, *make_callbacks(config)]
    if found is None and process_rank() == 0:
        (directory / METRICS).unlink(missing_ok=True)
    loggers = make_loggers(config, values, origin)
    trainer = make_trainer(config, callbacks, loggers)
    try:
        with quiet():
            trainer.fit(parts.module, parts.datamodule, ckpt_path=str(found[0]) if found else None)
    except TrainingStopped as stop:
        end_by_signal(stop)
    recorded.act(trainer)  # nothing was left to train
    if not config.test:
        return
    best = directory / "checkpoints" / "best.ckpt"
    if not best.exists():
        raise TrainingError(
            f"{best}: there is nothing to test: no validation had a finite error (see {directory / METRICS}, and "
            "lower optim.schedule.peak), or callbacks.best is null"
        )
    results = evaluate_checkpoint(trainer, parts, config, best)
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    results["train_seconds"] = round(timers[0].time_elapsed("train"), 1) if timers else None
    if not trainer.is_global_zero:
        return
    curves = RunCurves(read_metrics(directory / METRICS), results["arm"], results["label"], results["seed"])
    save(learning_curves([curves]), directory / "figures" / "learning_curves.png")
    write_json(directory / RESULTS, results)
    log_results(loggers, config, results, origin)


def evaluate_checkpoint(
    trainer: lightning.Trainer,
    parts: Parts,
    config: DictConfig,
    checkpoint: Path,
    part: str = "test",
    *,
    other_data: bool = False,
) -> dict[str, Any]:
    """Test a checkpoint on a part of the data and describe the result as plain data.

    Data that it was not trained on are refused, see `check_data`, unless ``other_data`` asks for them.
    """
    loaded = load_checkpoint(checkpoint)
    if not other_data:
        check_data(loaded, parts.fingerprint, checkpoint)
    check_architecture(loaded["state_dict"], parts.module.state_dict(), str(checkpoint))
    parts.module.load_state_dict(loaded["state_dict"])
    return measure(trainer, parts, config, part, checkpoint.stem, loaded["global_step"])


def measure(
    trainer: lightning.Trainer, parts: Parts, config: DictConfig, part: str, checkpoint: str, step: int
) -> dict[str, Any]:
    """Test the network as it is, which came from a ``checkpoint`` after so many steps, and describe the result."""
    subsets = parts.datamodule.subsets(part)
    loaders = [parts.datamodule.loader(name) for name in subsets.values()]
    parts.module.test_subsets, parts.module.sample_name = list(subsets), parts.datamodule.sample_name
    with quiet():
        found = trainer.test(parts.module, loaders, verbose=False)
    metrics = {name: value for entry in found for name, value in entry.items()}
    trivial = trivial_metrics(parts, dict(zip(subsets, loaders, strict=True)))
    model = parts.module.model
    arm = ARMS[model.tracegrad.trace, model.tracegrad.grad]
    backbone = model.backbone
    timers = [entry for entry in trainer.callbacks if isinstance(entry, InferenceTime)]  # type: ignore[attr-defined]
    return {
        "format": FORMAT,
        "experiment": config.name,
        "database": parts.fingerprint["database"],
        "database_label": parts.fingerprint["label"],
        "split": parts.fingerprint["split"],
        "split_hash": parts.fingerprint["split_hash"],
        "arm": arm,
        "label": backbone.label + ARM_LABELS[arm],
        "backbone": backbone.label,
        "crystal": backbone.periodic,
        "seed": config.seed,
        "repetition": config.get("repetition"),  # runs of earlier versions have none
        "part": part,
        "checkpoint": checkpoint,
        "step": step,
        "unit": "meV",
        "metrics": {name: _number(value) for name, value in metrics.items() if name.startswith("test/")},
        "inference": timers[-1].protocol if timers else None,
        "trivial": trivial,
        "counts": parts.fingerprint["counts"],
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def trivial_metrics(parts: Parts, loaders: Mapping[str, DataLoader]) -> dict[str, float | None]:
    """Test metrics (meV) of the mean blocks of the training set on each subset."""
    basis = parts.module.model.basis
    means = MeanBlocks(basis).fit(parts.datamodule.loader("train", share=False, max_samples=TRIVIAL_ROWS))
    return {
        f"test/{name}" + (f"/{subset}" if subset else ""): _number(value * MEV[basis.unit])
        for subset, loader in loaders.items()
        for name, value in means.evaluate(loader).items()
        if value.ndim == 0
    }


def _number(value: Any) -> float | None:
    """A metric that does not exist, such as MAE_nondiag of single atoms, is null in JSON."""
    return float(value) if isfinite(value) else None


def rebuild(directory: Path, changes: dict[str, Any]) -> tuple[DictConfig, Parts]:
    """The parts of a finished or running run, with some settings replaced (dotted keys)."""
    values = read_config(directory)
    config = OmegaConf.create(values)
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    if config.trainer.precision == "16-mixed" and on_cpu(config.trainer):
        config.trainer.precision = "32-true"  # of a run that was trained on a GPU
    return config, build(config, values)


def write_json(path: Path, values: Any) -> None:
    """Write plain data as JSON, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's advice on choices that were made on purpose."""
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*GPU available but not used.*",
            ".*treespec, LeafSpec.*",
            "not .* as the paper counts it",  # printed line by line
            "data that may be wrong: .*",  # the same
            ".*sync_dist=True.*",  # the metrics are summed over ranks before they are logged
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*number of training batches .* is smaller than the logging interval.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
