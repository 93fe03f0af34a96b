"""Predict the Hamiltonian of a molecule: matrix, orbital energies, and how much an SCF from it is shorter."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float
from pyscf import lib

from experiments.prediction.derivatives import molecule_work, moving_atoms, write_derivatives
from experiments.prediction.doubts import print_outside, report_spread
from experiments.prediction.molecule_density import MoleculeDensity
from experiments.prediction.molecule_properties import check_files, properties, write_files
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.geometry import check_positions
from tracegrad.model.ensemble import HamiltonianEnsemble, block_spreads
from tracegrad.physics.dos.density import DensityOfStates
from tracegrad.physics.geometry_files.reading import check_molecule, one_frame
from tracegrad.physics.molecules.density import density
from tracegrad.physics.molecules.dft import (
    MIN_DISTANCE_ANGSTROM,
    XC_CODES,
    build_molecule,
    fock_label,
)
from tracegrad.physics.molecules.levels import MolecularLevels, molecular_levels
from tracegrad.physics.molecules.overlap_derivative import overlap_along
from tracegrad.plots.levels import levels_figure
from tracegrad.plots.style import save
from tracegrad.system.text_files import write_json, write_table
from tracegrad.system.whole_files import replacing
from tracegrad.units import MEV

SHOWN = 5  # number of levels on each side of the gap that are printed
LOWEST_HOMO = -20.0  # eV; the lowest HOMO of all in B3LYP is that of helium at -18 eV
_EV = MEV["hartree"] / MEV["eV"]
# Texts in hamiltonian.npz.
UNITS = (
    "hamiltonian, hamiltonian_spread, orbital_energies: hartree; positions: angstrom; numbers: atomic numbers"
)
ORBITAL_ORDER = (
    "rows of all matrices as in PySCF's def2-svp, see orbitals; "
    "columns of coefficients as in orbital_energies"
)


def predict_molecule(model: HamiltonianEnsemble, source: Path, output: Path, values: dict[str, Any]) -> None:
    """Read a molecule, predict its Hamiltonian, solve for its orbitals, print the levels and write the files."""
    functional = values["functional"]
    if functional not in XC_CODES:
        raise ConfigError(f"functional is {functional!r}; choose one of {', '.join(XC_CODES)}")
    if values["threads"] is not None:
        lib.num_threads(values["threads"])
    atoms = read_molecule(source, values["frame"], model.basis)
    numbers, positions = atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64)
    moving = moving_atoms(values, len(numbers))
    dos = MoleculeDensity(values, numbers, model.basis) if values["dos"] else None
    molecule = build_molecule(numbers, positions)
    overlap = molecule.intor_symmetric("int1e_ovlp")
    started = time.perf_counter()
    hamiltonian, spread = model.matrix(numbers, positions)
    seconds = time.perf_counter() - started
    levels = molecular_levels(hamiltonian, overlap, molecule.nelectron)
    check_files(values, levels)
    formula = atoms.get_chemical_formula()
    print(
        f"{source}: {formula}, {len(numbers)} atoms, {len(hamiltonian)} orbitals, {molecule.nelectron} electrons\n"
        f"predicted by {model.label} in {seconds:.2f} s",
        flush=True,
    )
    outside = model.outside_training(numbers, positions)
    print_outside(outside)
    if moving:
        work = molecule_work(model, numbers, positions, partial(overlap_along, molecule))
        write_derivatives(work, output, moving, values)
    comparison, dft = None, None
    if values["reference"]:
        comparison, dft = solve_reference(numbers, positions, overlap, hamiltonian, functional, str(source))
        comparison["scf"]["prediction"]["prediction_seconds"] = round(seconds, 3)
    print(_table(levels, dft))
    if not LOWEST_HOMO < levels.homo * _EV < 0:
        print(
            f"warning: neutral molecules have no HOMO at {levels.homo * _EV:.1f} eV; the network has probably not "
            "been trained on molecules like this one"
        )
    summary = {
        "structure": source.name,
        "frame": values["frame"],
        "formula": formula,
        "electrons": molecule.nelectron,
        "checkpoint": str(values["checkpoint"]),
        "seconds": round(seconds, 3),
        "predicted": _frontier(levels),
        "outside_training": outside,
    }
    several: dict[str, Any] = {}
    if len(model.members) > 1:
        blocks = block_spreads(spread, model.basis.sizes[numbers]) * MEV["hartree"]
        several = {"hamiltonian_spread": spread}
        summary["spread_mev"] = float(spread.mean()) * MEV["hartree"]
        i, j = np.triu_indices(len(numbers))
        edges = np.stack([*np.zeros((3, len(i)), dtype=np.int64), i, j], axis=1)
        lengths = np.linalg.norm(positions[j] - positions[i], axis=1)
        report_spread(output / "spread.csv", numbers, edges, lengths, blocks[i, j], summary["spread_mev"])
    if values["properties"]:
        summary["properties"], text = properties(molecule, hamiltonian, functional)
        print(text)
    densities: list[DensityOfStates] = []
    if dos is not None:
        densities, summary["dos"] = dos(levels, dft, overlap)
        print(dos.line(summary["dos"]))
        dos.write(densities, (dft or levels).homo, output / "dos.csv")
    if comparison is not None:
        print(_reference_lines(comparison))
        summary["reference"] = comparison
    with replacing(output / "hamiltonian.npz") as draft, draft.open("wb") as file:
        np.savez(
            file,
            hamiltonian=hamiltonian,
            **several,
            overlap=overlap,
            orbital_energies=levels.energies,
            coefficients=levels.coefficients,
            electrons=molecule.nelectron,
            numbers=numbers,
            positions=positions,
            units=np.array(UNITS),
            orbital_order=np.array(ORBITAL_ORDER),
            orbitals=np.array([label.strip() for label in molecule.ao_labels()]),
        )
    _write_table(output / "orbitals.csv", levels, dft)
    write_json(output / "summary.json", summary)
    ladders = {"predicted": levels} | ({"DFT": dft} if dft is not None else {})
    figure = levels_figure(ladders, title=f"{source.stem} ({formula})", densities=densities)
    save(figure, output / "levels.png")
    files = [
        "hamiltonian.npz",
        "orbitals.csv",
        "levels.png",
        "summary.json",
        *(["spread.csv"] if several else []),
        *(["dos.csv"] if dos is not None else []),
    ]
    files += write_files(molecule, levels, output, values)
    print(f"wrote {output}: {', '.join(files)}")


def read_molecule(path: Path, number: int | None, basis: OrbitalBasis) -> Atoms:
    """Read one frame of a geometry file.

    Args:
        number: of the frame, counted from 0, or from the end if negative; None: the file has only one.
        basis: of the network, which knows the elements of its training.

    Raises:
        DataError: there is nothing to read, the file has several frames and none is chosen, the frame does not exist,
            or it is no neutral molecule with paired electrons.
        BasisError: an element that the network does not know.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {problem}; a network of molecules needs a geometry file, such as a .xyz")
    frame = one_frame(path, number)
    stated = check_molecule(frame)
    atoms = frame.atoms
    basis.check(atoms.numbers.astype(np.int64), frame.place, trained=True)
    check_positions(atoms.numbers, atoms.positions, frame.place, MIN_DISTANCE_ANGSTROM)
    if atoms.numbers.sum() % 2:
        guess = "" if stated else ". Is an atom missing?"
        raise DataError(
            f"{frame.place}: {atoms.numbers.sum()} electrons cannot be all paired; the network was trained on closed "
            f"shells only{guess}"
        )
    return atoms


