"""Errors of orbital energies and wavefunctions: values of each molecule of a batch, and their mean over molecules."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import assemble_matrices
from tracegrad.metrics.functional.orbitals import NAMES, OrbitalComparison, ReferenceOrbitals, compare
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.physics.molecules.solved import SolvedMolecule

# Largest difference in hartree between the diagonals of the label, which may be in single precision, and of the
# solved reference; a larger one means that the reference belongs to another molecule.
REFERENCE_TOLERANCE = 1e-3
MOLECULES_AT_A_TIME = 16  # on a CPU, so that their matrices stay in its cache


@dataclass(frozen=True)
class OrbitalErrors:
    """Orbital metrics and energies of the molecules of a batch.

    Args:
        values: metrics in the order of `NAMES`, energies in hartree.
        true, predicted: energies of the occupied orbitals and of the lowest empty one of each molecule, hartree.
    """

    values: Float[Tensor, "molecules metrics"]
    true: list[Float[np.ndarray, " _"]]
    predicted: list[Float[np.ndarray, " _"]]


def orbital_errors(
    prediction: HamiltonianPrediction, graph, basis: OrbitalBasis, references: Callable[[int], SolvedMolecule]
) -> OrbitalErrors:
    """Compare the predictions of a batch with solved references; the metrics are those of `orbital_metrics`.

    Everything is computed in float64 on the device of the prediction, for molecules with the same numbers of orbitals
    and electrons at a time.

    Args:
        prediction: predicted blocks.
        graph: the batch, with labels.
        basis: orbital basis of the blocks.
        references: returns the solved molecule of a row of the database.

    Raises:
        DataError: a reference belongs to another molecule.
    """
    solved = [references(row) for row in graph.sample_id.tolist()]
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for k, molecule in enumerate(solved):
        groups[molecule.size, molecule.occupied].append(k)
    _check(graph, basis, solved)
    device = graph.positions.device
    values = torch.empty(len(solved), len(NAMES), dtype=torch.float64, device=device)
    predicted: list[np.ndarray] = [np.empty(0)] * len(solved)
    pieces = list(_pieces(groups.values(), device))
    function = partial(_compare_members, prediction, graph, basis, solved)
    for members, comparison in _in_parallel(function, pieces, device):
        values[members] = torch.stack([comparison.metrics[name] for name in NAMES], dim=1)
        for k, energies in zip(members, comparison.energies.cpu().numpy(), strict=True):
            predicted[k] = energies
    return OrbitalErrors(values, [m.energies[: m.occupied + 1] for m in solved], predicted)


def _compare_members(
    prediction: HamiltonianPrediction,
    graph,
    basis: OrbitalBasis,
    solved: Sequence[SolvedMolecule],
    members: Sequence[int],
) -> OrbitalComparison:
    """Comparison of the molecules ``members`` of a batch, which have the same size."""
    device = graph.positions.device
    difference = dense_predictions(
        prediction, graph, basis, members, [solved[k].hamiltonian for k in members]
    )
    n_occ = torch.full((len(members),), solved[members[0]].occupied, device=device)
    return compare(difference, _stacked([solved[k] for k in members], device), n_occ)


def _in_parallel(
    function: Callable[[list[int]], OrbitalComparison], pieces: Sequence[list[int]], device: torch.device
) -> Iterator[tuple[list[int], OrbitalComparison]]:
    """Pieces and their results. On a CPU each piece runs in one thread: torch uses only one for small matrices."""
    threads = min(torch.get_num_threads(), len(pieces))
    if device.type != "cpu" or threads < 2:
        yield from ((piece, function(piece)) for piece in pieces)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from zip(pieces, pool.map(function, pieces), strict=True)
    finally:
        torch.set_num_threads(before)


def dense_predictions(
    prediction: HamiltonianPrediction,
    graph,
    basis: OrbitalBasis,
    members: Sequence[int],
    subtract: Sequence[Float[np.ndarray, " packed"]] | None = None,
) -> Float[Tensor, "members n n"]:
    """Dense predicted H of some molecules of a batch: float64, hartree, orbitals in the order of the files.

    Args:
        prediction: predicted blocks.
        graph: the batch.
        basis: orbital basis of the blocks.
        members: positions of the molecules in the batch; they have the same number of orbitals n.
        subtract: matrices that are subtracted, see `assemble_matrices`.
    """
    ends = graph.ptr.cpu().numpy()
    atoms = np.diff(ends)
    pairs = np.cumsum(atoms * (atoms - 1))
    spans = np.stack([ends[:-1], atoms, pairs - atoms * (atoms - 1)], axis=1)[list(members)]
    blocks = prediction.blocks["self"], prediction.blocks["edge"]
    return assemble_matrices(*blocks, graph.numbers.cpu().numpy(), spans, basis, subtract).double()


class MeanOrbitalErrors(Metric):
    """Means over molecules of the values of `orbital_errors`; energies in hartree.

    The states are sums in float64, so that the result does not depend on batches and ranks.
    """

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", default=torch.zeros(len(NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, errors: OrbitalErrors) -> None:
        """Add the molecules of a batch."""
        self.sums += errors.values.sum(0)
        self.count += len(errors.values)

    def compute(self) -> dict[str, Tensor]:
        """The mean of each metric, by its name."""
        return dict(zip(NAMES, self.sums / self.count, strict=True))


def _pieces(groups: Iterable[list[int]], device: torch.device) -> Iterator[list[int]]:
    """Pieces of the groups: on a CPU small ones, at least one for each thread; on a GPU whole groups."""
    for members in groups:
        size = len(members)
        if device.type == "cpu":
            size = min(MOLECULES_AT_A_TIME, -(-size // torch.get_num_threads()))
        yield from (members[start : start + size] for start in range(0, len(members), size))


def _stacked(solved: Sequence[SolvedMolecule], device: torch.device) -> ReferenceOrbitals:
    energies, orbitals, overlap = (
        torch.from_numpy(np.stack(arrays)).to(device)
        for arrays in zip(*((m.energies, m.orbitals, m.overlap) for m in solved), strict=True)
    )
    return ReferenceOrbitals(energies, orbitals, overlap)


def _check(graph, basis: OrbitalBasis, solved: Sequence[SolvedMolecule]) -> None:
    """Raise `DataError` if a reference belongs to another molecule than the one in the batch."""
    slots, sizes = (table[graph.numbers.cpu().numpy()] for table in (basis.slots, basis.sizes))
    ends = np.cumsum(sizes)
    bounds = np.append(0, ends)[graph.ptr.cpu().numpy()]
    label = np.empty(bounds[-1])
    rows = slots + (ends - sizes)[:, None]
    label[rows[slots >= 0]] = graph.h_self.diagonal(dim1=1, dim2=2).double().cpu().numpy()[slots >= 0]
    for k, (molecule, start, end) in enumerate(zip(solved, bounds, bounds[1:], strict=False)):
        orbital = np.arange(molecule.size)
        diagonal = molecule.hamiltonian[orbital * (orbital + 3) // 2]
        if molecule.size != end - start:
            fault = f"{molecule.size} orbitals instead of {end - start}"
        elif (apart := np.abs(diagonal - label[start:end]).max()) > REFERENCE_TOLERANCE:
            fault = f"a Hamiltonian whose diagonal is {apart:.4f} hartree apart from its label"
        else:
            continue
        raise DataError(
            f"the solved reference of database row {int(graph.sample_id[k])} has {fault}; it belongs to another "
            "molecule: remove the cache of orbitals"
        )
