"""Convert crystals to structure folders, or to files of other programs."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from h5py import is_hdf5
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.prediction.exports import BOTH_IN_ONE, FOLDERS, check_target, export_structures
from experiments.settings.configuration import command, plain
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import folders_of_spins, write_structure
from tracegrad.data.crystal_files.formats import READERS, require_path
from tracegrad.data.crystal_files.openmx import read_scfout
from tracegrad.data.crystal_files.packed import PackedReader
from tracegrad.data.crystals.conversion_checks import (
    Finding,
    RotatedCopies,
    check_bands,
    check_matrices,
    one_sided_pairs,
)
from tracegrad.data.crystals.reader import CrystalReader, ReaderType
from tracegrad.data.crystals.reference_bands import ReferenceBands
from tracegrad.data.crystals.spins import BOTH, named_spin
from tracegrad.data.crystals.structure import Structure, hermiticity_error
from tracegrad.elements import SYMBOLS
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.basis import SPINS, shells_name
from tracegrad.physics.overlaps.structure_overlaps import with_overlaps


@command("convert", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Read the calculations, write the structure folders and print a summary of each."""
    values = plain(config)
    check_target(values)
    copies = RotatedCopies()
    for output, group in groupby(_structures(values), key=itemgetter(1)):
        found = []
        for structure, _, source in group:
            if values["check"]:
                _check(structure, source, copies)
            if values["to"] == FOLDERS:
                write_structure(structure, output, overwrite=values["overwrite"])
                print(f"wrote {output}: {_summary(structure, source)}")
            else:
                found.append(structure)
        if found:
            export_structures(found, output, values)


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
    source, shells = Path(str(values["source"])), values["shells"]
    output, spin = Path(str(values["output"])), values["spin"]
    if spin not in (None, BOTH, *SPINS):
        raise ConfigError(f"spin={spin}; give up, down or both, or null for calculations without spin")
    if shells is not None and not isinstance(shells, list):
        raise ConfigError(f"shells={shells} is not a list; give one such as shells=[Mo-s3p2d2,S-s2p2d1]")
    pair = folders_of_spins(source) if spin == BOTH else None
    if pair is not None:
        for one, folder in pair.items():
            yield from _of_database(values, folder, None, one)
        return
    require_path(source)
    reader = _reader(values, source)
    if reader is None:
        for one in SPINS if spin == BOTH else (spin,):
            structure = read_scfout(source, shells=shells, input_file=values["input"], spin=one)
            ending = "" if one is None else f"_{one}"
            named = replace(structure, name=f"{structure.name}{ending}")
            yield named, _place(output, one, values), _Source(None, structure.name, one)
        return
    yield from _of_database(values, source, spin)


def _place(output: Path, spin: str | None, values: dict[str, Any]) -> Path:
    """The folder of a spin of the structure at ``output``; some files of other programs have both in one."""
    apart = values["spin"] == BOTH and values["to"] not in BOTH_IN_ONE
    return output.with_name(f"{output.name}_{spin}") if apart else output


def _of_database(
    values: dict[str, Any], source: Path, spin: str | None, known: str | None = None
) -> Iterator[tuple[Structure, Path, _Source]]:
    """The structures of a database; ``known`` is the spin of all of them where it is a folder of one spin."""
    output, basis_files = Path(str(values["output"])), values["basis_files"]
    reads_overlap = values["overlap"] and basis_files is None
    database = CrystalDatabase(source, overlap=reads_overlap, reader=_reader(values, source), spin=spin)
    for row, name in enumerate(database.names):
        of_spin = known or database.spin_of(row)
        structure = database[row]
        several = len(database.calculations) > 1
        place = output / (named_spin(name)[0] if spin == BOTH else name) if several else output
        if basis_files is not None:
            structure = with_overlaps(structure, structure.basis_of("overlap"), str(basis_files))
        if spin in SPINS:
            structure = replace(structure, name=f"{structure.name}_{spin}")
        yield structure, _place(place, of_spin, values), _Source(database.reader, name, of_spin)


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
