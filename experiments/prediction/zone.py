"""Fermi level and density of states of a crystal: what the settings ask for, the work, and what is reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.bands.bands import BANDS_OF_LARGE, LARGEST_DENSE
from tracegrad.physics.bands.forecast import PointWork, work_of_all, work_of_bands, work_of_polynomials
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos.density import DensityOfStates, density_of_states
from tracegrad.physics.dos.electrons import electrons_of_atoms, read_charges
from tracegrad.physics.dos.fermi_level import SMEARINGS, FermiCount, count_fermi_level
from tracegrad.physics.dos.kmesh import KMesh, has_time_reversal, k_mesh
from tracegrad.physics.dos.level_search import search_fermi_level
from tracegrad.physics.dos.mesh_states import MeshStates, mesh_states
from tracegrad.physics.dos.orbital_groups import OrbitalGroups, orbital_groups
from tracegrad.physics.dos.polynomial import PolynomialDensity, polynomial_density
from tracegrad.system.text_files import write_table

METHODS = ("auto", "diagonal", "polynomial")
LARGEST_DIAGONAL = 4000  # orbitals up to which all states of a mesh are computed by default
COUNT = "count"


@dataclass(frozen=True, eq=False)
class ZonePlan:
    """What is computed on a k mesh.

    Args:
        mesh: the points.
        groups: of orbitals, for projections.
        dos: whether a density of states is asked for.
        method: of it, "diagonal" or "polynomial"; without it "diagonal" or, for large cells, "search".
        electrons: of a cell; None: the Fermi level is not counted.
        level_is_counted: the counted Fermi level is the one that is used.
        size: number of orbitals.
        spins: states that a band stands for.
        values: the settings.
    """

    mesh: KMesh
    groups: OrbitalGroups
    dos: bool
    method: str
    electrons: float | None
    level_is_counted: bool
    size: int
    spins: int
    values: Mapping[str, Any]

    def works(self, filled: float, hamiltonians: int) -> list[PointWork]:
        """The work on the mesh, for forecasts.

        Args:
            filled: share of the elements of S(k) that are not 0.
            hamiltonians: number of Hamiltonians.
        """
        points = len(self.mesh.points)
        if self.method == "diagonal":
            return [work_of_all("all states on the mesh", self.size, points, hamiltonians)]
        works = []
        if self.electrons is not None:
            what = "bands around the Fermi level on the mesh"
            works.append(work_of_bands(what, self.size, points, BANDS_OF_LARGE, hamiltonians))
        if self.method == "polynomial":
            width, vectors = float(self.values["dos_width"]), self.values["dos_vectors"]
            what = "density of states by polynomials"
            works.append(work_of_polynomials(what, self.size, points, filled, width, vectors, hamiltonians))
        return works


@dataclass(frozen=True, eq=False)
class Zone:
    """What is known about one Hamiltonian on the mesh.

    Args:
        plan: what was asked for.
        counted: the Fermi level by counting electrons, if this was asked for.
        states: of the mesh, for "diagonal".
        polynomial: for "polynomial".
    """

    plan: ZonePlan
    counted: FermiCount | None
    states: MeshStates | None
    polynomial: PolynomialDensity | None

    def density(self, energies: Float[np.ndarray, " energies"]) -> DensityOfStates:
        """The density of states at energies (eV)."""
        if self.polynomial is not None:
            return self.polynomial.at(energies)
        assert self.states is not None
        width = float(self.plan.values["dos_width"])
        return density_of_states(self.states, self.plan.groups, energies, width, spins=self.plan.spins)

    def populations(self) -> dict[str, float] | None:
        """Electrons of each group (Mulliken), which add up to those of the cell; None without states or level."""
        if self.states is None or self.counted is None:
            return None
        shifted = self.states.energies - self.counted.level
        if self.counted.metal:
            values = self.plan.values
            occupations = SMEARINGS[values["smearing"]](shifted / values["smearing_width"])
        else:
            occupations = (shifted < 0).astype(np.float64)
        shares = self.states.populations(occupations, self.plan.spins)
        return dict(zip(self.plan.groups.names, shares.tolist(), strict=True))


def check_zone_settings(values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a setting of the Fermi level or the density of states that cannot be used."""
    if values["dos_method"] not in METHODS:
        raise ConfigError(
            f"dos_method={values['dos_method']} is not one of {', '.join(METHODS)}; give one of them"
        )
    check_count_settings(values)
    for name, least in (("dos_width", 0), ("overlap_threshold", -1)):
        _check_number(values, name, least)
    if values["overlap_threshold"] < 0:
        raise ConfigError(f"overlap_threshold={values['overlap_threshold']} is below 0; give 0 for none")
    if type(values["dos_vectors"]) is not int or values["dos_vectors"] < 2:
        raise ConfigError(
            f"dos_vectors={values['dos_vectors']} is not understood; give a whole number of at least 2"
        )


