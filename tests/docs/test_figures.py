"""The scripts that draw figures of the documentation run."""

import runpy
from pathlib import Path

import pytest

from tests.checkpoints import write_run
from tests.docs.pages import DOCS


@pytest.mark.slow
def test_energy_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An untrained network: converged energies are conserved, those of its densities are not."""
    write_run(tmp_path / "run")
    script = runpy.run_path(str(DOCS / "figures" / "energy_drift.py"))
    monkeypatch.setitem(script["main"].__globals__, "CYCLES", {0: "none", 50: "all"})
    monkeypatch.setitem(script["main"].__globals__, "MOST_STEPS", 2)
    output = tmp_path / "drift.png"
    script["main"]([str(tmp_path / "run"), "--frames", "2", "--output", str(output)])
    assert output.stat().st_size > 5000
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    largest = {row[1].strip(): float(row[2].split()[0]) for row in rows}
    assert largest["all"] < 5 < largest["none"]
