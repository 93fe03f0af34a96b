"""Damaged and foreign folders of DeepH."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.crystals.scfout import small_structure
from tests.data.crystals.test_deeph import newer_folder
from tracegrad.data.crystal_files.deeph import read_structure
from tracegrad.data.crystals.structure import hermiticity_error
from tracegrad.errors import DataError


def _set(name: str, **datasets):
    def change(folder: Path) -> None:
        with h5py.File(folder / name, "a") as file:
            for key, value in datasets.items():
                del file[key]
                if value is not None:
                    file[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split_hkb": True}, r"info\.json: H is stored in two parts"),
        ({"atoms_quantity": 4}, r"info\.json: atoms_quantity is 4, but POSCAR has 3"),
        ({"elements_orbital_map": {"Mo": [0, 0, 1, 2]}}, "elements_orbital_map has None for S"),
        ({"elements_orbital_map": {"Mo": [0, 1, 0, 2], "S": [0, 1]}}, "ascending degrees"),
        ({"elements_orbital_map": []}, "elements_orbital_map has None"),
        ({"spinful": True}, r"block \[.*\] is of shape \(4, 4\), but complex128 of shape \(8, 8\)"),
        ({"spinful": None}, "spinful is None; true or false"),
        (_set("hamiltonian.h5", entries=None), "no array 'entries', but"),
        (_set("hamiltonian.h5", entries=np.zeros(7)), r"entries is float64 of shape \(7,\)"),
        (_set("hamiltonian.h5", chunk_boundaries=np.zeros(46, int)), "chunk_boundaries do not fit"),
        (_set("hamiltonian.h5", atom_pairs=np.zeros((0, 5), int)), "no blocks"),
        (
            _set("hamiltonian.h5", atom_pairs=np.full((45, 5), 3)),
            r"the edge \[3, 3, 3, 3, 3\] .* does not fit 3 atoms",
        ),
        (lambda folder: (folder / "POSCAR").write_text("a\n1\n"), "POSCAR: not understood"),
        (
            lambda folder: (folder / "POSCAR").write_text(
                (folder / "POSCAR").read_text().replace("1 1 1", "1 1 99999999999")
            ),
            "POSCAR: not understood .*atoms in",
        ),
    ],
)
def test_damage_in_the_newer_format(tmp_path, change, message):
    info = change if isinstance(change, dict) else {}
    folder = newer_folder(tmp_path / "a", small_structure(), **info)
    if not isinstance(change, dict):
        change(folder)
    with pytest.raises(DataError, match=message) as caught:
        read_structure(folder)
    assert str(caught.value).startswith(str(folder))


def _write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def _replace(name: str, old: str, new: str):
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def _blocks(change, name="hamiltonians.h5"):
    """Change the open file of a matrix."""

    def wrapped(folder: Path) -> None:
        with h5py.File(folder / name, "a") as file:
            change(file)

    return wrapped


def _move(old: str, new: str):
    return _blocks(lambda file: file.move(old, new))


def _put(key: str, value):
    def change(file):
        if key in file:
            del file[key]
        file[key] = value(file) if callable(value) else value

    return _blocks(change)


def _add(key: str, row: int, column: int, value: float, name="hamiltonians.h5"):
    def change(file):
        file[key][row, column] += value

    return _blocks(change, name)


def _remove(name: str):
    return lambda folder: (folder / name).unlink()


CASES = [
    *((_remove(name), rf"{name}: cannot be read \(No such file") for name in (
        "site_positions.dat", "lat.dat", "orbital_types.dat", "info.json", "element.dat")),
    (_remove("hamiltonians.h5"), r"hamiltonians\.h5: no such file"),
    (_remove("overlaps.h5"), r"overlaps\.h5: no such file"),
    (_write("element.dat", ""), r"element\.dat: no atoms"),
    (_write("element.dat", "42\n16\n16\n16\n"), r"orbital_types\.dat: 3 lines, but element.dat has 4 atoms"),
    (_write("element.dat", "42\n16\n"), r"orbital_types\.dat: 3 lines, but element.dat has 2 atoms"),
    (_write("element.dat", "42\nXy\n16\n"), r"element\.dat: line 2 is 'Xy'; atomic numbers are needed"),
    (_write("element.dat", "42\n16.5\n16\n"), r"element\.dat: line 2 is '16\.5'"),
    (_write("element.dat", "42\nnan\n16\n"), r"element\.dat: line 2 is 'nan'"),
    (_write("element.dat", "42\ninf\n16\n"), r"element\.dat: line 2 is 'inf'"),
    (_write("element.dat", "42\n0\n16\n"), r"element\.dat: line 2 is '0'"),
    (_write("element.dat", "42\n119\n16\n"), r"element\.dat: line 2 is '119'"),
    (_write("element.dat", "16\n42\n16\n"), r"orbital_types\.dat: atom 3 \(S\) has shells s1p1.*s2p1d1; one set"),
    (_write("site_positions.dat", "1 2 3\n4 5 6\n"), r"2 lines of \[3\] numbers, but 3 lines of 3 are needed"),
    (_write("site_positions.dat", "1 2\n4 5\n7 8\n"), r"3 lines of \[2\] numbers"),
    (_write("site_positions.dat", "1 2 3\n4 5 6\n7 x 9\n"), r"site_positions\.dat: line 3 is '7 x 9'; numbers"),
    (_write("site_positions.dat", "1 2 3\n4 5 6\n7 nan 9\n"), "NaN or infinite numbers in the positions"),
    (_write("site_positions.dat", ""), r"0 lines of \[\] numbers"),
    (_write("site_positions.dat", "0 0 1\n0 0 2\n0 0.2 3\n"), "atoms 1 and 2 .* are 0.2 angstrom apart"),
    (_write("site_positions.dat", "0 3 1\n0 0 2\n0 0.1 3\n"), "atoms 1 and 2 .* are 0.1 angstrom apart"),
    (_write("lat.dat", "1 2 3\n"), r"lat\.dat: 1 lines of \[3\] numbers"),
    (_write("lat.dat", "1 2 3\n2 4 6\n0 0 1\n"), "the lattice vectors .* span no volume"),
    (_write("lat.dat", "1 0 0\n0 1 0\n0 0 0\n"), "span no volume"),
    (_write("lat.dat", "1 0 0\n0 inf 0\n0 0 1\n"), "NaN or infinite numbers in the lattice"),
    (_write("orbital_types.dat", "0 1 0 2\n0 1\n0 1\n"), r"atom 1 has shells of degrees \[0, 1, 0, 2\]; ascending"),
    (_write("orbital_types.dat", "0 0 1 -2\n0 1\n0 1\n"), "ascending"),
    (_write("orbital_types.dat", "-1 0 1 2\n0 1\n0 1\n"), "degrees from 0 to 6"),
    (_write("orbital_types.dat", "0 0 1 9\n0 1\n0 1\n"), "degrees from 0 to 6"),
    (_write("orbital_types.dat", "0 0 1 2\n0 1\n0 0 1\n"), r"atom 3 \(S\) has shells s2p1, but an earlier one"),
    (_write("orbital_types.dat", "0 0 1 2\n0 1\n0 p\n"), r"orbital_types\.dat: line 3 is '0 p'"),
    (_write("orbital_types.dat", "0 1 2\n0 1\n0 1\n"),
     r"block \[0, 0, 0, 1, 1\] is float64 of shape \(10, 10\), but float64 of shape \(9, 9\)"),
    (_write("info.json", "{"), r"info\.json: no JSON"),
    (_write("info.json", "[" * 100_000), r"info\.json: no JSON"),
    (_write("info.json", "[]"), "isspinful is None"),
    (_write("info.json", "{}"), r"info\.json: isspinful is None; true or false is needed"),
    (_write("info.json", '{"isspinful": 1}'), "isspinful is 1"),
    (_write("info.json", '{"isspinful": false, "fermi_level": "x"}'), "fermi_level is 'x'"),
    (_write("info.json", '{"isspinful": false, "fermi_level": NaN}'), "fermi_level is nan"),
    (_write("info.json", '{"isspinful": false, "fermi_level": 1' + "0" * 400 + "}"), "fermi_level is 1"),
    (_write("info.json", '{"isspinful": true}'),
     r"is float64 of shape \(10, 10\), but complex128 of shape \(20, 20\) .* with spin; correct .*spinful"),
    (_move("[0, 0, 0, 1, 2]", "0_0_0_1_2"), "the key '0_0_0_1_2' is not five integers"),
    (_move("[0, 0, 0, 1, 2]", "[0, 0, 0, 1]"), r"the key '\[0, 0, 0, 1\]' is not five"),
    (_move("[0, 0, 0, 1, 2]", "[0, 0, 0.0, 1, 2]"), "is not five integers"),
    (_move("[0, 0, 0, 1, 2]", "[0, 0, 0, 1, 2] "), "is not five integers"),
    (_move("[0, 0, 0, 1, 2]", "[0, 0, 0, 1, __import__('os').abort()]"), "is not five integers"),
    (_move("[0, 0, 0, 1, 2]", "[0, 0, 0, 1, 4]"), r"key \[0, 0, 0, 1, 4\] names an atom that is not among 1 to 3"),
    (_move("[0, 0, 0, 1, 2]", "[0, 0, 0, 0, 2]"), "not among 1 to 3"),
    (_move("[0, 0, 0, 1, 2]", "[9, 9, 9, 1, 2]"), "has no partner"),
    (_put("[0,0,0,1,2]", lambda file: file["[0, 0, 0, 1, 2]"][()]), "occurs twice"),
    (_blocks(lambda file: file.pop("[0, 0, 0, 2, 2]")), r"the on-site block \[0, 0, 0, 2, 2\] is missing"),
    (_blocks(lambda file: file.pop("[1, 0, 0, 1, 2]")), "has no partner"),
    (_blocks(lambda file: [file.pop(key) for key in list(file)]), r"hamiltonians\.h5: no blocks"),
    (_put("[0, 0, 0, 1, 2]", np.zeros((4, 10))), r"\[0, 0, 0, 1, 2\] is float64 of shape \(4, 10\)"),
    (_put("[0, 0, 0, 1, 2]", np.zeros((10, 4), complex)), "is complex128 of shape"),
    (_put("[0, 0, 0, 1, 2]", np.zeros((20, 8))), r"is float64 of shape \(20, 8\), but float64 of shape \(10, 4\)"),
    (_put("[0, 0, 0, 1, 2]", "text"), "is object of shape"),
    (_put("[0, 0, 0, 1, 2]", h5py.Empty("f8")), "is float64 of shape None"),
    (_blocks(lambda file: (file.pop("[0, 0, 0, 1, 2]"), file.create_group("[0, 0, 0, 1, 2]"))), "is no array"),
    (_blocks(lambda file: (file.pop("[0, 0, 0, 1, 2]"), file.create_dataset(
        "[0, 0, 0, 1, 2]", (10**6, 10**6), "f8", chunks=(9, 9)))), r"is float64 of shape \(1000000, 1000000\)"),
    (_add("[0, 0, 0, 1, 2]", 3, 1, np.nan), r"infinite numbers in the hamiltonian, first in block \[0, 0, 0, 1"),
    (_add("[-1, 0, 0, 1, 2]", 3, 1, np.inf), r"first in block \[-1, 0, 0, 1, 2\]"),
    (_add("[1, 1, 0, 3, 1]", 3, 1, 2e-5), r"not hermitian: block .*differ by 2.0e-05 eV \(at most 1e-05\)"),
    (_add("[0, 0, 0, 3, 3]", 0, 1, 1.0), r"block \[0, 0, 0, 3, 3\] and the dagger of \[0, 0, 0, 3, 3\]"),
    (_add("[0, 0, 0, 3, 3]", 0, 1, 1.0, "overlaps.h5"), "the overlap is not hermitian"),
    (_write("hamiltonians.h5", "no HDF5"), r"hamiltonians\.h5: not a readable HDF5 file"),
    (lambda folder: (folder / "lat.dat").write_bytes(b"\xff\xfe\x00"), r"lat\.dat: cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CASES)
def test_damaged_folders(tmp_path, pristine, change, message):
    folder = tmp_path / "damaged"
    shutil.copytree(pristine[False], folder)
    change(folder)
    with pytest.raises(DataError, match=message) as caught:
        read_structure(folder, overlap=True)
    assert str(caught.value).startswith(str(folder))


def test_spinful_folders_with_spinless_blocks(tmp_path, pristine):
    folder = tmp_path / "mixed"
    shutil.copytree(pristine[True], folder)
    _write("info.json", '{"isspinful": false}')(folder)
    with pytest.raises(
        DataError, match=r"is complex128 of shape \(20, 20\), but float64 of shape \(10, 10\)"
    ):
        read_structure(folder)
    shutil.copy(folder / "hamiltonians.h5", folder / "overlaps.h5")
    _write("info.json", '{"isspinful": true}')(folder)
    with pytest.raises(DataError, match=r"overlaps\.h5: block .* is complex128"):
        read_structure(folder, overlap=True)


def test_truncated_matrix_files(tmp_path, pristine):
    folder = tmp_path / "cut"
    shutil.copytree(pristine[False], folder)
    content = (folder / "hamiltonians.h5").read_bytes()
    for end in range(0, len(content), len(content) // 25):
        (folder / "hamiltonians.h5").write_bytes(content[:end])
        with pytest.raises(DataError, match=r"hamiltonians\.h5: not a readable HDF5 file"):
            read_structure(folder)


def test_deviations_of_real_data_are_allowed(tmp_path, pristine):
    folder = tmp_path / "real"
    shutil.copytree(pristine[False], folder)
    _add("[0, 0, 0, 1, 2]", 3, 1, 1e-8)(folder)
    assert hermiticity_error(read_structure(folder))[0] == pytest.approx(1e-8)


def test_other_folders_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match="no such folder"):
            read_structure(path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"element\.dat: cannot be read"):
        read_structure(tmp_path / "a")
