"""Metrics of predicted Hamiltonians as pure functions, in the released QH9 definition.

Each value is computed per molecule; a metric is the mean of these values over molecules. Differences are summed
in float64, so the result does not depend on how molecules are batched.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.basis import OrbitalBasis
from tracegrad.reduction import Masks, atom_sums, edge_sums


@dataclass
class MoleculeErrors:
    """Mean absolute errors per molecule (hartree) and sums per basic block."""

    all: Float[Tensor, " molecules"]  # sum |dH| / n^2
    diag: Float[Tensor, " molecules"]  # over the blocks of an atom with itself
    nondiag: Float[Tensor, " molecules"]  # over the blocks of different atoms; NaN for a single atom
    block_sums: Float[Tensor, "shells shells"]  # sum |dH| of each basic block over the batch
    block_counts: Float[Tensor, "shells shells"]  # matrix elements behind it


def hamiltonian_errors(
    on_site: Float[Tensor, "atoms dim dim"],
    pairs: Float[Tensor, "edges dim dim"],
    graph,
    masks: Masks,
    basis: OrbitalBasis,
) -> MoleculeErrors:
    """Absolute errors of predicted blocks against the labels of the graph."""
    mask = masks.elements(graph, on_site.double())
    error_on_site = (on_site.double() - graph.h_self.double()).abs() * mask.on_site
    error_pairs = (pairs.double() - graph.h_edge.double()).abs() * mask.pairs
    diag, nondiag = atom_sums(error_on_site, graph), edge_sums(error_pairs, graph)
    count_diag, count_nondiag = atom_sums(mask.on_site, graph), edge_sums(mask.pairs, graph)

    def by_shell(on_site: Tensor, pairs: Tensor) -> Tensor:
        return _pool(on_site.sum(0) + pairs.sum(0), basis)

    return MoleculeErrors(
        (diag + nondiag) / (count_diag + count_nondiag),
        diag / count_diag,
        nondiag / count_nondiag,
        by_shell(error_on_site, error_pairs),
        by_shell(mask.on_site, mask.pairs),
    )


def _pool(values: Float[Tensor, "dim dim"], basis: OrbitalBasis) -> Float[Tensor, "shells shells"]:
    lengths = torch.tensor([2 * degree + 1 for degree in basis.union])
    shell = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(values.device)
    shells = len(basis.union)
    rows = values.new_zeros(shells, values.shape[1]).index_add(0, shell, values)
    return rows.new_zeros(shells, shells).index_add(1, shell, rows)
