"""Forecast of a training before it is started: `tracegrad train ... dry_run=true`."""

import shutil
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from experiments.settings.configuration import arm_in
from experiments.training.forecast import TrainingLength, duration, size, training_length, worker_advice
from experiments.training.parts import Parts, build, make_callbacks, make_trainer
from experiments.training.rank import process_rank
from experiments.training.trial import MemoryShortage, Trial, TrialResult
from experiments.training.warm_start import warm_start
from experiments.training.warning_filter import quiet
from tracegrad.errors import ConfigError
from tracegrad.reports.arms import ARM_LABELS
from tracegrad.system.cores import available_cores
from tracegrad.weights.file_names import LAST

# Settings of the trainer that change the number of steps or validations and that the forecast does not support.
UNSUPPORTED = [
    "limit_train_batches",
    "limit_val_batches",
    "val_check_interval",
    "overfit_batches",
    "fast_dev_run",
    "max_time",
    "min_steps",
    "min_epochs",
]
# Callbacks whose time the forecast does not contain.
UNCOUNTED = ("orbitals", "acceleration", "inference_time", "test_report")
# Number of checkpoints that each callback keeps on the disk.
CHECKPOINTS = {"best": 1, "last": 2, "revert": 1}
# Settings that save memory by computing again instead of storing.
RECOMPUTE = ("tracegrad.recompute", "model.backbone.recompute")


def dry_run(config: DictConfig, values: dict[str, Any]) -> bool:
    """Run some steps and print a forecast of the time, memory and disk space of the training.

    Writes nothing into the run directory; the cache of a database is built as by a training. Of several processes
    only the first one does anything.

    Returns:
        Whether the batches fit into the memory.

    Raises:
        ConfigError: settings of the trainer that the forecast does not support.
    """
    if process_rank() != 0:
        return True
    unsupported = [f"trainer.{key}" for key in UNSUPPORTED if config.trainer.get(key) is not None]
    if unsupported:
        raise ConfigError(
            f"dry_run=true does not support {', '.join(unsupported)}; leave it out of the dry run"
        )
    parts = build(config, values)
    with quiet():
        parts.datamodule.prepare_data()
        parts.datamodule.setup("fit")
    directory = Path(config.run_dir)
    started = (directory / "checkpoints" / LAST).exists()
    warm_start(parts.module.model, config.init_from, directory, resumed=started)
    planned = make_trainer(config, make_callbacks(config), [])
    parts.datamodule.trainer = planned  # the loaders ask it for the number of processes
    result = Trial(config, parts, planned.world_size).measure()
    if isinstance(result, MemoryShortage):
        print("\n".join(shortage_lines(result, config)))
        return False
    lines = forecast_lines(config, parts, result, planned.world_size) + disk_lines(config, result)
    advice = worker_advice(result.batches, parts.datamodule.num_workers, available_cores())
    print("\n".join(lines + ([f"  advice      {advice}"] if advice else [])))
    return True


def shortage_lines(shortage: MemoryShortage, config: DictConfig) -> list[str]:
    """Lines that say which setting needs too much memory, and what to do."""
    setting = f"{shortage.setting}={shortage.size}"
    lines = [f"does not fit: {setting} needs more memory than this machine has ({shortage.reason})"]
    if shortage.fitting_size is None:
        lines.append(f"  no smaller {shortage.setting} fits either")
    else:
        lines.append(f"  {shortage.setting}={shortage.fitting_size} fits: its most expensive batch was tried")
    if shortage.setting == "data.batch_size":
        savers = [f"{key}=true" for key in RECOMPUTE if OmegaConf.select(config, key) is False]
    else:
        savers = []
    if "edge_chunk" in config.model.backbone:
        savers.append("a smaller model.backbone.edge_chunk, such as 8192")
    if savers:
        lines.append(f"  may help with {setting}, but was not tried: {', '.join(savers)}")
    return lines


def forecast_lines(config: DictConfig, parts: Parts, result: TrialResult, world: int) -> list[str]:
    """Lines about time, memory and parameters of a training by ``world`` processes."""
    model = parts.module.model
    arm = ARM_LABELS[arm_in(config.tracegrad)]
    accumulated = config.trainer.get("accumulate_grad_batches") or 1
    batches = parts.datamodule.train_dataloader().batches
    samples = accumulated * len(batches.costs) / len(batches)
    seconds, step = result.batches.seconds, accumulated * result.batch
    length = training_length(
        len(batches),
        config.trainer,
        last_step_validated=config.callbacks.get("final_validation") is not None,
    )
    skipped = [f"callbacks.{name}" for name in UNCOUNTED if config.callbacks.get(name) is not None]
    lines = [
        f"dry run of {config.name}, {model.backbone.label}{arm}, on "
        + (result.device or f"the CPU ({torch.get_num_threads()} threads)"),
        f"  {'batch' if accumulated > 1 else 'step':<12}{median(seconds):.3g} s (median; {min(seconds):.3g} to "
        f"{max(seconds):.3g} s of {len(seconds)}), {samples / step:.3g} samples/s; "
        f"{result.batches.waiting:.1%} of the time is spent waiting for data",
        f"  epoch       {length.steps_per_epoch:,} steps of {samples:.3g} samples: "
        f"{duration(length.steps_per_epoch * step)}; "
        f"validation of {parts.fingerprint['counts']['val']:,} samples: {duration(result.validation)}",
        training_line(length, step, result, tested=config.test),
        f"              not included: {', '.join(['saving', *skipped])}",
    ]
    if world > 1:
        gradients = sum(p.numel() * p.element_size() for p in model.parameters())
        lines.append(
            f"  processes   {world}: an estimate, measured on one process with the largest share of each "
            f"batch, without the exchange of {size(gradients)} of gradients in each step"
        )
    named = {"backbone": model.backbone, "TraceGrad": model.tracegrad}
    numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in named.items()}
    return [
        *lines,
        f"  memory      {size(result.peak_bytes)} of {size(result.memory_bytes)} at most, with the most "
        "expensive batch" + ("" if result.device else " (resident memory of the whole process)"),
        f"  parameters  {sum(numbers.values()):,}: "
        + ", ".join(f"{name} {n:,}" for name, n in numbers.items()),
    ]


def training_line(length: TrainingLength, step: float, result: TrialResult, *, tested: bool) -> str:
    """The line about the time of a training with steps of ``step`` seconds."""
    if length.steps is None or length.validations is None:
        return "  training    has no end: set trainer.max_steps or trainer.max_epochs"
    seconds = length.steps * step + length.validations * result.validation
    return (
        f"  training    {length.steps:,} steps in {length.steps / length.steps_per_epoch:,.4g} epochs and "
        f"{length.validations:,} validations: {duration(seconds)}"
        + (f"; then the test: {duration(result.test)}" if tested else "")
    )


def disk_lines(config: DictConfig, result: TrialResult) -> list[str]:
    """Lines about the disk space that the checkpoints of the run need, and whether it is free."""
    kept = sum(count for name, count in CHECKPOINTS.items() if config.callbacks.get(name) is not None)
    need = (kept + 1) * result.checkpoint_bytes
    place = Path(config.run_dir).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    lines = [
        f"  disk        {size(need)}: {kept} checkpoints of {size(result.checkpoint_bytes)}, one more while it is "
        f"written; {size(free)} are free"
    ]
    return lines + (["  warning     the disk of run_dir is too small"] if need > free else [])
