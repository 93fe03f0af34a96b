import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from experiments.generate import main
from tests import forked
from tests.data.crystals.test_openmx import assert_same
from tests.physics.crystals.fake_openmx import CELLS, SMALL, FakeOpenmx
from tracegrad.data.crystal_files.deeph import read_structure
from tracegrad.physics.crystals.openmx import Openmx
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.structures import crystal_structures

ROOT = Path(__file__).parents[2]
WORDS = [
    "crystal=MG",
    "supercell=[2,1]",
    "bases={C: C5.0-s1p1}",
    "k_spacing=1.0",
    "max_iter=40",
    "structures=3",
]


def command(*arguments):
    return [sys.executable, "-m", "experiments.generate", "kind=crystals", *arguments]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process, without OpenMX, and return what it prints and its error."""

    def call(*arguments):
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["generate", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            main()
        return capsys.readouterr()

    return call


@pytest.fixture
def fake(tmp_path):
    program = FakeOpenmx(tmp_path / "installation")
    structures = crystal_structures(CrystalSettings(**CELLS, structures=3))
    program.expected = {entry.name: program.knows(entry, Openmx(**SMALL)) for entry in structures}
    return program


def test_without_openmx_it_says_how_to_go_on(tmp_path, run):
    output = tmp_path / "out"
    done = run("kind=crystals", f"output={output}", "crystal=BG", "twists=published", "angles=[27.8]")
    assert done.err == ""
    assert "10 structures of 28 to 1084 atoms, without spin-orbit coupling; no OpenMX here" in done.out
    assert (
        f"10 structures wait for OpenMX, which is not installed here. Their inputs are {output}/work"
        in done.out
    )
    assert "openmx=PATH" in done.out
    assert "give the same command again" in done.out
    assert len(list(output.glob("work/*/openmx.dat"))) == 10
    with Image.open(output / "structures.png") as image:
        assert image.width > 1500


@pytest.mark.slow
def test_a_killed_run_leaves_no_calculation_behind_and_goes_on(tmp_path, fake, run):
    output = tmp_path / "out"
    words = [f"output={output}", *WORDS, f"openmx={fake.path}"]
    fake.will("hang", "MG_1")
    process = forked.start("experiments.generate", "kind=crystals", *words)
    end = time.monotonic() + 60
    while not (fake.home / "hanging").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    hanging = int((fake.home / "hanging").read_text())
    process.kill()
    while (
        Path(f"/proc/{hanging}").exists() and "\nState:\tZ" not in Path(f"/proc/{hanging}/status").read_text()
    ):
        assert time.monotonic() < end
        time.sleep(0.05)

    fake.will("good", "MG_1")
    done = run("kind=crystals", *words)
    assert done.err == ""
    assert f"wrote {output}/structures: 3 structures\n" in done.out
    assert [fake.calls(name) for name in fake.expected] == [1, 2, 1]
    for name, expected in fake.expected.items():
        assert_same(read_structure(output / "structures" / name, overlap=True), expected)
    content = json.loads((output / "provenance.json").read_text())
    assert content["command"].startswith("tracegrad generate kind=crystals output=out crystal=MG")
    assert str(tmp_path) not in json.dumps(content)


def test_what_is_left_out_is_said(tmp_path, fake, run):
    fake.will("unconverged", "MG_0")
    words = ["kind=crystals", f"output={tmp_path / 'out'}", *WORDS, f"openmx={fake.path}", "figure=0"]
    done = run(*words)
    assert done.err == ""
    assert "left out MG_0: the SCF did not converge in 40 cycles" in done.out.replace("\n", " ")
    assert "2 structures, 1 left out" in done.out
    assert not (tmp_path / "out" / "structures.png").exists()
    assert run(*words, "strict=true").err.startswith("error: MG_0: the SCF did not converge")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["crystal=MG"], "output is needed; give output=VALUE"),
        (["output=x"], "nothing to compute: give crystal or geometries"),
        (["output=x", "crystal=water"], "crystal=water is unknown; it is one of MG"),
        (["output=x", "crystal=BG", "angles=[1.0]"], "no commensurate twist within 0.1 of 1 degrees"),
        (["output=x", "crystal=BG", "figure=9"], "figure is 9; give a number of structures from 0 to 6"),
        (["output=x", "crystal=BG", "openmx=/no/openmx"], "openmx=/no/openmx: no such program"),
        (["output=x", "flavour=dynamic"], "there is no setting 'flavour'"),
        (["output=x", "jobs=many"], "jobs is 'many', but it must be a whole number"),
    ],
)
def test_errors_are_one_clean_line(run, arguments, message):
    error = run("kind=crystals", *arguments).err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not (ROOT / "x").exists()


def test_both_helps_name_the_other(run):
    crystals = run("kind=crystals", "--help").out
    assert "tracegrad generate kind=crystals output=bg crystal=BG" in crystals
    assert "k_spacing: 0.112" in crystals
    assert "tracegrad generate --help" in crystals
    assert "tracegrad generate kind=crystals --help" in run("--help").out
    assert run("kind=solid", "output=x").err == "error: kind=solid is unknown; it is molecules or crystals\n"


@pytest.mark.slow
def test_the_signal_of_the_terminal_stops_the_command(tmp_path, fake):
    fake.will("hang", "MG_0")
    words = [f"output={tmp_path / 'out'}", *WORDS, f"openmx={fake.path}"]
    process = subprocess.Popen(
        command(*words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not (fake.home / "hanging").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    assert error == "error: stopped by SIGINT after 0 of 3 structures; run the same command again to go on\n"
    assert process.returncode == 1
