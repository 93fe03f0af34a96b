"""The formats of crystals that are read as they are."""

from pathlib import Path

from tracegrad.data.crystals.abacus import ABACUSReader
from tracegrad.data.crystals.deeph import DeepHReader
from tracegrad.data.crystals.openmx import OpenMXReader
from tracegrad.data.crystals.packed import PackedReader
from tracegrad.data.crystals.reader import CrystalReader

# The first one that finds a structure reads a database; a packed file is any file that no other format recognises.
READERS: tuple[type[CrystalReader], ...] = (DeepHReader, OpenMXReader, ABACUSReader, PackedReader)


def find_reader(path: Path) -> CrystalReader | None:
    """The reader of a database, or None if no format has a structure there."""
    readers = (reader(path) for reader in READERS)
    return next((reader for reader in readers if reader.places), None)
