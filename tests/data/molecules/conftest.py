"""Files in the layouts of MD17 and nablaDFT that several tests read."""

from pathlib import Path

import pytest

from tests.data.molecules import files


@pytest.fixture(scope="session")
def waters() -> list[files.Sample]:
    return [files.sample([8, 1, 1], seed) for seed in range(10)]


@pytest.fixture(scope="session")
def drugs() -> list[files.Sample]:
    """Small molecules with S, Cl and Br."""
    numbers = ([35, 1], [1, 8, 1], [7, 6, 16, 1], [17, 9], [6, 1, 1, 1, 1], [1, 6, 7])
    return [files.sample(row, seed, files.OMEGA_B97X_D) for seed, row in enumerate(numbers)]


@pytest.fixture(scope="session")
def water_path(tmp_path_factory, waters) -> Path:
    return files.write_md17(tmp_path_factory.mktemp("md17") / "water.db", waters)


@pytest.fixture(scope="session")
def drug_path(tmp_path_factory, drugs) -> Path:
    return files.write_nabladft(tmp_path_factory.mktemp("nabladft") / "train.db", drugs)
