"""Convert crystals to structure folders, or to files of other programs."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from h5py import is_hdf5
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.prediction.exports import ABACUS, FOLDERS, check_target, export_structure
from experiments.settings.configuration import command, plain
from tracegrad.data.crystals.abacus_writer import write_hrs
from tracegrad.data.crystals.conversion_checks import (
    Finding,
    RotatedCopies,
    check_bands,
    check_matrices,
    one_sided_pairs,
)
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.data.crystals.deeph import write_structure
from tracegrad.data.crystals.formats import READERS
from tracegrad.data.crystals.openmx import read_scfout
from tracegrad.data.crystals.packed import PackedReader
from tracegrad.data.crystals.reader import SPINS, CrystalReader, ReaderType
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.structure import Structure, hermiticity_error
from tracegrad.elements import SYMBOLS
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.basis import shells_name
from tracegrad.physics.overlaps.structure_overlaps import with_overlaps
from tracegrad.system.whole_files import replacing_folder


@command("convert", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Read the calculations, write the structure folders and print a summary of each."""
    values = plain(config)
    check_target(values)
    to, copies = values["to"], RotatedCopies()
    for structure, output, source in _structures(values):
        if values["check"]:
            _check(structure, source, copies)
        if to == FOLDERS:
            write_structure(structure, output, overwrite=values["overwrite"])
            print(f"wrote {output}: {_summary(structure, source)}")
        elif to == ABACUS:
            print(f"wrote {output}: {_write(structure, output, overwrite=values['overwrite'])}")
        else:
            export_structure(structure, output, values)


class _Source(NamedTuple):
    """Where a structure comes from: reader (None for a single file of OpenMX), name there, and channel of spin."""

    reader: CrystalReader | None
    name: str
    spin: str | None

    def notes(self) -> list[str]:
        return [] if self.reader is None else self.reader.notes(self.name)

    def bands(self) -> ReferenceBands | None:
        return None if self.reader is None else self.reader.reference_bands(self.name)


def _structures(values: dict[str, Any]) -> Iterator[tuple[Structure, Path, _Source]]:
    """Each structure and its folder, which is inside of ``output`` if there are several."""
    output, spin = Path(str(values["output"])), values["spin"]
    if spin not in (None, "both", *SPINS):
        raise ConfigError(f"spin={spin}; give up, down or both, or null for calculations without spin")
    if spin is None:
        yield from _channel(values, output, None)
        return
    for channel in SPINS if spin == "both" else (spin,):
        for structure, folder, source in _channel(values, output, channel):
            named = folder.with_name(f"{folder.name}_{channel}") if spin == "both" else folder
            yield replace(structure, name=f"{structure.name}_{channel}"), named, source


def _channel(
    values: dict[str, Any], output: Path, spin: str | None
) -> Iterator[tuple[Structure, Path, _Source]]:
    """The structures of the source in one channel of spin, None: those without one."""
    source, shells = str(values["source"]), values["shells"]
    if shells is not None and not isinstance(shells, list):
        raise ConfigError(f"shells={shells} is not a list; give one such as shells=[Mo-s3p2d2,S-s2p2d1]")
    reader = _reader(values, Path(source))
    if reader is None:
        structure = read_scfout(source, shells=shells, input_file=values["input"], spin=spin)
        yield structure, output, _Source(None, structure.name, spin)
        return
    basis_files = values["basis_files"]
    reads_overlap = values["overlap"] and basis_files is None
    database = CrystalDatabase(source, overlap=reads_overlap, reader=reader, spin=spin)
    for row, name in enumerate(database.names):
        place = output / name if len(database) > 1 else output
        structure = database[row]
        if basis_files is not None:
            structure = with_overlaps(structure, structure.basis_of("overlap"), str(basis_files))
        yield structure, place, _Source(database.reader, name, spin)


def _reader(values: dict[str, Any], path: Path) -> ReaderType | None:
    """The format of the source; None: a single file of OpenMX, whatever its name is."""
    if values["reader"] is not None:
        reader: ReaderType = instantiate(values["reader"], _partial_=True)
        return reader
    formats = [one for one in READERS if one is not PackedReader or is_hdf5(path)]
    found = None if values["input"] is not None else next((one for one in formats if one(path).places), None)
    if found is None or values["shells"] is None:
        return found
    if "shells" not in signature(found).parameters:
        raise ConfigError(f"shells is given, but {found.label} have their shells; leave it out")
    return partial(found, shells=values["shells"])  # type: ignore[call-arg]


def _write(structure: Structure, output: Path, *, overwrite: bool) -> str:
    """Write the files for ABACUS in a folder, which may hold former ones of the same names only."""
    with replacing_folder(output) as draft:
        line = write_hrs(structure, draft)
        former = sorted(os.listdir(output)) if output.is_dir() else []
        foreign = [name for name in former if name not in os.listdir(draft)]
        if foreign or (former and not overwrite):
            raise DataError(
                f"{output}: exists and holds {(foreign or former)[:5]}; choose another place"
                + ("" if foreign else " or set overwrite=true")
            )
    return line


def _check(structure: Structure, source: _Source, copies: RotatedCopies) -> None:
    """Print the findings about a structure; raise `DataError` if one of them is wrong, before it is written."""
    findings: list[Finding | None] = [*check_matrices(structure)]
    bands = source.bands()
    if bands is not None and structure.overlap is not None:
        findings.append(check_bands(structure, bands, source.spin))
    findings.append(copies.check(structure))
    wrong = [one.text for one in findings if one is not None and not one.passed]
    if wrong:
        raise DataError(
            f"{structure.name}: {'; and '.join(wrong)} (nothing is written; check=false leaves this out)"
        )
    for one in findings:
        if one is not None:
            print(f"checked {structure.name}: {one.text}")


def _summary(structure: Structure, source: _Source) -> str:
    counts = {z: int((structure.numbers == z).sum()) for z in structure.shells}
    elements = ", ".join(
        f"{counts[z]} {SYMBOLS[z]} {shells_name(degrees)}" for z, degrees in structure.shells.items()
    )
    level = "unknown" if structure.fermi_level is None else f"{structure.fermi_level:.4f} eV"
    spin = "without spin" if source.spin is None else f"spin {source.spin}"
    notes = [*one_sided_pairs(structure), *source.notes()]
    return (
        f"{len(structure.numbers)} atoms ({elements}), {len(structure.edges)} blocks, "
        f"{'with spin-orbit coupling' if structure.spinful else spin}, "
        f"Fermi level {level}, "
        f"largest deviation from hermiticity {hermiticity_error(structure)[0]:.1e} eV"
        + "".join(f", {note}" for note in notes)
    )


if __name__ == "__main__":
    main()
