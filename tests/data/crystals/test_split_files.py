"""Files that say which structures are for training, validation and test."""

import json

import numpy as np
import pytest

from tracegrad.data.splits import name_file_split, shuffled_split
from tracegrad.errors import DataError

# What `numpy.random.seed(42); numpy.random.shuffle(list(range(10)))`, the rule of DeepH-E3, gives.
SHUFFLED = [8, 1, 5, 0, 7, 2, 9, 4, 3, 6]


def test_shuffled_split():
    split = shuffled_split(10, (6, 2, 2), 42)
    assert [split[part].tolist() for part in ("train", "val", "test")] == [
        SHUFFLED[:6],
        SHUFFLED[6:8],
        SHUFFLED[8:],
    ]
    left = [n for n in range(12) if n not in (3, 11)]
    order = [left[n] for n in SHUFFLED]
    split = shuffled_split(left, (4, 3, 1), 42)
    assert [split[part].tolist() for part in ("train", "val", "test")] == [order[:4], order[4:7], order[7:8]]
    assert {name: len(part) for name, part in shuffled_split(10, (0.67, 0.33, 0), 1).items()} == {
        "train": 6,
        "val": 3,
        "test": 0,
    }
    assert len(shuffled_split(450, (0.6, 90, 0.2), 7)["train"]) == 270


@pytest.mark.parametrize(
    ("sizes", "seed", "message"),
    [
        ((6, 2, 3), 0, r"\(6, 2, 3\) are 11 structures, but there are 10; take fewer"),
        ((0.9, 0.2, 0), 0, "are 11 structures"),
        ((6, 2), 0, "give three numbers of structures or fractions below 1"),
        ((6, 2, -1), 0, "give three"),
        ((6, 2.5, 1), 0, "give three"),
        ((6, "2", 1), 0, "give three"),
        (6, 0, "sizes are 6; give three"),
        ((6, 2, float("nan")), 0, "give three"),
        ((6, 2, 2), -1, "split seed is -1; give one from 0"),
        ((6, 2, 2), 1 << 32, "split seed is 4294967296"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_shuffled_splits(sizes, seed, message):
    with pytest.raises(DataError, match=message):
        shuffled_split(10, sizes, seed)


def test_name_files(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"test": ["b"], "train": ["d", "a"], "val": [], "twisted": ["e"]}))
    split = name_file_split(path, list("abcde"))
    assert {name: part.tolist() for name, part in split.items()} == {
        "train": [3, 0],
        "val": [],
        "test": [1],
        "twisted": [4],
    }
    assert all(part.dtype == np.int64 for part in split.values())
    path.write_text(json.dumps({"test": ["b"], "train": ["d"], "val": ["a"]}))
    assert list(name_file_split(path, list("abcde"))) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable JSON file of structure names"),
        ("[" * 100_000, "not a readable JSON file"),
        ("[]", "holds list; lists train, val and test"),
        ('{"train": [], "val": []}', r"holds \['train', 'val'\]"),
        ('{"train": [], "val": [], "test": [], "extra": []}', "'extra'"),
        ('{"train": "a", "val": [], "test": []}', "train is no list of names"),
        ('{"train": [1], "val": [], "test": []}', "train is no list of names"),
        ('{"train": ["light_00"], "val": [], "test": []}', "train has 'light_00', .* nearest: light_000"),
        ('{"train": ["?"], "val": [], "test": []}', "nearest: light_000, dark_1"),
        ('{"train": ["dark_1"], "val": [], "test": ["dark_1"]}', "'dark_1' occurs twice"),
        ('{"train": ["dark_1", "dark_1"], "val": [], "test": []}', "'dark_1' occurs twice"),
    ],
)
def test_bad_name_files(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        name_file_split(path, ["light_000", "dark_1"])
    assert str(caught.value).startswith(f"{path}: ")


def test_name_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match="not a readable JSON file"):
            name_file_split(path, ["a"])
