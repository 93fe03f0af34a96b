import io
import pickle
import re

import numpy as np
import pytest

from tests.data import databases
from tracegrad.data import splits
from tracegrad.data.qh9.database import QH9Database
from tracegrad.data.splits import PARTS, split_hash
from tracegrad.errors import DataError

# `split_hash` of the index arrays that the released benchmark made, and their sizes.
RELEASED = {
    ("stable", "ood"): ("94f182d80e86c6cd", (104_001, 17_495, 9_335)),
    ("stable", "random"): ("14f784ac75522888", (104_664, 13_083, 13_084)),
    ("dynamic_100k", "mol"): ("864a6178a2d34577", (79_900, 9_900, 10_100)),
    ("dynamic_300k", "mol"): ("60db2f6273c3a357", (239_800, 29_900, 30_100)),
}


@pytest.fixture(scope="module")
def databases_(released) -> dict[str, QH9Database]:
    return {name: QH9Database(path) for name, path in released.items()}


@pytest.fixture
def stable(stable_path) -> QH9Database:
    return QH9Database(stable_path)


@pytest.fixture
def dynamic(dynamic_path) -> QH9Database:
    return QH9Database(dynamic_path)


@pytest.mark.parametrize(("file", "name"), RELEASED)
def test_released_splits(databases_, file, name):
    split = databases_[file].split(name)
    digest, sizes = RELEASED[file, name]
    assert tuple(len(split[part]) for part in PARTS) == sizes
    assert split_hash(split) == digest
    everything = np.sort(np.concatenate([split[part] for part in PARTS]))
    assert np.array_equal(everything, np.arange(len(databases_[file])))


def test_released_size_split_is_the_one_of_the_benchmark(databases_, golden):
    split = databases_["stable"].split("ood")
    for part in ("val", "test"):
        mask = np.unpackbits(golden[f"ood_{part}"], count=130_831)
        assert np.array_equal(split[part], np.flatnonzero(mask))


@pytest.mark.parametrize(
    ("file", "names", "key"),
    [
        ("stable", ("random", "ood"), "stable_accel50"),
        ("dynamic_100k", ("mol", "geometry"), "dyn100k_accel50"),
        ("dynamic_300k", ("mol", "geometry"), "dyn300k_accel50"),
    ],
)
def test_the_fifty_molecules_of_the_benchmark(databases_, golden, file, names, key):
    first, second = (databases_[file].split(name)["test"] for name in names)
    pool = np.intersect1d(first, second)
    drawn = np.random.default_rng(43).choice(pool, 50, replace=False)
    assert np.array_equal(drawn, golden[key])
    if file == "stable":
        assert len(pool) == 923


def test_geometry_split_of_a_released_file(databases_):
    split = databases_["dynamic_100k"].split("geometry")
    assert tuple(len(split[part]) for part in PARTS) == (79_920, 9_990, 9_990)
    for t in (0, 1, 500, 998):
        order = 100 * t + np.random.RandomState(100 * t + 99).permutation(100)
        assert np.array_equal(split["train"][80 * t : 80 * t + 80], order[:80])
        assert np.array_equal(split["val"][10 * t : 10 * t + 10], order[80:90])
        assert np.array_equal(split["test"][10 * t : 10 * t + 10], order[90:])


def test_released_rules_can_be_overridden_only_on_purpose(databases_):
    stable = databases_["stable"]
    assert split_hash(stable.split("random", seed=44)) != RELEASED["stable", "random"][0]
    assert len(stable.split("ood", thresholds=(20, 21))["val"]) == 17_495
    assert len(stable.split("random", fractions=(0.5, 0.25, 0.25))["train"]) == 65_415


def test_size_split_has_inclusive_thresholds():
    split = splits.size_split(np.array([19, 20, 21, 22, 23, 3]), (20, 22))
    assert {name: rows.tolist() for name, rows in split.items()} == {
        "train": [0, 1, 5],
        "val": [2, 3],
        "test": [4],
    }


def test_custom_trajectories_are_not_divided(dynamic):
    split = dynamic.split("mol", fractions=(0.34, 0.34, 0.32))
    bounds = dynamic.trajectory_starts
    assert bounds.tolist() == [0, 10, 22, 32]
    for rows in split.values():
        trajectories = set(np.searchsorted(bounds, rows, side="right").tolist())
        assert len(trajectories) == 1
        first, end = bounds[trajectories.pop() - 1 :][:2]
        assert rows.tolist() == list(range(first, end))


