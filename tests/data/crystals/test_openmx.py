import gzip
from dataclasses import replace

import numpy as np
import pytest

from tests.data.crystals.scfout import INPUT, scfout, small_structure
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystal_files.openmx import OpenMXReader, read_scfout
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError


def write(folder, content, name="small.scfout"):
    path = folder / name
    path.write_bytes(content)
    return path


def assert_same(found: Structure, expected: Structure, tolerance=1e-13):
    assert np.array_equal(found.numbers, expected.numbers)
    assert np.array_equal(found.edges, expected.edges)
    assert found.shells == expected.shells
    assert found.spinful == expected.spinful
    assert found.fermi_level == pytest.approx(expected.fermi_level, abs=1e-13)
    for name in ("positions", "lattice", "hamiltonian", "overlap"):
        array, other = getattr(found, name), getattr(expected, name)
        assert array.dtype == other.dtype
        assert np.abs(array - other).max() <= tolerance


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_round_trip(tmp_path, spinful, packed):
    structure = small_structure(spinful)
    content = scfout(structure)
    path = write(tmp_path, gzip.compress(content) if packed else content, "small.scfout" + ".gz" * packed)
    found = read_scfout(path)
    assert found.name == "small"
    assert_same(found, structure)


def test_the_order_of_neighbours_in_the_file_does_not_matter(tmp_path):
    structure = small_structure()
    order = np.lexsort((-structure.edges[:, 4], structure.edges[:, 0], structure.edges[:, 3]))
    shuffled = replace(
        structure,
        edges=structure.edges[order],
        **{
            matrix: np.concatenate([structure.blocks(matrix)[n].ravel() for n in order])
            for matrix in ("hamiltonian", "overlap")
        },
    )
    assert_same(read_scfout(write(tmp_path, scfout(shuffled))), structure)


def test_appended_output_is_ignored(tmp_path):
    structure = small_structure()
    assert_same(read_scfout(write(tmp_path, scfout(structure) + b"\n*** standard output ***\n")), structure)


def test_elements_and_shells_from_another_input(tmp_path):
    structure = small_structure()
    path = write(tmp_path, scfout(structure, text="System.Name nothing\n"))
    with pytest.raises(DataError, match=r"small\.scfout: no table <Definition\.of\.Atomic\.Species"):
        read_scfout(path)
    (tmp_path / "small.dat").write_text(INPUT.upper().replace("MO7.0-S2P1D1", "Mo7.0-s2p1d1").replace(
        "S7.0-S1P1", "S7.0-s1p1").replace("S7.0H-S1P1", "S7.0H-s1p1"))  # fmt: skip
    assert_same(read_scfout(path, input_file=tmp_path / "small.dat"), structure)
    with pytest.raises(DataError, match=r"none\.dat: cannot be read \(No such file"):
        read_scfout(path, input_file=tmp_path / "none.dat")


def test_shells_can_be_passed(tmp_path):
    structure = small_structure()
    path = write(tmp_path, scfout(structure, text=INPUT.replace("-s1p1", "-s3x1p3x1")))
    with pytest.raises(DataError, match=r"s3x1p3x1.*option shells"):
        read_scfout(path)
    assert_same(read_scfout(path, shells={"Mo": "s2p1d1", 16: (0, 1), "C": "s1"}), structure)
    with pytest.raises(DataError, match=r"atom 1 has 10 orbitals.*Mo s2p1d2 have 15"):
        read_scfout(path, shells={"Mo": "s2p1d2", "S": "s1p1"})
    with pytest.raises(DataError, match=r"atomic numbers \[16\] have no entry"):
        read_scfout(path, shells={"Mo": "s2p1d1"})


