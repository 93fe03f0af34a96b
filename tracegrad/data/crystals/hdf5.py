"""Reading HDF5 files that may be damaged or something else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from tracegrad.errors import DataError


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading; what HDF5 says of damage becomes a `DataError`."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; give an HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{path}: not a readable HDF5 file ({error}); it is damaged or of another kind"
        ) from error


def dataset_of(file: h5py.Group, name: str, kinds: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of an HDF5 file whose kinds of numbers and shape (-1: any length) are checked before it is read."""
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise DataError(f"{file.file.filename}: {file.name}: no array {name!r}, found {sorted(file)[:10]}")
    fits = len(dataset.shape) == len(shape) and all(
        n in (-1, m) for n, m in zip(shape, dataset.shape, strict=True)
    )
    if not fits or dataset.dtype.kind not in kinds:
        raise DataError(
            f"{file.file.filename}: {dataset.name} is {dataset.dtype} of shape {dataset.shape}, but shape "
            f"{shape} of kind {'/'.join(kinds)} is needed; the file is damaged or of another kind"
        )
    return dataset[()]
