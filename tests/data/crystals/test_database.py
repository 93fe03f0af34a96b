import json
import multiprocessing
import pickle
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import h5py
import numpy as np
import pytest

from experiments.pack import main
from tests.data.crystals.scfout import small_structure
from tests.data.crystals.test_openmx import assert_same
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystal_files.packed import pack
from tracegrad.data.crystals.structure import hermiticity_error
from tracegrad.errors import DataError, TraceGradError

EMBEDDED = Path(str(resources.files("tracegrad.data"))) / "embedded" / "demo_crystals.h5"


@pytest.fixture(scope="module")
def structures():
    return [small_structure(name=name, seed=seed) for seed, name in enumerate("cab")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, structures) -> Path:
    path = tmp_path_factory.mktemp("crystals")
    for structure in structures:
        write_structure(structure, path / structure.name)
    (path / ".hidden").mkdir()
    (path / "notes").mkdir()
    (path / "README").write_text("")
    return path


@pytest.fixture
def packed(tmp_path, structures) -> Path:
    pack(structures, tmp_path / "small.h5", decimals=None, provenance={"made": "by hand"})
    return tmp_path / "small.h5"


def everything(database: CrystalDatabase) -> list[bytes]:
    found = [database[i] for i in range(len(database))]
    return [
        s.name.encode() + s.positions.tobytes() + s.edges.tobytes() + s.hamiltonian.tobytes() for s in found
    ]


def test_a_folder_of_structures(folder, structures):
    database = CrystalDatabase(folder, overlap=True)
    assert database.names == ["a", "b", "c"]
    assert len(database) == 3
    by_name = {structure.name: structure for structure in structures}
    for i, name in enumerate(database.names):
        assert database[i].name == name
        assert_same(database[i], by_name[name], tolerance=0)
        assert database[i - 3].name == name
    for i in (3, -4):
        with pytest.raises(IndexError, match=f"structure {i} of a database of 3"):
            database[i]
    assert database.atom_counts.tolist() == [3, 3, 3]
    assert database.elements == (16, 42)
    assert database.shells == structures[0].shells
    assert database.spinful is False
    assert database.basis.name == "S s1p1, Mo s2p1d1"
    assert CrystalDatabase(folder)[0].overlap is None
    assert CrystalDatabase(folder, hamiltonian=False, overlap=True)[0].hamiltonian is None


def test_one_structure_and_folders_of_folders(folder, tmp_path):
    one = CrystalDatabase(folder / "b")
    assert one.names == ["b"]
    assert np.array_equal(one[0].hamiltonian, CrystalDatabase(folder)[1].hamiltonian)
    shutil.copytree(folder, tmp_path / "group")
    shutil.copytree(folder / "b", tmp_path / "x")
    nested = CrystalDatabase(tmp_path)
    assert nested.names == ["group/a", "group/b", "group/c", "x"]
    assert nested[1].name == "group/b"
    names = pack((nested[i] for i in range(4)), tmp_path / "n.h5", decimals=None, provenance={})
    assert names == nested.names
    assert everything(CrystalDatabase(tmp_path / "n.h5")) == everything(nested)


def test_patterns(folder):
    assert CrystalDatabase(folder, include="[bc]").names == ["b", "c"]
    assert CrystalDatabase(folder, include=["c", "a*"]).names == ["a", "c"]
    for include in ("x*", []):
        with pytest.raises(DataError, match=r"none of 3 structures \(a, b, c\) fits"):
            CrystalDatabase(folder, include=include)


@pytest.mark.parametrize("spinful", [False, True])
def test_packing_without_rounding_keeps_everything(tmp_path, spinful):
    structure = small_structure(spinful)
    pack([structure], tmp_path / "a.h5", decimals=None, provenance={"made": "by hand"})
    database = CrystalDatabase(tmp_path / "a.h5", overlap=True)
    assert database[0].name == "small"
    assert_same(database[0], structure, tolerance=0)
    with h5py.File(tmp_path / "a.h5") as file:
        assert json.loads(file["provenance"][()]) == {"made": "by hand"}
        assert len(file["small/edges"]) == (len(structure.edges) + 3) // 2


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("decimals", [0, 3, 12])
def test_rounding(tmp_path, spinful, decimals):
    structure = replace(small_structure(spinful), fermi_level=None)
    pack([structure], tmp_path / "a.h5", decimals=decimals, provenance={})
    found = CrystalDatabase(tmp_path / "a.h5", overlap=True)[0]
    for matrix in ("hamiltonian", "overlap"):
        difference = getattr(found, matrix) - getattr(structure, matrix)
        assert max(abs(difference.real).max(), abs(difference.imag).max()) <= 0.5001 * 10.0**-decimals
        assert hermiticity_error(found, matrix)[0] == 0
    assert found.fermi_level is None


