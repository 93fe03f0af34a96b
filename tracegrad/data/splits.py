"""Splits of a database into row positions, by the rules of the released QH9 benchmark."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

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
    if len(thresholds) != 2 or thresholds[0] >= thresholds[1]:
        raise DataError(f"ood thresholds must be two ascending atom counts, not {list(thresholds)}")
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
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in PARTS if name not in arrays]
            if missing:
                raise DataError(f"{path}: arrays {missing} are missing; found {sorted(arrays)}")
            split = {name: np.atleast_1d(arrays[name]) for name in PARTS}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .npz file of index arrays ({error})") from error
    for name, index in split.items():
        if not np.issubdtype(index.dtype, np.integer):
            raise DataError(f"{path}: {name} holds {index.dtype}, integers are needed")
        if index.size and not (index.min() >= 0 and index.max() < rows):
            raise DataError(f"{path}: {name} has rows {index.min()}..{index.max()}, the database has {rows}")
    both = np.concatenate([np.unique(index) for index in split.values()])
    if len(np.unique(both)) != len(both):
        raise DataError(f"{path}: the same row stands in two parts of the split")
    return {name: index.astype(np.int64) for name, index in split.items()}


def split_hash(split: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (16 hex digits) of the three index arrays in their order; equal hashes mean equal splits."""
    digest = hashlib.sha256()
    for name in PARTS:
        digest.update(name.encode() + np.ascontiguousarray(split[name], dtype="<i8").tobytes())
    return digest.hexdigest()[:16]


def _cut(order: Int[np.ndarray, " rows"], fractions: Sequence[float]) -> Split:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"split fractions must be three numbers that sum to 1, not {list(fractions)}")
    train = int(fractions[0] * len(order))
    val = int(fractions[1] * len(order))
    pieces = np.split(order.astype(np.int64), [train, train + val])
    return dict(zip(PARTS, pieces, strict=True))


def _concatenate(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *pieces])
