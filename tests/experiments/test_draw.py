import contextlib

import pytest
from PIL import Image

from experiments.draw import main
from tests.data.scfout import small_structure
from tracegrad.data.deeph import write_structure


@pytest.fixture
def draw(monkeypatch, capsys):
    """The command in this process: what it prints, or its error."""

    def call(*arguments) -> str:
        monkeypatch.setattr("sys.argv", ["draw", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            main()
        captured = capsys.readouterr()
        return captured.err or captured.out

    return call


def test_structures_of_a_database_are_drawn(tmp_path, draw):
    for seed in range(7):
        write_structure(small_structure(seed=seed), tmp_path / "db" / f"s{seed}")
    output = tmp_path / "x.png"
    source = f"source={tmp_path / 'db'}"
    assert draw(source, f"output={output}", "name=[s1,s3]") == f"wrote {output}: s1, s3\n"
    with Image.open(output) as image:
        assert image.width > 1000
    assert draw(source, f"output={output}").startswith("error: name=* fits 7 structures (s0, s1")
    assert draw(source, f"output={output}", "name=7").startswith("error: name=7 is not text")
    assert draw(f"source={tmp_path / 'db' / 's2'}", f"output={tmp_path / 'x.gif'}").startswith(
        f"error: {tmp_path / 'x.gif'}: figures are written as .png or .pdf"
    )


def test_help(draw):
    text = draw("--help")
    assert "python -m experiments.draw source=" in text
    assert draw() == text
