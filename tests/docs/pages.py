"""Blocks of code in the pages of the documentation, and a folder in which they are executed as a reader would do it.

A page is Markdown. Its fenced blocks are executed from top to bottom in one folder:

    ```bash              commands; `tracegrad NAME` runs experiments/NAME.py
    ```python            Python; the blocks of a page share their names, as in one session
    ```text title="F"    a file F that the page tells the reader to write (any language with a title)

A comment in the lines above a block, which readers do not see, changes this:

    <!-- not run: REASON -->      the block is not executed here
    <!-- run with: KEY=VALUE -->  settings that make its commands short enough for a test

Blocks of other languages without a title show output and are not executed. A session with prompts and output is
`console`, and needs a reason.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import forked

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_COMMENT = re.compile(r"<!-- (?P<kind>not run|run with): (?P<text>.+?) -->", re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
EXECUTED = ("bash", "python")
SECONDS = 600.0  # of one command, on a busy machine

# Settings of every training, and those of the two experiments with embedded data.
_TRAINING = (
    *("logger.wandb.mode=disabled", "trainer.enable_progress_bar=false"),
    *("callbacks.test_report.figure_samples=0", "callbacks.inference_time.samples=1"),
)
_TINY = {
    "demo": (
        *("model.backbone.channels=4", "model.backbone.bottleneck=4", "tracegrad.channels=8"),
        *("tracegrad.hidden=8", "data.train_size=16", "data.fractions=[.96,.02,.02]", "trainer.max_steps=4"),
        *("callbacks.acceleration=null", "callbacks.orbitals=null"),
    ),
    "demo_crystals": (
        *("model.backbone.irreps=4x0e+2x1o+2x2e", "model.backbone.embed=4", "model.backbone.blocks=2"),
        *("tracegrad.channels=8", "tracegrad.hidden=8", "data.sizes=[4,2,2]", "trainer.max_steps=4"),
    ),
}


@dataclass(frozen=True)
class PageBlock:
    """One fenced block.

    Args:
        line: number of its first line in the page.
        language: as written after the fence.
        title: name of the file that the block shows, or None.
        code: its content.
        not_run: why it is not executed, or None.
        settings: that are added to its commands.
    """

    line: int
    language: str
    title: str | None
    code: str
    not_run: str | None
    settings: tuple[str, ...]


def blocks(text: str) -> list[PageBlock]:
    """The fenced blocks of a page."""
    found: list[PageBlock] = []
    lines, above, number = text.splitlines(), "", 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            above = f"{above}\n{lines[number]}" if lines[number] else ""
            number += 1
            continue
        start = number + 1
        number = start
        while lines[number].strip() != "```":
            number += 1
        comments = {match["kind"]: match["text"] for match in _COMMENT.finditer(above)}
        title, indent = _TITLE.search(fence["info"]), len(fence["indent"])
        found.append(
            PageBlock(
                line=start + 1,
                language=(fence["info"].split() or [""])[0],
                title=title[1] if title else None,
                code="".join(f"{line[indent:]}\n" for line in lines[start:number]),
                not_run=comments.get("not run"),
                settings=tuple(comments.get("run with", "").split()),
            )
        )
        above, number = "", number + 1
    return found


def commands(code: str) -> list[str]:
    """The commands of a block, one a line, without comments."""
    joined = code.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def words(command: str) -> list[str]:
    """The words of a command as a shell sees them."""
    return shlex.split(command, comments=True)


class Reader:
    """Executes the blocks of a page in a folder.

    Args:
        page: the page.
        folder: where the commands run and the files are written.
    """

    def __init__(self, page: Path, folder: Path):
        self.page, self.folder = page, folder
        self.names: dict[str, object] = {"__name__": "__main__"}

    def read(self) -> int:
        """Execute the page, and return how many blocks were executed."""
        count = 0
        for block in blocks(self.page.read_text(encoding="utf-8")):
            if block.not_run is not None:
                continue
            if block.title is not None:
                (self.folder / block.title).write_text(block.code)
            elif block.language == "bash":
                for command in commands(block.code):
                    done = run_command(command, self.folder, block.settings)
                    where = f"{self.page.name}:{block.line}: {command}"
                    assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"
                count += 1
            elif block.language == "python":
                where = f"{self.page.name}:{block.line}"
                exec(compile("\n" * (block.line - 1) + block.code, where, "exec"), self.names)
                count += 1
        return count


def run_command(
    command: str, folder: Path, settings: Sequence[str] = (), *, quick: bool = True
) -> subprocess.CompletedProcess:
    """Run one command of a page.

    Args:
        command: as a reader types it.
        folder: where it runs.
        settings: that are added to it.
        quick: also add settings that make trainings of embedded data take a second.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    name, *arguments = words(command)
    if name == "tracegrad":
        module, *given = arguments
        added = [*(_quick(module, given) if quick else ()), *settings]
        started = forked.start(
            f"experiments.{module}", *given, *added, environment=environment, folder=folder
        )
        return started.wait(SECONDS)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True
    )


def _quick(module: str, arguments: list[str]) -> tuple[str, ...]:
    """Settings that make a training of embedded data take a second."""
    experiment = [word.partition("=")[2] for word in arguments if word.startswith("experiment=")]
    if module not in ("train", "ablate", "sweep") or "--help" in arguments:
        return ()
    return (*_TRAINING, *(_TINY.get(experiment[0], ()) if experiment else ()))
