from pathlib import Path

import pytest

from experiments.cache import main
from tests.data.crystals.scfout import small_structure
from tests.experiments.in_process import caller
from tracegrad.data.cache.cached_crystals import CrystalCache
from tracegrad.data.cache.lookup import cache_paths
from tracegrad.data.crystal_files.deeph import write_structure


@pytest.fixture
def folder(tmp_path) -> Path:
    for seed, name in enumerate(("a", "b", "c x,y")):
        write_structure(small_structure(name=name, seed=seed), tmp_path / "structures" / name)
    return tmp_path / "structures"


@pytest.fixture
def cache(monkeypatch, capsys):
    return caller("cache", main, monkeypatch, capsys)


def test_a_cache_where_training_looks_for_it(folder, cache):
    path = cache_paths(folder, "auto", ["*"])[0]
    found = cache(f"source={folder}")
    assert found.splitlines() == [
        "building the cache of 3 structures; processes: 1",
        f"{path}: 3 structures, {CrystalCache(path).size / 1e6:.2f} MB",
    ]
    assert cache(f"source={folder}") == found.splitlines()[1] + "\n"
    assert [entry.dtype for entry in CrystalCache(path).entries] == ["float32"] * 3


def test_settings(folder, cache, tmp_path):
    path = tmp_path / "new" / "a.cache"
    found = cache(f"source={folder}", f"output={path}", "include=[a,'c*']", "dtype=float64", "processes=1")
    assert f"{path}: 2 structures" in found
    assert CrystalCache(path).names == ["a", "c x,y"]
    assert CrystalCache(path).entries[0].dtype == "float64"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["source=none"], "error: none: no such file or folder"),
        (["output=a"], "error: source is needed; give source=VALUE"),
        (["source={folder}", "dtype=half"], "error: dtype is 'half'; choose one of"),
        (["source={folder}", "processes=0"], "error: processes=0"),
        (["source={folder}", "include=[1]"], "error: include=[1] is not a list of text"),
        (["source=embedded:demo_crystals.h5"], "is a packed file, for whose cache there is no default place"),
        (["sauce=a"], "error: there is no setting 'sauce'; nearest: source"),
    ],
)
def test_errors_are_one_line(folder, cache, arguments, message):
    error = cache(*(argument.format(folder=folder) for argument in arguments))
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_help(cache):
    text = cache("--help")
    assert "tracegrad cache source=structures" in text
    assert cache() == text
