"""Write dH/dR of a predicted molecule or crystal, one displacement at a time."""

import copy
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int64

from experiments.prediction.crystal_entries import entries_of
from experiments.prediction.derivative_file import DerivativeFile, key_of
from tracegrad import __version__
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.model.estimate import PredictionCost, estimate_cost
from tracegrad.model.network import HamiltonianModel
from tracegrad.physics.overlaps.two_centre import TwoCentreOverlaps
from tracegrad.system.memory import available_memory
from tracegrad.system.progress import ProgressDisplay, readable_size

# A displacement on a CPU over a prediction, see docs/derivatives.md.
_TIMES_AS_LONG, _TIMES_THE_MEMORY = 9, 2
_H, _S = "hamiltonian_derivative", "overlap_derivative"


@dataclass(frozen=True, eq=False)
class DerivativeWork:
    """What is differentiated.

    Args:
        networks: in float64.
        constants: arrays of the file that do not depend on a displacement.
        rows: shape and dtype of the derivative of each matrix along a displacement.
        attributes: texts of the file.
        along: the derivatives along a displacement of all atoms (atoms, 3).
        cost: of a displacement, if it is foretold.
        settings: on which the numbers depend as well.
    """

    networks: list[HamiltonianModel]
    constants: dict[str, np.ndarray]
    rows: dict[str, tuple[tuple[int, ...], np.dtype]]
    attributes: dict[str, str]
    along: Callable[[Float[np.ndarray, "atoms 3"]], dict[str, np.ndarray]]
    cost: PredictionCost | None = None
    settings: tuple[object, ...] = ()


def moving_atoms(values: Mapping[str, Any], atoms: int) -> list[int]:
    """The atoms, counted from 0, along which the settings ask for dH/dR; ``derivative_atoms`` counts from 1.

    Raises:
        ConfigError: the setting is no list of different atoms of the structure.
    """
    chosen = values["derivative_atoms"]
    if not values["derivative"]:
        return []
    if chosen is None:
        return list(range(atoms))
    numbers = chosen if isinstance(chosen, list) else []
    wrong = [n for n in numbers if type(n) is not int or not 1 <= n <= atoms]
    if not numbers or wrong or len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"derivative_atoms is {chosen!r}; give a list of different atoms from 1 to {atoms}, such as [1,2], or "
            "null"
        )
    return [n - 1 for n in numbers]


def derivative_path(output: Path) -> Path:
    """The file beside the folder of a prediction."""
    return output.with_name(f"{output.name}_derivative.h5")


