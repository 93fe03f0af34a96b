"""Results that are sent to W&B at the end of a run: table of the test, figures and, if asked for, the model."""

import re
from pathlib import Path
from typing import Any

import torch
import wandb
from omegaconf import DictConfig

from experiments.training.portable import portable
from tracegrad.system.whole_files import replacing
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, load_checkpoint

ARTIFACT_FILE = "wandb/model.ckpt"
# Entries of a checkpoint that are sent. States of optimizer, loops and callbacks are not: they contain paths.
KEPT = ("state_dict", "global_step", "epoch", "pytorch-lightning_version")


def send_results(run: wandb.Run, config: DictConfig, results: dict[str, Any], origin: dict[str, Any]) -> None:
    """Log the results of a test at the last step of a run; the arguments are those of `loggers.log_results`."""
    images = {
        f"figures/{path.stem}": wandb.Image(str(path))
        for path in sorted((Path(config.run_dir) / "figures").glob("*.png"))
    }
    run.log({"test_table": _test_table(run, results), **images})
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
    """The best checkpoint as an artifact with weights and settings, all that `load_model` needs."""
    directory = Path(config.run_dir)
    content = load_checkpoint(directory / "checkpoints" / f"{results['checkpoint']}.ckpt")
    kept = {key: content[key] for key in KEPT if key in content}
    kept[CHECKPOINT_KEY] = portable(content[CHECKPOINT_KEY], directory)
    with replacing(directory / ARTIFACT_FILE) as draft:
        torch.save(kept, draft)
    names = ("experiment", "label", "seed", "step", "part", "metrics", "parameters", "counts")
    metadata = {name: results[name] for name in names} | {"unit": "meV", "git": origin["git"]}
    artifact = wandb.Artifact(
        re.sub(r"[^\w.-]+", "_", f"{config.name}-{directory.name}"),
        "model",
        metadata=portable(metadata | {"data": origin["data"]}, directory),
    )
    # "immutable": W&B uploads this file itself; otherwise it would put a copy into the home directory.
    artifact.add_file(str(directory / ARTIFACT_FILE), name="model.ckpt", policy="immutable")
    return artifact
