"""What a format of crystals provides, so that databases, caches and trainings read it as it is."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int64

from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.structure import Structure, check_structure
from tracegrad.errors import CollinearError, ConfigError, DataError
from tracegrad.hamiltonian.basis import SPINS
from tracegrad.system.whole_files import restore_inside


class StructureHeader(NamedTuple):
    """What is known of a structure without its matrices: the fields of the same names of `Structure`."""

    numbers: Int64[np.ndarray, " atoms"]
    shells: dict[int, tuple[int, ...]]
    spinful: bool
    fermi_level: float | None


class CrystalReader(ABC):
    """Reads the structures of one database in one format.

    A format says which files or folders are structures (`recognises`) and reads one of them (`read`). Everything else
    has a default for formats with one file for each structure. An instance keeps no file open and can be sent to
    worker processes.

    Args:
        path: the database: one structure, or a folder of structures.

    Attributes:
        label: name of the format in messages.
        matrices: those of `MATRICES` that the format can have.
        collinear: a structure of the format may be a collinear spin-polarised calculation, of which the argument
            ``spin`` of the constructor chooses a channel.
        spin: that channel, "up" or "down"; None: the calculations have to be others.
    """

    label: ClassVar[str]
    matrices: ClassVar[tuple[str, ...]] = ("hamiltonian", "overlap")
    collinear: ClassVar[bool] = False
    spin: str | None = None

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file or folder is a structure of this format, complete or not."""

    @abstractmethod
    def read(self, name: str, matrices: Sequence[str]) -> Structure:
        """A structure with these of its ``matrices``, in the units and orders of `Structure`.

        `tracegrad.data.crystals.structure.standard_order` converts orders. An overlap that the format lacks stays
        None. The database calls `check` afterwards.

        Raises:
            DataError: a file is missing or damaged; the message names it.
        """

    @cached_property
    def places(self) -> dict[str, Path]:
        """File or folder of each structure by its name, in the order of the names.

        The database itself if it is a structure, else the structures in it and in the folders one level deeper, which
        are called ``folder/structure``. Files are called by their names without the last suffix.
        """
        if self.recognises(self.path):
            return {_name(self.path if self.path.name else self.path.resolve()): self.path}
        places: dict[str, Path] = {}
        for entry in _entries(self.path):
            if self.recognises(entry):
                places[_name(entry)] = entry
            else:
                structures = (path for path in _entries(entry) if self.recognises(path))
                places |= {f"{entry.name}/{_name(path)}": path for path in structures}
        return dict(sorted(places.items()))

    def header(self, name: str) -> StructureHeader:
        """Elements, shells, spin and Fermi level of a structure.

        It is called for every structure at each start. By default the whole structure is read; override this where
        the matrices can be left out.
        """
        structure = self.read(name, ["hamiltonian"])
        return StructureHeader(structure.numbers, structure.shells, structure.spinful, structure.fermi_level)

    def headers(self, names: Sequence[str]) -> list[StructureHeader]:
        """The headers of these structures; for formats that open one file for all of them."""
        return [self.header(name) for name in names]

    def files(self, name: str, matrix: str = "hamiltonian") -> list[Path]:
        """The files from which a structure is read, that of the matrix last.

        The cache is built again when they change, and the identity of a database is computed from the last ones.
        """
        return [self.places[name]]

    def check_files(self, name: str, matrix: str = "hamiltonian") -> None:
        """Raise `DataError` if a file of a structure is missing or cannot be opened; blocks are not read."""
        for path in self.files(name, matrix):
            try:
                path.open("rb").close()
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be read ({error.strerror}); complete the structure"
                ) from error

    def check(self, structure: Structure, name: str, *, pairs: bool = True) -> None:
        """Raise `DataError` unless a structure that was read is valid; ``pairs`` as in `check_structure`."""
        check_structure(structure, str(self.places[name]), pairs=pairs)

    def reference_bands(self, name: str) -> ReferenceBands | None:
        """The eigenvalues that the code printed for a structure, of both spins if it has two; None: none are known.

        Raises:
            DataError: a file that should have them is damaged.
        """
        return None

    def notes(self, name: str) -> list[str]:
        """What a user should know about how a structure is read, such as a choice among several steps."""
        return []


def checked_spin(spin: str | None) -> str | None:
    """A channel of collinear calculations; raise `ConfigError` unless it is "up", "down" or None."""
    if spin not in (*SPINS, None):
        raise ConfigError(f"spin is {spin!r}; up or down is needed, or nothing for calculations without spin")
    return spin


def check_channel(spin: str | None, polarised: bool, where: str) -> None:
    """Raise `DataError` unless a channel is chosen if, and only if, a calculation is collinear and spin-polarised."""
    if polarised and spin is None:
        raise CollinearError(
            f"{where}: a collinear spin-polarised calculation, which has two Hamiltonians; choose one with spin=up "
            "or spin=down, or both with spin=both"
        )
    if spin is not None and not polarised:
        raise DataError(
            f"{where}: not a collinear spin-polarised calculation, so it has no spin {spin}; leave spin out"
        )


# A class of readers, or one whose other arguments are bound, such as ``_partial_: true`` of a configuration.
ReaderType = Callable[..., CrystalReader]


def _name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _entries(folder: Path) -> Iterator[Path]:
    """Files and folders in a folder, without hidden ones."""
    if not os.path.isdir(folder):
        return
    restore_inside(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    yield from (folder / name for name in names if not name.startswith("."))