def solve_reference(
    numbers: np.ndarray,
    positions: np.ndarray,
    overlap: Float[np.ndarray, "n n"],
    hamiltonian: Float[np.ndarray, "n n"],
    functional: str,
    name: str,
) -> tuple[dict[str, Any], MolecularLevels]:
    """Restricted Kohn-Sham SCF of a molecule from PySCF's guess (minao) and from a predicted Hamiltonian.

    Args:
        numbers, positions: atomic numbers, and positions in angstrom.
        overlap: of the orbitals.
        hamiltonian: predicted, hartree.
        functional: b3lyp5 or b3lyp.
        name: of the molecule, for messages.

    Returns:
        What the summary of the prediction says about both, and the levels of the converged Fock matrix from minao.
    """
    electrons = int(numbers.sum())
    guess = density(hamiltonian, overlap, electrons)
    # PySCF loads some of its libraries at the first SCF, which must not be timed.
    fock_label(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]), functional)
    runs: dict[str, dict[str, Any]] = {}
    labels = []
    for start, matrix in (("minao", None), ("prediction", guess)):
        began = time.perf_counter()
        label = fock_label(numbers, positions, functional, density_guess=matrix, name=name)
        labels.append(label)
        runs[start] = {
            "converged": label.converged,
            "cycles": label.cycles,
            "seconds": round(time.perf_counter() - began, 3),
            "energy_hartree": label.energy,
        }
    levels = molecular_levels(labels[0].hamiltonian, overlap, electrons)
    comparison = {
        "functional": functional,
        "threads": lib.num_threads(),
        "h_mae_mev": float(np.abs(hamiltonian - labels[0].hamiltonian).mean()) * MEV["hartree"],
        **_frontier(levels),
        "scf": runs,
    }
    return comparison, levels


