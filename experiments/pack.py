"""Pack many structure folders into one file."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from omegaconf import DictConfig

from experiments.settings.arguments import quoted, shell_word
from experiments.settings.configuration import command, plain
from tracegrad import __version__
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.packed import pack, packed_names
from tracegrad.errors import ConfigError, DataError
from tracegrad.system.text_files import write_json


@command("pack", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Pack the structures, and write their provenance beside the packed file."""
    values = plain(config)
    output = Path(str(values["output"]))
    pattern, decimals = values["pattern"], values["decimals"]
    patterns = [pattern] if isinstance(pattern, str) else pattern
    if not isinstance(patterns, list) or not all(isinstance(entry, str) for entry in patterns):
        raise ConfigError(f"pattern={pattern} is not text; give one such as 'light_*', or a list of them")
    if not (decimals is None or type(decimals) is int):
        raise ConfigError(f"decimals={decimals} is not a whole number; give one, or null for no rounding")
    if output.exists() and not values["overwrite"]:
        raise ConfigError(f"{output} exists; choose another output or set overwrite=true")
    if output.exists():
        packed_names(output)  # raises for other files: only packed files are overwritten
    database = CrystalDatabase(
        str(values["source"]),
        include=patterns,
        overlap=values["overlap"],
        h0=values["h0"],
        spin=values["spin"],
    )
    origins = {name: _provenance(database.reader.places[name]) for name in database.names}
    provenance = {
        "description": values["description"],
        "command": _public_command(database, output, patterns, decimals),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounding": "none" if decimals is None else f"matrices to multiples of 1e-{decimals} eV",
        "units": {"hamiltonian": "eV", "positions, lattice": "angstrom"},
        "versions": {"tracegrad": __version__, "numpy": np.__version__, "h5py": h5py.__version__},
        "structures": origins,
    }
    names = pack(
        (database[i] for i in range(len(database))), output, decimals=decimals, provenance=provenance
    )
    write_json(output.with_name(f"{output.stem}.provenance.json"), provenance)
    print(f"wrote {output}: {len(names)} structures, {os.path.getsize(output) / 1e6:.2f} MB")


def _provenance(place: Path) -> Any:
    """Content of provenance.json in the folder of a structure; None if there is none."""
    path = place / "provenance.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); correct or remove it") from error


def _public_command(
    database: CrystalDatabase, output: Path, patterns: list[str], decimals: int | None
) -> str:
    """The command line for the provenance, without folders of this machine."""
    settings = [f"source={database.path.name}", f"output={output.name}"]
    settings += [f"pattern=[{','.join(map(quoted, patterns))}]"]
    settings += [] if database.spin is None else [f"spin={database.spin}"]
    settings += [] if decimals is None else [f"decimals={decimals}"]
    settings += [f"{matrix}=true" for matrix in ("overlap", "h0") if matrix in database.matrices]
    return " ".join(["tracegrad", "pack", *map(shell_word, settings)])


if __name__ == "__main__":
    main()
