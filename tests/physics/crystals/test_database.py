import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import pytest

from tests.data.crystals.test_openmx import assert_same
from tests.physics.crystals.fake_openmx import CELLS, SMALL, FakeOpenmx
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import read_structure
from tracegrad.errors import ConfigError, GenerationError
from tracegrad.physics.crystals.calculations import ProgramSettings
from tracegrad.physics.crystals.database import generate_crystals
from tracegrad.physics.crystals.openmx import Openmx
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.structures import crystal_structures

SETTINGS = CrystalSettings(**CELLS, structures=3)
ENGINE = Openmx(**SMALL)
STRUCTURES = crystal_structures(SETTINGS)


@pytest.fixture
def fake(tmp_path):
    program = FakeOpenmx(tmp_path / "installation")
    program.expected = [program.knows(entry, ENGINE) for entry in STRUCTURES]
    return program


@pytest.fixture
def generate(fake, tmp_path):
    """The generation with the fake program (``here=False``: without a program), and the lines that it reports."""

    def call(settings=SETTINGS, structures=STRUCTURES, engine=ENGINE, *, here=True, running=None, **options):
        lines = []
        summary = generate_crystals(
            structures,
            settings,
            replace(engine, openmx=str(fake.path)) if here else engine,
            tmp_path / "out",
            running or ProgramSettings(threads=2),
            command="the command",
            report=lines.append,
            **options,
        )
        return summary, lines

    return call


def finished(tmp_path):
    return sorted(path.name for path in (tmp_path / "out" / "structures").iterdir())


def test_a_database_is_made(generate, fake, tmp_path):
    for name in ("MG_0", "MG_1"):  # each waits until the other runs
        fake.will("together", name)
    progress = []
    summary, lines = generate(
        running=ProgramSettings(threads=2, jobs=2), on_progress=lambda *step: progress.append(step)
    )
    assert (summary.finished, summary.left_out, summary.waiting, lines) == (3, [], [], [])
    for entry, structure in zip(STRUCTURES, fake.expected, strict=True):
        assert_same(read_structure(tmp_path / "out" / "structures" / entry.name, overlap=True), structure)
    assert CrystalDatabase(tmp_path / "out" / "structures").names == ["MG_0", "MG_1", "MG_2"]
    assert (fake.home / "calls" / "MG_0").read_text() == "openmx.dat -nt 2 threads 2\n"
    assert f"DATA.PATH {fake.home}/DFT_DATA19\n" in (tmp_path / "out/work/MG_0/openmx.dat").read_text()
    assert (progress[0], progress[-1]) == ((0, 3), (3, 3))

    made = json.loads((tmp_path / "out" / "structures" / "MG_1" / "provenance.json").read_text())
    assert made["engine"] == "OpenMX 3.9.9"
    assert made["crystal"] == "monolayer graphene"
    assert made["SCF cycles"] == 12
    assert made["bases"] == {"C": "C5.0-s1p1"}
    assert made["k-mesh"] == [2, 3, 1]
    text = (tmp_path / "out" / "provenance.json").read_text()
    content = json.loads(text)
    assert content["command"] == "the command"
    assert content["counts"] == {"structures": 3, "left out": 0, "not yet computed": 0}
    assert content["settings"]["crystal"] == "MG"
    assert str(tmp_path) not in text


def test_spin_orbit_coupling(generate, fake, tmp_path):
    settings = CrystalSettings(crystal="BB", supercell=[1, 1], structures=1)
    engine = Openmx(bases={"Bi": "Bi8.0-s1p1"}, kmesh=[1, 1, 1])
    structures = crystal_structures(settings)
    expected = fake.knows(structures[0], engine, spin_orbit=True)
    generate(settings, structures, engine)
    found = read_structure(tmp_path / "out" / "structures" / "BB_0", overlap=True)
    assert found.spinful
    assert_same(found, expected)


def test_what_fails_is_reported_left_out_and_tried_again(generate, fake, tmp_path):
    fake.will("fail", "MG_0")
    fake.will("silent", "MG_1")
    summary, lines = generate()
    assert summary.left_out == ["MG_0", "MG_1"]
    assert lines == [
        "left out MG_0: OpenMX ended with status 3; it last printed 'Segmentation fault'",
        "left out MG_1: OpenMX ended without a complete openmx.out and openmx.scfout; it last printed 'no PAO'",
    ]
    assert finished(tmp_path) == ["MG_2"]
    content = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [entry["structure"] for entry in content["left out"]] == ["MG_0", "MG_1"]
    for name in ("MG_0", "MG_1"):
        fake.will("good", name)
    summary, lines = generate()
    assert (summary.finished, lines) == (3, [])
    assert [fake.calls(entry.name) for entry in STRUCTURES] == [2, 2, 1]


