import ase.io
import pytest
from ase.build import graphene, molecule
from PIL import Image

from experiments.draw import main
from tests.data.crystals.scfout import small_structure
from tests.experiments.in_process import caller
from tracegrad.data.crystal_files.deeph import write_structure


@pytest.fixture
def draw(monkeypatch, capsys):
    return caller("draw", main, monkeypatch, capsys)


def test_structures_of_a_database_are_drawn(tmp_path, draw):
    for seed in range(7):
        write_structure(small_structure(seed=seed), tmp_path / "db" / f"s{seed}")
    output = tmp_path / "x.png"
    source = f"source={tmp_path / 'db'}"
    assert draw(source, f"output={output}", "name=[s1,s3]") == f"wrote {output}: s1, s3\n"
    with Image.open(output) as image:
        assert image.width > 1000
    assert draw(source, f"output={output}").startswith("error: name=* matches 7 structures (s0, s1")
    assert draw(source, f"output={output}", "name=7").startswith("error: name=7 is not text")
    assert draw(f"source={tmp_path / 'db' / 's2'}", f"output={tmp_path / 'x.gif'}").startswith(
        f"error: {tmp_path / 'x.gif'}: figures are written as .png or .pdf"
    )


def test_frames_of_a_geometry_file_are_drawn(tmp_path, draw):
    cell = graphene(vacuum=10)
    cell.pbc = True
    ase.io.write(tmp_path / "md.xyz", [cell, cell * (2, 1, 1)])
    ase.io.write(tmp_path / "w.xyz", molecule("H2O"))
    output = tmp_path / "x.png"
    words = (f"source={tmp_path / 'md.xyz'}", f"output={output}")
    assert (
        draw(*words) == f"error: {tmp_path / 'md.xyz'}: holds 2 frames; choose one with frame=0 ... frame=1\n"
    )
    assert draw(*words, "frame=-1") == f"wrote {output}: md -1\n"
    assert output.stat().st_size > 5000
    assert draw(*words, "name=x").startswith("error: name=x chooses structures of a database")
    assert draw(*words, "frame=x").startswith("error: frame is 'x'; give a whole number")
    assert "the cell has 0 vectors; give three" in draw(f"source={tmp_path / 'w.xyz'}", f"output={output}")
    write_structure(small_structure(), tmp_path / "s")
    assert draw(f"source={tmp_path / 's'}", f"output={output}", "frame=0").startswith(
        "error: frame=0 chooses a frame of a geometry file"
    )


def test_help(draw):
    text = draw("--help")
    assert "tracegrad draw source=" in text
    assert draw() == text
