"""Compute databases of crystals with OpenMX, the same as generate kind=crystals."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from experiments.reporting.generation_report import public_command
from experiments.settings.configuration import command, plain
from tracegrad.errors import ConfigError
from tracegrad.physics.crystals.database import CrystalSummary, generate_crystals
from tracegrad.physics.crystals.database_run import CrystalProgress
from tracegrad.physics.crystals.openmx_run import INPUT, Program, find_program
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.structures import CrystalStructure, crystal_structures
from tracegrad.plots.structures import MOST_PANELS, Picture, structures_figure
from tracegrad.plots.style import save
from tracegrad.system.progress import ProgressDisplay

_SECONDS = 600.0  # one structure takes longer than the default of `ProgressDisplay`


@dataclass
class GenerateCrystalsConfig(CrystalSettings):
    """All settings of the command, with their types, which OmegaConf checks."""

    output: str = "???"
    kind: str = "crystals"
    geometries: Any = field(default_factory=list)
    openmx: str | None = None
    launcher: str | None = None
    threads: int = 1
    jobs: int = 1
    time_limit: float | None = None
    strict: bool = False
    keep_work: bool = True
    figure: int = 3


@command("generate_crystals")
def main(config: DictConfig) -> None:
    """Create the structures, print a summary of what will be computed, and compute it."""
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(GenerateCrystalsConfig), config))
    values = plain(config)
    settings = CrystalSettings(**{entry.name: values[entry.name] for entry in fields(CrystalSettings)})
    if not 0 <= config.figure <= MOST_PANELS:
        raise ConfigError(f"figure is {config.figure}; give a number of structures from 0 to {MOST_PANELS}")
    program = find_program(
        config.openmx, launcher=config.launcher, threads=config.threads, time_limit=config.time_limit
    )
    geometries = values["geometries"]
    structures = crystal_structures(
        settings, [geometries] if isinstance(geometries, str) else geometries or []
    )
    with ProgressDisplay("structures", seconds=_SECONDS) as progress:
        summary = generate_crystals(
            structures,
            settings,
            config.output,
            program,
            jobs=config.jobs,
            strict=config.strict,
            keep_work=config.keep_work,
            command=public_command(sys.argv[1:]),
            report=lambda line: progress.report(line, "yellow"),
            on_progress=_ProgressReport(progress, _heading(structures, settings, program)),
        )
    if config.figure:
        _draw(structures[: config.figure], summary.output / "structures.png")
    progress.report(_ending(summary))


def _heading(
    structures: Sequence[CrystalStructure], settings: CrystalSettings, program: Program | None
) -> str:
    sizes = sorted({len(entry.atoms) for entry in structures})
    atoms = f"{sizes[0]} atoms" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} atoms"
    spin = "with" if settings.spin else "without"
    where = "no OpenMX here" if program is None else " ".join(program.command[:-3])
    return f"{len(structures)} structures of {atoms}, {spin} spin-orbit coupling; {where}"


def _ending(summary: CrystalSummary) -> str:
    left_out = f", {len(summary.left_out)} left out" if summary.left_out else ""
    done = f"wrote {summary.output / 'structures'}: {summary.finished} structures{left_out}"
    if not summary.waiting:
        return done
    return (
        f"{len(summary.waiting)} structures wait for OpenMX, which is not installed here. Their inputs are "
        f"{summary.output / 'work' / '*' / INPUT}. Continue in one of two ways:\n"
        "- install OpenMX (https://www.openmx-square.org) and give the same command with openmx=PATH and "
        "data_path=PATH/DFT_DATA19;\n"
        f"- run OpenMX in each of these folders (with DATA.PATH set in {INPUT} or by data_path=PATH) and give the "
        "same command again: it converts the openmx.scfout files that it finds beside a complete openmx.out."
        + (f"\n{done}" if summary.finished or summary.left_out else "")
    )


def _draw(structures: Sequence[CrystalStructure], path: Path) -> None:
    pictures = []
    for entry in structures:
        angle = entry.origin.get("twist angle (degrees)")
        title = entry.name if angle is None else f"{entry.name}: {angle:.2f}\N{DEGREE SIGN}"
        pictures.append(Picture(title, entry.atoms))
    save(structures_figure(pictures), path)


class _ProgressReport:
    """Shows progress; the heading is printed at the first call, when the output has been checked."""

    def __init__(self, display: ProgressDisplay, heading: str) -> None:
        self.display, self.heading = display, heading
        self.move = display.bar("starting")

    def __call__(self, progress: CrystalProgress) -> None:
        if self.heading:
            self.display.report(self.heading)
            self.heading = ""
        self.move(progress.done, progress.total, f"{progress.running} running")


if __name__ == "__main__":
    main()
