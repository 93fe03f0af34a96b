"""The loggers of a run: always a CSV file, and Weights & Biases unless it is disabled."""

from collections.abc import Sequence
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from experiments.training.rank import process_rank
from experiments.training.wandb_run import start_wandb, wandb_mode


def make_loggers(config: DictConfig, values: dict[str, Any], origin: dict[str, Any]) -> list[Logger]:
    """A CSV logger and, unless disabled, a W&B logger with the settings and the provenance of the run.

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
    """Send the table of the test, the figures and, if ``logger.wandb.artifact`` is set, the model to W&B."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            # Imported here: runs without W&B do not need its package.
            from experiments.training.wandb_results import send_results

            send_results(logger.experiment, config, results, origin)
