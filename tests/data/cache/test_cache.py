"""Caches of crystals: their graphs, and outdated and damaged caches."""

import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.cache.same import EMBEDDED, assert_same_graph, assert_same_graphs, rebuilt
from tracegrad.data.cache import lookup as cache_module
from tracegrad.data.cache.cached_crystals import CrystalCache
from tracegrad.data.cache.lookup import build_cache, open_cache, prepare_cache
from tracegrad.data.cache.store import FORMER_MAGIC, INDEX
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.loading.deeph_module import CrystalDataset
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis

KINDS = ["light_bilayer_*", "light_twisted_*", "light_mos2_*", "light_bismuthene_*"]


@pytest.mark.parametrize("stored", ["float32", "float64"])
@pytest.mark.parametrize("pattern", KINDS)
def test_graphs_are_those_of_the_database(path, pattern, stored):
    database = CrystalDatabase(EMBEDDED, include=pattern)
    cache = build_cache(database, path, stored)
    assert cache.names == database.names
    assert len(cache) == len(database)
    assert {entry.fermi_level for entry in cache.entries} == {
        database[row].fermi_level for row in range(len(cache))
    }
    assert_same_graphs(database, cache, "float32")
    if stored == "float64":
        assert_same_graphs(database, cache, "float64")
    assert sorted(os.listdir(path)) == sorted([INDEX, *(entry.file for entry in cache.entries)])


def test_graphs_are_those_of_folders_and_of_a_larger_basis(folder, path):
    database = CrystalDatabase(folder)
    cache = build_cache(database, path)
    assert_same_graphs(database, cache)
    larger = OrbitalBasis.openmx({"C": "s2p2d1", "Bi": "s3p2d2"})
    shells = dict(database.shells)
    basis = OrbitalBasis.openmx({6: shells[6], 83: larger.shells[83]})
    rows = np.arange(len(database))
    found, expected = (
        CrystalDataset(database, rows, basis, "float64", cache=one)[2] for one in (cache, None)
    )
    assert_same_graph(found, expected)


def test_another_basis_is_an_error(folder, path):
    cache = build_cache(CrystalDatabase(folder), path)
    for basis in (OrbitalBasis.openmx({"C": "s1p1"}), OrbitalBasis.openmx({"C": "s2p1d1"}, spinful=True)):
        with pytest.raises(BasisError, match="does not fit the basis C s"):
            cache.graph(0, basis)


def test_opening_builds_nothing_and_building_twice_reads_once(folder, path):
    database = CrystalDatabase(folder)
    assert open_cache(database, [path]) is None
    assert not path.parent.exists()
    build_cache(database, path)
    before = (path / INDEX).stat()
    lines: list[str] = []
    assert build_cache(database, path, report=lines.append).names == database.names
    assert prepare_cache(database, [path], report=lines.append) is not None
    after = (path / INDEX).stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert lines == []


def test_changed_content_is_read_again_and_nothing_else(folder, path):
    names = CrystalDatabase(folder).names
    build_cache(CrystalDatabase(folder), path)
    with h5py.File(folder / names[1] / "hamiltonians.h5", "a") as file:
        file["[0, 0, 0, 1, 1]"][0, 0] += 1.0  # the size stays
    positions = np.loadtxt(folder / names[2] / "site_positions.dat")
    positions[0, 0] += 0.01
    np.savetxt(folder / names[2] / "site_positions.dat", positions)
    assert open_cache(CrystalDatabase(folder), [path]) is None
    said = rebuilt(folder, path)
    assert said[0] == f"{path}: 2 structures have changed, the first one {names[1]}; it is built again"
    assert said[1] == "building the cache of 4 structures, 2 of them kept from before; processes: 1"
    assert said[2:] == ["2/4", "3/4", "4/4"]


