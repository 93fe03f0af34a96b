"""Splits of a database: row positions of each part, by the published rules of the databases."""

import difflib
import hashlib
import json
import random
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import floor, isfinite
from numbers import Real
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Int

from tracegrad.errors import DataError

PARTS = ("train", "val", "test")
TWISTED = "twisted"  # an additional part of some databases of crystals, which is only tested
Split = dict[str, np.ndarray]  # row positions (int64) of each part

RELEASED_SEED = 43
RELEASED_FRACTIONS = (0.8, 0.1, 0.1)
RELEASED_THRESHOLDS = (20, 22)


def size_split(atom_counts: Int[np.ndarray, " rows"], thresholds: Sequence[int]) -> Split:
    """Split ``ood``: train up to ``thresholds[0]`` atoms, val up to ``thresholds[1]``, test above."""
    if not _are_numbers(thresholds, 2) or thresholds[0] >= thresholds[1]:
        raise DataError(
            f"ood thresholds are {thresholds!r}; give two ascending atom counts (data.thresholds)"
        )
    part = np.searchsorted(np.asarray(thresholds), atom_counts, side="left")
    return {name: np.flatnonzero(part == i) for i, name in enumerate(PARTS)}


def random_split(rows: int, fractions: Sequence[float], seed: int) -> Split:
    """Split ``random``: a random permutation of all rows, cut by fractions (rounded down)."""
    return _cut(np.random.RandomState(seed).permutation(rows), fractions)


def counted_split(rows: int, sizes: Sequence[int | float], seed: int) -> Split:
    """Split of MD17: a random permutation of all rows; numbers of train and val, the rest is tested.

    This is the rule of the released QHNet, which tests on all rows that are left.

    Args:
        sizes: of train and val: numbers of rows, or fractions of all, below 1 and rounded down.

    Raises:
        DataError: sizes out of range, or more than there are rows.
    """
    if not _are_numbers(sizes, 2) or min(sizes) < 0:
        raise DataError(
            f"split sizes are {sizes!r}; give two numbers of rows, or fractions below 1, of train and val "
            "(data.sizes)"
        )
    train, val = (int(size * rows) if size < 1 else int(size) for size in sizes)
    if train + val > rows:
        raise DataError(
            f"split sizes {sizes!r} are {train + val} rows, but there are {rows}; take fewer (data.sizes)"
        )
    return shuffled_split(rows, [train, val, rows - train - val], seed)


def torch_split(rows: int, fractions: Sequence[float], seed: int) -> Split:
    """Split of nablaDFT: ``torch.utils.data.random_split`` with a generator of this seed.

    Args:
        fractions: of train, val and, where the file is tested too, test; they sum to 1. Rows that rounding down
            leaves go to the parts one by one, train first.

    Raises:
        DataError: fractions out of range.
    """
    parts = len(fractions) if isinstance(fractions, Sequence) else 0
    if parts not in (2, 3) or not _are_numbers(fractions, parts) or min(fractions) < 0:
        raise DataError(f"split fractions are {fractions!r}; give two or three numbers (data.fractions)")
    if abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"split fractions {fractions!r} do not sum to 1 (data.fractions)")
    counts = [floor(rows * fraction) for fraction in fractions]
    for i in range(rows - sum(counts)):
        counts[i % parts] += 1
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).numpy()
    pieces = np.split(order.astype(np.int64), np.cumsum(counts))
    return dict(zip(PARTS, pieces[:parts], strict=False))


def trajectory_split(starts: Int[np.ndarray, " bounds"], fractions: Sequence[float], seed: int) -> Split:
    """Split ``mol``: trajectories are shuffled and cut; ``starts``: first row of each, and the number of rows."""
    order = list(range(len(starts) - 1))
    random.Random(seed).shuffle(order)
    parts = _cut(np.array(order, dtype=np.int64), fractions)
    return {name: _concatenate([np.arange(starts[t], starts[t + 1]) for t in parts[name]]) for name in PARTS}


def geometry_split(starts: Int[np.ndarray, " bounds"], fractions: Sequence[float]) -> Split:
    """Split ``geometry``: the frames of each trajectory are permuted, with its last row as the seed, and cut."""
    cuts = []
    for first, end in pairwise(starts):
        frames = first + np.random.RandomState(int(end) - 1).permutation(int(end - first))
        cuts.append(_cut(frames, fractions))
    return {name: _concatenate([cut[name] for cut in cuts]) for name in PARTS}


def index_file_split(path: str | Path, rows: int) -> Split:
    """Split from an .npz file with integer arrays ``train``, ``val`` and ``test`` of row positions.

    Raises:
        DataError: the file cannot be read, or its rows are out of range or repeated; ``rows`` is their number in the
            database.
    """
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
            f"{path}: row {values[counts > 1][0]} occurs twice in the split; "
            "a row belongs to one of train, val and test, once"
        )
    return split