def check_count_settings(values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a setting of the occupation of states that cannot be used."""
    if values["smearing"] is not None and values["smearing"] not in SMEARINGS:
        raise ConfigError(
            f"smearing={values['smearing']} is not one of {', '.join(SMEARINGS)} and null; give one of them"
        )
    _check_number(values, "smearing_width")
    if values["electrons"] is not None:
        _check_number(values, "electrons")


def _check_number(values: Mapping[str, Any], name: str, least: int = 0) -> None:
    value = values[name]
    if type(value) not in (int, float) or not least < value < np.inf:
        raise ConfigError(f"{name}={value} is not understood; give a number above 0")


def plan_zone(
    structures: list[Structure],
    values: Mapping[str, Any],
    charges: Mapping[int, float],
    *,
    collinear: bool = False,
) -> ZonePlan | None:
    """What has to be computed on a mesh for a structure, or None.

    Args:
        structures: the structure and, if there is one, that with a predicted Hamiltonian.
        values: settings of ``conf/bands.yaml``.
        charges: valence charges in basis files, by atomic number.
        collinear: the structures are those of `block_diagonal`, whose orbitals have a spin.

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: the number of electrons is needed and not known.
    """
    structure, dos = structures[0], values["dos"]
    level = values["fermi_level"]
    given = values["electrons"] is not None or values["valence"] is not None
    known = structure.fermi_level is not None if level is None else level != COUNT
    needed = not known or (given and level is None)
    electrons = electrons_of_cell(structure, values, charges) if needed or dos else None
    if needed and electrons is None:
        charges = {**charges, **read_charges(values["valence"] or {})}
        electrons_of_atoms(
            structure.numbers, charges, structure.name
        )  # raises the error that names the elements
    if not needed and not dos:
        return None
    size = int(structure.basis.sizes[structure.numbers].sum())
    if dos:
        method = values["dos_method"]
        if method == "auto":
            method = "diagonal" if size <= LARGEST_DIAGONAL else "polynomial"
    else:
        method = "diagonal" if size <= LARGEST_DENSE else "search"
    reversal = all(
        not one.spinful if one.hamiltonian is None else has_time_reversal(one) for one in structures
    )
    mesh = k_mesh(structure.lattice, periodic_axes(structure.edges), values["k_mesh"], time_reversal=reversal)
    groups = orbital_groups(structure.numbers, structure.basis, values["dos_groups"], by_spin=collinear)
    return ZonePlan(mesh, groups, dos, method, electrons, needed, size, 3 - structure.basis.spins, values)


def electrons_of_cell(
    structure: Structure, values: Mapping[str, Any], charges: Mapping[int, float]
) -> float | None:
    """Electrons of a cell, or None if charges are missing."""
    if values["electrons"] is not None:
        return float(values["electrons"])
    try:
        return electrons_of_atoms(
            structure.numbers, {**charges, **read_charges(values["valence"] or {})}, structure.name
        )
    except DataError:
        return None


def solve_zone(
    structure: Structure,
    plan: ZonePlan,
    *,
    processes: int | None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Zone:
    """Do what is planned for one Hamiltonian.

    Raises:
        ConfigError: a metal without smearing, or bands that cannot hold the electrons.
        DataError: a matrix is missing or damaged, or S(k) is not positive.
    """
    values = plan.values
    work: dict[str, Any] = {"processes": processes, "on_progress": on_progress}
    smearing: dict[str, Any] = {"smearing": values["smearing"], "width": float(values["smearing_width"])}
    threshold = float(values["overlap_threshold"])
    counted, states, polynomial = None, None, None
    if plan.method == "diagonal":
        states = mesh_states(structure, plan.mesh, plan.groups, threshold=threshold, **work)
        if plan.electrons is not None:
            counted = count_fermi_level(
                states.energies,
                plan.mesh.weights,
                plan.electrons,
                spins=plan.spins,
                name=structure.name,
                **smearing,
            )
    elif plan.electrons is not None:
        counted = search_fermi_level(structure, plan.mesh, plan.electrons, **smearing, **work)
    if plan.method == "polynomial":
        polynomial = polynomial_density(
            structure,
            plan.mesh,
            plan.groups,
            width=float(values["dos_width"]),
            vectors=values["dos_vectors"],
            threshold=threshold,
            **work,
        )
    return Zone(plan, counted, states, polynomial)


def zone_lines(what: str, zone: Zone, level: float) -> list[str]:
    """Lines that tell what a mesh has shown.

    Args:
        what: words for the Hamiltonian, such as "mesh".
        zone: the results.
        level: Fermi level, eV.
    """
    plan, found = zone.plan, zone.counted
    counts = " x ".join(map(str, plan.mesh.counts))
    lines = []
    if found is not None:
        text = f"{what} {counts} ({len(plan.mesh.points)} points), {found.electrons:g} electrons: "
        if found.metal:
            first, last = found.bands
            bands = f"band {first} is" if first == last else f"bands {first} to {last} are"
            smearing = f"{plan.values['smearing']} smearing of {plan.values['smearing_width']:g} eV"
            text += f"a metal, {bands} partly filled; Fermi level {found.level:.4f} eV with {smearing}"
        else:
            places = [
                _point(plan.mesh, p)
                for p in (found.valence_point, found.conduction_point, found.direct_point)
            ]
            text += (
                f"gap {found.gap:.4f} eV from {places[0]} to {places[1]}, direct {found.direct_gap:.4f} eV at "
                f"{places[2]}; Fermi level {found.level:.4f} eV, in its middle"
            )
        lines.append(text)
    if zone.states is not None:
        if zone.states.dropped:
            lines.append(dropped_line(zone.states.dropped, plan.size, plan.values["overlap_threshold"]))
        if ghosts := zone.states.ghosts(level):
            lines.append(ghost_line(ghosts))
    if zone.polynomial is not None:
        at_level = zone.density(np.array([level]))
        assert at_level.error is not None
        lines.append(
            f"density of states by polynomials: {zone.polynomial.moments[0].groups.shape[1]} moments, "
            f"{plan.values['dos_vectors']} random vectors at each of {len(plan.mesh.points)} points; at the Fermi "
            f"level {at_level.total[0]:.3g} +- {at_level.error[0]:.2g} states/eV, broadened by up to "
            f"{at_level.width:g} eV"
        )
    return lines


def dropped_line(dropped: int, size: int, threshold: float) -> str:
    """The warning that directions have been projected out."""
    return (
        f"warning: up to {dropped} of {size} directions at a point were projected out, whose eigenvalues of S are "
        f"below overlap_threshold={threshold:g}"
    )


def ghost_line(ghosts: int) -> str:
    """The warning of ghost states below the Fermi level."""
    return (
        f"warning: up to {ghosts} ghost states at a point below the Fermi level, which come from errors of H in a "
        "nearly singular basis and hold electrons; overlap_threshold=0.001, say, projects such directions out"
    )


def zone_summary(zone: Zone) -> dict[str, Any]:
    """What a mesh has shown, as plain data."""
    plan, found = zone.plan, zone.counted
    summary: dict[str, Any] = {
        "k_mesh": list(plan.mesh.counts),
        "points": len(plan.mesh.points),
        "method": plan.method,
    }
    if found is not None:
        counted = asdict(found)
        for name in ("valence", "conduction", "direct"):
            point = counted.pop(f"{name}_point")
            counted[f"{name}_at"] = None if point is None else plan.mesh.points[point].tolist()
        if found.metal:
            counted["smearing"] = plan.values["smearing"]
            counted["smearing_width_eV"] = plan.values["smearing_width"]
        summary["counted"] = counted
    if plan.dos:
        summary["dos_width_eV"] = plan.values["dos_width"]
    if zone.states is not None:
        summary["smallest_eigenvalue_of_S"] = zone.states.smallest_overlap
        summary["projected_out"] = zone.states.dropped
        populations = zone.populations()
        if populations is not None:
            summary["mulliken_electrons"] = populations
    if zone.polynomial is not None:
        summary["smallest_eigenvalue_of_S"] = zone.polynomial.smallest_overlap
        summary["moments"] = [one.groups.shape[1] for one in zone.polynomial.moments]
        summary["random_vectors"] = plan.values["dos_vectors"]
    return summary


def write_densities(
    densities: Sequence[DensityOfStates], level: float, path: Path, *, zero: str = "fermi"
) -> None:
    """Write a table of densities of states, that of DFT or of the only Hamiltonian first, then a predicted one.

    Args:
        densities: one or two.
        level: energy from which the second column counts, eV.
        path: of the file.
        zero: name of this energy.
    """
    energies = densities[0].energies
    columns = {"energy_eV": energies, f"energy_minus_{zero}_eV": energies - level}
    for prefix, density in zip(("", "predicted_"), densities, strict=False):
        columns |= {f"{prefix}states_per_eV": density.total, f"{prefix}states_below": density.below}
        if density.error is not None:
            columns[f"{prefix}error_per_eV"] = density.error
        for name, values in zip(density.groups, density.projected, strict=True):
            columns[f"{prefix}{name.replace(' ', '_')}_per_eV"] = values
    rows = np.stack(list(columns.values()), axis=1).tolist()
    write_table(path, columns, ([f"{value:.9g}" for value in row] for row in rows))


def _point(mesh: KMesh, point: int | None) -> str:
    assert point is not None
    return "(" + ", ".join(f"{value:.3f}" for value in mesh.points[point] + 0.0) + ")"
