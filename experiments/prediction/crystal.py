"""Predict Hamiltonians of crystals and write them as structure folders."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.prediction.bands import defaults, print_forecast, write_bands
from experiments.prediction.crystal_entries import entries_of
from experiments.prediction.derivatives import crystal_work, moving_atoms, write_derivatives
from experiments.prediction.doubts import print_outside, report_spread
from experiments.prediction.zone import electrons_of_cell
from tracegrad.data.crystal_files.deeph import (
    check_free,
    folders_of_spins,
    is_structure_folder,
    matrix_path,
    read_header,
    read_structure,
    write_structure,
)
from tracegrad.data.crystals.spins import BOTH, named_spin
from tracegrad.data.crystals.structure import Structure, check_geometry, edge_order
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.hamiltonian.h0 import DATA
from tracegrad.hamiltonian.neighbours import edge_lengths, edges_within_range
from tracegrad.model.ensemble import HamiltonianEnsemble, mean_and_spread
from tracegrad.model.estimate import estimate_cost
from tracegrad.model.network import HamiltonianModel
from tracegrad.physics.dos.electrons import charges_in_files
from tracegrad.physics.dos.molecular import SHARES
from tracegrad.physics.overlaps.structure_overlaps import BasisFileOverlaps
from tracegrad.units import MEV


def predict_crystal(model: HamiltonianEnsemble, source: Path, output: Path, values: dict[str, Any]) -> None:
    """Read a structure folder or a geometry file with a cell, print the estimated cost, and predict and write H."""
    if values["reference"]:
        raise ConfigError(
            f"{values['checkpoint']} is a {model.label} for crystals; reference is for molecules"
        )
    if values["dos_shares"] != SHARES[0]:
        raise ConfigError(
            f"dos_shares={values['dos_shares']} is for molecules; of a crystal the shares are {SHARES[0]}: leave it "
            "out"
        )
    spins = model.basis.channels
    if model.basis.collinear and values["output"] is None:
        output = output.with_name(named_spin(output.name)[0])
    outputs = {spin: _of_spin(output, spin) for spin in spins}
    for folder in outputs.values():
        check_free(folder, overwrite=values["overwrite"])
    sources = _sources(source, spins)
    # Both spins may have one source.
    geometries = {
        folder: read_geometry(folder, model.basis, values["frame"], h0=model.corrects_data)
        for folder in dict.fromkeys(sources.values())
    }
    structure = geometries[sources[spins[0]]]
    moving = moving_atoms(values, len(structure.numbers))
    kind = "with spin-orbit coupling" if structure.spinful else "without spin"
    print(
        f"{structure.name}: {len(structure.numbers)} atoms, {len(structure.edges)} blocks, "
        + ("both spins" if model.basis.collinear else kind),
        flush=True,
    )
    charges: dict[int, float] = {}
    overlaps = None
    if values["basis_files"] is not None:
        began = time.perf_counter()
        basis_files = str(values["basis_files"])
        files = BasisFileOverlaps(basis_files, model.basis, structure.numbers.tolist())
        geometries = {folder: files(one) for folder, one in geometries.items()}
        structure, charges = geometries[sources[spins[0]]], charges_in_files(files.shells)
        overlaps = files.overlaps
        print(f"overlaps from {basis_files} in {time.perf_counter() - began:.1f} s", flush=True)
    print_outside(
        model.outside_training(structure.numbers, structure.positions, structure.lattice, structure.edges)
    )
    count = len(model.members)
    each = f" for each of {count} networks" if count > 1 else ""
    print(f"estimate: {estimate_cost(model.members[0], structure)}{each}", flush=True)
    if values["bands"] and structure.overlap is not None:
        of_spins = [geometries[sources[spin]] for spin in spins]
        hamiltonians = 2 if _has_reference(sources, values) else 1
        print_forecast(of_spins, _settings_of_bands(values), charges, hamiltonians)
    if moving:
        for spin, folder in outputs.items():
            work = crystal_work(model, geometries[sources[spin]], spin, overlaps)
            write_derivatives(work, folder, moving, values)
    for spin, folder in outputs.items():
        one, started = geometries[sources[spin]], time.perf_counter()
        entries, spread = mean_and_spread(_entries(member, one, spin) for member in model.members)
        seconds = time.perf_counter() - started
        write_structure(replace(one, hamiltonian=entries, h0=None), folder, overwrite=values["overwrite"])
        print(f"predicted in {seconds:.1f} s; wrote {folder} in DeepH's format")
        if count > 1:
            _report_spread(folder.with_name(f"{folder.name}_spread.csv"), one, spread)
    if values["bands"]:
        predicted_bands(sources, output, structure, values, charges)


def _of_spin(folder: Path, spin: str | None) -> Path:
    """The folder of one spin of a structure."""
    return folder if spin is None else folder.with_name(f"{folder.name}_{spin}")


def _sources(source: Path, spins: Sequence[str | None]) -> dict[str | None, Path]:
    """What is read for each spin: the folders NAME_up and NAME_down if ``source`` is one of them or NAME."""
    folders = folders_of_spins(source) if len(spins) > 1 else None
    return dict.fromkeys(spins, source) if folders is None else {spin: folders[str(spin)] for spin in spins}


def _has_reference(sources: Mapping[str | None, Path], values: dict[str, Any]) -> bool:
    """Whether the sources have H of DFT, of each spin its own."""
    own = len(set(sources.values())) == len(sources)
    files = (matrix_path(source, "hamiltonian") for source in sources.values())
    return own and values["basis_files"] is None and all(file.is_file() for file in files)


def _entries(model: HamiltonianModel, structure: Structure, spin: str | None) -> np.ndarray:
    """Hermitian H that one network predicts, in the order of the files."""
    geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
    h0 = structure.blocks("h0") if model.h0 == DATA else None
    return entries_of(model, structure, list(model.hamiltonian(*geometry, spin=spin, h0=h0)))


def _report_spread(path: Path, structure: Structure, spread: Float[np.ndarray, " entries"]) -> None:
    """Print and write by how much several networks differ."""
    starts = block_starts(structure.edges[:, 3:].T, structure.numbers, structure.basis)
    of_blocks = np.add.reduceat(spread, starts[:-1]) / np.diff(starts) * MEV["eV"]
    lengths = edge_lengths(structure.positions, structure.lattice, structure.edges)
    mean = float(spread.mean()) * MEV["eV"]
    report_spread(path, structure.numbers, structure.edges, lengths, of_blocks, mean)


def predicted_bands(
    sources: Mapping[str | None, Path],
    output: Path,
    structure: Structure,
    values: dict[str, Any],
    charges: dict[int, float],
) -> None:
    """Write the bands of a prediction, compared with those of DFT if the sources have the Hamiltonian of DFT.

    Args:
        sources: of the structure, by spin.
        output: folder of the prediction; with both spins NAME of the folders NAME_up and NAME_down.
        structure: with overlaps, if they are known.
        values: settings of ``conf/predict.yaml``.
        charges: valence charges in basis files, by atomic number.
    """
    if structure.overlap is None:
        print(
            "no bands without overlaps; give a structure folder with overlaps.h5, or basis_files=FOLDER with the "
            "basis files of the DFT calculations, to get them"
        )
        return
    settings = _settings_of_bands(values) | {"output": output.with_name(f"{output.name}_bands")}
    if len(sources) > 1:
        settings["spin"] = BOTH
    counted = electrons_of_cell(structure, settings, charges) is not None
    source = next(iter(sources.values()))
    if _has_reference(sources, values):
        compared = source if len(sources) == 1 else source.with_name(named_spin(source.name)[0])
        write_bands(settings | {"structure": compared, "predicted": output}, charges, foretold=True)
    elif structure.fermi_level is None and values["fermi_level"] is None and not counted:
        print(
            f"no bands without a Fermi level in {source}; give fermi_level=, in eV, or valence electrons, such as "
            "'valence={C: 4}', which the basis files do not have"
        )
    else:
        write_bands(settings | {"structure": output}, charges, foretold=True)


def _settings_of_bands(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``conf/bands.yaml`` that ``conf/predict.yaml`` has as well."""
    shared = defaults().keys() & values.keys() - {"bands", "basis_files", "output"}
    return {name: values[name] for name in sorted(shared)}


