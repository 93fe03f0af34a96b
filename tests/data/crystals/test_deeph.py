import json
import shutil
import stat
from dataclasses import replace
from importlib import resources
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.crystals.scfout import small_structure
from tests.data.crystals.test_openmx import assert_same
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import is_structure_folder, read_structure, write_structure
from tracegrad.data.crystals.structure import check_structure, hermiticity_error
from tracegrad.errors import BasisError, DataError, TraceGradError
from tracegrad.hamiltonian.blocks import block_starts

EMBEDDED = Path(str(resources.files("tracegrad.data"))) / "embedded" / "demo_crystals.h5"


@pytest.mark.parametrize("spinful", [False, True])
def test_round_trip(pristine, spinful):
    structure = small_structure(spinful)
    found = read_structure(pristine[spinful], overlap=True)
    assert_same(found, structure, tolerance=0)
    assert found.name == str(spinful)
    assert found.basis.name == "S s1p1, Mo s2p1d1" + " with spin" * spinful
    assert [block.shape for block in found.blocks("overlap")][:2] == [(10, 10), (10, 10)]
    assert hermiticity_error(found) == (0.0, 0)
    assert read_structure(pristine[spinful]).overlap is None
    only_overlap = read_structure(pristine[spinful], hamiltonian=False, overlap=True)
    assert only_overlap.hamiltonian is None
    assert np.array_equal(only_overlap.edges, structure.edges)
    with pytest.raises(DataError, match="the hamiltonian has not been read"):
        only_overlap.blocks("hamiltonian")
    with pytest.raises(DataError, match="no matrix is asked for"):
        read_structure(pristine[spinful], hamiltonian=False)


@pytest.mark.parametrize(
    "name", ["light_mos2_2x1_00", "light_bismuthene_soc_2x1_00", "light_graphene_2x2_01"]
)
def test_real_structures_round_trip(tmp_path, name):
    structure = CrystalDatabase(EMBEDDED, include=name)[0]
    write_structure(structure, tmp_path / "a")
    found = read_structure(tmp_path / "a")
    for part in ("numbers", "positions", "lattice", "edges", "hamiltonian"):
        assert np.array_equal(getattr(found, part), getattr(structure, part))
    assert (found.shells, found.fermi_level) == (structure.shells, structure.fermi_level)


def test_the_files_are_those_of_the_released_databases(pristine):
    structure = small_structure(True)
    folder = pristine[True]
    assert np.array_equal(np.loadtxt(folder / "lat.dat").T, structure.lattice)
    assert np.array_equal(np.loadtxt(folder / "site_positions.dat").T, structure.positions)
    reciprocal = np.loadtxt(folder / "rlat.dat")
    assert np.allclose(reciprocal.T @ np.loadtxt(folder / "lat.dat"), 2 * np.pi * np.eye(3))
    assert np.loadtxt(folder / "element.dat").tolist() == [42, 16, 16]
    assert (folder / "orbital_types.dat").read_text() == "0 0 1 2\n0 1\n0 1\n"
    assert json.loads((folder / "info.json").read_text()) == {"isspinful": True, "fermi_level": -4.25}
    with h5py.File(folder / "hamiltonians.h5") as file:
        assert len(file) == len(structure.edges)
        for edge, block in zip(structure.edges.tolist(), structure.blocks("hamiltonian"), strict=True):
            rx, ry, rz, i, j = edge
            dataset = file[str([rx, ry, rz, i + 1, j + 1])]
            assert dataset.dtype == np.complex128
            assert np.array_equal(dataset[()], block)
        uu = file["[0, 0, 0, 1, 2]"][:10, :4]
        ud = file["[0, 0, 0, 1, 2]"][:10, 4:]
        du = file["[0, 0, 0, 2, 1]"][4:, :10]
        assert np.array_equal(ud, du.conj().T)
        assert not np.array_equal(uu, ud)


