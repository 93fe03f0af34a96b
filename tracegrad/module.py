"""The LightningModule: how a Hamiltonian model is trained, validated and tested."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from tracegrad.basis import OrbitalBasis
from tracegrad.errors import CheckpointError, ConfigError, TrainingError
from tracegrad.loss import HamiltonianLoss, LossTerms
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.model import HamiltonianModel, Prediction
from tracegrad.schedule import WarmupLinear
from tracegrad.units import MEV_PER_HARTREE

CHECKPOINT_KEY = "tracegrad"


class HamiltonianModule(lightning.LightningModule):
    """Trains a `HamiltonianModel`; logs follow ``{train,val,test}/{metric}``, energies in meV.

    Args:
        model: the network.
        loss: makes the loss from the basis (a partial of `HamiltonianLoss`).
        optimizer: makes the optimizer from the parameters.
        schedule: learning rate over optimizer steps.
        record: plain data that every checkpoint carries (configuration and data fingerprint).
    """

    def __init__(
        self,
        model: HamiltonianModel,
        loss: Callable[[OrbitalBasis], HamiltonianLoss],
        optimizer: Callable[..., Optimizer],
        schedule: WarmupLinear,
        record: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.model = model
        self.loss = loss(model.basis)
        self.make_optimizer, self.schedule = optimizer, schedule
        self.record = record or {}
        self.val_metric, self.test_metric = HamiltonianMAE(model.basis), HamiltonianMAE(model.basis)
        self.val_loss = MeanMetric().set_dtype(torch.float64)

    def forward(self, graph, *, traces: bool = True) -> Prediction:
        return self.model(graph, traces=traces)

    def training_step(self, graph, batch_idx: int) -> Tensor:
        _, terms = self._predict(graph)
        logs = {"train/loss": terms.total, "train/loss_h": terms.loss_h}
        if terms.loss_t is not None and terms.mu is not None:
            logs |= {"train/loss_t": terms.loss_t, "train/mu": terms.mu}
        self.log_dict(logs, batch_size=graph.num_graphs)
        return terms.total

    def validation_step(self, graph, batch_idx: int) -> None:
        prediction, terms = self._predict(graph)
        self.val_loss.update(terms.per_molecule.double())
        self.val_metric.update(prediction, graph)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss_h", self.val_loss.compute(), sync_dist=False)
        self.val_loss.reset()
        self._log_metric("val", self.val_metric)

    def on_test_epoch_start(self) -> None:
        self.test_metric.reset()

    def test_step(self, graph, batch_idx: int) -> Prediction:  # type: ignore[override]
        prediction = self.model(graph, traces=False)
        self.test_metric.update(prediction, graph)
        return prediction

    def on_test_epoch_end(self) -> None:
        self._log_metric("test", self.test_metric)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        try:
            optimizer = self.make_optimizer(self.parameters(), lr=self.schedule.peak)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optim.optimizer: {error}") from error
        scheduler = LambdaLR(optimizer, self.schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = {"format": 1, **self.record}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_architecture(checkpoint["state_dict"], self.state_dict(), "the checkpoint")

    def _predict(self, graph) -> tuple[Prediction, LossTerms]:
        prediction = self.model(graph)
        terms = self.loss(prediction, graph)
        if not torch.isfinite(terms.total):
            raise TrainingError(self._non_finite(graph, terms))
        return prediction, terms

    def _non_finite(self, graph, terms: LossTerms) -> str:
        rows = graph.sample_id.tolist()
        bad = [
            row for row, value in zip(rows, terms.per_molecule.tolist(), strict=True) if not isfinite(value)
        ]
        parts = f"loss_h = {terms.loss_h.item():.3g}"
        if terms.loss_t is not None:
            parts += f", loss_t = {terms.loss_t.item():.3g}"
        blame = f"not finite for rows {bad}" if bad and len(bad) < len(rows) else "no single row stands out"
        return (
            f"the loss is not finite at step {self.global_step} ({parts}) in the batch of database rows {rows}: "
            f"{blame}; look at these rows, lower optim.schedule.peak or raise optim.schedule.warmup_steps"
        )

    def _log_metric(self, stage: str, metric: HamiltonianMAE) -> None:
        """Log the scalars in meV; torchmetrics has already summed them over ranks."""
        for name, value in metric.compute().items():
            if value.ndim == 0:
                self.log(
                    f"{stage}/{name}", value * MEV_PER_HARTREE, sync_dist=False, prog_bar=name == "h_mae"
                )
        if stage != "test":  # the report callbacks still read the test metric
            metric.reset()


def check_architecture(found: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str) -> None:
    """Raise `CheckpointError` naming the tensors in which a checkpoint and a model differ."""
    missing = sorted(own.keys() - found.keys())
    surplus = sorted(found.keys() - own.keys())
    reshaped = [
        f"{key} {list(found[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in found and found[key].shape != own[key].shape
    ]
    differences = [
        f"{text}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        for text, names in (("missing", missing), ("without a place", surplus), ("other shape", reshaped))
        if names
    ]
    if differences:
        raise CheckpointError(
            f"{where} is of another architecture ({'; '.join(differences)}); "
            "use the configuration it was trained with"
        )
