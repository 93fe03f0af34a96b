"""Convert an OpenMX calculation to a structure folder."""

from pathlib import Path

from omegaconf import DictConfig

from experiments.settings.configuration import command, plain
from tracegrad.data.crystals.deeph import write_structure
from tracegrad.data.crystals.openmx import read_scfout
from tracegrad.data.crystals.structure import hermiticity_error
from tracegrad.elements import SYMBOLS
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import shells_name


@command("convert", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Read the calculation, write the structure folder and print a summary of it."""
    values = plain(config)
    shells = values["shells"]
    if shells is not None and not isinstance(shells, list):
        raise ConfigError(f"shells={shells} is not a list; give one such as shells=[Mo-s3p2d2,S-s2p2d1]")
    source, output = str(values["source"]), Path(str(values["output"]))
    structure = read_scfout(source, shells=shells, input_file=values["input"])
    write_structure(structure, output, overwrite=values["overwrite"])
    counts = {z: int((structure.numbers == z).sum()) for z in structure.shells}
    elements = ", ".join(
        f"{counts[z]} {SYMBOLS[z]} {shells_name(degrees)}" for z, degrees in structure.shells.items()
    )
    print(
        f"wrote {output}: {len(structure.numbers)} atoms ({elements}), {len(structure.edges)} blocks, "
        f"{'with spin-orbit coupling' if structure.spinful else 'without spin'}, "
        f"Fermi level {structure.fermi_level:.4f} eV, "
        f"largest deviation from hermiticity {hermiticity_error(structure)[0]:.1e} eV"
    )


if __name__ == "__main__":
    main()
