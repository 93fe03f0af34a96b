"""Caches of crystals: their graphs, outdated caches, and builds that fail or are interrupted."""

import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tracegrad.data.cache import lookup as cache_module
from tracegrad.data.cache.cached_crystals import CrystalCache
from tracegrad.data.cache.lookup import build_cache, cache_paths, open_cache, prepare_cache
from tracegrad.data.cache.store import FORMER_MAGIC, INDEX
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.data.crystals.deeph import write_structure
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.loading.deeph_module import CrystalDataset
from tracegrad.errors import BasisError, ConfigError, DataError, TraceGradError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate

EMBEDDED = database_path("embedded:demo_crystals.h5")
ROOT = Path(__file__).parents[3]
KINDS = ["light_bilayer_*", "light_twisted_*", "light_mos2_*", "light_bismuthene_*"]
BUILD = """
import sys
from pathlib import Path
from tracegrad.data.cache.lookup import build_cache
from tracegrad.data.crystals.database import CrystalDatabase
from tests.data.cache.test_cache import slow
cache = build_cache(slow(CrystalDatabase(sys.argv[1])), Path(sys.argv[2]), processes=1, report=print,
                    on_progress=lambda done, total: print(done, total, flush=True))
print("finished", len(cache), flush=True)
"""


class SlowDatabase(CrystalDatabase):
    """Reads each structure slowly."""

    def __getitem__(self, index):
        time.sleep(0.3)
        return super().__getitem__(index)


