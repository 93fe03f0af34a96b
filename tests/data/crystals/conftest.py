from pathlib import Path

import pytest

from tests.data.crystals.scfout import small_structure
from tracegrad.data.crystal_files.deeph import write_structure


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> dict[bool, Path]:
    """Folders of a structure without and with spin; no test writes into these."""
    folder = tmp_path_factory.mktemp("deeph")
    for spinful in (False, True):
        write_structure(small_structure(spinful), folder / str(spinful))
    return {spinful: folder / str(spinful) for spinful in (False, True)}
