"""The file of derivatives of H, which grows by one displacement at a time and continues after an interruption."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from torch import nn

from tracegrad.errors import DataError, TraceGradError
from tracegrad.system.whole_files import sync, take_place

_DONE = "displacements_done"  # while the file is unfinished
_KEY = "key"


class DerivativeFile:
    """HDF5 file PATH.partial, which becomes PATH when all displacements are in it; nothing is missing if it is there.

    The arrays have their places in the file from the beginning, so that a killed process leaves a file that can be
    read, and each displacement counts only once its numbers are written.

    Args:
        path: of the finished file.
        constants: arrays that do not depend on a displacement.
        rows: shape and dtype of what each displacement adds to an array, by the name of the array, which has shape
            (atoms, 3, ...).
        atoms: number of atoms that move.
        attributes: texts.
        key: of everything that the numbers follow from, see `key_of`.
        overwrite: replace a file of another key.

    Raises:
        DataError: a file of another key is there, finished or not.
        TraceGradError: the file cannot be written, or another process writes it.
    """

    def __init__(
        self,
        path: Path,
        constants: Mapping[str, np.ndarray],
        rows: Mapping[str, tuple[tuple[int, ...], np.dtype]],
        atoms: int,
        attributes: Mapping[str, str],
        key: str,
        *,
        overwrite: bool,
    ) -> None:
        self.path, self.key = path, key
        self.partial = path.with_name(f"{path.name}.partial")
        self.rows, self.size = rows, 3 * atoms
        self._stack = ExitStack()
        self.file: h5py.File | None = None  # None: it is complete
        if path.exists():
            if path.is_file() and _key_of_file(path) == key:
                return
            if not overwrite or not path.is_file():
                raise DataError(
                    f"{path}: exists, and is of another network, structure or list of atoms; choose another "
                    "output or set overwrite=true"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.partial.exists() and _key_of_file(self.partial) != key:
            if not overwrite:
                raise DataError(
                    f"{self.partial}: was begun with another network, structure or list of atoms; continue with "
                    "those, delete it, choose another output or set overwrite=true"
                )
            self.partial.unlink()
        if not self.partial.exists():
            with _open(self.partial, "x") as file:
                for name, values in constants.items():
                    file[name] = values
                for name, (shape, dtype) in rows.items():
                    _allocate(file, name, (atoms, 3, *shape), dtype)
                _allocate(file, _DONE, (self.size,), np.dtype(bool))
                file.attrs.update({**attributes, _KEY: key})
        self.file = self._stack.enter_context(_open(self.partial, "r+"))

    def missing(self) -> list[int]:
        """The displacements that are not there yet: 3 a + x for the atom at position a along x."""
        if self.file is None or _DONE not in self.file:
            return []
        return np.flatnonzero(~self.file[_DONE][()]).tolist()

    def add(self, displacement: int, values: Mapping[str, np.ndarray]) -> None:
        """Write what a displacement has given for each array."""
        assert self.file is not None
        place = divmod(displacement, 3)
        for name in self.rows:
            self.file[name][place] = values[name]
        self.file.flush()
        self.file[_DONE][displacement] = True
        self.file.flush()

    def finish(self) -> None:
        """Give the complete file its name."""
        if self.file is None:
            return
        assert not self.missing()
        if _DONE in self.file:  # not if an earlier process ended here
            del self.file[_DONE]
        self._stack.close()
        sync(self.partial)
        try:
            take_place(self.partial, self.path)
        except OSError as error:
            raise TraceGradError(f"{self.path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> "DerivativeFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def key_of(networks: Iterable[nn.Module], constants: Mapping[str, np.ndarray], *settings: object) -> str:
    """A fingerprint of the weights of networks, arrays and settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for network in networks:
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    for name, values in constants.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _open(path: Path, mode: str) -> h5py.File:
    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise TraceGradError(
            f"{path}: cannot be opened ({error}); another process writes it, or delete it if it is damaged"
        ) from error


def _key_of_file(path: Path) -> str | None:
    with _open(path, "r") as file:
        found = file.attrs.get(_KEY)
    return found if isinstance(found, str) else None


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An array that has its place in the file from now on."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_ALLOC)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, creation)
