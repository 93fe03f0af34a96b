"""torchmetrics of predicted Hamiltonians."""

import torch
from torch import Tensor
from torchmetrics import Metric

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.reduction import Masks
from tracegrad.metrics.functional import hamiltonian_errors
from tracegrad.model.network import HamiltonianPrediction


class HamiltonianMAE(Metric):
    """MAE_all, MAE_diag, MAE_nondiag (means over samples of per-sample values) and MAE per basic block.

    All in the unit of H. States are sums in float64, so any division of the samples into batches or ranks gives
    the same result. A sample without such blocks does not count: a single atom has none for MAE_nondiag.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor
    block_sums: Tensor
    block_counts: Tensor

    def __init__(self, basis: OrbitalBasis):
        super().__init__()
        self.basis = basis
        self.masks = Masks(basis)
        shells = len(basis.union)
        for name, shape in (("", (3,)), ("block_", (shells, shells))):
            for state in ("sums", "counts"):
                zeros = torch.zeros(shape, dtype=torch.float64)
                self.add_state(name + state, default=zeros, dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, prediction: HamiltonianPrediction, graph) -> None:
        """Add a batch whose graphs carry labels."""
        errors = hamiltonian_errors(prediction.blocks, graph, self.masks, self.basis)
        values = torch.stack([errors.all, errors.diag, errors.nondiag])
        valid = ~values.isnan() | errors.all.isnan()  # a NaN prediction must show, a missing block must not
        self.sums += torch.where(valid, values, 0.0).sum(1)
        self.counts += valid.sum(1)
        self.block_sums += errors.block_sums
        self.block_counts += errors.block_counts

    def compute(self) -> dict[str, Tensor]:
        """``h_mae``, ``h_mae_diag``, ``h_mae_nondiag`` (scalars) and ``h_mae_block`` (shells, shells)."""
        means = self.sums / self.counts
        return {
            "h_mae": means[0],
            "h_mae_diag": means[1],
            "h_mae_nondiag": means[2],
            "h_mae_block": self.block_sums / self.block_counts,
        }