def test_edges_have_one_order(pristine):
    edges = read_structure(pristine[False]).edges
    assert edges[0].tolist() == [0, 0, 0, 0, 0]
    assert (np.diff(edges[:, 3]) >= 0).all()
    for i in range(3):
        mine = edges[edges[:, 3] == i]
        assert mine[0].tolist() == [0, 0, 0, i, i]
        rest = mine[1:]
        assert rest.tolist() == sorted(rest.tolist(), key=lambda e: (e[4], e[:3]))


def test_one_atom_symbols_floats_and_no_fermi_level(tmp_path):
    structure = small_structure()
    one = replace(
        structure,
        numbers=structure.numbers[:1],
        positions=structure.positions[:1],
        shells={42: structure.shells[42]},
        fermi_level=None,
        edges=structure.edges[:1],
        hamiltonian=structure.blocks("hamiltonian")[0].ravel(),
        overlap=None,
    )
    write_structure(one, tmp_path / "one")
    found = read_structure(tmp_path / "one")
    assert found.fermi_level is None
    assert np.array_equal(found.hamiltonian, one.hamiltonian)
    for text in ("Mo\n", "42.0", "4.2e1\n\n"):
        (tmp_path / "one" / "element.dat").write_text(text)
        assert read_structure(tmp_path / "one").numbers.tolist() == [42]


def newer_folder(folder: Path, structure, *, direct=False, **info) -> Path:
    """The same structure in the format of DeepH-dock, blocks in reversed order, m = -l .. l."""
    folder.mkdir()
    order = {0: [0], 1: [1, 2, 0], 2: [2, 4, 0, 3, 1]}  # file position of m = -l .. l in OpenMX's order
    coordinates = (
        structure.positions @ np.linalg.inv(structure.lattice) if direct else structure.positions / 2
    )
    scale = 1.0 if direct else 2.0
    lines = [
        "a comment",
        str(scale),
        *(" ".join(map(repr, row.tolist())) for row in structure.lattice / scale),
    ]
    lines += ["Mo S S", "1 1 1", "Direct" if direct else "Cartesian"]
    lines += [" ".join(map(repr, row.tolist())) for row in coordinates]
    (folder / "POSCAR").write_text("\n".join(lines) + "\n")
    content = {
        "atoms_quantity": 3,
        "orthogonal_basis": False,
        "spinful": structure.spinful,
        "fermi_energy_eV": -4.25,
        "elements_orbital_map": {"Mo": [0, 0, 1, 2], "S": [0, 1]},
    } | info
    (folder / "info.json").write_text(json.dumps(content))
    for matrix in ("hamiltonian", "overlap"):
        basis = structure.basis_of(matrix)
        places = {}
        for number, degrees in structure.shells.items():
            rows: list[int] = []
            for degree in degrees:
                rows += [len(rows) + place for place in order[degree]]
            places[number] = np.concatenate([np.array(rows) + s * len(rows) for s in range(basis.spins)])
        edges = structure.edges[::-1]
        blocks = [
            block[np.ix_(places[structure.numbers[i]], places[structure.numbers[j]])]
            for block, (i, j) in zip(structure.blocks(matrix)[::-1], edges[:, 3:], strict=True)
        ]
        with h5py.File(folder / f"{matrix}.h5", "w") as file:
            file["atom_pairs"] = edges
            file["chunk_shapes"] = [block.shape for block in blocks]
            file["chunk_boundaries"] = block_starts(edges[:, 3:].T, structure.numbers, basis)
            file["entries"] = np.concatenate([block.ravel() for block in blocks])
    return folder


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("kind", ["volume", "three"])
def test_scales_of_a_poscar_are_those_of_vasp(tmp_path, direct, kind):
    """A negative scale is the volume of the cell, and three scales belong to x, y and z."""
    structure = small_structure()
    folder = newer_folder(tmp_path / "a", structure, direct=direct)
    lines = (folder / "POSCAR").read_text().splitlines()
    lattice = structure.lattice / 3.0 if kind == "volume" else structure.lattice / [1.0, 2.0, 4.0]
    positions = structure.positions / 3.0 if kind == "volume" else structure.positions / [1.0, 2.0, 4.0]
    lines[1] = str(-float(abs(np.linalg.det(structure.lattice)))) if kind == "volume" else "1.0 2.0 4.0"
    lines[2:5] = [" ".join(map(repr, row)) for row in lattice.tolist()]
    if not direct:
        lines[8:] = [" ".join(map(repr, row)) for row in positions.tolist()]
    (folder / "POSCAR").write_text("\n".join(lines) + "\n")
    found = read_structure(folder)
    np.testing.assert_allclose(found.lattice, structure.lattice, rtol=1e-13)
    np.testing.assert_allclose(found.positions, structure.positions, rtol=1e-13)
    for scale in ("0", "-1 1 1", "1 1", "nan", ""):
        lines[1] = scale
        (folder / "POSCAR").write_text("\n".join(lines) + "\n")
        with pytest.raises(DataError, match="POSCAR: not understood"):
            read_structure(folder)


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_the_newer_format(tmp_path, spinful, direct):
    structure = small_structure(spinful)
    folder = newer_folder(tmp_path / "a", structure, direct=direct)
    assert is_structure_folder(folder)
    found = read_structure(folder, overlap=True)
    assert np.abs(found.positions - structure.positions).max() < 1e-13
    assert_same(replace(found, positions=structure.positions), structure, tolerance=0)
    assert CrystalDatabase(tmp_path)[0].name == "a"