def test_one_block_of_each_pair_is_stored(tmp_path):
    structure = small_structure()
    noisy = replace(
        structure, hamiltonian=structure.hamiltonian + 1e-8 * np.sin(np.arange(len(structure.hamiltonian)))
    )
    assert hermiticity_error(noisy)[0] > 5e-9
    pack([noisy], tmp_path / "a.h5", decimals=None, provenance={})
    found = CrystalDatabase(tmp_path / "a.h5")[0]
    kept = [n for n, edge in enumerate(noisy.edges.tolist()) if edge[3] == edge[4] and not any(edge[:3])]
    for n in kept:
        assert np.array_equal(found.blocks("hamiltonian")[n], noisy.blocks("hamiltonian")[n])
    assert np.abs(found.hamiltonian - noisy.hamiltonian).max() < 2.1e-8


def test_rounding_keeps_noisy_on_site_blocks_hermitian(tmp_path):
    structure = small_structure()
    entries = np.full_like(structure.hamiltonian, 0.05)  # between two roundings
    noisy = replace(structure, hamiltonian=entries + 1e-8 * np.sin(np.arange(len(entries))))
    pack([noisy], tmp_path / "a.h5", decimals=1, provenance={})
    assert hermiticity_error(CrystalDatabase(tmp_path / "a.h5")[0])[0] == 0


def test_the_embedded_file():
    database = CrystalDatabase(EMBEDDED)
    assert EMBEDDED.stat().st_size < 5e6
    assert len(database) == 29
    provenance = json.loads(EMBEDDED.with_name("demo_crystals.provenance.json").read_text())
    assert list(provenance["structures"]) == database.names
    with pytest.raises(
        DataError, match=r"light_bismuthene_soc_2x1_02 is spinful, .* is not; leave one kind out"
    ):
        _ = database.spinful
    for pattern, count, elements, atoms in (
        ("light_bilayer_*", 16, (6,), 8),
        ("light_twisted_*", 2, (6,), 28),
        ("light_graphene_*", 4, (6,), 8),
        ("light_mos2_*", 4, (16, 42), 6),
        ("light_bismuthene_*", 3, (83,), 4),
    ):
        part = CrystalDatabase(EMBEDDED, include=pattern)
        assert (len(part), part.elements, set(part.atom_counts.tolist())) == (count, elements, {atoms})
        assert part.spinful == ("bismuthene" in pattern)
        structure = part[0]
        assert hermiticity_error(structure)[0] == 0
        vectors = structure.positions[structure.edges[:, 4]] + structure.edges[:, :3] @ structure.lattice
        lengths = np.linalg.norm(vectors - structure.positions[structure.edges[:, 3]], axis=1)
        first = lengths[lengths > 0].min()
        assert (
            {(6,): 1.2, (16, 42): 2.2, (83,): 2.8}[elements] < first < 3.2
        )  # bonds, so positions are angstrom
        radius = {(6,): 5.0, (16, 42): 7.0, (83,): 8.0}[elements]  # bohr, of the orbitals
        assert lengths.max() < 2 * radius * 0.53


def test_time_reversal_holds_in_the_embedded_bismuthene():
    """H_uu = conj(H_dd) and H_ud = -conj(H_du) show that the spin blocks are in the right order."""
    structure = CrystalDatabase(EMBEDDED, include="light_bismuthene_*")[0]
    for block in structure.blocks("hamiltonian"):
        n, m = block.shape[0] // 2, block.shape[1] // 2
        assert np.abs(block[:n, :m] - block[n:, m:].conj()).max() < 2e-6
        assert np.abs(block[:n, m:] + block[n:, :m].conj()).max() < 2e-6


def test_databases_of_mixed_structures_are_refused(tmp_path, structures):
    other = replace(
        small_structure(name="z"),
        numbers=np.array([42, 16, 34]),
        shells={16: (0, 1), 34: (0, 1), 42: (0, 0, 1, 2)},
    )
    pack([structures[0], other], tmp_path / "a.h5", decimals=None, provenance={})
    assert CrystalDatabase(tmp_path / "a.h5").elements == (16, 34, 42)
    swapped = replace(
        small_structure(name="y"), numbers=np.array([16, 42, 42]), shells={16: (0, 0, 1, 2), 42: (0, 1)}
    )
    pack([structures[0], swapped], tmp_path / "a.h5", decimals=None, provenance={})
    database = CrystalDatabase(tmp_path / "a.h5")
    with pytest.raises(DataError, match=r"S has shells s1p1 in c, but s2p1d1 in y; leave one kind out"):
        _ = database.shells


