"""Test a network and describe the result as plain data."""

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import lightning
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from callbacks.inference_time import InferenceTime
from experiments.training.parts import Parts
from experiments.training.resume_point import check_data
from experiments.training.warning_filter import quiet
from tracegrad.metrics.mean_blocks import MeanBlocks
from tracegrad.reports.arms import ARM_LABELS, arm_of
from tracegrad.reports.results import FORMAT
from tracegrad.units import MEV
from tracegrad.weights.checkpoint import check_architecture, load_checkpoint

# Number of training samples whose mean blocks are the trivial predictor. With so many the means have converged; more
# would only cost the time of reading a large database once more.
TRIVIAL_ROWS = 5000


def evaluate_checkpoint(
    trainer: lightning.Trainer,
    parts: Parts,
    config: DictConfig,
    checkpoint: Path,
    part: str = "test",
    *,
    other_data: bool = False,
) -> dict[str, Any]:
    """Load the weights of a checkpoint, test them on a part of the data and describe the result as plain data.

    Args:
        other_data: whether the data may be others than those of the training.

    Raises:
        CheckpointError: it was trained on other data and ``other_data`` is False, see `check_data`, or it is of
            another network.
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
    """Test the network with its present weights and describe the result as plain data.

    Args:
        checkpoint: name of the checkpoint from which the weights were loaded.
    """
    subsets = parts.datamodule.subsets(part)
    loaders = [parts.datamodule.loader(name) for name in subsets.values()]
    parts.module.test_subsets, parts.module.sample_name = list(subsets), parts.datamodule.sample_name
    with quiet():
        logged = trainer.test(parts.module, loaders, verbose=False)
    metrics = {name: value for entry in logged for name, value in entry.items()}
    trivial = trivial_metrics(parts, dict(zip(subsets, loaders, strict=True)))
    model = parts.module.model
    switches = model.tracegrad
    arm = arm_of(trace=switches.trace, grad=switches.grad, lean=switches.lean)
    backbone = model.backbone
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    timers = [entry for entry in callbacks if isinstance(entry, InferenceTime)]
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
        "crystal": model.basis.periodic,
        "seed": config.seed,
        "repetition": config.get("repetition"),  # runs of earlier versions have none
        "part": part,
        "checkpoint": checkpoint,
        "step": step,
        "unit": "meV",
        "metrics": {name: _number(value) for name, value in metrics.items() if name.startswith("test/")},
        "columns": [asdict(column) for entry in callbacks for column in getattr(entry, "columns", ())],
        "inference": timers[-1].protocol if timers else None,
        "trivial": trivial,
        "counts": parts.fingerprint["counts"],
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def trivial_metrics(parts: Parts, loaders: Mapping[str, DataLoader]) -> dict[str, float | None]:
    """Test metrics (meV) of the trivial predictor on each subset: the mean blocks of the training set."""
    basis = parts.module.model.basis
    means = MeanBlocks(basis).fit(parts.datamodule.loader("train", share=False, max_samples=TRIVIAL_ROWS))
    return {
        f"test/{name}" + (f"/{subset}" if subset else ""): _number(value * MEV[basis.unit])
        for subset, loader in loaders.items()
        for name, value in means.evaluate(loader).items()
        if value.ndim == 0
    }


def _number(value: Any) -> float | None:
    """A metric for JSON; null if it does not exist, such as MAE_nondiag of single atoms."""
    return float(value) if isfinite(value) else None