def test_custom_geometry_split_takes_frames_of_each_trajectory(dynamic):
    split = dynamic.split("geometry", fractions=(0.8, 0.1, 0.1))
    counts = [np.histogram(split[part], dynamic.trajectory_starts)[0].tolist() for part in PARTS]
    assert counts == [[8, 9, 8], [1, 1, 1], [1, 2, 1]]


def test_fractions_are_truncated_as_in_the_release():
    split = splits.random_split(10, (0.29, 0.29, 0.42), 43)
    assert [len(split[part]) for part in PARTS] == [2, 2, 6]
    order = np.random.RandomState(43).permutation(10)
    assert np.array_equal(np.concatenate([split[part] for part in PARTS]), order)


def test_the_hash_depends_on_parts_and_order_but_not_on_the_dtype():
    split = {"train": np.arange(5), "val": np.array([5]), "test": np.array([6, 7])}
    same = {name: rows.astype(np.int32) for name, rows in reversed(split.items())}
    assert split_hash(split) == split_hash(same)
    for other in (
        split | {"train": np.arange(5)[::-1]},
        split | {"train": np.arange(6), "val": np.array([], dtype=np.int64)},
        split | {"val": split["test"], "test": split["val"]},
    ):
        assert split_hash(other) != split_hash(split)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("size", {}, r"no split 'size' for a stable database; choose one of \['ood', 'random'\]"),
        ("", {}, "no split ''"),
        ("mol", {"fractions": (0.8, 0.1, 0.1)}, "no split 'mol' for a stable database"),
        ("ood", {}, "7 rows is none of the released sizes.*thresholds"),
        ("ood", {"fractions": (0.8, 0.1, 0.1)}, "set data.thresholds"),
        ("random", {}, "set data.fractions"),
        ("random", {"thresholds": (2, 3)}, "set data.fractions"),
        ("ood", {"thresholds": (3, 3)}, r"thresholds are \(3, 3\); give two ascending"),
        ("ood", {"thresholds": [3]}, r"thresholds are \[3\]; give two"),
        ("ood", {"thresholds": [2, float("nan")]}, "give two ascending"),
        ("ood", {"thresholds": ["2", "3"]}, "give two ascending"),
        ("ood", {"thresholds": 3}, "thresholds are 3; give two ascending"),
        ("ood", {"thresholds": "23"}, "give two ascending"),
        ("random", {"fractions": (0.8, 0.1)}, "give three numbers that sum to 1"),
        ("random", {"fractions": (0.8, 0.3, -0.1)}, "give three numbers that sum to 1"),
        ("random", {"fractions": (0.8, 0.1, 0.2)}, r"fractions are \(0.8, 0.1, 0.2\); give three"),
        ("random", {"fractions": (float("nan"), 0.1, 0.1)}, "give three numbers that sum to 1"),
        ("random", {"fractions": (float("inf"), 0.1, 0.1)}, "give three numbers that sum to 1"),
        ("random", {"fractions": ("a", "b", "c")}, "give three numbers that sum to 1"),
        ("random", {"fractions": (None, 0.5, 0.5)}, "give three numbers that sum to 1"),
        ("random", {"fractions": 0.8}, "fractions are 0.8; give three"),
        ("random", {"fractions": (1, 0, 0)}, "leaves val and test empty.*7 rows.*change"),
        ("random", {"fractions": (0.8, 0.1, 0.1)}, "leaves val empty"),
        ("ood", {"thresholds": (90, 95)}, "leaves val and test empty"),
        ("ood", {"thresholds": (-3, 0)}, "leaves train and val empty"),
        ("random", {"fractions": (0.8, 0.1, 0.1), "seed": -1}, "split seed is -1; give one from 0"),
        ("random", {"fractions": (0.8, 0.1, 0.1), "seed": 1 << 32}, "data.split_seed"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_splits_of_a_stable_database(stable, name, options, message):
    with pytest.raises(DataError, match=message):
        stable.split(name, **options)


def test_bad_splits_of_a_dynamic_database(dynamic, databases_):
    with pytest.raises(DataError, match=r"no split 'ood' for a dynamic database; choose one of \['mol'"):
        dynamic.split("ood", thresholds=(1, 2))
    with pytest.raises(DataError, match=r"no split 'random'"):
        databases_["dynamic_100k"].split("random")
    with pytest.raises(DataError, match=r"split 'geometry' needs fractions"):
        dynamic.split("geometry")
    with pytest.raises(DataError, match="leaves val empty"):
        dynamic.split("mol", fractions=(0.8, 0.1, 0.1))


def test_trajectories_whose_frames_are_not_consecutive_are_refused(tmp_path, frames):
    mixed = [(key, [sample]) for pair in zip(*(samples[:5] for _, samples in frames), strict=True)
             for key, sample in zip((5, 2, 9), pair, strict=True)]  # fmt: skip
    database = QH9Database(databases.write_dynamic(tmp_path / "mixed.db", mixed))
    for name in ("mol", "geometry"):
        with pytest.raises(DataError, match=r"mixed\.db.*are not consecutive.*rows 0 and 1; sort"):
            database.split(name, fractions=(0.4, 0.3, 0.3))


def test_index_file(stable, tmp_path):
    path = tmp_path / "split.npz"
    np.savez(path, train=np.array([6, 0], np.uint8), val=np.array([3], np.int32), test=np.array([2, 5]))
    split = stable.split(index_file=path)
    assert {name: rows.tolist() for name, rows in split.items()} == {
        "train": [6, 0],
        "val": [3],
        "test": [2, 5],
    }
    assert all(rows.dtype == np.int64 for rows in split.values())


class Bomb:
    """Must never be unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('an index file ran code')",)


def _npz(**changes) -> bytes:
    arrays = {"train": np.arange(3), "val": np.array([3]), "test": np.array([4, 5])} | changes
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in arrays.items() if array is not None})
    return stream.getvalue()


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(7))
    return stream.getvalue()


def _with_flag(content: bytes, offset: int, value: int) -> bytes:
    """Change a field of the zip entry of the first array."""
    entry = content.index(b"PK\1\2")
    return content[: entry + offset] + bytes([value]) + content[entry + offset + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable .npz file"),
        (b"train: 1 2 3\n", "not a readable .npz file"),
        (_npy(), r"not a readable .npz file.*numpy\.savez"),
        (_npz()[:-40], "not a readable .npz file"),
        (_npz()[:200], "not a readable .npz file"),
        (_with_flag(_npz(), 8, 1), "not a readable .npz file.*encrypted"),
        (_with_flag(_npz(), 10, 99), "not a readable .npz file"),
        (pickle.dumps(Bomb()), "not a readable .npz file"),
        (_npz(train=np.array([Bomb()], dtype=object)), "not a readable .npz file.*[Oo]bject arrays"),
        (_npz(val=None, test=None), r"arrays \['val', 'test'\] are missing, it has \['train'\]"),
        (_npz(train=np.array([0.0, 1.0])), r"train holds float64 of shape \(2,\); row positions"),
        (_npz(train=np.array(["0"])), "train holds <U1"),
        (_npz(val=np.ones(7, dtype=bool)), "val holds bool"),
        (_npz(train=np.array([[0, 1]])), r"train holds int64 of shape \(1, 2\)"),
        (_npz(val=np.array(3)), r"val holds int64 of shape \(\)"),
        (_npz(test=np.array([7])), r"test has rows 7..7, the database has 7 rows"),
        (_npz(test=np.array([2**63 + 1], np.uint64)), "test has rows 9223372036854775809"),
        (_npz(train=np.array([-1, 0])), r"train has rows -1..0, the database has 7 rows"),
        (_npz(val=np.array([5])), "row 5 occurs twice"),
        (_npz(train=np.array([0, 1, 0])), "row 0 occurs twice"),
        (_npz(val=np.array([], np.int64)), "leaves val empty"),
    ],
)
def test_bad_index_files(stable, tmp_path, content, message):
    path = tmp_path / "split.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        stable.split(index_file=path)
    assert "split.npz" in str(caught.value)


def test_index_file_that_cannot_be_opened(stable, tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(DataError, match=f"{re.escape(str(path))}: not a readable .npz file"):
            stable.split(index_file=path)