def molecule_work(
    model: HamiltonianEnsemble,
    numbers: Int64[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    overlap_along: Callable[[Float[np.ndarray, "atoms 3"]], Float[np.ndarray, "n n"]],
) -> DerivativeWork:
    """dH/dR and dS/dR of a molecule as symmetric matrices.

    Args:
        model: the networks, which stay as they are.
        numbers: atomic numbers.
        positions: angstrom.
        overlap_along: derivative of the overlap along a displacement, 1/angstrom.
    """
    networks = _in_float64(model)
    size = int(model.basis.sizes[numbers].sum())

    def along(displacement: Float[np.ndarray, "atoms 3"]) -> dict[str, np.ndarray]:
        of_networks = [
            torch.as_tensor(one.hamiltonian_derivative(numbers, positions, along=displacement[None])[0])
            for one in networks
        ]
        return {_H: torch.stack(of_networks).mean(0).cpu().numpy(), _S: overlap_along(displacement)}

    matrix = ((size, size), np.dtype(np.float64))
    return DerivativeWork(
        networks,
        {"numbers": numbers, "positions": positions},
        {_H: matrix, _S: matrix},
        {
            "units": f"{_H}: hartree/angstrom; {_S}: 1/angstrom; positions: angstrom",
            "orbital_order": "as in PySCF's def2-svp",
        },
        along,
    )


def crystal_work(
    model: HamiltonianEnsemble, structure: Structure, spin: str | None, overlaps: TwoCentreOverlaps | None
) -> DerivativeWork:
    """dH/dR of a crystal as entries of its blocks, and dS/dR if there are basis files.

    Args:
        model: the networks, which stay as they are.
        structure: with its pairs of atoms.
        spin: of a network for both spins.
        overlaps: from basis files; None: no dS/dR.
    """
    networks = _in_float64(model)
    geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
    constants = dict(zip(("numbers", "positions", "lattice", "atom_pairs"), geometry, strict=True))
    rows: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    dtypes = {_H: np.complex128 if structure.spinful else np.float64, _S: np.float64}
    for name, dtype in dtypes.items() if overlaps is not None else [(_H, dtypes[_H])]:
        basis, prefix = structure.basis_of(name.removesuffix("_derivative")), "" if name == _H else "overlap_"
        starts = block_starts(structure.edges[:, 3:].T, structure.numbers, basis)
        constants[f"{prefix}chunk_shapes"] = basis.sizes[structure.numbers[structure.edges[:, 3:]]]
        constants[f"{prefix}chunk_boundaries"] = starts
        rows[name] = ((int(starts[-1]),), np.dtype(dtype))

    def along(displacement: Float[np.ndarray, "atoms 3"]) -> dict[str, Inexact[np.ndarray, " entries"]]:
        of_networks = []
        for one in networks:
            blocks = one.hamiltonian_derivative(*geometry, along=displacement[None], spin=spin)
            of_networks.append(entries_of(one, structure, [block[0] for block in blocks]))
        found = {_H: np.mean(of_networks, axis=0)}
        if overlaps is not None:
            x, cell, u = map(torch.from_numpy, (structure.positions, structure.lattice, displacement))
            basis = structure.basis_of("overlap")
            found[_S] = overlaps.entries_along(structure.numbers, x, cell, structure.edges, basis, u).numpy()
        return found

    cost = estimate_cost(networks[0], structure)
    return DerivativeWork(
        networks,
        constants,
        rows,
        {
            "units": f"{_H}: eV/angstrom; {_S}: 1/angstrom; positions, lattice: angstrom",
            "orbital_order": "as in OpenMX",
        },
        along,
        PredictionCost(cost.seconds * _TIMES_AS_LONG * len(networks), cost.bytes * _TIMES_THE_MEMORY),
        (spin,),
    )


def write_derivatives(
    work: DerivativeWork, output: Path, moving: list[int], values: Mapping[str, Any]
) -> None:
    """Print what it will take, and write the file; an unfinished one is continued.

    Args:
        work: what is differentiated.
        output: folder of the prediction.
        moving: the atoms that move, counted from 0.
        values: settings of ``conf/predict.yaml``.

    Raises:
        ConfigError: disk or memory do not suffice.
        DataError: the file is there and may not be replaced.
    """
    path, atoms = derivative_path(output), len(work.constants["numbers"])
    constants = work.constants | {"atoms": np.array(moving, dtype=np.int64)}
    attributes = work.attributes | {"checkpoint": str(values["checkpoint"]), "tracegrad": __version__}
    key = key_of(work.networks, constants, *work.settings, list(work.rows), __version__)
    size = 3 * len(moving) * sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in work.rows.values())
    _check_room(work, path, size)
    with (
        DerivativeFile(
            path, constants, work.rows, len(moving), attributes, key, overwrite=values["overwrite"]
        ) as file,
        ProgressDisplay("displacements", seconds=600.0) as progress,
    ):
        missing = file.missing()
        there = file.size - len(missing)
        if missing:
            cost = work.cost and PredictionCost(work.cost.seconds * len(missing), work.cost.bytes)
            progress.report(
                f"dH/dR: {file.size} displacements, "
                + (f"{there} of them done before, " if there else "")
                + (f"{cost}, " if cost else "")
                + f"a file of {readable_size(size)}"
            )
        bar, started = progress.bar("dH/dR"), time.perf_counter()
        for count, displacement in enumerate(missing, start=1):
            place, axis = divmod(displacement, 3)
            moved = np.zeros((atoms, 3))
            moved[moving[place], axis] = 1.0
            file.add(displacement, work.along(moved))
            bar(there + count, file.size)
            if count == 1 and len(missing) > 1:
                left = (time.perf_counter() - started) * (len(missing) - 1)
                progress.report(f"dH/dR: after the first displacement about {left:.0f} s are left")
        file.finish()
        progress.report(f"wrote {path}" if missing else f"dH/dR: {path} is complete")


def _in_float64(model: HamiltonianEnsemble) -> list[HamiltonianModel]:
    """Copies of the networks, whose derivatives have all digits."""
    return [copy.deepcopy(member).double() for member in model.members]


def _check_room(work: DerivativeWork, path: Path, size: int) -> None:
    """Raise `ConfigError` unless disk and memory suffice."""
    place = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise ConfigError(
            f"dH/dR takes a file of {readable_size(size)}, but {place} has {readable_size(free)} left; give the "
            "atoms that matter, such as derivative_atoms=[1,2], or another output"
        )
    if work.cost is not None and work.cost.bytes > available_memory():
        raise ConfigError(
            f"dH/dR takes about {readable_size(work.cost.bytes)} of memory, and {readable_size(available_memory())} "
            "are free; give a smaller edge_chunk"
        )