def test_a_time_of_modification_that_was_set_does_not_hide_a_change(folder, path):
    database = CrystalDatabase(folder)
    build_cache(database, path)
    matrix = folder / database.names[0] / "hamiltonians.h5"
    before = matrix.stat()
    with h5py.File(matrix, "a") as file:
        file["[0, 0, 0, 1, 1]"][0, 0] += 1.0
    os.utime(matrix, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (matrix.stat().st_size, matrix.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert open_cache(database, [path]) is None


def test_caches_of_copied_databases_are_valid_and_are_hashed_once(folder, path, tmp_path, monkeypatch):
    build_cache(CrystalDatabase(folder), path)
    copy = CrystalDatabase(shutil.copytree(folder, tmp_path / "copy"))
    assert_same_graphs(copy, open_cache(copy, [path]))
    monkeypatch.setattr(cache_module, "ContentHashes", lambda: None)
    assert open_cache(copy, [path]) is not None
    with pytest.raises(TypeError):  # the stamps are those of the copy now
        open_cache(CrystalDatabase(folder), [path])


def test_added_and_removed_structures_and_another_include(folder, path, tmp_path):
    names = CrystalDatabase(folder).names
    build_cache(CrystalDatabase(folder), path)
    (folder / names[0]).rename(tmp_path / "gone")
    said = rebuilt(folder, path)
    assert said[0] == f"{path}: 0 structures have been added and 1 removed; it is built again"
    assert said[2:] == ["3/3"]
    (tmp_path / "gone").rename(folder / names[0])
    said = rebuilt(folder, path)
    assert said[0] == f"{path}: 1 structures have been added and 0 removed; it is built again"
    assert said[2:] == ["3/4", "4/4"]
    assert rebuilt(folder, path, include="*_0[01]")[2:] == ["2/2"]


def test_precision(folder, path):
    rebuilt(folder, path, "float32")
    size = CrystalCache(path).size
    assert open_cache(CrystalDatabase(folder), [path], "float64") is None
    said = rebuilt(folder, path, "float64")
    assert said[0] == f"{path}: its numbers are float32, but float64 is needed; it is built again"
    assert said[2] == "0/4"
    assert CrystalCache(path).size > 1.5 * size
    assert rebuilt(folder, path, "float32") == []  # float64 serves both


def test_a_packed_file_that_changes(folder, path, tmp_path):
    packed = shutil.copy(EMBEDDED, tmp_path / "a.h5")
    database = CrystalDatabase(packed, include="light_mos2_*")
    build_cache(database, path)
    os.utime(packed)
    assert open_cache(database, [path]) is not None
    with h5py.File(packed, "a") as file:
        file[f"{database.names[0]}/hamiltonian"][0, 0] += 1
    assert open_cache(database, [path]) is None
    assert_same_graphs(database, build_cache(database, path))


def test_damaged_files_are_built_again(folder, path):
    rebuilt(folder, path)
    index = (path / INDEX).read_text()
    for damaged, reason in (
        (index[: len(index) // 2], "damaged"),
        ("", "damaged"),
        ("[]", "damaged"),
        (index.replace('"version": 2', '"version": 9'), "of version 9, but this one is 2"),
    ):
        (path / INDEX).write_text(damaged)
        said = rebuilt(folder, path)
        assert said[0] == f"{path}: {reason}; it is built again"
        assert said[2:] == ["4/4"]  # the structures are whole
    for change in (Path.unlink, lambda file: os.truncate(file, 1000), lambda file: file.write_bytes(b"")):
        change(path / CrystalCache(path).entries[1].file)
        said = rebuilt(folder, path)
        assert said[0] == f"{path}: incomplete; it is built again"
        assert said[2:] == ["3/4", "4/4"]


def test_a_structure_that_is_damaged_later_is_named(folder, path):
    database = CrystalDatabase(folder)
    cache = build_cache(database, path)
    file = path / cache.entries[1].file
    file.write_bytes(b"?" * file.stat().st_size)
    with pytest.raises(DataError, match=rf"{file.name}: cannot be read .* remove the cache"):
        cache.graph(1, database.basis)


def test_caches_of_earlier_versions_are_built_again(folder, path):
    path.parent.mkdir()
    path.write_bytes(FORMER_MAGIC + b"and much more")
    said = rebuilt(folder, path)
    assert said[0] == f"{path}: of an earlier version; it is built again"
    assert said[-1] == "4/4"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_files_of_other_programs_are_not_changed(folder, path, kind):
    path.parent.mkdir()
    foreign = path if kind == "file" else path / "thesis.txt"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"months of work")
    with pytest.raises(DataError, match=r"no cache of TraceGrad; remove it or choose another data\.cache"):
        build_cache(CrystalDatabase(folder), path)
    assert foreign.read_bytes() == b"months of work"
    assert os.listdir(foreign.parent) == [foreign.name]


def test_a_file_that_was_replaced_is_not_read_by_mistake(folder, path):
    database = CrystalDatabase(folder)
    cache = build_cache(database, path)
    assert cache.graph(0, database.basis).num_nodes
    build_cache(CrystalDatabase(folder, include="*_0[01]"), path)
    with pytest.raises(DataError, match="the cache was replaced after it had been opened; start again"):
        pickle.loads(pickle.dumps(cache)).graph(3, database.basis)
