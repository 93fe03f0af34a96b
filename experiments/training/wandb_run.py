"""One W&B run for each run directory, also after restarts, that tells nothing about the machine."""

import netrc
import os
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.training.portable import portable
from tracegrad.errors import ConfigError
from tracegrad.system.whole_files import replacing

if TYPE_CHECKING:
    import wandb

MODES = ("auto", "online", "offline", "disabled")
STEP = "trainer/global_step"
# Bytes that a logged row takes in the file of an offline piece, at least.
ROW_BYTES = 32
# Survives `wandb clean`, which removes what is uploaded.
ID_FILE = "wandb/run_id"


def wandb_mode(setting: str) -> str:
    """online, offline or disabled; WANDB_MODE wins, and ``auto`` asks whether W&B and a login are there."""
    given = os.environ.get("WANDB_MODE")
    source, setting = ("WANDB_MODE", given) if given else ("logger.wandb.mode", setting)
    setting = {"dryrun": "offline"}.get(setting, setting)
    if setting not in MODES:
        raise ConfigError(f"{source} is {setting!r}; choose one of {list(MODES)}")
    if setting != "auto":
        return setting
    if not _installed():
        return "disabled"
    return "online" if os.environ.get("WANDB_API_KEY") or _in_netrc() else "offline"


def start_wandb(config: DictConfig, mode: str, record: dict[str, Any]) -> "wandb.Run":
    """The W&B run of a run directory: a new one, or the one that a restart goes on with.

    Args:
        config: of the run.
        mode: online or offline.
        record: configuration and provenance; what is sent of it is `portable`.

    Raises:
        ConfigError: W&B is not installed, or it refuses, such as without a login or without a network.
    """
    if not _installed():
        raise ConfigError(
            f"W&B mode {mode} needs the package wandb, which is not installed; pip install wandb, or set "
            "logger.wandb.mode=disabled"
        )
    import wandb  # here: runs without it do not need the package

    directory, own = Path(config.run_dir), config.logger.wandb
    directory.mkdir(parents=True, exist_ok=True)
    known, rows = read_id(directory), _most_rows(directory)
    try:
        run = wandb.init(
            project=own.project,
            entity=own.entity,
            group=own.group,
            tags=list(own.tags) or None,
            job_type=own.job_type,
            name=f"{config.name}/{directory.name}",
            id=known,
            dir=str(directory),
            mode=mode,  # type: ignore[arg-type]
            resume="allow" if mode == "online" else None,  # offline, `wandb sync` joins the pieces
            config=portable(record, directory),
            settings=_settings(),
        )
    except wandb.errors.Error as error:
        raise ConfigError(
            f"W&B cannot start in mode {mode} ({error}); log in with `wandb login`, "
            "or set logger.wandb.mode=offline"
        ) from error
    if run.id != known:
        with replacing(directory / ID_FILE) as draft:
            draft.write_text(f"{run.id}\n", encoding="utf-8")
    if mode == "offline" and rows:
        run.log({}, step=rows)  # else the rows of each piece would be counted from 0
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def read_id(directory: Path) -> str | None:
    """The W&B id of a run directory, if it had one before."""
    path = directory / ID_FILE
    return (path.read_text(encoding="utf-8").strip() or None) if path.is_file() else None


def _most_rows(directory: Path) -> int:
    """More rows than the offline pieces of a run hold, so that the next piece can count on."""
    pieces = directory.glob("wandb/offline-run-*/*.wandb")
    return sum(piece.stat().st_size for piece in pieces) // ROW_BYTES


def print_wandb_hint(runs: Sequence[Path]) -> None:
    """Say where the offline files of runs lie and how they are uploaded.

    A run that was resumed has several pieces with one id, which have to be uploaded together.
    """
    pieces = {run: sorted((run / "wandb").glob("offline-run-*")) for run in runs}
    pieces = {run: found for run, found in pieces.items() if found}
    if not pieces:
        return
    whole = [run for run, found in pieces.items() if len(found) == 1]
    print(f"W&B files (offline): {' '.join(f'{place}/wandb' for place in _places(list(pieces)))}")
    if whole:
        places = _places(whole) if len(whole) == len(pieces) else map(_shell, whole)
        print(f"  upload: wandb sync {' '.join(f'{place}/wandb/offline-run-*' for place in places)}")
    for run in (run for run in pieces if run not in whole):
        name = read_id(run) or pieces[run][-1].name.rpartition("-")[2]
        print(f"  upload of a resumed run: wandb sync --id {name} {' '.join(map(_shell, pieces[run]))}")


def _places(runs: Sequence[Path]) -> list[str]:
    """Directories for a command line; several in one folder are one pattern."""
    if len(runs) > 1 and len({run.parent for run in runs}) == 1:
        return [f"{_shell(runs[0].parent)}/*"]
    return [_shell(run) for run in runs]


def _settings() -> "wandb.Settings":
    """W&B without what it records about the machine by itself; use of GPU, CPU and memory is still logged."""
    import wandb

    return wandb.Settings(
        silent=True,  # the commands say themselves where the files lie
        reinit="finish_previous",  # two trainings in one process are two runs
        x_disable_meta=True,  # host, user, arguments, folders, git remote
        program="experiments.train",  # else the path of the file
        host="",
        disable_git=True,  # the provenance holds the revision
        disable_code=True,
        save_code=False,
        x_save_requirements=False,  # editable packages have paths
        console="off",  # output names files
        x_transaction_log_flush_interval=1.0,  # seconds of log that a killed process may lose
    )


def _installed() -> bool:
    """Whether there is the package; a folder wandb beside the program, as W&B leaves it, is none."""
    spec = find_spec("wandb")
    return spec is not None and spec.origin is not None


def _shell(path: Path) -> str:
    return shlex.quote(str(path))


def _in_netrc() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
