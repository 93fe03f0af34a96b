"""Compute reference data of molecules in the QH9 schema, or of crystals (kind=crystals)."""

import sys

from omegaconf import DictConfig

from experiments.generate_crystals import main as crystals
from experiments.reporting.generation_report import GenerationProgress, public_command
from experiments.settings.configuration import command
from experiments.settings.typed import typed
from tracegrad.errors import ConfigError
from tracegrad.physics.molecules import generation
from tracegrad.physics.molecules.generation_settings import GenerationSettings
from tracegrad.physics.molecules.geometries import named_molecules, read_geometries
from tracegrad.system.cores import available_cores


@command("generate")
def molecules(config: DictConfig) -> None:
    """Read the geometries, print a summary of what will be computed, and compute it."""
    settings = typed(GenerationSettings, config)
    if config.kind != "molecules":
        raise ConfigError(f"kind={config.kind} is unknown; it is molecules or crystals")
    processes = config.processes if config.processes is not None else available_cores()
    if type(processes) is not int or processes < 1:
        raise ConfigError(f"processes is {processes}; give a whole number of at least 1")
    geometries = [
        *named_molecules(_listed(config, "molecules")),
        *read_geometries(_listed(config, "geometries")),
    ]
    heading = (
        f"flavour {settings.flavour}, functional {settings.functional}, def2-SVP; "
        f"geometries: {len(geometries)}, processes: {processes}"
    )
    with GenerationProgress("frames", heading) as progress:
        summary = generation.generate(
            geometries,
            settings,
            str(config.output),
            processes=processes,
            overwrite=config.overwrite,
            strict=config.strict,
            command=public_command(sys.argv[1:]),
            report=progress.warn,
            on_progress=progress.on_progress,
        )
    left_out = f", {len(summary.left_out)} left out" if summary.left_out else ""
    progress.report(f"wrote {summary.output}: {summary.rows} rows{left_out}")


def _listed(config: DictConfig, name: str) -> list[str]:
    value = config[name]
    values = [value] if isinstance(value, str) else list(value or [])
    for entry in values:
        if not isinstance(entry, str):
            raise ConfigError(f"{name}: {entry!r} is not text; put it in quotes")
    return values


def main() -> None:
    """Compute molecules, or crystals with kind=crystals."""
    if "kind=crystals" in sys.argv[1:]:
        crystals()
    else:
        molecules()


if __name__ == "__main__":
    main()