def test_structures_made_by_hand_are_checked():
    structure = small_structure()
    with pytest.raises(DataError, match=r"here: the hamiltonian has 9 entries, but the blocks"):
        check_structure(replace(structure, hamiltonian=np.zeros(9)), "here")
    with pytest.raises(DataError, match=r"here: .* are not all atomic numbers"):
        check_structure(replace(structure, numbers=np.array([42, 0, 16])), "here")
    with pytest.raises(DataError, match="does not fit 3 atoms"):
        check_structure(replace(structure, edges=structure.edges + np.array([0, 0, 0, 0, 1])), "here")
    with pytest.raises(BasisError):
        _ = replace(structure, shells={42: (1, 0)}).basis


def test_writing_leaves_a_complete_folder_or_none(tmp_path, monkeypatch):
    structure = small_structure()
    write_structure(structure, tmp_path / "new" / "a")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a"]
    with pytest.raises(DataError, match=r"a: exists and holds \['element.dat'.*set overwrite"):
        write_structure(structure, tmp_path / "new" / "a")

    monkeypatch.setattr(
        Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(TraceGradError, match=r"b: cannot be written \(No space left on device\)"):
        write_structure(structure, tmp_path / "new" / "b")
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a"]

    (tmp_path / "new" / "b").mkdir()
    write_structure(structure, tmp_path / "new" / "b")
    other = replace(small_structure(seed=3), overlap=None)
    write_structure(other, tmp_path / "new" / "b", overwrite=True)
    assert np.array_equal(read_structure(tmp_path / "new" / "b").hamiltonian, other.hamiltonian)
    assert not (tmp_path / "new" / "b" / "overlaps.h5").exists()
    (tmp_path / "new" / "b" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match=r"b: holds \['thesis.tex'\], which overwriting would lose"):
        write_structure(other, tmp_path / "new" / "b", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="exists and is no folder"):
        write_structure(other, tmp_path / "file", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a", "b"]


def test_a_folder_whose_replacement_was_killed_is_restored(tmp_path):
    structure = small_structure()
    write_structure(structure, tmp_path / "a")
    hidden = tmp_path / ".a.replaced"
    (tmp_path / "a").rename(hidden)  # as a kill between the two renames leaves it
    assert np.array_equal(read_structure(tmp_path / "a").hamiltonian, structure.hamiltonian)
    (tmp_path / "a").rename(hidden)
    assert CrystalDatabase(tmp_path).names == ["a"]
    (tmp_path / "a").rename(hidden)
    with pytest.raises(DataError, match="exists and holds"):
        write_structure(structure, tmp_path / "a")


def test_reading_writes_nothing(tmp_path, pristine):
    folder = tmp_path / "readonly"
    shutil.copytree(pristine[True], folder)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        before = sorted(folder.iterdir())
        read_structure(folder, overlap=True)
        assert sorted(folder.iterdir()) == before
    finally:
        folder.chmod(stat.S_IRWXU)