def test_an_scf_that_does_not_converge_is_left_out(generate, fake, tmp_path):
    fake.will("unconverged", "MG_1")
    for _ in range(2):
        _, lines = generate()
        assert lines == ["left out MG_1: the SCF did not converge in 40 cycles (NormRD 0.000000001917)"]
        assert finished(tmp_path) == ["MG_0", "MG_2"]
    assert fake.calls("MG_1") == 1  # its outputs existed
    with pytest.raises(GenerationError, match=r"MG_1: the SCF did not converge in 40 cycles.*strict=true"):
        generate(strict=True)


def test_nothing_converged(generate, fake):
    for entry in STRUCTURES:
        fake.will("unconverged", entry.name)
    with pytest.raises(GenerationError, match=r"nothing could be written, 3 left out: MG_0: the SCF did not"):
        generate()


def test_a_damaged_output_is_named(generate, fake, tmp_path):
    fake.will("truncated", "MG_2")
    _, lines = generate()
    assert lines[0].startswith("left out MG_2: ")
    assert "openmx.scfout: ends within the" in lines[0]
    assert finished(tmp_path) == ["MG_0", "MG_1"]
    assert "work/MG_2/openmx.scfout" in (tmp_path / "out" / "provenance.json").read_text()


def alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_time_limit_ends_a_calculation(generate, fake, tmp_path):
    fake.will("hang", "MG_1")
    start = time.monotonic()
    _, lines = generate(running=ProgramSettings(time_limit=2.0))
    assert time.monotonic() - start < 20
    assert lines == ["left out MG_1: stopped by time_limit=2 seconds; it last printed 'Welcome to OpenMX'"]
    assert not alive(int((fake.home / "hanging").read_text()))
    assert finished(tmp_path) == ["MG_0", "MG_2"]


