import contextlib

import pytest

from experiments.convert import main
from tests import forked
from tests.data.crystals.scfout import INPUT, scfout, small_structure
from tests.data.crystals.test_openmx import assert_same
from tracegrad.data.crystals.deeph import read_structure


def test_a_calculation_becomes_a_structure_folder(tmp_path):
    structure = small_structure(spinful=True)
    source, output = tmp_path / "openmx.scfout", tmp_path / "structures" / "00"
    source.write_bytes(scfout(structure))
    done = forked.run("experiments.convert", f"source={source}", f"output={output}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"wrote {output}: 3 atoms (2 S s1p1, 1 Mo s2p1d1), {len(structure.edges)} blocks, with spin-orbit coupling, "
        "Fermi level -4.2500 eV, largest deviation from hermiticity "
    )
    assert_same(read_structure(output, overlap=True), structure)


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run the command in this process and return what it prints, or its error."""

    def call(*arguments) -> str:
        monkeypatch.setattr("sys.argv", ["convert", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            main()
        captured = capsys.readouterr()
        return captured.err or captured.out

    return call


def test_shells_and_input_from_elsewhere(tmp_path, convert):
    structure = small_structure()
    source, output = tmp_path / "openmx.scfout", tmp_path / "a"
    source.write_bytes(scfout(structure, text=""))
    (tmp_path / "a.dat").write_text(INPUT.replace("s1p1", "s5p5"))
    options = [f"source={source}", f"output={output}", f"input={tmp_path / 'a.dat'}"]
    assert convert(*options, "shells=[Mo-s2p1d1,S-s1p1]").startswith(f"wrote {output}: 3 atoms")
    assert_same(read_structure(output, overlap=True), structure)
    assert convert(*options, "shells=[Mo-s2p1d1,S-s1p1]").startswith(f"error: {output}: exists and holds")
    assert convert(*options, "shells=[Mo7.0-s2p1d1,S-s1p1]", "overwrite=true").startswith("wrote")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["source=none.scfout", "output=x"],
            "error: none.scfout: cannot be read (No such file or directory)",
        ),
        (["source=none.scfout"], "error: output is needed; give output=VALUE"),
        (["source=a", "output=x", "shells=s2p1d1"], "error: shells=s2p1d1 is not a list"),
        (["sauce=a"], "error: there is no setting 'sauce'; nearest: source"),
    ],
)
def test_errors_are_one_line(convert, arguments, message):
    error = convert(*arguments)
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_help(convert):
    text = convert("--help")
    assert "tracegrad convert source=openmx.scfout output=structures/00" in text
    assert convert() == text
