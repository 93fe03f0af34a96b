"""The loggers of a run: a CSV file always, Weights & Biases beside it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import wandb
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from experiments.portable import portable
from experiments.provenance import process_rank
from experiments.wandb_run import start_wandb, wandb_mode
from tracegrad.checkpoint import CHECKPOINT_KEY, load_checkpoint
from tracegrad.system.whole_files import replacing

ARTIFACT_FILE = "wandb/model.ckpt"
# States of the optimizer, of loops and of callbacks stay here, and with them the paths they hold.
KEPT = ("state_dict", "global_step", "epoch", "pytorch-lightning_version")


def make_loggers(config: DictConfig, values: dict[str, Any], origin: dict[str, Any]) -> list[Logger]:
    """CSV and, unless disabled, W&B with the whole configuration and the provenance of the run.

    Of several processes only the first one starts a W&B run.
    """
    loggers: list[Logger] = [instantiate(config.logger.csv)]
    mode = wandb_mode(config.logger.wandb.mode)
    if mode != "disabled":
        record = {"config": values, "provenance": origin}
        run = start_wandb(config, mode, record) if process_rank() == 0 else None
        loggers.append(WandbLogger(experiment=run, save_dir=config.run_dir, offline=mode == "offline"))
    return loggers


def log_results(
    loggers: Sequence[Logger], config: DictConfig, results: dict[str, Any], origin: dict[str, Any]
) -> None:
    """Put the table of the test, the figures and, on request, the model into W&B.

    Args:
        loggers: of the run; others than W&B are passed over.
        config: of the run.
        results: what the test found.
        origin: provenance, for the metadata of the model.
    """
    directory = Path(config.run_dir)
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        run = logger.experiment
        images = {
            f"figures/{path.stem}": wandb.Image(str(path))
            for path in sorted((directory / "figures").glob("*.png"))
        }
        run.log({"test_table": _test_table(run, results), **images})  # at the last step
        if config.logger.wandb.artifact:
            run.log_artifact(_model(config, results, origin), aliases=["best", f"step-{results['step']}"])


def _test_table(run: wandb.Run, results: dict[str, Any]) -> wandb.Table:
    """Metrics (meV) of the network and of the trivial predictor, one row each."""
    metrics, trivial = results["metrics"], results["trivial"]
    rows = [
        ["trivial predictor", None, *(trivial.get(name) for name in metrics)],
        [results["label"], results["seed"], *metrics.values()],
    ]
    table = wandb.Table(columns=["method", "seed", *metrics], data=rows, allow_mixed_types=True)
    # A table that is no media file of the run yet would become an artifact in the home directory, which
    # does not move with the run directory.
    table.bind_to_run(run, "test_table", results["step"])
    return table


def _model(config: DictConfig, results: dict[str, Any], origin: dict[str, Any]) -> wandb.Artifact:
    """The best checkpoint as an artifact: weights and settings, which are what `load_model` needs."""
    directory = Path(config.run_dir)
    whole = load_checkpoint(directory / "checkpoints" / f"{results['checkpoint']}.ckpt")
    kept = {key: whole[key] for key in KEPT if key in whole}
    kept[CHECKPOINT_KEY] = portable(whole[CHECKPOINT_KEY], directory)
    with replacing(directory / ARTIFACT_FILE) as draft:
        torch.save(kept, draft)
    names = ("experiment", "label", "seed", "step", "part", "metrics", "parameters", "counts")
    metadata = {name: results[name] for name in names} | {"unit": "meV", "git": origin["git"]}
    artifact = wandb.Artifact(
        re.sub(r"[^\w.-]+", "_", f"{config.name}-{directory.name}"),
        "model",
        metadata=portable(metadata | {"data": origin["data"]}, directory),
    )
    # The file stays where it is until it is uploaded; a copy would lie in the home directory.
    artifact.add_file(str(directory / ARTIFACT_FILE), name="model.ckpt", policy="immutable")
    return artifact