def test_truncated_files(tmp_path):
    structure = small_structure(True)
    content = scfout(structure)
    ends = [*range(0, 28, 3), *range(28, len(content), len(content) // 40), len(content) - 1]
    for end in ends:
        with pytest.raises(DataError, match=r"small\.scfout: ends within the .*bytes are missing"):
            read_scfout(write(tmp_path, content[:end]))
    packed = gzip.compress(content)
    for end in range(10, len(packed), len(packed) // 10):
        with pytest.raises(
            DataError,
            match=r"small\.scfout\.gz: cannot be read as .* \(Compressed file ended",
        ):
            read_scfout(write(tmp_path, packed[:end], "small.scfout.gz"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"word": 4 * 3 + 1}, "a collinear spin-polarised calculation.*choose one with spin=up or spin=down"),
        ({"word": 4 * 3 + 2}, "version 3 with spin switch 2"),
        ({"word": 4 * 2}, r"version 2 with spin switch 0; version 3 \(OpenMX 3.9 and 4.0\)"),
        ({"word": 0}, "version 0 with spin switch 0"),
        ({"word": -1}, "version -1 with spin switch 3"),
        ({"word": 4 * 3 + 3}, "ends within|cannot|damaged|not"),
        ({"header": [0]}, "0 atoms"),
        ({"header": [-1]}, "-1 atoms"),
        ({"header": [2**31 - 1]}, "ends within the orbital counts"),
        ({"header": [3, 12, 0, 0, 0, 2**31 - 1]}, "ends within the cell vectors"),
        ({"header": [3, 12, 0, 0, 0, -5]}, "-4 cells"),
        ({"header": [3, 12, 0, 0, 0, 4, -2]}, "order -2"),
        ({"header": [3, 12, 0, 0, 0, 4, 10**6]}, "ends within the matrices after the overlap"),
        ({"header": [3, 12, 0, 0, 0, 3]}, "damaged|ends within"),
        ({"text": INPUT.replace("Mo7.0-s2p1d1", "Mo7.0")}, "species 'Mo_a Mo7.0 Mo_PBE19' names no basis"),
        ({"text": INPUT.replace("Mo7.0-s2p1d1", "Xx7.0-s2p1d1")}, "names no basis"),
        ({"text": INPUT.replace("Mo7.0-s2p1d1", "")}, "names no basis"),
        ({"text": INPUT.replace("s2p1d1", "s2p1d2")}, "atom 1 has 10 orbitals, but its shells .* have 15"),
        ({"text": INPUT.replace("S7.0H-s1p1", "S7.0H-s1p2")}, r"several bases \{16: \['s1p1', 's1p2'\]\}"),
        ({"text": INPUT.replace(" 3 S2 0.6 0.3 0.1 3.0 3.0\n", "")}, "has 2 atoms, the file 3"),
        ({"text": INPUT.replace(" 3 S2", " 3 S9")}, "'3 S9 0.6 0.3 0.1 3.0 3.0' is of no species"),
        ({"text": INPUT.replace("Coordinates>", "")}, "no table <Atoms.SpeciesAndCoordinates"),
    ],
)
def test_inputs_that_do_not_belong_to_the_file(tmp_path, options, message):
    with pytest.raises(DataError, match=message) as caught:
        read_scfout(write(tmp_path, scfout(small_structure(), **options)))
    assert str(caught.value).startswith(f"{tmp_path / 'small.scfout'}: ")


def test_damage_anywhere_in_the_index_is_refused_or_changes_nothing(tmp_path):
    """Damaged counts and indices raise no other error, allocate no excessive memory and give no wrong data."""
    structure = small_structure()
    content = scfout(structure)
    cells = len({tuple(edge) for edge in structure.edges[:, :3].tolist()})
    first = 28 + cells * 4 * 8  # behind the vectors of the cells
    last = first + cells * 16 + 2 * 3 * 4 + 2 * 4 * len(structure.edges)
    unused = {8, 12, 16, *range(first, first + cells * 16, 16)}
    refused, same = 0, 0
    for offset in [*range(0, 28, 4), *range(first, last, 4)]:
        for value in (-1, 2**31 - 1, 77 if offset < 28 else 2):
            word = value.to_bytes(4, "little", signed=True)
            path = write(tmp_path, content[:offset] + word + content[offset + 4 :])
            if offset in unused or content[offset : offset + 4] == word:
                assert_same(read_scfout(path), structure)
                same += 1
            else:
                with pytest.raises(DataError, match=r"small\.scfout: "):
                    read_scfout(path)
                refused += 1
    assert refused + same == 3 * (7 + (last - first) // 4)
    assert refused > 6 * same


def test_matrices_are_checked(tmp_path):
    structure = small_structure(True)
    broken = structure.hamiltonian.copy()
    broken[5] += 1e-3
    with pytest.raises(DataError, match=r"hamiltonian is not hermitian: block \[0, 0, 0, 1, 1\]"):
        read_scfout(write(tmp_path, scfout(replace(structure, hamiltonian=broken))))
    lone = replace(small_structure(), edges=small_structure().edges.copy())
    lone.edges[1, 0] += 5
    for spinful in (False, True):
        with pytest.raises(DataError, match="has no partner"):
            read_scfout(write(tmp_path, scfout(replace(small_structure(spinful), edges=lone.edges))))


def test_files_that_are_no_scfout(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_scfout(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read as \.scfout file of OpenMX \(No such file"):
        read_scfout(tmp_path / "none.scfout")
    for content in (b"System.Name openmx\n" * 50, b"\x1f\x8b nonsense", b"\x89HDF\r\n\x1a\n" + bytes(9000)):
        with pytest.raises(DataError, match=r"small\.scfout: "):
            read_scfout(write(tmp_path, content))


@pytest.mark.parametrize("spinful", [False, True])
def test_a_database_of_output(tmp_path, spinful, monkeypatch):
    structures = [small_structure(spinful, name=name, seed=seed) for seed, name in enumerate(("00", "01"))]
    for structure, compress in zip(structures, (bytes, gzip.compress), strict=True):
        (tmp_path / structure.name).mkdir()
        suffix = ".gz" if compress is gzip.compress else ""
        write(tmp_path / structure.name, compress(scfout(structure)), f"openmx.scfout{suffix}")
    database = CrystalDatabase(tmp_path, overlap=True)
    assert database.names == ["00", "01"]
    for row, structure in enumerate(structures):
        assert_same(database[row], structure)
        assert database[row].name == structure.name
    assert CrystalDatabase(tmp_path)[0].overlap is None
    assert database.identity()["structures"] == 2
    database.check_files()
    monkeypatch.setattr(OpenMXReader, "read", None)
    assert database.shells == structures[0].shells  # read without the matrices
    assert database.spinful == spinful
    assert database.atom_counts.tolist() == [3, 3]


def test_collinear_spin(tmp_path):
    up = small_structure()
    down = replace(up, hamiltonian=1.5 * up.hamiltonian)
    path = write(tmp_path, scfout(up, down=down))
    for spin, expected in (("up", up), ("down", down)):
        assert_same(read_scfout(path, spin=spin), expected)
        database = CrystalDatabase(path, overlap=True, spin=spin)
        assert_same(database[0], expected)
        assert database.identity()["spin"] == spin
        assert not database.spinful
    with pytest.raises(ConfigError, match="spin is 'both'; up or down is needed"):
        read_scfout(path, spin="both")
    for other in (up, small_structure(spinful=True)):
        with pytest.raises(
            DataError, match="not a collinear spin-polarised calculation, so it has no spin up"
        ):
            read_scfout(write(tmp_path, scfout(other), "other.scfout"), spin="up")


def test_files_in_one_folder_and_a_single_one(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, scfout(small_structure(name=name), text=""), f"{name}.scfout")
    database = CrystalDatabase(tmp_path, reader=lambda path: OpenMXReader(path, ["Mo-s2p1d1", "S-s1p1"]))
    assert database.names == ["a", "b"]
    with pytest.raises(DataError, match="no table <Definition"):
        CrystalDatabase(tmp_path / "a.scfout")[0]


def test_folders_of_structures_come_before_output_beside_them(tmp_path):
    write_structure(small_structure(), tmp_path / "structures" / "00")
    (tmp_path / "work" / "00").mkdir(parents=True)
    write(tmp_path / "work" / "00", scfout(small_structure()))
    assert CrystalDatabase(tmp_path).names == ["structures/00"]
