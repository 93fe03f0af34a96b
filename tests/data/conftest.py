"""Databases shared by several tests, which do not write to them."""

from pathlib import Path

import numpy as np
import pytest

from tests.data import databases

GOLDEN = Path(__file__).parents[1] / "golden" / "qh9_released.npz"
FORMULAS = ([8, 1, 1], [6, 7, 1], [1, 9], [6, 8, 1, 1, 1, 1], [7], [8, 1, 1], [6, 6, 1, 1])


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """From the released benchmark: the split of QH9-stable by size as bit masks, and the 50 molecules."""
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def samples() -> list[databases.Sample]:
    return [databases.random_sample(numbers, seed) for seed, numbers in enumerate(FORMULAS)]


@pytest.fixture(scope="session")
def frames() -> list[tuple[int, list[databases.Sample]]]:
    """Trajectories 5, 2 and 9 of 10, 12 and 10 frames."""
    lengths = {5: ([8, 1, 1], 10), 2: ([1, 9], 12), 9: ([6, 7, 1], 10)}
    return [
        (key, [databases.random_sample(numbers, 100 * key + i) for i in range(count)])
        for key, (numbers, count) in lengths.items()
    ]


@pytest.fixture(scope="session")
def stable_path(tmp_path_factory, samples) -> Path:
    return databases.write_stable(tmp_path_factory.mktemp("stable") / "stable.db", samples)


@pytest.fixture(scope="session")
def dynamic_path(tmp_path_factory, frames) -> Path:
    return databases.write_dynamic(tmp_path_factory.mktemp("dynamic") / "dynamic.db", frames)


@pytest.fixture(scope="session")
def released(tmp_path_factory, golden) -> dict[str, Path]:
    """Files of the released sizes; N of the stable one gives the released split by size."""
    folder = tmp_path_factory.mktemp("released")
    val, test = (np.unpackbits(golden[f"ood_{part}"], count=130_831) for part in ("val", "test"))
    atoms = np.select([test == 1, val == 1], [23, 21], 20)
    atoms[:100:2] = np.where(atoms[:100:2] == 20, 3, atoms[:100:2])  # well below the threshold too
    return {
        "stable": databases.write_released_stable(folder / "QH9Stable.db", atoms.tolist()),
        "dynamic_100k": databases.write_released_dynamic(folder / "QH9Dynamic_100k.db", 999),
        "dynamic_300k": databases.write_released_dynamic(folder / "QH9Dynamic_300k.db", 2998),
    }
