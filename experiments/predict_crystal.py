"""Hamiltonians of crystals from a trained network, written as structure folders."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from experiments.bands import write_bands
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.data.deeph import check_free, is_structure_folder, matrix_path, read_structure, write_structure
from tracegrad.data.structure import Structure, check_geometry, edge_order
from tracegrad.errors import ConfigError, DataError
from tracegrad.estimate import estimate
from tracegrad.model import HamiltonianModel
from tracegrad.neighbours import edges_within_range


def predict_crystal(model: HamiltonianModel, given: Path, output: Path, values: dict[str, Any]) -> None:
    """Read the structure, say what the prediction will cost, predict, and write.

    ``values`` are the settings of ``conf/predict.yaml``.
    """
    if values["reference"] or values["frame"] is not None:
        raise ConfigError(
            f"{values['checkpoint']} is a {model.backbone.label} for crystals; reference and frame are for molecules"
        )
    check_free(output, overwrite=values["overwrite"])
    assert isinstance(model.backbone, DeepHE3)
    model.backbone.edge_chunk = values["edge_chunk"]
    model.backbone.hermitian = True  # a file holds H(R, i, j) and its adjoint H(-R, j, i)
    structure = read_geometry(given, model)
    print(
        f"{structure.name}: {len(structure.numbers)} atoms, {len(structure.edges)} blocks, "
        f"{'with spin-orbit coupling' if structure.spinful else 'without spin'}",
        flush=True,
    )
    print(f"estimate: {estimate(model, structure)}", flush=True)
    started = time.perf_counter()
    geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
    blocks = model.hamiltonian(*geometry)
    seconds = time.perf_counter() - started
    kind = np.complex128 if structure.spinful else np.float64
    entries = np.concatenate([block.ravel() for block in blocks]).astype(kind)
    write_structure(replace(structure, hamiltonian=entries), output, overwrite=values["overwrite"])
    print(f"predicted in {seconds:.1f} s; wrote {output} in DeepH's format")
    if values["bands"]:
        predicted_bands(given, output, structure, values)


def predicted_bands(given: Path, output: Path, structure: Structure, values: dict[str, Any]) -> None:
    """Bands of a prediction, beside those of DFT where the given folder has its H."""
    if structure.overlap is None:
        print("no overlaps, so no bands; give a structure folder with overlaps.h5 for them")
        return
    settings = {
        "output": output.with_name(f"{output.name}_bands"),
        "window": values["window"],
        "processes": values["processes"],
    }
    if matrix_path(given, "hamiltonian").is_file():
        write_bands(settings | {"structure": given, "predicted": output})
    elif structure.fermi_level is None:
        print(f"no Fermi level in {given}, so no bands; see python -m experiments.bands")
    else:
        write_bands(settings | {"structure": output})


def read_geometry(path: Path, model: HamiltonianModel) -> Structure:
    """A structure without H: a folder with overlaps (or H, which is ignored), or any crystal that ASE reads.

    Raises:
        DataError: nothing to read, no cell, or elements and shells that the network does not have.
    """
    basis = model.basis
    if is_structure_folder(path):
        overlap = matrix_path(path, "overlap").is_file()
        found = read_structure(path, hamiltonian=not overlap, overlap=overlap)
        basis.check(found.numbers, str(path))
        for number, degrees in found.shells.items():
            if basis.shells[number] != degrees:
                raise DataError(
                    f"{path}: atomic number {number} has shells {degrees}, the network was trained with "
                    f"{basis.shells[number]}; use the basis of the training"
                )
        return replace(found, hamiltonian=None, spinful=basis.spinful)
    try:
        atoms = ase.io.read(path)
    except Exception as error:  # ASE raises many kinds for files that it does not understand
        raise DataError(
            f"{path}: neither a structure folder nor a file that ASE reads ({error}); give one with a cell, such "
            "as a .cif, a POSCAR or an extended .xyz"
        ) from error
    assert isinstance(atoms, ase.Atoms)
    if atoms.cell.rank < 3:
        raise DataError(
            f"{path}: the cell has {atoms.cell.rank} vectors; give three, for a layer with a vacuum"
        )
    numbers = atoms.numbers.astype(np.int64)
    basis.check(numbers, str(path))
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
    check_geometry(bare, str(path))
    edges = edges_within_range(numbers, bare.positions, lattice, atoms.pbc, basis)
    return replace(bare, edges=edges[edge_order(edges)])
