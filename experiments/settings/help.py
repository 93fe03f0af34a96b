"""Help of the commands, which is printed before anything large is imported."""

import sys

import hydra

from experiments.settings.paths import CONF


def show_help_if_asked(command: str) -> None:
    """Print a command's help (``hydra.help`` of its file in ``conf/``) and exit, without arguments or at --help."""
    if not sys.argv[1:] or "-h" in sys.argv or "--help" in sys.argv:
        sys.argv[1:] = ["--help"]
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(lambda _: None)()
        sys.exit()


def show_help_early() -> None:
    """The same for the command that this process is about to run, if its only argument asks for the help.

    The command stands before it: ``python -m experiments.NAME --help`` or ``tracegrad NAME --help``.
    """
    if sys.argv[0] != "-m" or sys.argv[1:] not in (["-h"], ["--help"]):
        return
    command = sys.orig_argv[-2].removeprefix("experiments.")
    if (CONF / f"{command}.yaml").exists():
        show_help_if_asked(command)
