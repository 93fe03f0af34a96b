"""One W&B run for each run directory, also after restarts, without information about the machine."""

import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.settings.arguments import shell_word
from experiments.training.portable import portable
from tracegrad.errors import ConfigError
from tracegrad.extras import installed
from tracegrad.system.text_files import write_text

if TYPE_CHECKING:
    import wandb

MODES = ("auto", "online", "offline", "disabled")
STEP = "trainer/global_step"
# Smallest number of bytes of a logged row in the file of an offline session.
ROW_BYTES = 32
# `wandb clean`, which removes files that have been uploaded, keeps this one.
ID_FILE = "wandb/run_id"


def wandb_mode(setting: str) -> str:
    """The mode of W&B: online, offline or disabled.

    The environment variable WANDB_MODE overrides the setting. The setting ``auto`` means online with a login, offline
    without one, and disabled if W&B is not installed.

    Raises:
        ConfigError: an unknown mode.
    """
    variable = os.environ.get("WANDB_MODE")
    source, setting = ("WANDB_MODE", variable) if variable else ("logger.wandb.mode", setting)
    setting = {"dryrun": "offline"}.get(setting, setting)
    if setting not in MODES:
        raise ConfigError(f"{source} is {setting!r}; choose one of {list(MODES)}")
    if setting != "auto":
        return setting
    if not installed("wandb"):
        return "disabled"
    return "online" if os.environ.get("WANDB_API_KEY") or _in_netrc() else "offline"


def start_wandb(config: DictConfig, mode: str, record: dict[str, Any]) -> "wandb.Run":
    """Start the W&B run of a run directory, or continue it after a restart.

    Args:
        record: settings and provenance; `portable` removes paths and secrets before they are sent.

    Raises:
        ConfigError: W&B is not installed or cannot start, for example without a login or without a network.
    """
    if not installed("wandb"):
        raise ConfigError(
            f"W&B mode {mode} needs the package wandb, which is not installed; pip install 'tracegrad[wandb]', or "
            "set logger.wandb.mode=disabled"
        )
    import wandb  # here, because runs without W&B do not need the package

    directory, options = Path(config.run_dir), config.logger.wandb
    directory.mkdir(parents=True, exist_ok=True)
    known_id, rows = read_id(directory), _most_rows(directory)
    try:
        run = wandb.init(
            project=options.project,
            entity=options.entity,
            group=options.group,
            tags=list(options.tags) or None,
            job_type=options.job_type,
            name=f"{config.name}/{directory.name}",
            id=known_id,
            dir=str(directory),
            mode=mode,  # type: ignore[arg-type]
            resume="allow" if mode == "online" else None,  # offline, `wandb sync` joins the sessions
            config=portable(record, directory),
            settings=_settings(),
        )
    except wandb.errors.Error as error:
        raise ConfigError(
            f"W&B cannot start in mode {mode} ({error}); log in with `wandb login`, "
            "or set logger.wandb.mode=offline"
        ) from error
    if run.id != known_id:
        write_text(directory / ID_FILE, f"{run.id}\n")
    if mode == "offline" and rows:
        run.log({}, step=rows)  # otherwise W&B would count the rows of each session from 0
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def read_id(directory: Path) -> str | None:
    """The W&B id of a run directory; None if it has none yet."""
    path = directory / ID_FILE
    return (path.read_text(encoding="utf-8").strip() or None) if path.is_file() else None


def _most_rows(directory: Path) -> int:
    """An upper limit of the number of rows in the offline sessions of a run, where the next session counts on."""
    files = directory.glob("wandb/offline-run-*/*.wandb")
    return sum(file.stat().st_size for file in files) // ROW_BYTES


def print_wandb_hint(runs: Sequence[Path]) -> None:
    """Print where the offline files of runs are and the commands that upload them.

    A run that was resumed offline has several sessions with one id, which have to be uploaded together.
    """
    sessions = {run: sorted((run / "wandb").glob("offline-run-*")) for run in runs}
    sessions = {run: folders for run, folders in sessions.items() if folders}
    if not sessions:
        return
    not_resumed = [run for run, folders in sessions.items() if len(folders) == 1]
    print(f"W&B files (offline): {' '.join(f'{path}/wandb' for path in _shell_paths(list(sessions)))}")
    if not_resumed:
        paths = (
            _shell_paths(not_resumed) if len(not_resumed) == len(sessions) else map(_shell_path, not_resumed)
        )
        print(f"  upload: wandb sync {' '.join(f'{path}/wandb/offline-run-*' for path in paths)}")
    for run in (run for run in sessions if run not in not_resumed):
        name = read_id(run) or sessions[run][-1].name.rpartition("-")[2]
        print(
            f"  upload of a resumed run: wandb sync --id {name} {' '.join(map(_shell_path, sessions[run]))}"
        )


def _shell_paths(runs: Sequence[Path]) -> list[str]:
    """Directories for a command line; several in one folder are written as one pattern."""
    if len(runs) > 1 and len({run.parent for run in runs}) == 1:
        return [f"{_shell_path(runs[0].parent)}/*"]
    return [_shell_path(run) for run in runs]


def _shell_path(path: Path) -> str:
    return shell_word(str(path))


def _settings() -> "wandb.Settings":
    """Settings with which W&B records nothing about the machine except its use of GPU, CPU and memory."""
    import wandb

    return wandb.Settings(
        silent=True,  # the commands print where the files are
        reinit="finish_previous",  # two trainings in one process are two runs
        x_disable_meta=True,  # host, user, arguments, folders, git remote
        program="experiments.train",  # otherwise W&B would take the path of the file
        host="",
        disable_git=True,  # the provenance contains the revision
        disable_code=True,
        save_code=False,
        x_save_requirements=False,  # lines of editable packages contain paths
        console="off",  # the output contains paths
        x_transaction_log_flush_interval=1.0,  # seconds of log that a killed process may lose
    )


def _in_netrc() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