def test_identity(folder, packed, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    first, copy = CrystalDatabase(folder).identity(), CrystalDatabase(tmp_path / "copy").identity()
    assert first == copy
    assert first["structures"] == 3
    assert first["bytes"] == sum((folder / name / "hamiltonians.h5").stat().st_size for name in "abc")
    small = CrystalDatabase(packed).identity()
    assert small["bytes"] == packed.stat().st_size
    hashes = {
        first["head_sha256"],
        small["head_sha256"],
        CrystalDatabase(packed, include="[ab]").identity()["head_sha256"],
    }
    (tmp_path / "copy" / "b").rename(tmp_path / "copy" / "d")
    hashes.add(CrystalDatabase(tmp_path / "copy").identity()["head_sha256"])
    hashes.add(CrystalDatabase(folder, hamiltonian=False, overlap=True).identity()["head_sha256"])
    assert len(hashes) == 5
    gone = CrystalDatabase(tmp_path / "copy")
    (tmp_path / "copy" / "d" / "hamiltonians.h5").unlink()
    with pytest.raises(DataError, match=r"d/hamiltonians\.h5: cannot be read \(No such file"):
        gone.identity()


def test_copies_and_forks_read_the_same(folder, packed):
    for path in (folder, packed):
        database = CrystalDatabase(path)
        expected = everything(database)
        assert everything(pickle.loads(pickle.dumps(database))) == expected
        queue = multiprocessing.get_context("fork").SimpleQueue()
        child = multiprocessing.get_context("fork").Process(
            target=lambda d=database, q=queue: q.put(everything(d))
        )
        child.start()
        assert queue.get() == expected
        child.join()
    assert everything(CrystalDatabase(packed)) == everything(CrystalDatabase(folder))


def test_paths_without_a_database_are_refused(tmp_path, folder):
    with pytest.raises(DataError, match=r"no such file or folder; give structure folders of DeepH, \.scfout"):
        CrystalDatabase(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no structures in it"):
        CrystalDatabase(tmp_path / "empty")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(DataError, match=r"text\.h5: not a readable HDF5 file"):
        CrystalDatabase(tmp_path / "text.h5")
    with pytest.raises(DataError, match=r"hamiltonians\.h5: no packed crystals .*tracegrad pack"):
        CrystalDatabase(folder / "a" / "hamiltonians.h5")


def test_a_structure_that_lacks_a_file_is_an_error_not_left_out(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "b" / "hamiltonians.h5").unlink()
    (tmp_path / "copy" / "c" / "element.dat").unlink()
    database = CrystalDatabase(tmp_path / "copy")
    assert database.names == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"b/hamiltonians\.h5: no such file"):
        database[1]
    with pytest.raises(DataError, match=r"c/element\.dat: cannot be read"):
        _ = database.atom_counts


def _attribute(name, value):
    def change(file):
        file["b"].attrs.pop(name)
        if value is not None:
            file["b"].attrs[name] = value

    return change


def _dataset(name, change):
    def apply(file):
        value = file[f"b/{name}"][()]
        attributes = dict(file[f"b/{name}"].attrs)
        del file[f"b/{name}"]
        if (new := change(value)) is not None:
            file[f"b/{name}"] = new
            file[f"b/{name}"].attrs.update(attributes)

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_attribute("shells", None), "b: shells, spinful or fermi_level are not understood"),
        (_attribute("shells", "{"), "not understood"),
        (_attribute("shells", "[]"), "not understood"),
        (_attribute("shells", '{"16": [0, 1]}'), r"no shells for the elements \[42\]"),
        (_attribute("shells", '{"16": [1, 0], "42": [0]}'), "not understood"),
        (_attribute("shells", '{"16": [0, 1], "42": [0]}'), r"edges|hamiltonian is float64 of shape"),
        (_attribute("spinful", True), r"hamiltonian is float64 of shape \(1, .*but shape \(2,"),
        (_attribute("fermi_level", "high"), "not understood"),
        (_dataset("edges", lambda value: None), "no array 'edges'"),
        (_dataset("edges", lambda value: value[:-1]), "b/hamiltonian is float64 of shape"),
        (_dataset("edges", lambda value: value + 3), "the edges do not fit 3 atoms"),
        (_dataset("edges", lambda value: value[:, :4]), "b/edges is int32 of shape"),
        (_dataset("edges", lambda value: value * 1.5), "b/edges is float64"),
        (_dataset("hamiltonian", lambda value: None), "no array 'hamiltonian'"),
        (_dataset("hamiltonian", lambda value: value.astype(int)), "int64 with decimals None; pack it again"),
        (_dataset("hamiltonian", lambda value: value * np.nan), "b: NaN or infinite numbers"),
        (
            _dataset("hamiltonian", lambda value: value + np.arange(value.size)),
            "b: the hamiltonian is not hermitian",
        ),
        (_dataset("positions", lambda value: value * 0), "b: atoms 1 and 2 .* are 0 angstrom apart"),
        (_dataset("positions", lambda value: value[:2]), "b/positions is float64 of shape"),
        (_dataset("lattice", lambda value: value * 0), "b: the lattice vectors .* span no volume"),
        (_dataset("numbers", lambda value: value[:2]), "do not fit|is float64 of shape"),
        (_dataset("numbers", lambda value: value * 0.5), "b/numbers is float64"),
        (lambda file: file.pop("b"), "b is gone; the file changed"),
    ],
)
def test_damaged_packed_files(packed, change, message):
    database = CrystalDatabase(packed)
    with h5py.File(packed, "a") as file:
        change(file)
    assert database[0].name == "a"
    with pytest.raises(DataError, match=message) as caught:
        database[1]
    assert str(caught.value).startswith(str(packed))


