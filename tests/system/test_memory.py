import os
from pathlib import Path

from tracegrad.system import memory
from tracegrad.system.memory import available_memory


def test_no_more_than_the_machine_has():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() <= total


def test_the_limit_of_a_container(tmp_path: Path, monkeypatch):
    (tmp_path / "limit").write_text("123456\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "none", tmp_path / "absent", tmp_path / "limit"))
    assert available_memory() == 123456
