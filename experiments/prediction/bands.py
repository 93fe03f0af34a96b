"""Band structure of a crystal and errors of predicted bands, written as table, figure and summary."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.prediction.zone import (
    COUNT,
    Zone,
    ZonePlan,
    check_zone_settings,
    dropped_line,
    electrons_of_cell,
    ghost_line,
    plan_zone,
    solve_zone,
    write_densities,
    zone_lines,
    zone_summary,
)
from experiments.settings.paths import CONF
from tracegrad.data.crystals.deeph import matrix_path, read_structure
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError
from tracegrad.physics.bands.band_errors import BandErrors, band_errors, with_hamiltonian
from tracegrad.physics.bands.bands import (
    SMALL_OVERLAP,
    BandGap,
    BandStructure,
    PredictedBands,
    band_gap,
    band_structure,
    read_for_bands,
)
from tracegrad.physics.bands.forecast import (
    PointWork,
    fitting_processes,
    forecast_lines,
    seconds_of_a_cube,
    work_of_bands,
)
from tracegrad.physics.bands.kpath import KPath, k_path, periodic_axes
from tracegrad.physics.dos.density import DensityOfStates, energy_grid
from tracegrad.physics.dos.electrons import charges_in_files
from tracegrad.physics.overlaps.structure_overlaps import BasisFileOverlaps
from tracegrad.plots.bands import bands_figure
from tracegrad.plots.style import save
from tracegrad.system.cores import available_cores
from tracegrad.system.memory import available_memory
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.text_files import write_json, write_table
from tracegrad.units import MEV

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
    check_zone_settings(values)
    structure, in_files = _read(str(values["structure"]), values["basis_files"])
    source = values["predicted"]
    predicted = None if source is None else with_hamiltonian(structure, str(source))
    structures = [structure] if predicted is None else [structure, predicted]
    output = Path(str(values["output"]) if values["output"] is not None else f"bands/{structure.name}")
    periodic = periodic_axes(structure.edges)
    path = k_path(
        structure.lattice,
        periodic,
        path=None if values["path"] is None else str(values["path"]),
        points=points,
        npoints=values["npoints"],
    )
    plan = plan_zone(structures, values, {**(charges or {}), **in_files})
    works, processes = works_and_processes(structure, values, len(path.points), plan, len(structures))
    zones: list[Zone] = []
    with ProgressDisplay("points", seconds=600.0) as progress:
        if not foretold and sum(work.points * work.cubes for work in works) > _WORTH_FORECAST:
            progress.report(forecast(works, structure, processes))
        if plan is not None:
            bar = progress.bar(f"{structure.name}, mesh")
            zones = [solve_zone(one, plan, processes=processes, on_progress=bar) for one in structures]
        counted = zones[0].counted if plan is not None and plan.level_is_counted else None
        if counted is not None:
            level = counted.level
        bands, prediction = band_structure(
            structure,
            path,
            predicted=predicted,
            fermi_level=None if level is None else float(level),
            bands=values["bands"],
            processes=processes,
            threshold=float(values["overlap_threshold"]),
            on_progress=progress.bar(structure.name),
        )
    axes = "".join(name for name, is_periodic in zip("abc", periodic, strict=True) if is_periodic)
    progress.report(
        f"{structure.name}: {len(structure.numbers)} atoms, {bands.total} orbitals, path {path.name} "
        f"({len(path.points)} points), periodic along {axes or 'no axis'}, Fermi level {bands.fermi_level:.4f} eV"
    )
    if bands.smallest_overlap < SMALL_OVERLAP:
        progress.report(
            f"warning: the smallest eigenvalue of S(k) is {bands.smallest_overlap:.1e}: "
            "the basis is nearly linearly dependent, so that high bands amplify errors of H"
        )
    if bands.dropped:
        progress.report(dropped_line(bands.dropped, bands.total, values["overlap_threshold"]))
    if bands.ghosts:
        progress.report(ghost_line(bands.ghosts))
    summary = _summary(bands, axes)
    progress.report(_gap_line("gap on the path" if zones else "gap", summary["gap"]))
    shown, shift = None, 0.0
    if prediction is not None:
        errors = band_errors(bands, prediction, window)
        occupied = None if summary["gap"]["metal"] else summary["gap"]["bands"][0]
        summary["predicted"] = {
            "source": Path(str(source)).name,
            "gap": _gap(prediction.bands, band_gap(prediction.bands, occupied)),
            "errors": _errors(errors),
        }
        progress.report(_gap_line("predicted gap", summary["predicted"]["gap"]))
        progress.report(_error_lines(errors))
        if prediction.bands.ghosts:
            progress.report(f"predicted: {ghost_line(prediction.bands.ghosts)}")
        shift = errors.eigenvalues.mean / MEV["eV"] if values["align"] else 0.0
        shown = replace(prediction.bands, energies=prediction.bands.energies - shift)
    densities: list[DensityOfStates] = []
    parts = [("mesh", summary)] + ([("predicted, mesh", summary["predicted"])] if prediction else [])
    for zone, (what, part) in zip(zones, parts, strict=False):
        progress.report("\n".join(zone_lines(what, zone, bands.fermi_level)))
        part["zone"] = zone_summary(zone)
        if zone.plan.dos:
            moved = shift if densities else 0.0
            low, high = (bands.fermi_level + edge for edge in window)
            grid = energy_grid(low, high, float(values["dos_width"]))
            densities.append(zone.density(grid + moved))
    figure = bands_figure(bands, shown, window=window, title=structure.name, densities=densities)
    names = ["bands.png", "bands.csv", "bands.json"]
    save(figure, output / "bands.png")
    _write_table(bands, prediction, output / "bands.csv")
    if densities:
        names.append("dos.csv")
        write_densities(densities, bands.fermi_level, output / "dos.csv")
    write_json(output / "bands.json", summary)
    progress.report(f"wrote {output}: {', '.join(names)}")


def defaults() -> dict[str, Any]:
    """The settings of ``conf/bands.yaml`` that have a default."""
    content = yaml.safe_load((CONF / "bands.yaml").read_text(encoding="utf-8"))
    return {
        key: value for key, value in content.items() if value != "???" and key not in ("defaults", "hydra")
    }


def print_forecast(
    structure: Structure, values: Mapping[str, Any], charges: Mapping[int, float], hamiltonians: int
) -> None:
    """Check the settings of the bands of a structure that has no Hamiltonian yet, and print time and memory.

    Args:
        structure, values, charges: see `plan_zone`.
        hamiltonians: 2 if a prediction will be compared with DFT.

    Raises:
        ConfigError: a setting that cannot be used, or the memory does not suffice.
    """
    values = {**defaults(), **values}
    check_zone_settings(values)
    counted = electrons_of_cell(structure, values, charges) is not None
    if structure.fermi_level is None and values["fermi_level"] is None and not counted:
        return
    plan = plan_zone([structure], values, charges)
    works, processes = works_and_processes(structure, values, values["npoints"], plan, hamiltonians)
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
        hamiltonians: 2 with a prediction.

    Raises:
        ConfigError: the memory does not suffice.
    """
    sizes = structure.basis.sizes[structure.numbers]
    size = int(sizes.sum())
    pairs = np.unique(structure.edges[:, 3:], axis=0)
    filled = float((sizes[pairs[:, 0]] * sizes[pairs[:, 1]]).sum()) / size**2
    works = [work_of_bands("bands on the path", size, points, values["bands"], hamiltonians)]
    works += [] if plan is None else plan.works(filled, hamiltonians)
    return works, fitting_processes(works, values["processes"], available_cores(), available_memory())


