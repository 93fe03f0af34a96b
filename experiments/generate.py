"""Compute reference data of molecules in the QH9 schema, or of crystals (kind=crystals)."""

import sys
from dataclasses import dataclass, field, fields
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from experiments.generate_crystals import main as crystals
from experiments.reporting.generation_report import public_command
from experiments.settings.configuration import command, plain
from tracegrad.errors import ConfigError
from tracegrad.physics.molecules import generation
from tracegrad.physics.molecules.generation_settings import GenerationSettings
from tracegrad.physics.molecules.geometries import named_molecules, read_geometries
from tracegrad.system.cores import available_cores
from tracegrad.system.progress import ProgressDisplay

_SECONDS = 600.0  # one label of a large molecule takes longer than the default of `ProgressDisplay`


@dataclass
class GenerateConfig(GenerationSettings):
    """All settings of the command, with their types, which OmegaConf checks."""

    output: str = "???"
    kind: str = "molecules"
    molecules: Any = field(default_factory=list)
    geometries: Any = field(default_factory=list)
    strict: bool = False
    processes: int | None = None
    overwrite: bool = False


@command("generate")
def molecules(config: DictConfig) -> None:
    """Read the geometries, print a summary of what will be computed, and compute it."""
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(GenerateConfig), config))
    values = plain(config)
    if config.kind != "molecules":
        raise ConfigError(f"kind={config.kind} is unknown; it is molecules or crystals")
    settings = GenerationSettings(**{entry.name: values[entry.name] for entry in fields(GenerationSettings)})
    processes = config.processes if config.processes is not None else available_cores()
    if processes < 1:
        raise ConfigError(f"processes is {processes}; give a whole number of at least 1")
    geometries = [
        *named_molecules(_listed(config, "molecules")),
        *read_geometries(_listed(config, "geometries")),
    ]
    heading = (
        f"flavour {settings.flavour}, functional {settings.functional}, def2-SVP; "
        f"geometries: {len(geometries)}, processes: {processes}"
    )
    with ProgressDisplay("frames", seconds=_SECONDS) as progress:
        summary = generation.generate(
            geometries,
            settings,
            config.output,
            processes=processes,
            overwrite=config.overwrite,
            strict=config.strict,
            command=public_command(sys.argv[1:]),
            report=lambda line: progress.report(line, "yellow"),
            on_progress=_ProgressReport(progress, settings.flavour, heading),
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


class _ProgressReport:
    """Shows progress; the heading is printed at the first call, when output and geometries have been checked."""

    def __init__(self, display: ProgressDisplay, flavour: str, heading: str) -> None:
        self.display, self.heading = display, heading
        self.what = "trajectories" if flavour == "dynamic" else "geometries"
        self.move = display.bar(self.what)

    def __call__(self, progress: generation.GenerationProgress) -> None:
        if self.heading:
            self.display.report(self.heading)
            self.heading = ""
        items = f"{progress.items_done}/{progress.items_total} {self.what}"
        self.move(progress.frames_done, progress.frames_total, items)


def main() -> None:
    """Compute molecules, or crystals with kind=crystals."""
    if "kind=crystals" in sys.argv[1:]:
        crystals()
    else:
        molecules()


if __name__ == "__main__":
    main()
