"""Splits of a database into row positions, by the rules of the released QH9 benchmark."""

import hashlib
import random
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int

from tracegrad.errors import DataError

PARTS = ("train", "val", "test")
Split = dict[str, np.ndarray]

RELEASED_SEED = 43
RELEASED_FRACTIONS = (0.8, 0.1, 0.1)
RELEASED_THRESHOLDS = (20, 22)


def size_split(atom_counts: Int[np.ndarray, " rows"], thresholds: Sequence[int]) -> Split:
    """``ood``: train up to ``thresholds[0]`` atoms, val up to ``thresholds[1]``, test above."""
    if not _are_numbers(thresholds, 2) or thresholds[0] >= thresholds[1]:
        raise DataError(
            f"ood thresholds are {thresholds!r}; give two ascending atom counts (data.thresholds)"
        )
    part = np.searchsorted(np.asarray(thresholds), atom_counts, side="left")
    return {name: np.flatnonzero(part == i) for i, name in enumerate(PARTS)}


def random_split(rows: int, fractions: Sequence[float], seed: int) -> Split:
    """``random``: one permutation of all rows, cut by truncated fractions."""
    return _cut(np.random.RandomState(seed).permutation(rows), fractions)


def trajectory_split(starts: Int[np.ndarray, " bounds"], fractions: Sequence[float], seed: int) -> Split:
    """``mol``: whole trajectories are shuffled and cut; ``starts`` holds their first rows and the end."""
    order = list(range(len(starts) - 1))
    random.Random(seed).shuffle(order)
    parts = _cut(np.array(order, dtype=np.int64), fractions)
    return {name: _concatenate([np.arange(starts[t], starts[t + 1]) for t in parts[name]]) for name in PARTS}


def geometry_split(starts: Int[np.ndarray, " bounds"], fractions: Sequence[float]) -> Split:
    """``geometry``: the frames of each trajectory are permuted, seeded by its last row, and cut."""
    cuts = []
    for first, end in pairwise(starts):
        frames = first + np.random.RandomState(int(end) - 1).permutation(int(end - first))
        cuts.append(_cut(frames, fractions))
    return {name: _concatenate([cut[name] for cut in cuts]) for name in PARTS}


def index_file_split(path: str | Path, rows: int) -> Split:
    """Row positions from an .npz file with integer arrays ``train``, ``val`` and ``test``."""
    path = Path(path)
    split = _load_parts(path)
    for name, index in split.items():
        if not np.issubdtype(index.dtype, np.integer) or index.ndim != 1:
            raise DataError(
                f"{path}: {name} holds {index.dtype} of shape {index.shape}; "
                "row positions in a one-dimensional integer array are needed"
            )
        if index.size and not (index.min() >= 0 and index.max() < rows):
            raise DataError(
                f"{path}: {name} has rows {index.min()}..{index.max()}, the database has {rows} rows "
                "(0 is the first); make the split for this database"
            )
    split = {name: index.astype(np.int64) for name, index in split.items()}
    values, counts = np.unique(np.concatenate(list(split.values())), return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{path}: row {values[counts > 1][0]} stands twice in the split; "
            "a row belongs to one of train, val and test, once"
        )
    return split


def split_hash(split: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (16 hex digits) of the three index arrays in their order; equal hashes mean equal splits."""
    digest = hashlib.sha256()
    for name in PARTS:
        digest.update(name.encode() + np.ascontiguousarray(split[name], dtype="<i8").tobytes())
    return digest.hexdigest()[:16]


def _load_parts(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an index file as they are; pickled objects are refused."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [name for name in PARTS if name not in arrays]
            if missing:
                raise DataError(
                    f"{path}: arrays {missing} are missing, found {sorted(arrays)}; "
                    "an index file holds train, val and test"
                )
            return {name: np.asarray(arrays[name]) for name in PARTS}
    # A .npy file gives an array, which is no context manager (TypeError); zipfile raises RuntimeErrors too.
    except (OSError, ValueError, EOFError, TypeError, RuntimeError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not a readable .npz file of index arrays ({error}); "
            "write one with numpy.savez(path, train=..., val=..., test=...)"
        ) from error


def _cut(order: Int[np.ndarray, " rows"], fractions: Sequence[float]) -> Split:
    if not _are_numbers(fractions, 3) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(
            f"split fractions are {fractions!r}; give three numbers that sum to 1 (data.fractions)"
        )
    train = int(fractions[0] * len(order))
    val = int(fractions[1] * len(order))
    pieces = np.split(order.astype(np.int64), [train, train + val])
    return dict(zip(PARTS, pieces, strict=True))


def _are_numbers(values: Any, count: int) -> bool:
    """Whether a setting, of whatever type a user gave, is a sequence of so many finite numbers."""
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(isinstance(value, Real) and isfinite(value) for value in values)
    )


def _concatenate(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *pieces])