def forecast(works: list[PointWork], structure: Structure, processes: int | None) -> str:
    """Lines that tell time and memory of the work; a short trial measures the speed of this machine."""
    size = int(structure.basis.sizes[structure.numbers].sum())
    cube = seconds_of_a_cube(size)
    return "\n".join(forecast_lines(works, size, processes or available_cores(), cube))


def _read(folder: str, basis_files: Any) -> tuple[Structure, dict[int, float]]:
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


def _summary(bands: BandStructure, axes: str) -> dict[str, Any]:
    return {
        "structure": bands.name,
        "orbitals": bands.total,
        "fermi_level_eV": bands.fermi_level,
        "periodic_axes": axes,
        "path": bands.path.name,
        "special_points": [
            {"name": name, "distance_per_angstrom": distance} for distance, name in bands.path.ticks
        ],
        "points": len(bands.path.points),
        "bands": [bands.first + 1, bands.first + bands.energies.shape[1]],
        "smallest_eigenvalue_of_S": bands.smallest_overlap,
        "projected_out": bands.dropped,
        "ghost_states": bands.ghosts,
        "gap": _gap(bands, band_gap(bands)),
    }


def _gap(bands: BandStructure, gap: BandGap) -> dict[str, Any]:
    """A gap as plain data, with its k-points as text."""
    values = asdict(gap)
    for name in ("valence", "conduction", "direct"):
        point = values.pop(f"{name}_point")
        values[f"{name}_at"] = None if point is None else _point_name(bands.path, point)
    return values


