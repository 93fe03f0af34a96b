"""The formats of crystals that are read as they are."""

from pathlib import Path

from tracegrad.data.crystal_files.abacus.reader import ABACUSReader
from tracegrad.data.crystal_files.aims import AimsReader
from tracegrad.data.crystal_files.deeph import DeepHReader
from tracegrad.data.crystal_files.openmx import OpenMXReader
from tracegrad.data.crystal_files.packed import PackedReader
from tracegrad.data.crystal_files.siesta.reader import SiestaReader
from tracegrad.data.crystals.reader import CrystalReader, ReaderType
from tracegrad.data.crystals.spins import BOTH, BothSpins
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.basis import SPINS

# The first one that finds a structure reads a database; a packed file is any file that no other format recognises.
READERS: tuple[type[CrystalReader], ...] = (
    DeepHReader,
    OpenMXReader,
    ABACUSReader,
    SiestaReader,
    AimsReader,
    PackedReader,
)


def require_path(path: Path) -> None:
    """Raise `DataError` unless something is at a path from which crystals are to be read."""
    if not path.exists():
        labels = [reader.label for reader in READERS]
        raise DataError(
            f"{path}: no such file or folder; give {', '.join(labels[:-1])} or {labels[-1]}, or a folder of them"
        )


def find_reader(path: Path, spin: str | None = None) -> CrystalReader | None:
    """The reader of a database, or None if no format has a structure there; ``spin`` as in `open_reader`."""
    found = next((reader for reader in READERS if reader(path).places), None)
    return None if found is None else open_reader(found, path, spin)


def open_reader(reader: ReaderType, path: Path, spin: str | None = None) -> CrystalReader:
    """The reader of a database in a format.

    Args:
        reader: the format.
        path: the database.
        spin: "up", "down" or "both" for collinear calculations. Structures of formats that have none are called
            NAME_up and NAME_down for "both".

    Raises:
        ConfigError: another spin.
        DataError: a channel is asked for, and the format has no collinear calculations.
    """
    if spin is None:
        return reader(path)
    if not getattr(getattr(reader, "func", reader), "collinear", False):
        if spin == BOTH:
            return reader(path)
        label = getattr(getattr(reader, "func", reader), "label", "this format")
        raise DataError(
            f"{path}: {label} hold no collinear calculations to choose spin {spin} of; leave spin out, or choose "
            "structures by their names (include)"
        )
    if spin not in (*SPINS, BOTH):
        raise ConfigError(
            f"spin is {spin!r}; give up, down or both, or nothing for calculations without spin"
        )
    return BothSpins(path, reader) if spin == BOTH else reader(path, spin=spin)
