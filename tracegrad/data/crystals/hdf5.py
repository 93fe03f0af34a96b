"""Reading HDF5 files that may be damaged or of another kind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from tracegrad.errors import DataError


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading.

    Raises:
        DataError: the file is missing, or HDF5 raises an error in the block.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; give an HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{path}: not a readable HDF5 file ({error}); it is damaged or of another kind"
        ) from error


def read_dataset(file: h5py.Group, name: str, kinds: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read an array of an HDF5 file after checking its dtype and shape.

    Args:
        kinds: permitted kinds of dtypes, letters of `numpy.dtype.kind`.
        shape: permitted shape; -1 is any length.

    Raises:
        DataError: there is no such dataset, or it is different.
    """
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise DataError(f"{file.file.filename}: {file.name}: no array {name!r}, but {sorted(file)[:10]}")
    fits = len(dataset.shape) == len(shape) and all(
        n in (-1, m) for n, m in zip(shape, dataset.shape, strict=True)
    )
    if not fits or dataset.dtype.kind not in kinds:
        raise DataError(
            f"{file.file.filename}: {dataset.name} is {dataset.dtype} of shape {dataset.shape}, but shape "
            f"{shape} of kind {'/'.join(kinds)} is needed; the file is damaged or of another kind"
        )
    return dataset[()]
