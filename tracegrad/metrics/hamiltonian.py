"""The MAE of predicted Hamiltonians as a torchmetrics class."""

import torch
from torch import Tensor
from torchmetrics import Metric

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.reduction import Masks
from tracegrad.metrics.functional import hamiltonian_errors
from tracegrad.model.network import HamiltonianPrediction


class HamiltonianMAE(Metric):
    """MAE_all, MAE_diag and MAE_nondiag, averaged over samples, and the MAE of each basic block, in the unit of H.

    The states are sums in float64, so that the result does not depend on batches and ranks. A mean leaves out samples
    without blocks of its kind: a single atom has no value for MAE_nondiag.
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
        """Add a batch; its graphs carry labels."""
        errors = hamiltonian_errors(prediction.blocks, graph, self.masks, self.basis)
        values = torch.stack([errors.all, errors.diag, errors.nondiag])
        valid = ~values.isnan() | errors.all.isnan()  # NaN of a prediction must show
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
