"""Compute reference data of molecules in the QH9 schema, or of crystals (kind=crystals)."""

import sys
import time
from dataclasses import dataclass, field, fields
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress, TaskID

from experiments.generate_crystals import main as crystals
from experiments.reporting.generation_report import progress_bar, public_command
from experiments.settings.configuration import command, plain
from tracegrad.errors import ConfigError
from tracegrad.physics.molecules import generation
from tracegrad.physics.molecules.generation_settings import GenerationSettings
from tracegrad.physics.molecules.geometries import named_molecules, read_geometries
from tracegrad.system.cores import available_cores


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
    console = Console()
    heading = (
        f"flavour {settings.flavour}, functional {settings.functional}, def2-SVP; "
        f"geometries: {len(geometries)}, processes: {processes}"
    )
    with progress_bar(console, "frames") as bar:
        summary = generation.generate(
            geometries,
            settings,
            config.output,
            processes=processes,
            overwrite=config.overwrite,
            strict=config.strict,
            command=public_command(sys.argv[1:]),
            report=lambda line: bar.console.print(line, style="yellow", highlight=False, markup=False),
            on_progress=_ProgressReport(bar, settings.flavour, heading),
        )
    left_out = f", {len(summary.left_out)} left out" if summary.left_out else ""
    console.print(
        f"wrote {summary.output}: {summary.rows} rows{left_out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _listed(config: DictConfig, name: str) -> list[str]:
    value = config[name]
    values = [value] if isinstance(value, str) else list(value or [])
    for entry in values:
        if not isinstance(entry, str):
            raise ConfigError(f"{name}: {entry!r} is not text; put it in quotes")
    return values


class _ProgressReport:
    """Shows progress as a bar on a terminal, and elsewhere, as in a batch job, as one line a minute.

    The heading is printed at the first call, when output and geometries have been checked.
    """

    def __init__(self, bar: Progress, flavour: str, heading: str) -> None:
        self.bar, self.heading = bar, heading
        self.what = "trajectories" if flavour == "dynamic" else "geometries"
        self.task: TaskID | None = None
        self.printed = time.monotonic()

    def __call__(self, progress: generation.GenerationProgress) -> None:
        items = f"{progress.items_done}/{progress.items_total} {self.what}"
        if self.task is None:
            self.bar.console.print(self.heading, highlight=False)
            self.task = self.bar.add_task(items, total=progress.frames_total, completed=progress.frames_done)
        self.bar.update(self.task, completed=progress.frames_done, description=items)
        if not self.bar.console.is_terminal and time.monotonic() > self.printed + 60:
            self.printed = time.monotonic()
            frames = f"{progress.frames_done}/{progress.frames_total} frames"
            self.bar.console.print(f"{items}, {frames}", highlight=False)


def main() -> None:
    """Compute molecules, or crystals with kind=crystals."""
    if "kind=crystals" in sys.argv[1:]:
        crystals()
    else:
        molecules()


if __name__ == "__main__":
    main()