class DeadlyDatabase(CrystalDatabase):
    """Ends the process that reads the last structure."""

    def __getitem__(self, index):
        if index == len(self) - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def slow(database: CrystalDatabase) -> SlowDatabase:
    return SlowDatabase(database.path)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Four graphene cells as folders."""
    folder = tmp_path_factory.mktemp("crystals") / "graphene"
    database = CrystalDatabase(EMBEDDED, include="light_graphene_*")
    for row, name in enumerate(database.names):
        write_structure(database[row], folder / name)
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "graphene")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "caches" / "a.cache"


def assert_same_graph(found: HamiltonianGraph, expected: HamiltonianGraph) -> None:
    """Same fields in the same order with the same bits."""
    assert list(found.keys()) == list(expected.keys())
    for key in expected.keys():  # noqa: SIM118 - a graph iterates over its items
        a, b = found[key], expected[key]
        assert a == b if isinstance(b, int) else (a.dtype == b.dtype and torch.equal(a, b)), key


def graphs(database: CrystalDatabase, cache: CrystalCache | None = None, dtype: str = "float64") -> list:
    dataset = CrystalDataset(database, np.arange(len(database)), database.basis, dtype, cache=cache)
    return [dataset[row] for row in range(len(dataset))]


def assert_same_graphs(database: CrystalDatabase, cache: CrystalCache | None, dtype: str = "float64") -> None:
    assert cache is not None
    for found, expected in zip(graphs(database, cache, dtype), graphs(database, None, dtype), strict=True):
        assert_same_graph(found, expected)


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


def rebuilt(folder: Path, path: Path, dtype: str = "float64", include: str = "*") -> list[str]:
    """Lines of the report and counts of a build, whose result is compared with the folders."""
    said: list[str] = []
    database = CrystalDatabase(folder, include=include)
    cache = build_cache(
        database,
        path,
        dtype,
        report=said.append,
        on_progress=lambda done, total: said.append(f"{done}/{total}"),
    )
    assert_same_graphs(database, cache, "float32")
    return said


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


@pytest.mark.slow
def test_a_damaged_structure_is_named_and_the_others_are_kept(folder, path):
    database = CrystalDatabase(folder)
    bad = folder / database.names[2] / "hamiltonians.h5"
    shutil.copy(bad, path.parent.parent / "good.h5")
    with h5py.File(bad, "a") as file:
        file["[0, 0, 0, 1, 1]"][0, 0] = np.nan
    for processes in (1, 2):
        with pytest.raises(DataError, match=rf"{database.names[2]}: NaN or infinite numbers") as caught:
            build_cache(database, path, processes=processes)
        with pytest.raises(DataError) as expected:
            database[2]
        assert str(caught.value) == str(expected.value)
        assert not (path / INDEX).exists()
    shutil.copy(path.parent.parent / "good.h5", bad)
    kept, total = rebuilt(folder, path)[1].split("/")
    assert int(kept) >= 2
    assert total == "4"


def test_nothing_is_left_of_a_build_without_a_structure(folder, path):
    database = CrystalDatabase(folder)
    (folder / database.names[0] / "info.json").unlink()
    with pytest.raises(DataError, match=r"info\.json: cannot be read"):
        build_cache(database, path)
    assert os.listdir(path.parent) == []


def start_build(folder: Path, path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(folder), str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_killed_build_goes_on(folder, path):
    process = start_build(folder, path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("2 "):
            process.kill()
            break
    process.wait()
    process.stdout.close()
    assert not (path / INDEX).exists()
    (path / ("0" * 32 + ".safetensors")).write_bytes(b"not a whole file")
    kept, *rest = rebuilt(folder, path)[1:]
    assert kept in ("2/4", "3/4")
    assert rest[-1] == "4/4"
    assert len(os.listdir(path)) == 5


@pytest.mark.slow
def test_two_builds_at_once(folder, path):
    first = start_build(folder, path)
    assert first.stdout is not None
    assert first.stdout.readline().startswith("building")
    lines: list[str] = []
    database = CrystalDatabase(folder)
    cache = build_cache(database, path, report=lines.append)
    assert lines == [f"another process builds {path}; waiting for it"]
    assert first.wait() == 0
    assert first.stdout.read().endswith("4 4\nfinished 4\n")
    first.stdout.close()
    assert_same_graphs(database, cache)
    assert len(os.listdir(path)) == 5


@pytest.mark.slow
def test_processes_do_not_run_the_script_again(folder, path, tmp_path):
    """A script without ``if __name__ == "__main__"``."""
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, tracegrad.data.cache.lookup as cache, tracegrad.data.crystals.database as crystals\n"
        f"database = crystals.CrystalDatabase({str(folder)!r})\n"
        f"cache.build_cache(database, pathlib.Path({str(path)!r}), processes=2)\n"
        "print('built')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("built\n", 0), done.stderr
    assert (path / INDEX).is_file()


@pytest.mark.slow
def test_a_dead_worker_is_an_error_and_the_rest_is_kept(folder, path):
    with pytest.raises(TraceGradError, match="a process that reads structures died") as caught:
        build_cache(DeadlyDatabase(folder), path, processes=2)
    assert "killed by SIGKILL" in str(caught.value)
    assert rebuilt(folder, path)[1] in ("2/4", "3/4")


def test_a_full_disk(folder, path):
    """A limit of the size of files causes the same error of the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(
            TraceGradError, match=r"cannot be written \(File too large\).*data\.cache; null reads"
        ):
            build_cache(CrystalDatabase(folder), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(path.parent) == []
    assert rebuilt(folder, path)[1] == "0/4"


def test_structures_that_change_while_they_are_read(folder, path):
    class Restless(CrystalDatabase):
        def __getitem__(self, index):
            structure = super().__getitem__(index)
            os.utime(self.files(structure.name)[-1])
            return structure

    with pytest.raises(DataError, match=r"hamiltonians\.h5: changed while it was read"):
        build_cache(Restless(folder), path)


@pytest.mark.slow
def test_many_workers_read_what_many_workers_built(folder, path):
    database = CrystalDatabase(folder)
    cache = build_cache(database, path, processes=2)
    dataset = CrystalDataset(database, np.arange(len(database)), database.basis, "float64", cache=cache)
    expected = graphs(database)
    assert_same_graph(dataset[0], expected[0])  # the file is mapped here
    loader = DataLoader(dataset, num_workers=2, collate_fn=collate, multiprocessing_context="fork")
    for batch, graph in zip(loader, expected, strict=True):
        assert torch.equal(batch.h_edge, graph.h_edge)
        assert torch.equal(batch.vectors, graph.vectors)
    assert len(pickle.dumps(cache)) < 10_000
    assert multiprocessing.active_children() == []


def test_a_file_that_was_replaced_is_not_read_by_mistake(folder, path):
    database = CrystalDatabase(folder)
    cache = build_cache(database, path)
    assert cache.graph(0, database.basis).num_nodes
    build_cache(CrystalDatabase(folder, include="*_0[01]"), path)
    with pytest.raises(DataError, match="the cache was replaced after it had been opened; start again"):
        pickle.loads(pickle.dumps(cache)).graph(3, database.basis)


def test_places(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_paths(EMBEDDED, "auto") == []
    assert cache_paths(folder, "~/a.cache") == [Path.home() / "a.cache"]
    beside, home = cache_paths(folder, "auto", "*")
    assert beside.parent == folder.parent
    assert home.parent == tmp_path / "xdg" / "tracegrad"
    assert beside.name.startswith("graphene-")
    assert cache_paths(folder, "auto", ["*"]) == [beside, home]
    assert cache_paths(folder, "auto", ["a", "b"]) == cache_paths(folder, "auto", ["b", "a"])
    assert cache_paths(folder, "auto", "a")[0] != beside
    other = cache_paths(tmp_path / "x" / "graphene", "auto")
    assert other[0].name == beside.name
    assert other[1] != home
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_paths(folder, "auto")[1].parent == Path("/home/someone/.cache/tracegrad")


def test_folders_without_write_permission_are_not_used(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "locked").mkdir()
    folder = folder.rename(tmp_path / "locked" / "graphene")
    (tmp_path / "locked").chmod(0o555)
    paths = cache_paths(folder, "auto")
    database = CrystalDatabase(folder)
    try:
        cache = prepare_cache(database, paths)
        assert cache is not None
        assert cache.path == paths[1]
        assert open_cache(database, paths).path == paths[1]
        shutil.rmtree(tmp_path / "home" / "tracegrad")
        (tmp_path / "home").chmod(0o555)
        lines: list[str] = []
        assert prepare_cache(database, paths, report=lines.append) is None
        assert lines == [
            f"no cache, because {tmp_path / 'locked'} and {tmp_path / 'home' / 'tracegrad'} cannot be written; "
            "give data.cache=PATH to have one"
        ]
    finally:
        (tmp_path / "locked").chmod(0o755)
        (tmp_path / "home").chmod(0o755)
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceGradError, match="cannot be written"):
        prepare_cache(database, [tmp_path / "file" / "a.cache"])
    assert prepare_cache(database, []) is None


def test_a_read_only_cache_is_read(folder, path, tmp_path):
    build_cache(CrystalDatabase(folder), path)
    path.chmod(0o555)
    content = (path / INDEX).read_bytes()
    copy = CrystalDatabase(shutil.copytree(folder, tmp_path / "copy"))
    assert open_cache(copy, [path]) is not None
    assert (path / INDEX).read_bytes() == content
    path.chmod(0o755)


def test_a_number_of_processes(folder, path):
    with pytest.raises(ConfigError, match="processes is 0"):
        build_cache(CrystalDatabase(folder), path, processes=0)
