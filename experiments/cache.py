"""Build the cache of a database of crystals."""

from omegaconf import DictConfig

from experiments.settings.configuration import command, plain
from tracegrad.data.cache.lookup import cache_paths, prepare_cache
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.loading.hamiltonian_module import DTYPES, database_path
from tracegrad.errors import ConfigError
from tracegrad.system.progress import ProgressDisplay


@command("cache", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Build the cache unless an up-to-date one exists, and print where it is."""
    values = plain(config)
    include, dtype, processes = values["include"], values["dtype"], values["processes"]
    if not all(isinstance(entry, str) for entry in include):
        raise ConfigError(f"include={include} is not a list of text; give one such as ['light_*']")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; choose one of {list(DTYPES)}")
    if not (processes is None or (type(processes) is int and processes > 0)):
        raise ConfigError(f"processes={processes}; give a whole number of at least 1, or null")
    source = database_path(str(values["source"]))
    database = CrystalDatabase(source, include=include, spin=values["spin"])
    paths = cache_paths(source, str(values["output"]), include, values["spin"])
    if not paths:
        raise ConfigError(
            f"{source} is a packed file, for whose cache there is no default place; give output=PATH"
        )
    with ProgressDisplay("structures") as progress:
        cache = prepare_cache(
            database,
            paths,
            dtype,
            processes=processes,
            report=progress.report,
            on_progress=progress.bar("reading"),
        )
    if cache is None:
        raise ConfigError(
            f"the cache of {source} could not be written; give output=PATH in a folder that can be"
        )
    print(f"{cache.path}: {len(cache)} structures, {cache.size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
