"""Orbital energies and wavefunctions of predictions: per-molecule values of a batch, and their torchmetrics mean."""

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
from tracegrad.metrics.functional.orbitals import NAMES, Comparison, Reference, compare
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.physics.molecules.solved import SolvedMolecule

FOREIGN = (
    1e-3  # hartree, between the traces of the label, which may be in single precision, and of the reference
)
CPU_MOLECULES = 16  # that are solved together at most, so that their matrices stay in its cache


@dataclass(frozen=True)
class OrbitalErrors:
    """Of the molecules of a batch, in their order; hartree.

    Args:
        values: metrics in the order of `NAMES`.
        true, predicted: energies of the occupied orbitals and the next one of each molecule.
    """

    values: Float[Tensor, "molecules metrics"]
    true: list[Float[np.ndarray, " _"]]
    predicted: list[Float[np.ndarray, " _"]]


def orbital_errors(
    prediction: HamiltonianPrediction, graph, basis: OrbitalBasis, references: Callable[[int], SolvedMolecule]
) -> OrbitalErrors:
    """Compare a batch with its solved references, see `tracegrad.metrics.functional.orbital_metrics`.

    Computed in float64 on the device of the prediction, molecules with the same numbers of orbitals and electrons
    together.

    Args:
        prediction: blocks of molecules.
        graph: the batch, with labels.
        basis: of the blocks.
        references: gives the solved molecule of a row of the database.

    Raises:
        DataError: a reference is not that of the molecule in the batch.
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
    for members, found in _in_parallel(partial(_compared, prediction, graph, basis, solved), pieces, device):
        values[members] = torch.stack([found.metrics[name] for name in NAMES], dim=1)
        for k, energies in zip(members, found.energies.cpu().numpy(), strict=True):
            predicted[k] = energies
    return OrbitalErrors(values, [m.energies[: m.occupied + 1] for m in solved], predicted)


def _compared(
    prediction: HamiltonianPrediction,
    graph,
    basis: OrbitalBasis,
    solved: Sequence[SolvedMolecule],
    members: Sequence[int],
) -> Comparison:
    """Molecules of the same size."""
    device = graph.positions.device
    difference = dense_predictions(
        prediction, graph, basis, members, [solved[k].hamiltonian for k in members]
    )
    n_occ = torch.full((len(members),), solved[members[0]].occupied, device=device)
    return compare(difference, _stacked([solved[k] for k in members], device), n_occ)


def _in_parallel(
    function: Callable[[list[int]], Comparison], pieces: Sequence[list[int]], device: torch.device
) -> Iterator[tuple[list[int], Comparison]]:
    """Pieces and their results; on a CPU in as many threads as torch has, because a small matrix occupies one."""
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
    less: Sequence[Float[np.ndarray, " packed"]] | None = None,
) -> Float[Tensor, "members n n"]:
    """Predicted H of these molecules of a batch, float64, hartree, in the order of the basis' files.

    They have the same number of orbitals; ``less`` is subtracted, see `blocks.assemble_matrices`.
    """
    ends = graph.ptr.cpu().numpy()
    atoms = np.diff(ends)
    pairs = np.cumsum(atoms * (atoms - 1))
    spans = np.stack([ends[:-1], atoms, pairs - atoms * (atoms - 1)], axis=1)[list(members)]
    blocks = prediction.blocks["self"], prediction.blocks["edge"]
    return assemble_matrices(*blocks, graph.numbers.cpu().numpy(), spans, basis, less).double()


class OrbitalMetrics(Metric):
    """Means over molecules of the per-molecule values of `orbital_errors`; energies in hartree.

    States are sums in float64, so any division of the molecules into batches or ranks gives the same result.
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
        """Scalars by the names of the metrics."""
        return dict(zip(NAMES, self.sums / self.count, strict=True))


def _pieces(groups: Iterable[list[int]], device: torch.device) -> Iterator[list[int]]:
    """On a CPU few molecules at once, and some for each thread; a GPU takes all."""
    for members in groups:
        size = len(members)
        if device.type == "cpu":
            size = min(CPU_MOLECULES, -(-size // torch.get_num_threads()))
        yield from (members[start : start + size] for start in range(0, len(members), size))


def _stacked(solved: Sequence[SolvedMolecule], device: torch.device) -> Reference:
    energies, orbitals, overlap = (
        torch.from_numpy(np.stack(arrays)).to(device)
        for arrays in zip(*((m.energies, m.orbitals, m.overlap) for m in solved), strict=True)
    )
    return Reference(energies, orbitals, overlap)


def _check(graph, basis: OrbitalBasis, solved: Sequence[SolvedMolecule]) -> None:
    """Raise `DataError` if a reference is not that of the molecule in the batch."""
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
            found = f"{molecule.size} orbitals instead of {end - start}"
        elif (apart := np.abs(diagonal - label[start:end]).max()) > FOREIGN:
            found = f"a Hamiltonian whose diagonal is {apart:.4f} hartree apart from its label"
        else:
            continue
        raise DataError(
            f"the solved reference of database row {int(graph.sample_id[k])} has {found}; it is that of another "
            "molecule: remove the cache of orbitals"
        )
