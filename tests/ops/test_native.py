"""Compiling, caching and calling C++ kernels."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tracegrad.ops import native


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)

    def fail(first: int, last: int) -> None:
        if first:
            raise ValueError(f"{first} {last}")

    with pytest.raises(ValueError, match="2 4"):
        native.in_threads(fail, 6, 100)


@pytest.mark.usefixtures("fresh")
def test_source_that_does_not_compile_names_the_error(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert native.library("int main( { return 0; }") is None
    assert "error" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.usefixtures("fresh")
def test_compiled_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = 'extern "C" int seven() { return 7; }'
    assert native.library(source).seven() == 7
    (kept,) = tmp_path.rglob("*.so")
    compiled_at = kept.stat().st_mtime_ns
    native._library.cache_clear()
    assert native.library(source).seven() == 7
    assert kept.stat().st_mtime_ns == compiled_at


@pytest.mark.usefixtures("fresh")
def test_a_damaged_file_is_compiled_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = 'extern "C" int nine() { return 9; }'
    kept = native._cache_path(source)
    native._compile(source, kept)
    kept.write_bytes(kept.read_bytes()[:2000])
    assert native.library(source).nine() == 9
    assert kept.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.usefixtures("fresh")
def test_a_cache_that_cannot_be_written_is_replaced(monkeypatch, tmp_path):
    (tmp_path / "tracegrad").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library('extern "C" int eight() { return 8; }').eight() == 8


@pytest.mark.usefixtures("fresh")
def test_a_folder_that_others_can_write_is_not_trusted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "tracegrad" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert native.library('extern "C" int ten() { return 10; }').ten() == 10
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("fresh")
def test_threads_that_need_the_same_kernel(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = 'extern "C" int eleven() { return 11; }'
    with ThreadPoolExecutor(4) as pool:
        assert [library.eleven() for library in pool.map(native.library, [source] * 4)] == [11] * 4
    # Nothing above INFO: with a configured logger the compilation itself is logged.
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_c_types_are_declared():
    source = """
#include <cstdint>
extern "C" int number(int64_t x, double y, const int64_t* z) { return (x >> 40) * 10 + int(y) + (z ? 100 : 0); }
"""
    library = native.library(source, native.Function("number", "idp", fails=True))
    if library is None:
        pytest.skip("no compiler")
    assert library.number(5 << 40, 3, None) == 53
    for wrong in ((1.5, 0.0, None), (None, 0.0, None), (1, "0", None), (1, 0.0, 1.5), (1, 0.0)):
        with pytest.raises((TypeError, native.ctypes.ArgumentError)):
            library.number(*wrong)
