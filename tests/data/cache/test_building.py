"""Builds of caches: in several processes, at the same time, interrupted, and where they fail."""

import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests import forked
from tests.data.cache.same import assert_same_graph, assert_same_graphs, graphs, rebuilt
from tests.experiments.sweeping import wait_for
from tracegrad.data.cache.lookup import build_cache
from tracegrad.data.cache.store import INDEX
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.loading.deeph_module import CrystalDataset
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.hamiltonian.graph import collate

ROOT = Path(__file__).parents[3]


class DeadlyDatabase(CrystalDatabase):
    """Ends the process that reads the last structure."""

    def __getitem__(self, index):
        if index == len(self) - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


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


def start_build(folder: Path, path: Path, go_on: Path) -> forked.Forked:
    return forked.start("tests.data.cache.waiting_build", str(folder), str(path), str(go_on))


@pytest.mark.slow
def test_a_killed_build_goes_on(folder, path, tmp_path):
    process = start_build(folder, path, tmp_path / "never")
    wait_for(lambda: "\n2 " in process.printed(), 120)
    process.kill()
    assert not (path / INDEX).exists()
    (path / ("0" * 32 + ".safetensors")).write_bytes(b"not a whole file")
    kept, *rest = rebuilt(folder, path)[1:]
    assert kept in ("2/4", "3/4")
    assert rest[-1] == "4/4"
    assert len(os.listdir(path)) == 5


@pytest.mark.slow
def test_two_builds_at_once(folder, path, tmp_path):
    first = start_build(folder, path, tmp_path / "go on")
    wait_for(lambda: first.printed().startswith("building"), 120)
    lines: list[str] = []
    database = CrystalDatabase(folder)
    cache = build_cache(
        database, path, report=lambda line: (lines.append(line), (tmp_path / "go on").touch())
    )
    assert lines == [f"another process builds {path}; waiting for it"]
    done = first.wait()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("4 4\nfinished 4\n")
    assert_same_graphs(database, cache)
    assert len(os.listdir(path)) == 5


@pytest.mark.slow
def test_processes_do_not_run_the_script_again(folder, path, tmp_path):
    """A script without ``if __name__ == "__main__"``."""
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, tracegrad.data.cache.lookup as cache, tracegrad.data.crystal_files.database as crystals\n"
        f"database = crystals.CrystalDatabase({str(folder)!r})\n"
        f"cache.build_cache(database, pathlib.Path({str(path)!r}), processes=2)\n"
        "print('built')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=400, cwd=ROOT)
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


def test_a_number_of_processes(folder, path):
    with pytest.raises(ConfigError, match="processes is 0"):
        build_cache(CrystalDatabase(folder), path, processes=0)
