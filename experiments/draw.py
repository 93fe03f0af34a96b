"""Draw crystals of a database or a geometry file."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.settings.configuration import command, plain
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.errors import ConfigError
from tracegrad.physics.geometry_files.reading import check_cell, one_frame
from tracegrad.plots.structures import MOST_PANELS, Picture, picture_of, structures_figure
from tracegrad.plots.style import save


@command("draw", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Read the chosen structures and draw them side by side."""
    values = plain(config)
    source = Path(str(values["source"]))
    geometry = source.is_file() and source.suffix not in (".h5", ".hdf5")
    pictures = _of_file(source, values) if geometry else _of_database(source, values)
    path = save(structures_figure(pictures, values["title"] or ""), Path(str(values["output"])))
    print(f"wrote {path}: {', '.join(picture.title for picture in pictures)}")


def _of_file(source: Path, values: dict[str, Any]) -> list[Picture]:
    """One frame of a geometry file."""
    frame = values["frame"]
    if frame is not None and type(frame) is not int:
        raise ConfigError(f"frame is {frame!r}; give a whole number, 0 for the first frame, or null")
    if values["name"] != "*":
        raise ConfigError(
            f"name={values['name']} chooses structures of a database; choose a frame of {source} with frame=0"
        )
    chosen = one_frame(source, frame)
    check_cell(chosen)
    return [Picture(source.stem if frame is None else f"{source.stem} {frame}", chosen.atoms)]


def _of_database(source: Path, values: dict[str, Any]) -> list[Picture]:
    """The structures of a database whose names match."""
    if values["frame"] is not None:
        raise ConfigError(
            f"frame={values['frame']} chooses a frame of a geometry file; choose structures of {source} with name="
        )
    chosen = values["name"]
    names = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"name={chosen} is not text; give a name, a pattern such as 'BG_*', or a list of them"
        )
    database = CrystalDatabase(str(source), include=names)
    if len(database) > MOST_PANELS:
        raise ConfigError(
            f"name={chosen} matches {len(database)} structures ({', '.join(database.names[:8])}, ...); at most "
            f"{MOST_PANELS} are drawn"
        )
    return [picture_of(database[i]) for i in range(len(database))]


if __name__ == "__main__":
    main()
