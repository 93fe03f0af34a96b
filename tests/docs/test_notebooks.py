"""The notebooks run as they stand, and are stored with what a reader wants to see."""

import json
from pathlib import Path

import pytest

from tests.docs.notebooks import NOTEBOOKS, execute


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = execute(notebook, tmp_path, quick=True)
    figures = sum("image/png" in entry.get("data", {}) for cell in outputs for entry in cell)
    assert figures >= 4


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_with_its_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    assert sum("image/png" in entry.get("data", {}) for cell in code for entry in cell["outputs"]) >= 4
    assert "/tmp/" not in json.dumps(code)


def test_there_is_a_molecule_and_a_bilayer() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"bilayer", "molecule"}