def test_damaged_bytes(packed):
    database = CrystalDatabase(packed)
    content = packed.read_bytes()
    for end in range(0, len(content), len(content) // 20):
        packed.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"small\.h5"):
            everything(database)
    packed.unlink()
    with pytest.raises(DataError, match=r"small\.h5: no such file"):
        database[0]


def test_packing_leaves_a_complete_file_or_none(tmp_path, structures):
    path = tmp_path / "a.h5"
    with pytest.raises(DataError, match="two structures are called c; rename one"):
        pack([structures[0], structures[0]], path, decimals=None, provenance={})
    with pytest.raises(DataError, match="no structures to pack"):
        pack([], path, decimals=None, provenance={})
    for decimals in (-1, 13):
        with pytest.raises(DataError, match=f"decimals is {decimals}; 0 to 12"):
            pack(structures, path, decimals=decimals, provenance={})
    broken = replace(structures[0], hamiltonian=structures[0].hamiltonian * np.inf)
    with pytest.raises(DataError, match="c: NaN or infinite"):
        pack([structures[1], broken], path, decimals=None, provenance={})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceGradError, match="cannot be written"):
        pack(structures, tmp_path / "file" / "a.h5", decimals=None, provenance={})


def test_the_pack_command(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "source").symlink_to(folder)
    output = tmp_path / "out.h5"

    def run(*arguments) -> str:
        monkeypatch.setattr(
            "sys.argv", ["pack", f"source={tmp_path / 'source'}", f"output={output}", *arguments]
        )
        main()
        return capsys.readouterr().out

    printed = run("pattern=['[ab]']", "decimals=4", "overlap=true", "description=small")
    assert printed.startswith(f"wrote {output}: 2 structures, 0.0")
    assert CrystalDatabase(output, overlap=True).names == ["a", "b"]
    provenance = json.loads((tmp_path / "out.provenance.json").read_text())
    assert provenance["description"] == "small"
    assert provenance["rounding"] == "matrices to multiples of 1e-4 eV"
    assert provenance["structures"] == {"a": None, "b": None}
    assert str(tmp_path) not in json.dumps(provenance)
    assert (
        provenance["command"] == "tracegrad pack source=source output=out.h5 "
        "\"pattern=['[ab]']\" decimals=4 overlap=true"
    )
    for arguments, message in (
        ([], f"error: {output} exists; choose another output or set overwrite=true"),
        (["pattern=[5]"], "error: pattern=[5] is not text"),
        (["decimals=x"], "error: decimals=x is not a whole number"),
    ):
        with pytest.raises(SystemExit):
            run(*arguments)
        assert capsys.readouterr().err.startswith(message)
    output.write_text("something else")  # is not overwritten at all
    with pytest.raises(SystemExit):
        run("overwrite=true")
    assert "out.h5: " in capsys.readouterr().err
    assert output.read_text() == "something else"