def _point_name(path: KPath, point: int) -> str:
    """Name of a special point, or k in units of the reciprocal lattice."""
    for distance, name in path.ticks:
        if abs(path.distances[point] - distance) < 1e-9:
            return name
    return "(" + ", ".join(f"{value:.3f}" for value in path.points[point] + 0.0) + ")"


def _gap_line(what: str, gap: Mapping[str, Any]) -> str:
    first, last = gap["bands"]
    if gap["metal"]:
        crossing = f"band {first} crosses" if first == last else f"bands {first} to {last} cross"
        return f"{what}: none, {crossing} the Fermi level or each other"
    valence = f"{gap['valence_at']} ({gap['valence']:.4f} eV, band {first})"
    conduction = f"{gap['conduction_at']} ({gap['conduction']:.4f} eV)"
    return (
        f"{what}: {gap['gap']:.4f} eV from {valence} to {conduction}; direct {gap['direct_gap']:.4f} eV at "
        f"{gap['direct_at']}; band edges change by up to {gap['step']:.4f} eV between neighbouring points"
    )


def _errors(errors: BandErrors) -> dict[str, Any]:
    def extra(counts: np.ndarray) -> dict[str, int]:
        return {
            "fewest": int(counts.min()),
            "most": int(counts.max()),
            "points_that_differ": int((counts != 0).sum()),
        }

    return {
        "window_eV": list(errors.window),
        "states": errors.states,
        "eigenvalues_meV": asdict(errors.eigenvalues),
        "first_order_meV": asdict(errors.first_order),
        "extra_states": extra(errors.extra),
        "aligned_extra_states": extra(errors.aligned_extra),
    }


def _error_lines(errors: BandErrors) -> str:
    low, high = errors.window
    lines = [f"errors of {errors.states} states from {low:.2f} to {high:.2f} eV, meV:"]
    for name, one in (("eigenvalues", errors.eigenvalues), ("first order", errors.first_order)):
        lines.append(
            f"  {name}: MAE {one.mae:.3f}, max {one.max:.3f}; without the mean ({one.mean:+.3f}) "
            f"MAE {one.aligned_mae:.3f}, max {one.aligned_max:.3f}"
        )
    for name, counts in (("", errors.extra), (", without the mean", errors.aligned_extra)):
        lines.append(
            f"  predicted minus true number of states in the window{name}: {counts.min():+d} to {counts.max():+d}"
        )
    return "\n".join(lines)


def _write_table(bands: BandStructure, prediction: PredictedBands | None, path: Path) -> None:
    """Write a row for each k-point: k, distance along the path (1/angstrom), and the energies of the bands (eV)."""
    tables = [("band", bands)] + ([("predicted", prediction.bands)] if prediction is not None else [])
    columns = [bands.path.points, bands.path.distances[:, None], *(one.energies for _, one in tables)]
    names = ["k1", "k2", "k3", "distance_per_angstrom"]
    for name, one in tables:
        names += [f"{name}_{one.first + n}_eV" for n in range(1, one.energies.shape[1] + 1)]
    write_table(path, names, ([f"{value:.9g}" for value in row] for row in np.hstack(columns).tolist()))
