"""The engine of docs/extend-a-dft-code.md, outside of the package, computes a database of graphene."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.generate import main
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.physics.bands.bands import band_structure
from tracegrad.physics.bands.kpath import k_path, periodic_axes

PAGE = Path(__file__).parents[3] / "docs" / "extend-a-dft-code.md"


@pytest.mark.slow
def test_a_code_from_outside_the_package(tmp_path, monkeypatch, capsys):
    text = PAGE.read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "tight_binding.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^    tracegrad generate (.*)$", text, re.MULTILINE)
    small = ["supercell=[1,1]", "amplitude=0", "figure=0"]
    monkeypatch.setattr("sys.argv", ["generate", *command.split(), *small])
    main()
    assert "wrote tb/structures: 2 structures" in capsys.readouterr().out

    database = CrystalDatabase(tmp_path / "tb" / "structures", overlap=True)
    assert len(database) == 2
    structure = database[0]
    periodic = periodic_axes(structure.edges)
    bands, _ = band_structure(structure, k_path(structure.lattice, periodic, path="GK", npoints=2))
    assert bands.energies[0] == pytest.approx([-9.0, 9.0])
    assert np.abs(bands.energies[-1]).max() < 1e-12

    made = json.loads((tmp_path / "tb" / "structures" / "MG_0" / "provenance.json").read_text())
    assert (made["engine"], made["hopping (eV)"], made["SCF cycles"]) == ("tight binding 1.0", -3.0, 1)
    settings = json.loads((tmp_path / "tb" / "settings.json").read_text())
    assert settings["hopping"] == -3.0
    assert settings["crystal"] == "MG"