def _table(levels: MolecularLevels, dft: MolecularLevels | None) -> str:
    first, last = max(levels.occupied - SHOWN, 0), levels.occupied + SHOWN
    head = f"{'':>10}{'hartree':>12}{'eV':>10}" + (f"{'DFT (eV)':>12}" if dft is not None else "")
    lines = [head]
    for k in range(min(last, len(levels.energies)) - 1, first - 1, -1):
        energy = levels.energies[k]
        line = f"{levels.label(k):>10}{energy:>12.5f}{energy * _EV:>10.3f}"
        lines.append(line + (f"{dft.energies[k] * _EV:>12.3f}" if dft is not None else ""))
    line = f"{'gap':>10}{levels.gap:>12.5f}{levels.gap * _EV:>10.3f}"
    lines.append(line + (f"{dft.gap * _EV:>12.3f}" if dft is not None else ""))
    return "\n".join(lines)


def _frontier(levels: MolecularLevels) -> dict[str, float]:
    energies = {"homo": levels.homo, "lumo": levels.lumo, "gap": levels.gap}
    return {
        f"{name}_{unit}": value * factor
        for name, value in energies.items()
        for unit, factor in (("hartree", 1.0), ("ev", _EV))
    }


def _reference_lines(comparison: dict[str, Any]) -> str:
    minao, guess = comparison["scf"]["minao"], comparison["scf"]["prediction"]
    lines = [
        f"{comparison['functional']}, {comparison['threads']} threads; MAE of H: {comparison['h_mae_mev']:.1f} meV"
    ]
    for name, run in (("minao", minao), ("prediction", guess)):
        state = "" if run["converged"] else ", not converged"
        extra = f" (and {run['prediction_seconds']:.2f} s for H)" if "prediction_seconds" in run else ""
        lines.append(
            f"SCF from {name:<11}{run['cycles']:>3} cycles (counted from 1){run['seconds']:>8.2f} s{extra}{state}"
        )
    difference = guess["energy_hartree"] - minao["energy_hartree"]
    lines.append(f"converged energies differ by {difference:.1e} hartree")
    return "\n".join(lines)


def _write_table(path: Path, levels: MolecularLevels, dft: MolecularLevels | None) -> None:
    head = ["orbital", "label", "occupation", "energy_hartree", "energy_ev"]
    rows = []
    for k, energy in enumerate(levels.energies):
        energies = [energy] + ([] if dft is None else [dft.energies[k]])
        row = [f"{value:.{digits}f}" for e in energies for value, digits in ((e, 8), (e * _EV, 5))]
        rows.append([k + 1, levels.label(k), 2 * (k < levels.occupied), *row])
    write_table(path, head + (["dft_hartree", "dft_ev"] if dft is not None else []), rows)
