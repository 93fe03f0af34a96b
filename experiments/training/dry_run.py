"""What a training will take, before it is started: `python -m experiments.train ... dry_run=true`."""

import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.last_checkpoint import LAST
from experiments.settings.configuration import ARM_LABELS, ARMS
from experiments.training.forecast import (
    Length,
    Measured,
    duration,
    log_bytes,
    size,
    training_length,
    worker_advice,
)
from experiments.training.parts import Parts, build, make_callbacks, make_trainer
from experiments.training.provenance import process_rank
from experiments.training.trial import Misfit, Trial
from experiments.training.warm_start import warm_start
from experiments.training.warning_filter import quiet
from tracegrad.errors import ConfigError
from tracegrad.system.cores import available_cores

# Settings of the trainer that change what a run consists of, and that the forecast does not follow.
UNKNOWN = (
    *("limit_train_batches", "limit_val_batches", "val_check_interval", "overfit_batches", "fast_dev_run"),
    *("max_time", "min_steps", "min_epochs"),
)
UNCOUNTED = ("orbitals", "acceleration", "inference_time", "test_report")
# Files that a callback keeps.
CHECKPOINTS = {"best": 1, "last": 2, "revert": 1}
RECOMPUTE = ("tracegrad.recompute", "model.backbone.recompute")


def dry_run(config: DictConfig, values: dict[str, Any]) -> bool:
    """Run some steps and print the forecast; whether the batches fit into the memory.

    Leaves nothing in the run directory; the cache of a database is built, as by the training. Of several
    processes only the first one does anything.

    Raises:
        ConfigError: settings of the trainer that the forecast does not know.
    """
    if process_rank() != 0:
        return True
    unknown = [f"trainer.{key}" for key in UNKNOWN if config.trainer.get(key) is not None]
    if unknown:
        raise ConfigError(f"dry_run=true does not know {', '.join(unknown)}; leave it out of the forecast")
    parts = build(config, values)
    with quiet():
        parts.datamodule.prepare_data()
        parts.datamodule.setup("fit")
    directory = Path(config.run_dir)
    started = (directory / "checkpoints" / LAST).exists()
    warm_start(parts.module.model, config.init_from, directory, resumed=started)
    planned = make_trainer(config, make_callbacks(config), [])
    parts.datamodule.trainer = planned  # the loaders ask it for the number of processes
    found = Trial(config, parts, planned.world_size).measure()
    if isinstance(found, Misfit):
        print("\n".join(misfit_lines(found, config)))
        return False
    length = training_length(
        len(parts.datamodule.train_dataloader()),
        config.trainer,
        last_step_validated=config.callbacks.get("final_validation") is not None,
    )
    lines = forecast_lines(config, parts, found, length) + disk_lines(config, found, length)
    wait = sum(found.waits) / len(found.waits)
    advice = worker_advice(found.waiting, parts.datamodule.num_workers, available_cores(), wait)
    print("\n".join(lines + ([f"  advice      {advice}"] if advice else [])))
    return True


def misfit_lines(misfit: Misfit, config: DictConfig) -> list[str]:
    """What does not fit, and what to do."""
    given = f"{misfit.setting}={misfit.size}"
    lines = [f"does not fit: {given} needs more memory than there is ({misfit.reason})"]
    if misfit.fits is None:
        lines.append(f"  no smaller {misfit.setting} fits either")
    else:
        lines.append(f"  {misfit.setting}={misfit.fits} fits: it was tried with its dearest batch")
    if misfit.setting == "data.batch_size":
        savers = [f"{key}=true" for key in RECOMPUTE if OmegaConf.select(config, key) is False]
    else:
        savers = []
    if "edge_chunk" in config.model.backbone:
        savers.append("a smaller model.backbone.edge_chunk, such as 8192")
    if savers:
        lines.append(f"  may help with {given}, and was not tried: {', '.join(savers)}")
    return lines


def forecast_lines(config: DictConfig, parts: Parts, found: Measured, length: Length) -> list[str]:
    """Time, memory and parameters."""
    model = parts.module.model
    arm = ARM_LABELS[ARMS[bool(config.tracegrad.trace), bool(config.tracegrad.grad)]]
    middle, least, most = found.spread()
    lines = [
        f"dry run of {config.name}, {model.backbone.label}{arm}, on "
        + (found.device or f"the CPU ({torch.get_num_threads()} threads)"),
        f"  {'batch' if found.accumulated > 1 else 'step':<12}{middle:.3g} s (median; {least:.3g} to {most:.3g} s of "
        f"{len(found.costs)}), {found.samples_per_second:.3g} samples/s; {found.waiting:.1%} is waiting for data",
        f"  epoch       {length.steps_per_epoch:,} steps of {found.accumulated * found.batch_size:.3g} samples: "
        f"{duration(length.steps_per_epoch * found.mean_step)}; "
        f"validation of {parts.fingerprint['counts']['val']:,} samples: {duration(found.validation())}",
    ]
    total = found.total(length)
    if length.steps is None or total is None:
        lines.append("  training    without end: set trainer.max_steps or trainer.max_epochs")
    else:
        lines.append(
            f"  training    {length.steps:,} steps in {length.steps / length.steps_per_epoch:,.4g} epochs and "
            f"{length.validations:,} validations: {duration(total)}"
            + (f"; then the test: {duration(found.test())}" if config.test else "")
        )
    skipped = [f"callbacks.{name}" for name in UNCOUNTED if config.callbacks.get(name) is not None]
    lines.append(f"              not in it: {', '.join(['saving', *skipped])}")
    if found.world > 1:
        gradients = sum(p.numel() * p.element_size() for p in model.parameters())
        lines.append(
            f"  processes   {found.world}: an estimate, measured on one of them with the largest share of each "
            f"batch, without the exchange of {size(gradients)} of gradients a step"
        )
    named = {"backbone": model.backbone, "TraceGrad": model.tracegrad}
    numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in named.items()}
    return [
        *lines,
        f"  memory      {size(found.peak_bytes)} of {size(found.memory_bytes)} at most, with the dearest batch"
        + ("" if found.device else " (resident, of this process as a whole)"),
        f"  parameters  {sum(numbers.values()):,}: "
        + ", ".join(f"{name} {n:,}" for name, n in numbers.items()),
    ]


def disk_lines(config: DictConfig, found: Measured, length: Length) -> list[str]:
    """What the run directory needs, and whether its disk has it."""
    kept = sum(count for name, count in CHECKPOINTS.items() if config.callbacks.get(name) is not None)
    log = log_bytes(length, config.trainer.log_every_n_steps)
    need = (kept + 1) * found.checkpoint_bytes + (log or 0)  # one more while it is written
    place = Path(config.run_dir).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    line = (
        f"  disk        {size(need)}: {kept} checkpoints of {size(found.checkpoint_bytes)}, one more while it is "
        "written" + (f", a log of {size(log)}" if log is not None else "") + f"; {size(free)} are free"
    )
    return [line, *(["  warning     the disk of run_dir is too small"] if need > free else [])]
