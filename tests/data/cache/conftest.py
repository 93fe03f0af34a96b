import shutil
from pathlib import Path

import pytest

from tests.data.cache.same import EMBEDDED
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure


@pytest.fixture(scope="session")
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
