"""Errors of predicted Hamiltonians, defined as in the released evaluation of QH9.

Each value belongs to one sample, a molecule or crystal; a metric is the mean of these values over samples. The error
of a complex element is the modulus of the difference. Differences are computed and summed in float64, so that the
result does not depend on the division into batches.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.reduction import Masks, is_on_site, site_sums
from tracegrad.nn.interface import Blocks


@dataclass
class SampleErrors:
    """Mean absolute errors of each sample, and sums for each basic block, in the unit of H."""

    all: Float[Tensor, " samples"]  # sum |dH| / number of matrix elements, over all blocks of a sample
    diag: Float[Tensor, " samples"]  # the same over on-site blocks; NaN if there are none
    nondiag: Float[
        Tensor, " samples"
    ]  # the same over off-site blocks; NaN if there are none, as for a single atom
    block_sums: Float[Tensor, "shells shells"]  # sum |dH| of each pair of shells over the batch
    block_counts: Float[Tensor, "shells shells"]  # number of matrix elements in these sums


def hamiltonian_errors(blocks: Blocks, graph, masks: Masks, basis: OrbitalBasis) -> SampleErrors:
    """Absolute errors of predicted blocks with respect to the labels of the graph; ``masks`` belongs to ``basis``."""
    diag: list[Tensor] = []
    nondiag: list[Tensor] = []
    by_element: list[Tensor] = []
    for site, predicted in blocks.items():
        difference = _double(predicted) - _double(graph[f"h_{site}"])
        mask = masks.elements(graph, site, difference)
        values = torch.stack([difference.abs() * mask, mask])  # summed: errors and the number of elements
        per_block, on_site = values.flatten(2).sum(2), is_on_site(graph, site)
        for part, members in ((diag, on_site), (nondiag, ~on_site)):
            part.append(
                torch.stack([site_sums(torch.where(members, v, 0.0), graph, site) for v in per_block])
            )
        by_element.append(values.sum(1))
    (diag_sum, diag_count), (nondiag_sum, nondiag_count), elements = (
        torch.stack(parts).sum(0) for parts in (diag, nondiag, by_element)
    )
    return SampleErrors(
        (diag_sum + nondiag_sum) / (diag_count + nondiag_count),
        diag_sum / diag_count,
        nondiag_sum / nondiag_count,
        *(_pool(value, basis) for value in elements),
    )


def _double(x: Tensor) -> Tensor:
    """The same numbers in double precision."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _pool(values: Float[Tensor, "dim dim"], basis: OrbitalBasis) -> Float[Tensor, "shells shells"]:
    """Sums over the matrix elements of each pair of shells."""
    lengths = torch.tensor([2 * degree + 1 for degree in basis.union])
    shell = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(values.device)
    shells = len(basis.union)
    rows = values.new_zeros(shells, values.shape[1]).index_add(0, shell, values)
    return rows.new_zeros(shells, shells).index_add(1, shell, rows)
