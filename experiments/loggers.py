"""The loggers of a run: a CSV file always, Weights & Biases beside it."""

import hashlib
import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from experiments.provenance import process_rank
from tracegrad.errors import ConfigError

MODES = ("auto", "online", "offline", "disabled")


def make_loggers(config: DictConfig, values: dict[str, Any], origin: dict[str, Any]) -> list[Logger]:
    """CSV and, unless disabled, W&B with the whole configuration and the provenance of the run."""
    loggers: list[Logger] = [instantiate(config.logger.csv)]
    mode = wandb_mode(config.logger.wandb.mode)
    if mode != "disabled":
        loggers.append(_wandb(config, mode, {"config": values, "provenance": origin}))
    return loggers


def wandb_mode(setting: str) -> str:
    """online, offline or disabled; WANDB_MODE wins, and ``auto`` asks whether a login is there."""
    given = os.environ.get("WANDB_MODE")
    source, setting = ("WANDB_MODE", given) if given else ("logger.wandb.mode", setting)
    setting = {"dryrun": "offline"}.get(setting, setting)
    if setting not in MODES:
        raise ConfigError(f"{source} is {setting!r}; choose one of {list(MODES)}")
    if setting != "auto":
        return setting
    return "online" if os.environ.get("WANDB_API_KEY") or _in_netrc() else "offline"


def print_wandb_hint(runs: Sequence[Path]) -> None:
    """Say where the offline files of runs lie and how they are uploaded.

    A run that was resumed has several parts with one id, which have to be uploaded together.
    """
    parts = {run: sorted((run / "wandb").glob("offline-run-*")) for run in runs}
    offline = [run for run in runs if parts[run]]
    if not offline:
        return
    places = f"{offline[0]}/wandb" if len(offline) == 1 else f"{offline[0].parent}/*/wandb"
    print(f"W&B files (offline): {places}")
    if any(len(parts[run]) == 1 for run in offline):
        print(f"  upload: wandb sync {places}/offline-run-*")
    for run in offline:
        if len(parts[run]) > 1:
            print(
                f"  upload of a resumed run: wandb sync --id {_run_id(run)} {' '.join(map(str, parts[run]))}"
            )


def _run_id(directory: Path) -> str:
    """The same directory is the same run, also after a restart."""
    return hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]


def _wandb(config: DictConfig, mode: str, record: dict[str, Any]) -> WandbLogger:
    directory = Path(config.run_dir)
    run = None
    if process_rank() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            run = wandb.init(
                project=config.logger.wandb.project,
                entity=config.logger.wandb.entity,
                name=f"{directory.parent.name}/{directory.name}",
                id=_run_id(directory),
                dir=str(directory),
                mode=mode,  # type: ignore[arg-type]
                resume="allow" if mode == "online" else None,
                config=record,
                settings=wandb.Settings(silent=True),  # the commands say themselves where the files lie
            )
        except wandb.errors.Error as error:
            raise ConfigError(
                f"W&B cannot start in mode {mode} ({error}); log in with `wandb login`, "
                "or set logger.wandb.mode=offline"
            ) from error
    return WandbLogger(experiment=run, save_dir=str(directory), offline=mode == "offline")


def _in_netrc() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