def shuffled_split(structures: int | Sequence[int], sizes: Sequence[int | float], seed: int) -> Split:
    """The rule of DeepH-E3: shuffle, then take train, val and test in this order.

    The released code lists structures in the order of the file system; therefore the seed does not reproduce its
    parts.

    Args:
        structures: indices of the structures in the order of the database, without twisted ones; or their number.
        sizes: sizes of train, val and test: numbers of structures, or fractions below 1 of all, rounded down.
            Remaining structures are not used.

    Raises:
        DataError: sizes or a seed out of range.
    """
    order = list(range(structures)) if isinstance(structures, int) else [int(i) for i in structures]
    whole = _are_numbers(sizes, 3) and all(0 <= size < 1 or float(size).is_integer() for size in sizes)
    if not whole or min(sizes) < 0:
        raise DataError(
            f"split sizes are {sizes!r}; give three numbers of structures or fractions below 1, "
            "for train, val and test"
        )
    if not 0 <= seed < 1 << 32:
        raise DataError(f"the split seed is {seed}; give one from 0 to 2^32 - 1")
    counts = [int(size * len(order)) if size < 1 else int(size) for size in sizes]
    if sum(counts) > len(order):
        raise DataError(
            f"split sizes {sizes!r} are {sum(counts)} structures, but there are {len(order)}; take fewer"
        )
    np.random.RandomState(seed).shuffle(order)
    train, val, test = counts
    pieces = np.split(np.array(order, dtype=np.int64), np.cumsum([train, val, test]))
    return dict(zip(PARTS, pieces, strict=False))


def name_file_split(path: str | Path, names: Sequence[str]) -> Split:
    """Split from a JSON file ``{"train": [names], "val": [...], "test": [...]}``, optionally with ``twisted``.

    Args:
        names: names of the structures in the order of the database.

    Raises:
        DataError: the file cannot be read, or its names are unknown or repeated.
    """
    path = Path(path)
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file of structure names ({error})") from error
    known = {*PARTS, TWISTED}
    if not isinstance(parts, dict) or not set(PARTS) <= parts.keys() <= known:
        content = sorted(parts) if isinstance(parts, dict) else type(parts).__name__
        raise DataError(
            f"{path}: holds {content}; lists train, val and test, and optionally twisted, are needed"
        )
    positions = {name: position for position, name in enumerate(names)}
    taken: set[str] = set()
    split: Split = {}
    for part in (name for name in (*PARTS, TWISTED) if name in parts):
        listed = parts[part]
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise DataError(f"{path}: {part} is no list of names; write one")
        for name in listed:
            if name not in positions:
                nearest = difflib.get_close_matches(name, names, n=3) or list(names[:3])
                raise DataError(
                    f"{path}: {part} has {name!r}, which is not in the database; nearest: {', '.join(nearest)}"
                )
            if name in taken:
                raise DataError(f"{path}: {name!r} occurs twice; a structure belongs to one part, once")
            taken.add(name)
        split[part] = np.array([positions[name] for name in listed], dtype=np.int64)
    return split


def split_hash(split: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (16 hex digits) of the row positions of all parts; equal hashes mean equal splits."""
    digest = hashlib.sha256()
    for name in (*PARTS, *(extra for extra in (TWISTED,) if extra in split)):
        digest.update(name.encode() + np.ascontiguousarray(split[name], dtype="<i8").tobytes())
    return digest.hexdigest()[:16]


def _load_parts(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an index file, not yet checked; pickled objects are refused."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [name for name in PARTS if name not in arrays]
            if missing:
                raise DataError(
                    f"{path}: arrays {missing} are missing, it has {sorted(arrays)}; "
                    "an index file holds train, val and test"
                )
            return {name: np.asarray(arrays[name]) for name in PARTS}
    # A .npy file yields an array, which is no context manager (TypeError); zipfile also raises RuntimeError.
    except (OSError, ValueError, EOFError, TypeError, RuntimeError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not a readable .npz file of index arrays ({error}); "
            "write one with numpy.savez(path, train=..., val=..., test=...)"
        ) from error


def _cut(order: Int[np.ndarray, " rows"], fractions: Sequence[float]) -> Split:
    """Consecutive parts of an order of rows."""
    if not _are_numbers(fractions, 3) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(
            f"split fractions are {fractions!r}; give three numbers that sum to 1 (data.fractions)"
        )
    train = int(fractions[0] * len(order))
    val = int(fractions[1] * len(order))
    pieces = np.split(order.astype(np.int64), [train, train + val])
    return dict(zip(PARTS, pieces, strict=True))


def _are_numbers(values: Any, count: int) -> bool:
    """Whether a setting of any type is a sequence of ``count`` finite numbers."""
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(isinstance(value, Real) and isfinite(value) for value in values)
    )


def _concatenate(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *pieces])
