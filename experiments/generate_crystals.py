"""Compute databases of crystals with a DFT code, the same as generate kind=crystals."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.utils import get_class
from omegaconf import DictConfig

from experiments.reporting.generation_report import GenerationProgress, public_command
from experiments.settings.configuration import command, plain
from experiments.settings.typed import typed
from tracegrad.errors import ConfigError
from tracegrad.physics.crystals.calculations import ProgramSettings
from tracegrad.physics.crystals.database import CrystalSummary, generate_crystals
from tracegrad.physics.crystals.engine import Engine
from tracegrad.physics.crystals.settings import CrystalSettings
from tracegrad.physics.crystals.structures import CrystalStructure, crystal_structures
from tracegrad.plots.structures import MOST_PANELS, Picture, structures_figure
from tracegrad.plots.style import save


@command("generate_crystals")
def main(config: DictConfig) -> None:
    """Create the structures, print a summary of what will be computed, and compute it."""
    values = plain(config)
    settings = typed(CrystalSettings, config)
    engine: Engine = typed(get_class(config.engine._target_), config)
    running = typed(ProgramSettings, config)
    if not 0 <= config.figure <= MOST_PANELS:
        raise ConfigError(f"figure is {config.figure}; give a number of structures from 0 to {MOST_PANELS}")
    program = running.command(engine)
    geometries = values["geometries"] or []
    structures = crystal_structures(
        settings, [geometries] if isinstance(geometries, str) else geometries, engine
    )
    with GenerationProgress("structures", _heading(structures, settings, engine, program)) as progress:
        summary = generate_crystals(
            structures,
            settings,
            engine,
            str(config.output),
            running,
            strict=config.strict,
            keep_work=config.keep_work,
            command=public_command(sys.argv[1:]),
            report=progress.warn,
            on_progress=progress.on_progress,
        )
    if config.figure:
        _draw(structures[: config.figure], summary.output / "structures.png")
    progress.report(_ending(summary, engine))


def _heading(
    structures: Sequence[CrystalStructure],
    settings: CrystalSettings,
    engine: Engine,
    program: list[str] | None,
) -> str:
    sizes = sorted({len(entry.atoms) for entry in structures})
    atoms = f"{sizes[0]} atoms" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} atoms"
    spin = "with" if settings.spin else "without"
    where = f"no {engine.title} here" if program is None else " ".join(program)
    return f"{len(structures)} structures of {atoms}, {spin} spin-orbit coupling; {where}"


def _ending(summary: CrystalSummary, engine: Engine) -> str:
    left_out = f", {len(summary.left_out)} left out" if summary.left_out else ""
    done = f"wrote {summary.output / 'structures'}: {summary.finished} structures{left_out}"
    if not summary.waiting:
        return done
    return (
        f"{len(summary.waiting)} structures wait for {engine.title}, which is not installed here. Their inputs are "
        f"{summary.output / 'work' / '*' / engine.input_name}. Continue in one of two ways:\n{engine.advice}"
        + (f"\n{done}" if summary.finished or summary.left_out else "")
    )


def _draw(structures: Sequence[CrystalStructure], path: Path) -> None:
    pictures = []
    for entry in structures:
        angle = entry.origin.get("twist angle (degrees)")
        title = entry.name if angle is None else f"{entry.name}: {angle:.2f}\N{DEGREE SIGN}"
        pictures.append(Picture(title, entry.atoms))
    save(structures_figure(pictures), path)


if __name__ == "__main__":
    main()