def read_geometry(
    path: Path, basis: OrbitalBasis, frame: int | None = None, *, h0: bool = False
) -> Structure:
    """Read a structure without its Hamiltonian.

    Args:
        path: structure folder with overlaps (or with H, which is ignored), or geometry file with a cell. For a file
            the edges are all pairs within the radii of the basis.
        basis: of the network, which the structure has to have.
        frame: number of the frame in a file with several.
        h0: read H0, which a network corrects, too; the edges are then its pairs.

    Raises:
        ConfigError: a frame is chosen for a structure folder.
        DataError: there is nothing to read, the file has several frames and none is chosen, or no cell, or a charge
            or magnetic moments, or the network has not been trained on its elements and shells.
    """
    if is_structure_folder(path):
        if frame is not None:
            raise ConfigError(
                f"{path}: is a structure folder, which holds one structure; leave out frame={frame}"
            )
        overlap = matrix_path(path, "overlap").is_file()
        if h0 and read_header(path).spinful != basis.spinful:
            raise DataError(
                f"{path}: spin-orbit coupling of the structure (info.json) and of the network differ; give h0.h5 and "
                "info.json of a calculation like those of the training"
            )
        structure = read_structure(path, hamiltonian=not (overlap or h0), overlap=overlap, h0=h0)
        basis.check(structure.numbers, str(path), trained=True)
        for number, degrees in structure.shells.items():
            if basis.shells[number] != degrees:
                raise DataError(
                    f"{path}: atomic number {number} has shells {degrees}, the network was trained with "
                    f"{basis.shells[number]}; use the basis of the training"
                )
        return replace(structure, hamiltonian=None, spinful=basis.spinful)
    if path.is_dir():
        raise DataError(
            f"{path}: is not a structure folder (element.dat, lat.dat, overlaps.h5...); give one or a geometry file"
        )
    if h0:
        raise DataError(
            f"{path}: the network predicts H - H0 with H0 of the data (model.h0=data), which a geometry file does "
            "not have; give a structure folder with h0.h5 (docs/targets.md)"
        )
    from tracegrad.physics.geometry_files.reading import check_crystal, one_frame  # needs ASE, folders do not

    chosen = one_frame(path, frame)
    check_crystal(chosen)
    atoms = chosen.atoms
    numbers = atoms.numbers.astype(np.int64)
    basis.check(numbers, chosen.place, trained=True)
    lattice = np.array(atoms.cell)
    bare = Structure(
        name=path.stem,
        numbers=numbers,
        positions=atoms.positions.copy(),
        lattice=lattice,
        shells={int(z): basis.shells[int(z)] for z in np.unique(numbers)},
        spinful=basis.spinful,
        fermi_level=None,
        edges=np.zeros((0, 5), dtype=np.int64),
    )
    check_geometry(bare, chosen.place)
    edges = edges_within_range(numbers, bare.positions, lattice, atoms.pbc, basis)
    return replace(bare, edges=edges[edge_order(edges)])
