"""Convert crystals to structure folders, or to files of Wannier90 and sisl."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.prediction.exports import FOLDERS, export_structures
from experiments.settings.configuration import command, plain
from tracegrad.data.crystals.database import CrystalDatabase
from tracegrad.data.crystals.deeph import write_structure
from tracegrad.data.crystals.openmx import read_scfout
from tracegrad.data.crystals.structure import Structure, hermiticity_error
from tracegrad.elements import SYMBOLS
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import shells_name


@command("convert", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Read the calculations, write the structure folders and print a summary of each."""
    values = plain(config)
    if values["to"] != FOLDERS:
        export_structures(values)
        return
    for structure, output in _structures(values):
        write_structure(structure, output, overwrite=values["overwrite"])
        print(f"wrote {output}: {_summary(structure)}")


def _structures(values: dict[str, Any]) -> Iterator[tuple[Structure, Path]]:
    """Each structure and its folder, which is inside of ``output`` if there are several."""
    source, output, shells = str(values["source"]), Path(str(values["output"])), values["shells"]
    if shells is not None and not isinstance(shells, list):
        raise ConfigError(f"shells={shells} is not a list; give one such as shells=[Mo-s3p2d2,S-s2p2d1]")
    if values["reader"] is None:
        yield read_scfout(source, shells=shells, input_file=values["input"]), output
        return
    database = CrystalDatabase(source, overlap=True, reader=instantiate(values["reader"], _partial_=True))
    for row, name in enumerate(database.names):
        yield database[row], output / name if len(database) > 1 else output


def _summary(structure: Structure) -> str:
    counts = {z: int((structure.numbers == z).sum()) for z in structure.shells}
    elements = ", ".join(
        f"{counts[z]} {SYMBOLS[z]} {shells_name(degrees)}" for z, degrees in structure.shells.items()
    )
    level = "unknown" if structure.fermi_level is None else f"{structure.fermi_level:.4f} eV"
    return (
        f"{len(structure.numbers)} atoms ({elements}), {len(structure.edges)} blocks, "
        f"{'with spin-orbit coupling' if structure.spinful else 'without spin'}, "
        f"Fermi level {level}, "
        f"largest deviation from hermiticity {hermiticity_error(structure)[0]:.1e} eV"
    )


if __name__ == "__main__":
    main()
