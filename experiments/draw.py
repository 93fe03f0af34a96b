"""Crystals of a database from above and from the side: `python -m experiments.draw --help`."""

from pathlib import Path

from omegaconf import DictConfig

from experiments.configuration import command, plain
from tracegrad.data.crystals import CrystalDatabase
from tracegrad.errors import ConfigError
from tracegrad.plots.structures import MOST_PANELS, picture_of, structures_figure
from tracegrad.plots.style import save


@command("draw", help_alone=True)
def main(config: DictConfig) -> None:
    """Read the chosen structures and draw them side by side."""
    values = plain(config)
    chosen = values["name"]
    names = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"name={chosen} is not text; give a name, a pattern such as 'BG_*', or a list of them"
        )
    database = CrystalDatabase(str(values["source"]), include=names)
    if len(database) > MOST_PANELS:
        raise ConfigError(
            f"name={chosen} fits {len(database)} structures ({', '.join(database.names[:8])}, ...); at most "
            f"{MOST_PANELS} are drawn"
        )
    pictures = [picture_of(database[i]) for i in range(len(database))]
    path = save(structures_figure(pictures, values["title"] or ""), Path(str(values["output"])))
    print(f"wrote {path}: {', '.join(database.names)}")


if __name__ == "__main__":
    main()
