"""Where caches stand, and who can write there."""

import shutil
from pathlib import Path

import pytest

from tests.data.cache.same import EMBEDDED
from tracegrad.data.cache.lookup import build_cache, cache_paths, open_cache, prepare_cache
from tracegrad.data.cache.store import INDEX
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.errors import TraceGradError


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
    of_spins = [path for spin in ("up", "down") for path in cache_paths(folder, "auto", "*", spin)]
    assert len({*of_spins, beside, home}) == 6
    assert cache_paths(folder, "~/a.cache", "*", "up") == [Path.home() / "a.cache-up"]
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
