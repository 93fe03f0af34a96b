"""Executes notebooks without Jupyter: `python -m tests.docs.notebooks` does it and stores what the cells show.

A cell may begin with lines `!command`; the rest is Python, and the value of its last expression is shown.
"""

import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.docs.pages import ROOT, run_command
from tracegrad.system.whole_files import replacing

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def execute(notebook: Path, folder: Path, *, quick: bool) -> list[list[dict[str, Any]]]:
    """Execute all cells in one process, which has to be in ``folder``, and return the outputs of the code cells.

    Args:
        notebook: the file.
        folder: where its commands run.
        quick: with the settings of tests, which make trainings short.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [
        _outputs(source, f"{notebook.name}, code cell {number}", names, folder, quick)
        for number, source in enumerate(sources, start=1)
    ]


def _outputs(
    source: str, where: str, names: dict[str, Any], folder: Path, quick: bool
) -> list[dict[str, Any]]:
    printed = io.StringIO()
    shell = re.findall(r"^!(?:.*\\\n)*.*$", source, re.MULTILINE)
    for command in shell:
        done = run_command(command[1:].replace("\\\n", " "), folder, quick=quick)
        assert done.returncode == 0, f"{where}: {command}\n{done.stdout}\n{done.stderr}"
        printed.write(done.stdout)
        source = source.replace(command, "")
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        value = eval(compile(ast.Expression(last.value), where, "eval"), names) if last else None
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if isinstance(value, Figure):
        image = io.BytesIO()
        value.savefig(image, format="png", dpi=90)
        shown = {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"output_type": "display_data", "data": shown, "metadata": {}})
    elif value is not None:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append(
            {"output_type": "execute_result", "data": shown, "metadata": {}, "execution_count": None}
        )
    return outputs


def store(notebook: Path) -> None:
    """Execute a notebook with its own settings, and write its outputs into the file."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        outputs = iter(execute(notebook, Path(folder), quick=False))
    cells = (cell for cell in content["cells"] if cell["cell_type"] == "code")
    for number, (cell, shown) in enumerate(zip(cells, outputs, strict=True), start=1):
        numbered = [
            entry | {"execution_count": number} if "execution_count" in entry else entry for entry in shown
        ]
        cell["outputs"], cell["execution_count"] = numbered, number
    with replacing(notebook) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    for path in NOTEBOOKS:
        if len(sys.argv) == 1 or path.stem in sys.argv[1:]:
            store(path)
            print(f"wrote the outputs of {path}")
