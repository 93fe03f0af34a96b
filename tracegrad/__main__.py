"""The command ``tracegrad``: ``tracegrad NAME ...`` does the same as ``python -m experiments.NAME ...``.

The commands are the modules in ``experiments/`` that have a main program. They, ``callbacks/`` and ``conf/`` are at
the top of a checkout and in ``tracegrad/commands/`` of an installed package. Nothing large is imported here.
"""

import ast
import difflib
import os
import runpy
import sys
from functools import cache
from pathlib import Path

from tracegrad import __version__

HELP = """\
TraceGrad: train, compare and use networks that predict electronic-structure Hamiltonians.

  tracegrad COMMAND key=value ...     for example: tracegrad train experiment=demo_crystals
  tracegrad COMMAND --help            settings and examples of a command
  tracegrad --version

Commands:
"""


def main() -> None:
    """Run the command that the command line names, or print the help or the version."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
    elif words[0] in ("-V", "--version"):
        print(f"tracegrad {__version__}")
    elif words[0] in summaries():
        _run(words[0], words[1:])
    else:
        nearest = difflib.get_close_matches(words[0], summaries(), n=3)
        advice = f"nearest: {', '.join(nearest)}" if nearest else "tracegrad --help lists the commands"
        sys.exit(f"error: there is no command {words[0]!r}; {advice}")


def root() -> Path:
    """The folder that holds ``experiments/``, ``callbacks/`` and ``conf/``."""
    package = Path(__file__).parent
    installed = package / "commands"
    return installed if installed.is_dir() else package.parent


@cache
def summaries() -> dict[str, str]:
    """The commands, each with the first line of its module's docstring."""
    found = {}
    for path in sorted((root() / "experiments").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def help_text() -> str:
    """The help, with one line for each command."""
    width = max(map(len, summaries()))
    return HELP + "".join(f"  {name:{width}}  {summary}\n" for name, summary in summaries().items())


def _run(name: str, words: list[str]) -> None:
    """Do what ``python -m experiments.NAME`` does, with the folder of the commands on the path of this process.

    Trainings, sweeps and workers start further processes, which find the folder through the environment.
    """
    folder = str(root())
    # python -m has the present folder, too: classes of the user may be there.
    sys.path[:0] = [folder, os.getcwd()]
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([inherited] if inherited else [])])
    sys.argv = ["-m", *words]
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