def test_a_calculation_that_is_killed_is_done_again(generate, fake, tmp_path):
    fake.will("hang", "MG_1")

    def kill():
        end = time.monotonic() + 20
        while not (fake.home / "hanging").exists() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(int((fake.home / "hanging").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    _, lines = generate()
    killer.join()
    assert lines == ["left out MG_1: OpenMX was killed by SIGKILL; it last printed 'Welcome to OpenMX'"]
    fake.will("good", "MG_1")
    (tmp_path / "out" / "work" / "MG_1" / "leftover").touch()
    assert generate()[0].finished == 3
    assert not (tmp_path / "out" / "work" / "MG_1" / "leftover").exists()


def test_a_signal_stops_the_run_and_its_calculations(generate, fake, tmp_path):
    fake.will("hang", "MG_1")

    steps = []

    def stop(done, total):
        steps.append(done)
        if steps.count(1) == 2:  # the first has ended, and the second has started
            end = time.monotonic() + 20
            while not (fake.home / "hanging").exists() and time.monotonic() < end:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(
        GenerationError, match="stopped by SIGTERM after 1 of 3 structures; run the same command"
    ):
        generate(on_progress=stop)
    assert not alive(int((fake.home / "hanging").read_text()))
    fake.will("good", "MG_1")
    assert generate()[0].finished == 3
    assert [fake.calls(entry.name) for entry in STRUCTURES] == [1, 2, 1]


def test_without_the_program_inputs_are_written_and_outputs_converted(generate, fake, tmp_path):
    summary, _ = generate(here=False)
    assert (summary.finished, summary.waiting) == (0, ["MG_0", "MG_1", "MG_2"])
    assert not (tmp_path / "out" / "provenance.json").exists()
    work = tmp_path / "out" / "work"
    inputs = {path.parent.name: path for path in sorted(work.glob("*/openmx.dat"))}
    assert list(inputs) == ["MG_0", "MG_1", "MG_2"]
    # The user sets the path in the inputs and runs two of the calculations, one of which does not finish.
    edited = inputs["MG_0"].read_text().replace("HS.fileout", "DATA.PATH here\nHS.fileout")
    inputs["MG_0"].write_text(edited)
    for name in ("MG_0", "MG_1"):
        shutil.copy(fake.home / "scfout" / name, work / name / "openmx.scfout")
    (work / "MG_0" / "openmx.out").write_text("   SCF=   9  NormRD=  0.000000000001  Uele= -3.5\n")
    summary, lines = generate(here=False)
    assert (summary.finished, summary.waiting, lines) == (1, ["MG_1", "MG_2"], [])
    assert inputs["MG_0"].read_text() == edited
    assert_same(
        read_structure(tmp_path / "out" / "structures" / "MG_0", overlap=True),
        fake.expected[0],
    )
    content = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert content["counts"] == {"structures": 1, "left out": 0, "not yet computed": 2}
    # With a program the other structures are computed.
    assert generate()[0].finished == 3
    assert [fake.calls(entry.name) for entry in STRUCTURES] == [0, 1, 1]


def test_the_path_of_the_data_goes_into_inputs_for_elsewhere(generate, tmp_path):
    generate(engine=replace(ENGINE, data_path="/elsewhere/DFT_DATA19"), here=False)
    assert "DATA.PATH /elsewhere/DFT_DATA19\n" in (tmp_path / "out/work/MG_0/openmx.dat").read_text()


@pytest.mark.parametrize("what", ["elements", "lattice", "positions", "basis", "spin"])
def test_outputs_of_something_else_are_refused(generate, fake, tmp_path, what):
    entry, engine, spin_orbit = STRUCTURES[1], ENGINE, False
    atoms = entry.atoms.copy()
    if what == "elements":
        atoms.numbers[0] = 16
        engine = replace(engine, bases={"C": "C5.0-s1p1", "S": "S7.0-s1p1"})
    elif what == "lattice":
        atoms.set_cell(atoms.cell.array * 1.001)
    elif what == "positions":
        atoms.positions[2] += [0.01, 0, 0]
    elif what == "basis":
        engine = replace(engine, bases={"C": "C5.0-s2p1"})
    else:
        spin_orbit = True
    fake.knows(replace(entry, atoms=atoms), engine, spin_orbit)
    _, lines = generate()
    assert len(lines) == 1
    assert f"MG_1/openmx.scfout: the {what} differ from those of openmx.dat; delete" in lines[0]


def test_atoms_may_be_moved_by_lattice_vectors(generate, fake, tmp_path):
    atoms = STRUCTURES[0].atoms.copy()
    atoms.positions[1] += atoms.cell.array[0]
    moved = replace(STRUCTURES[0], atoms=atoms)
    fake.knows(moved, ENGINE)
    assert generate(structures=[moved])[0].finished == 1


def test_work_folders_can_be_removed(generate, tmp_path):
    generate(keep_work=False)
    assert list((tmp_path / "out" / "work").iterdir()) == []
    assert generate(keep_work=False)[0].finished == 3


def test_other_settings_are_refused_with_their_differences(generate, tmp_path):
    generate(here=False)
    changed = replace(ENGINE, energy_cutoff=200.0)
    with pytest.raises(GenerationError) as caught:
        generate(engine=changed, here=False)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  energy_cutoff: 300.0 there, 200.0 now"
    assert lines[2].startswith("  inputs (sha256): ")
    with pytest.raises(GenerationError, match=r"inputs \(sha256\)"):
        generate(structures=STRUCTURES[:2], here=False)
    (tmp_path / "out" / "settings.json").write_text("[1]")
    with pytest.raises(GenerationError, match=r"settings\.json: not the settings of a database"):
        generate(here=False)


def test_foreign_outputs_are_left_alone(generate, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(GenerationError, match=r"out holds thesis\.tex; choose another output"):
        generate(here=False)
    with pytest.raises(GenerationError, match="is no folder"):
        generate_crystals(STRUCTURES, SETTINGS, ENGINE, tmp_path / "out" / "thesis.tex")


def test_a_second_process_is_refused(generate, tmp_path):
    def second(done, total):
        with pytest.raises(GenerationError, match="another process is working on this output"):
            generate(here=False)

    generate(here=False, on_progress=second)


def test_the_data_of_openmx_has_to_be_there(generate, fake):
    (fake.home / "DFT_DATA19" / "PAO" / "C5.0.pao").unlink()
    with pytest.raises(ConfigError, match=r"data_path: .*DFT_DATA19 has no PAO/C5\.0\.pao; give the folder"):
        generate()
    shutil.rmtree(fake.home / "DFT_DATA19")
    with pytest.raises(ConfigError, match="data_path is needed: the folder DFT_DATA19"):
        generate()


def test_programs(fake, monkeypatch):
    monkeypatch.setenv("PATH", f"{fake.path.parent}:/usr/bin:/bin")
    settings = ProgramSettings(launcher="env -u NOTHING", threads=4)
    expected = ["env", "-u", "NOTHING", str(fake.path), "openmx.dat", "-nt", "4"]
    assert settings.command(Openmx()) == expected
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert settings.command(Openmx()) is None
    with pytest.raises(ConfigError, match="openmx=/nowhere/openmx: no such program"):
        settings.command(Openmx(openmx="/nowhere/openmx"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"launcher": "no_mpirun -np 4"}, "there is no program no_mpirun"),
        ({"threads": 0}, "threads=0"),
        ({"jobs": 0}, "jobs=0"),
        ({"time_limit": 0.0}, r"time_limit=0\.0"),
    ],
)
def test_ways_to_run_without_sense_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        ProgramSettings(**changed)
