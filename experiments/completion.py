"""Print a script with which bash or zsh complete commands, settings and their options.

    eval "$(tracegrad completion bash)"      # a line for ~/.bashrc
    eval "$(tracegrad completion zsh)"       # a line for ~/.zshrc

Settings are completed by the engine of Hydra from ``conf/``, so that nothing large is imported.
"""

import sys
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.settings.paths import CONF
from tracegrad.__main__ import summaries

NAMES = {
    "fetch": ("data", CONF / "fetch")
}  # for a command: a setting that is the name of a file, and its folder
SWEEPS = ("ablate", "sweep")  # they take the settings of a training, too
BASH = Path(__file__).with_suffix(".sh").read_text(encoding="utf-8")
SCRIPTS = {"bash": BASH, "zsh": f"autoload -Uz compinit bashcompinit\ncompinit\nbashcompinit\n{BASH}"}


def candidates(line: str) -> list[str]:
    """What the last word of a command line may become; ``line`` is as typed, up to the cursor."""
    words = line.split(" ")
    if len(words) < 3:
        return [f"{name} " for name in summaries() if name.startswith(words[-1])]
    command, settings = words[1], " ".join(words[2:])
    if words[-1].startswith("-"):
        return [option for option in ("--help", "--cfg") if option.startswith(words[-1])]
    if command in NAMES:
        setting, folder = NAMES[command]
        stems = sorted(f"{setting}={file.stem}" for file in folder.glob("*.yaml"))
        if words[-1].startswith(f"{setting}="):
            return [name for name in stems if name.startswith(words[-1])]
    names = [command, "train"] if command in SWEEPS else [command]
    found: set[str] = set()
    for name in names:
        if (CONF / f"{name}.yaml").is_file():
            found |= set(_settings(name, settings))
    return sorted(found)


def _settings(command: str, line: str) -> list[str]:
    """Settings of one command that complete a line; none where the line has a setting that it does not know."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            return BashCompletion(loader)._query(command, line)
        except (HydraException, OmegaConfBaseException):
            return []


def main() -> None:
    """Print the script of a shell, or the candidates for a line, one a line."""
    if sys.argv[1:2] == ["query"] and len(sys.argv) == 3:
        print("\n".join(candidates(sys.argv[2])))
    elif len(sys.argv) == 2 and sys.argv[1] in SCRIPTS:
        print(SCRIPTS[sys.argv[1]], end="")
    elif sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(__doc__, end="")
    else:
        sys.exit("error: give the name of a shell, bash or zsh: tracegrad completion bash")


if __name__ == "__main__":
    main()
