"""Output of ABACUS, written literally in both layouts."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.crystals.abacus_files import (
    RYDBERG,
    dense_cells,
    log,
    newer,
    older,
    write_eigenvalues,
    write_run,
)
from tests.data.crystals.scfout import small_structure
from tests.data.crystals.test_openmx import assert_same
from tracegrad.data.crystal_files.abacus.reader import ABACUSReader
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError


@pytest.fixture(scope="module", params=[False, True], ids=["spinless", "nspin 4"])
def structure(request: pytest.FixtureRequest) -> Structure:
    """In two pairs S is 0 and H is not."""
    whole = small_structure(request.param)
    overlap = whole.blocks("overlap")
    lacking = [[-1, 0, 0, 1, 2], [1, 0, 0, 2, 1]]
    for edge, block in zip(whole.edges.tolist(), overlap, strict=True):
        block *= edge not in lacking
    return replace(whole, overlap=np.concatenate([block.ravel() for block in overlap]))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["older", "newer"])
def test_round_trip(tmp_path: Path, structure: Structure, layout: str, packed: bool) -> None:
    output = write_run(tmp_path / "00", structure, layout=layout)
    if packed:
        for path in output.iterdir():
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    database = CrystalDatabase(tmp_path, overlap=True)
    assert isinstance(database.reader, ABACUSReader)
    assert database.names == ["00"]
    assert_same(database[0], replace(structure, name="00"), 1e-11)
    assert database.shells == structure.shells
    assert database.spinful == structure.spinful
    assert database.reader.notes("00") == []
    assert database.reader.reference_bands("00") is None
    database.check_files()
    assert CrystalDatabase(output, overlap=True)[0].name == "OUT.ABACUS"


def test_without_overlaps_and_files_of_other_programs(tmp_path: Path) -> None:
    structure = small_structure()
    output = write_run(tmp_path, structure, layout="newer")
    (output / "sr_nao.csr").unlink()
    path = output / "hrs1_nao.csr"
    text = (
        path.read_text()
        .replace("# CSR column indices", "column_indices")
        .replace("# CSR row pointers", "row_indptr")
    )
    path.write_text(text.replace("1 # spin index", "1 # spin index, E_Fermi = -3.5 eV"))
    found = CrystalDatabase(output)[0]
    assert found.fermi_level == -3.5
    assert found.overlap is None
    np.testing.assert_allclose(found.hamiltonian, structure.hamiltonian, atol=1e-11)
    with pytest.raises(DataError, match=r"has no file of S \(such as sr_nao\.csr\)"):
        CrystalDatabase(output, overlap=True)[0]


@pytest.mark.parametrize("layout", ["older", "newer"])
def test_collinear_spin(tmp_path: Path, layout: str) -> None:
    up = small_structure()
    down = replace(up, hamiltonian=1.5 * up.hamiltonian)
    output = write_run(tmp_path, up, down, layout=layout)
    for spin, expected in (("up", up), ("down", down)):
        found = CrystalDatabase(output, overlap=True, spin=spin)[0]
        assert_same(found, replace(expected, name=found.name), 1e-11)
    with pytest.raises(DataError, match=r"collinear spin-polarised .* choose one with spin=up or spin=down"):
        CrystalDatabase(output)[0]
    with pytest.raises(ConfigError, match="spin is 'left'; give up, down or both"):
        CrystalDatabase(output, spin="left")
    sides = {CrystalDatabase(output, spin=spin).identity()["head_sha256"] for spin in ("up", "down")}
    assert len(sides) == 2
    names = {"older": "data-HR-sparse_SPIN1.csr", "newer": "hrs2_nao.csr"}
    if layout == "newer":
        other = output / "hrs1_nao.csr"
        (output / names[layout]).write_bytes(other.read_bytes())
        with pytest.raises(DataError, match="is the file of spin 1, not of spin 2"):
            CrystalDatabase(output, spin="down")[0]
    (output / names[layout]).unlink()
    message = {"older": "not a collinear spin-polarised", "newer": "has no file of H of spin 2"}[layout]
    with pytest.raises(DataError, match=message):
        CrystalDatabase(output, spin="down")[0]


@pytest.mark.parametrize("layout", ["older", "newer"])
def test_the_last_ionic_step_is_read(tmp_path: Path, layout: str) -> None:
    first = small_structure()
    last = replace(first, positions=first.positions + 0.1, hamiltonian=2 * first.hamiltonian)
    output = write_run(tmp_path, first, layout=layout)
    for path in output.glob("*.csr"):
        matrix, letter = ("overlap", "S") if path.name.startswith(("s", "data-S")) else ("hamiltonian", "H")
        scale = 1.0 if letter == "S" else RYDBERG
        text = ""
        for step, one in enumerate((first, last)):
            cells = {cell: m / scale for cell, m in dense_cells(one, matrix).items()}
            text += (
                older(cells, letter, step) if layout == "older" else newer(cells, letter, one, step=step + 1)
            )
        path.write_text(text)
    (output / "running_scf.log").rename(output / "running_md.log")
    (output / "running_md.log").write_text(log([first, last]))
    database = CrystalDatabase(output, overlap=True)
    assert_same(database[0], replace(last, name=output.name), 1e-11)
    assert database.reader.notes("OUT.ABACUS") == ["the last of 2 ionic steps"]
    if layout == "older":
        (output / "running_md.log").write_text(log([first]))
        with pytest.raises(DataError, match=r"positions of 1 ionic steps, but the matrices are of step 2"):
            database[0]
    overlap = next(path for path in output.glob("*.csr") if path.name.startswith(("sr", "data-SR")))
    one = dense_cells(first, "overlap")
    overlap.write_text(older(one, "S", 0) if layout == "older" else newer(one, "S", first))
    (output / "running_md.log").write_text(log([first, last]))
    with pytest.raises(DataError, match="are of the ionic steps 2 and 1; take both of one step"):
        database[0]


@pytest.mark.parametrize("layout", ["older", "newer"])
@pytest.mark.parametrize("spins", [1, 2])
def test_eigenvalues_of_the_run(tmp_path: Path, layout: str, spins: int) -> None:
    structure = small_structure()
    channels = [structure, replace(structure, hamiltonian=2 * structure.hamiltonian)][:spins]
    output = write_run(tmp_path, *channels, layout=layout)
    random = np.random.default_rng(0)
    k, energies = random.random((3, 3)), np.sort(random.normal(size=(spins, 3, 7)), axis=2)
    write_eigenvalues(output, structure, k, energies, layout)
    bands = CrystalDatabase(output, spin="down" if spins == 2 else None).reader.reference_bands("OUT.ABACUS")
    assert bands is not None
    assert bands.absolute
    np.testing.assert_allclose(bands.k, k, atol=1e-9)
    np.testing.assert_allclose(bands.energies, energies, atol=1e-12)


def test_shells_come_from_the_log_else_from_stru_else_from_the_option(tmp_path: Path) -> None:
    structure = small_structure()
    output = write_run(tmp_path, structure, layout="newer", texts=["STRU"])
    assert CrystalDatabase(output).shells == structure.shells
    assert CrystalDatabase(output)[0].fermi_level is None
    (tmp_path / "STRU").unlink()
    with pytest.raises(
        DataError, match=r"shells of Mo, S are not told by a log or a STRU .* shells=\[Mo-s2p2d1\]"
    ):
        CrystalDatabase(output)[0]
    given = CrystalDatabase(output, reader=lambda path: ABACUSReader(path, ["Mo-s2p1d1", "S-s1p1"]))
    assert given.shells == structure.shells
    wrong = CrystalDatabase(output, reader=lambda path: ABACUSReader(path, ["Mo-s2p1d1", "S-s2p1"]))
    with pytest.raises(DataError, match=r"have 18 rows, but the shells .* of the option shells make 20"):
        wrong[0]


def test_two_species_of_one_element(tmp_path: Path) -> None:
    """With the same basis they are one element; with two they are refused by their names."""
    structure = small_structure()
    cells = {cell: m / RYDBERG for cell, m in dense_cells(structure, "hamiltonian").items()}
    output = tmp_path / "OUT.x"
    output.mkdir()
    text = newer(cells, "H", structure, labels="Mo S1 S2").replace("\n 1 2\n", "\n 1 1 1\n")
    (output / "hrs1_nao.csr").write_text(text)
    stru = (
        "ATOMIC_SPECIES\nMo 96 a\nS1 32 b\nS2 32 b\nNUMERICAL_ORBITAL\nMo_2s1p1d.orb\nS_1s1p.orb\nS_{}.orb\n"
    )
    (tmp_path / "STRU").write_text(stru.format("1s1p"))
    np.testing.assert_allclose(CrystalDatabase(output)[0].hamiltonian, structure.hamiltonian, atol=1e-11)
    (tmp_path / "STRU").write_text(stru.format("2s1p"))
    with pytest.raises(DataError, match="species S1 and S2 of S have the shells s1p1 and s2p1"):
        CrystalDatabase(output)[0]


def replaced(old: str, new: str, count: int = 1) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, count)

    return change


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("older", lambda text: text[: len(text) // 2], r"ends within the cell .*truncated"),
        ("newer", lambda text: text[: len(text) // 2], r"ends within the cell .*truncated"),
        ("newer", lambda text: text[:200], "lattice and atoms in its first lines are not understood"),
        ("newer", lambda text: text[:90], "has no line '# spin index'"),
        ("older", lambda text: text + "1 2 3\n", "3 numbers follow after the 5 cells"),
        ("older", replaced("e-02 ", "e-0x "), "could not convert"),
        ("older", replaced("STEP: 0", "H of a program"), "begins with 'H of a program', which is neither"),
        ("older", replaced("H(R): 18", "H(R): -18"), "which is neither"),
        ("older", replaced("H(R): 18", "H(R): 17"), "begins with|do not fit|ends within"),
        (
            "newer",
            replaced("18 # number of loc", "18.5 # number of loc"),
            "number of localized basis is '18.5'",
        ),
        (
            "newer",
            replaced(" 1 # spin index", " 1 # spin index\n # representation: gamma"),
            "a gamma-only run",
        ),
        ("newer", replaced(" Mo S\n", " Mo X\n"), "'X' begins with no element"),
        ("newer", replaced("# CSR values", "7 # CSR values"), "could not convert|begins with"),
    ],
)
def test_damage(tmp_path: Path, layout: str, change: Callable[[str], str], message: str) -> None:
    output = write_run(tmp_path, small_structure(), layout=layout)
    path = next(path for path in output.iterdir() if path.name.startswith(("hrs1", "data-HR")))
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message) as caught:
        CrystalDatabase(output)[0]
    assert str(output) in str(caught.value)


def test_files_that_are_missing_or_too_many(tmp_path: Path) -> None:
    output = write_run(tmp_path, small_structure())
    (output / "hrs1_nao.csr").write_text("x")
    with pytest.raises(
        DataError, match=r"holds data-HR-sparse_SPIN0\.csr and hrs1_nao\.csr, which are both H of spin 1"
    ):
        CrystalDatabase(output)[0]
    (output / "hrs1_nao.csr").unlink()
    (output / "running_relax.log").write_text("")
    with pytest.raises(DataError, match=r"holds the logs running_relax\.log, running_scf\.log"):
        CrystalDatabase(output)[0]
    (output / "running_relax.log").unlink()
    (output / "running_scf.log").write_text("nothing")
    with pytest.raises(DataError, match=r"running_scf\.log: has no lattice constant"):
        CrystalDatabase(output)[0]
    (output / "running_scf.log").unlink()
    with pytest.raises(DataError, match=r"has no running_\*\.log, from which the atoms are taken"):
        CrystalDatabase(output)[0]


def test_structures_of_two_runs(tmp_path: Path) -> None:
    structure = small_structure()
    output = write_run(tmp_path, structure, layout="newer")
    moved = replace(structure, positions=structure.positions + 0.01)
    (output / "sr_nao.csr").write_text(newer(dense_cells(structure, "overlap"), "S", moved))
    with pytest.raises(DataError, match="have different atoms, positions or lattices"):
        CrystalDatabase(output, overlap=True)[0]


def test_the_step_in_the_name(tmp_path: Path) -> None:
    """With out_app_flag 0 each step has files of its own."""
    structure = small_structure()
    output = write_run(tmp_path, replace(structure, hamiltonian=2 * structure.hamiltonian), layout="newer")
    (output / "hrs1_nao.csr").rename(output / "hrs1g2_nao.csr")
    write_run(tmp_path / "last", structure, layout="newer")
    (tmp_path / "last" / "OUT.ABACUS" / "hrs1_nao.csr").rename(output / "hrs1g10_nao.csr")
    np.testing.assert_allclose(CrystalDatabase(output)[0].hamiltonian, structure.hamiltonian, atol=1e-11)
