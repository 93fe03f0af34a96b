"""Band structure of a crystal and errors of predicted bands, written as table, figure and summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.prediction.band_report import gap_line
from experiments.prediction.path_bands import PathResult, SpinHamiltonian, along_path, summary_of_both
from experiments.prediction.zone import (
    COUNT,
    Zone,
    ZonePlan,
    check_zone_settings,
    electrons_of_cell,
    plan_zone,
    solve_zone,
    write_densities,
    zone_lines,
    zone_summary,
)
from experiments.settings.paths import CONF
from tracegrad.data.crystal_files.deeph import matrix_path, read_structure
from tracegrad.data.crystals.spins import BOTH, block_diagonal
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import SPINS
from tracegrad.physics.bands.band_errors import with_hamiltonian
from tracegrad.physics.bands.bands import read_for_bands
from tracegrad.physics.bands.forecast import (
    PointWork,
    fitting_processes,
    forecast_lines,
    seconds_of_a_cube,
    work_of_bands,
)
from tracegrad.physics.bands.kpath import k_path, periodic_axes
from tracegrad.physics.dos.density import DensityOfStates, energy_grid
from tracegrad.physics.dos.electrons import charges_in_files, charges_with_cores
from tracegrad.physics.overlaps.structure_overlaps import BasisFileOverlaps
from tracegrad.plots.bands import bands_figure
from tracegrad.plots.style import save
from tracegrad.system.cores import available_cores
from tracegrad.system.memory import available_memory
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.text_files import write_json, write_table

_WORTH_FORECAST = 1e10  # operations, about a minute of one core; the forecast of less takes too long itself


def write_bands(
    values: Mapping[str, Any], charges: Mapping[int, float] | None = None, *, foretold: bool = False
) -> None:
    """Compute the bands of a structure and of a predicted Hamiltonian, print a summary and write the files.

    Args:
        values: settings of ``conf/bands.yaml``; those that are absent have their default there.
        charges: valence charges by atomic number, besides those of the settings and of the basis files there.
        foretold: `print_forecast` has printed time and memory.

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: the structure or the predicted Hamiltonian cannot be read.
    """
    values = {**defaults(), **values}
    window = _window(values["window"])
    points = values["points"]
    if points is not None and not isinstance(points, Mapping):
        raise ConfigError(f"points={points} is not a table; give a table such as 'points={{A: [0.5, 0, 0]}}'")
    for name in ("bands", "processes"):
        if values[name] is not None and type(values[name]) is not int:
            raise ConfigError(f"{name}={values[name]} is not understood; give a whole number or null")
    level = values["fermi_level"]
    if level is not None and level != COUNT and type(level) not in (int, float):
        raise ConfigError(f"fermi_level={level} is not understood; give a number or null (eV), or count")
    if values["spin"] not in (None, BOTH):
        raise ConfigError(
            f"spin={values['spin']} is not understood; give both for STRUCTURE_up and STRUCTURE_down, or null"
        )
    check_zone_settings(values)
    spins = SPINS if values["spin"] == BOTH else (None,)
    hamiltonians, in_files = _read(values, spins)
    whole = _whole(hamiltonians, Path(str(values["structure"])).name)
    structure = hamiltonians[0].structure
    output = Path(str(values["output"]) if values["output"] is not None else f"bands/{whole[0].name}")
    periodic = periodic_axes(structure.edges)
    path = k_path(
        structure.lattice,
        periodic,
        path=None if values["path"] is None else str(values["path"]),
        points=points,
        npoints=values["npoints"],
    )
    known = {**charges_with_cores(structure), **(charges or {}), **in_files}
    plan = plan_zone(whole, values, known, collinear=len(spins) > 1)
    works, processes = works_and_processes(structure, values, len(path.points), plan, len(spins) * len(whole))
    zones: list[Zone] = []
    with ProgressDisplay("points", seconds=600.0) as progress:
        if not foretold and sum(work.points * work.cubes for work in works) > _WORTH_FORECAST:
            progress.report(forecast(works, structure, processes))
        if plan is not None:
            bar = progress.bar(f"{whole[0].name}, mesh")
            zones = [solve_zone(one, plan, processes=processes, on_progress=bar) for one in whole]
        counted = zones[0].counted if plan is not None and plan.level_is_counted else None
        if counted is not None:
            level = counted.level
        level = None if level is None else float(level)
        axes = "".join(name for name, is_periodic in zip("abc", periodic, strict=True) if is_periodic)
        gap = "gap on the path" if zones else "gap"
        found = [
            along_path(one, path, level, values, window, processes, axes, gap, progress)
            for one in hamiltonians
        ]
        if len(found) == 1:
            summary = found[0].summary
        else:
            summary = summary_of_both(whole[0].name, found, axes)
            progress.report(gap_line(f"{gap} of both spins", summary["gap"]))
            if "predicted" in summary:
                progress.report(gap_line("predicted gap of both spins", summary["predicted"]["gap"]))
    fermi_level = found[0].bands.fermi_level
    densities: list[DensityOfStates] = []
    parts = [("mesh", summary)] + ([("predicted, mesh", summary["predicted"])] if len(whole) > 1 else [])
    for zone, (what, part) in zip(zones, parts, strict=False):
        progress.report("\n".join(zone_lines(what, zone, fermi_level)))
        part["zone"] = zone_summary(zone)
        if zone.plan.dos:
            moved = float(np.mean([one.shift for one in found])) if densities else 0.0
            low, high = (fermi_level + edge for edge in window)
            grid = energy_grid(low, high, float(values["dos_width"]))
            densities.append(zone.density(grid + moved))
    figure = bands_figure(
        found[0].bands,
        found[0].shown,
        down=(found[1].bands, found[1].shown) if len(found) > 1 else None,
        window=window,
        title=whole[0].name,
        densities=densities,
    )
    names = ["bands.png", "bands.csv", "bands.json"]
    save(figure, output / "bands.png")
    _write_table(found, output / "bands.csv")
    if densities:
        names.append("dos.csv")
        write_densities(densities, fermi_level, output / "dos.csv")
    write_json(output / "bands.json", summary)
    progress.report(f"wrote {output}: {', '.join(names)}")


def defaults() -> dict[str, Any]:
    """The settings of ``conf/bands.yaml`` that have a default."""
    content = yaml.safe_load((CONF / "bands.yaml").read_text(encoding="utf-8"))
    return {
        key: value for key, value in content.items() if value != "???" and key not in ("defaults", "hydra")
    }


def print_forecast(
    structures: Sequence[Structure],
    values: Mapping[str, Any],
    charges: Mapping[int, float],
    hamiltonians: int,
) -> None:
    """Check the settings of the bands of a structure that has no Hamiltonian yet, and print time and memory.

    Args:
        structures: the structure, or its two spins.
        values, charges: see `plan_zone`.
        hamiltonians: 2 if a prediction will be compared with DFT.

    Raises:
        ConfigError: a setting that cannot be used, or the memory does not suffice.
    """
    values = {**defaults(), **values}
    check_zone_settings(values)
    structure, *others = structures
    counted = electrons_of_cell(structure, values, charges) is not None
    if structure.fermi_level is None and values["fermi_level"] is None and not counted:
        return
    whole = block_diagonal(structure, others[0], structure.name) if others else structure
    plan = plan_zone([whole], values, charges, collinear=bool(others))
    count = len(structures) * hamiltonians
    works, processes = works_and_processes(structure, values, values["npoints"], plan, count)
    print(forecast(works, structure, processes), flush=True)


def works_and_processes(
    structure: Structure, values: Mapping[str, Any], points: int, plan: ZonePlan | None, hamiltonians: int
) -> tuple[list[PointWork], int | None]:
    """The work at k points, and the number of processes that have the memory for it.

    Args:
        structure: with its pairs of atoms; matrices are not needed.
        values: settings.
        points: number of points on the path.
        plan: what is done on a mesh.
        hamiltonians: 2 with a prediction, 4 for both spins.

    Raises:
        ConfigError: the memory does not suffice.
    """
    sizes = structure.basis.sizes[structure.numbers]
    size = int(sizes.sum())
    pairs = np.unique(structure.edges[:, 3:], axis=0)
    filled = float((sizes[pairs[:, 0]] * sizes[pairs[:, 1]]).sum()) / size**2
    works = [work_of_bands("bands on the path", size, points, values["bands"], hamiltonians)]
    # On the mesh both spins are one H of twice the size.
    works += [] if plan is None else plan.works(filled, hamiltonians * size // plan.size)
    return works, fitting_processes(works, values["processes"], available_cores(), available_memory())


def forecast(works: list[PointWork], structure: Structure, processes: int | None) -> str:
    """Lines that tell time and memory of the work; a short trial measures the speed of this machine."""
    size = int(structure.basis.sizes[structure.numbers].sum())
    cube = seconds_of_a_cube(size)
    return "\n".join(forecast_lines(works, size, processes or available_cores(), cube))


def _read(
    values: Mapping[str, Any], spins: Sequence[str | None]
) -> tuple[list[SpinHamiltonian], dict[int, float]]:
    """What the settings name for each spin, and the valence charges in basis files."""
    folder, source = str(values["structure"]), values["predicted"]
    found: list[SpinHamiltonian] = []
    charges: dict[int, float] = {}
    for spin in spins:
        ending = "" if spin is None else f"_{spin}"
        structure, charges = _read_one(f"{folder}{ending}", values["basis_files"])
        place = "" if source is None else f"{source}{ending}"
        predicted = with_hamiltonian(structure, place) if place else None
        found.append(SpinHamiltonian(spin, structure, predicted, place))
    return found, charges


def _whole(hamiltonians: Sequence[SpinHamiltonian], name: str) -> list[Structure]:
    """The structure and, if there is one, the prediction, with both spins together."""
    first, *others = hamiltonians
    if not others:
        return [first.structure] if first.predicted is None else [first.structure, first.predicted]
    (second,) = others
    whole = [block_diagonal(first.structure, second.structure, name)]
    if first.predicted is not None and second.predicted is not None:
        whole.append(block_diagonal(first.predicted, second.predicted, name))
    return whole


def _read_one(folder: str, basis_files: Any) -> tuple[Structure, dict[int, float]]:
    """The structure with H and S, and the valence charges in basis files.

    S is read, or computed from the basis files of a folder if the structure has none.
    """
    if basis_files is None:
        return read_for_bands(folder), {}
    has_overlap = matrix_path(folder, "overlap").is_file()
    structure = read_structure(folder, overlap=has_overlap)
    basis = structure.basis_of("overlap")
    files = BasisFileOverlaps(str(basis_files), basis, structure.numbers.tolist())
    if has_overlap:
        print(f"S is that of {folder}; of {basis_files} only the valence electrons are used")
    else:
        structure = files(structure)
    return structure, charges_in_files(files.shells)


def _window(value: Any) -> tuple[float, float]:
    numbers = [entry for entry in value if type(entry) in (int, float)]
    if len(value) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ConfigError(f"window={value} is not understood; give two numbers in eV, the lower one first")
    return float(numbers[0]), float(numbers[1])


def _write_table(found: Sequence[PathResult], path: Path) -> None:
    """Write a row for each k-point: k, distance along the path (1/angstrom), and the energies of the bands (eV)."""
    of_path = found[0].bands.path
    columns = [of_path.points, of_path.distances[:, None]]
    names = ["k1", "k2", "k3", "distance_per_angstrom"]
    for one in found:
        beginning = "" if one.spin is None else f"{one.spin}_"
        tables = [("band", one.bands)]
        tables += [] if one.prediction is None else [("predicted", one.prediction.bands)]
        for name, bands in tables:
            columns.append(bands.energies)
            names += [
                f"{beginning}{name}_{bands.first + n}_eV" for n in range(1, bands.energies.shape[1] + 1)
            ]
    write_table(path, names, ([f"{value:.9g}" for value in row] for row in np.hstack(columns).tolist()))
