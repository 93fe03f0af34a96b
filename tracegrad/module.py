"""The LightningModule: how a Hamiltonian model is trained, validated and tested."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tracegrad.basis import OrbitalBasis
from tracegrad.checkpoint import CHECKPOINT_KEY, check_architecture
from tracegrad.errors import ConfigError, TrainingError
from tracegrad.loss import HamiltonianLoss, LossTerms, alone
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.metrics.loss import MeanLosses
from tracegrad.model import HamiltonianModel, Prediction
from tracegrad.schedule import Schedule
from tracegrad.traces import BlockTraces
from tracegrad.units import MEV


class HamiltonianModule(lightning.LightningModule):
    """Trains a `HamiltonianModel`; logs follow ``{train,val,test}/{metric}[/{subset}]``, energies of metrics in meV.

    ``test_subsets`` names what the loaders of a test hold, one name for each loader; "" is the test set itself,
    whose logs and files carry no name. ``sample_name`` gives what tables call a sample, from its position in the
    database.

    Args:
        model: the network.
        loss: makes the loss from the basis and the labels of the traces (a partial of `HamiltonianLoss`).
        optimizer: makes the optimizer from the parameters.
        schedule: learning rate over the training.
        record: plain data that every checkpoint carries (configuration and data fingerprint).
    """

    def __init__(
        self,
        model: HamiltonianModel,
        loss: Callable[[OrbitalBasis, BlockTraces], HamiltonianLoss],
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        record: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.model = model
        self.loss = loss(model.basis, model.trace_labels)
        self.make_optimizer, self.schedule = optimizer, schedule
        self.record = record or {}
        self.test_subsets: list[str] = [""]
        self.sample_name: Callable[[int], str] = str
        self.val_metric, self.test_metrics = HamiltonianMAE(model.basis), nn.ModuleList()
        self.val_losses = MeanLosses()

    def forward(self, graph, *, traces: bool = True) -> Prediction:
        return self.model(graph, traces=traces)

    def training_step(self, graph, batch_idx: int) -> Tensor:
        _, terms = self._predict(graph, shared=True)
        logs = {f"train/{name}": value for name, value in terms.logs.items()}
        self.log_dict(logs, batch_size=graph.num_graphs)
        return terms.total * self.trainer.world_size  # the gradients of the ranks are averaged

    def validation_step(self, graph, batch_idx: int) -> None:
        prediction, terms = self._predict(graph)
        self.val_losses.update(terms)
        self.val_metric.update(prediction, graph)

    def on_validation_epoch_end(self) -> None:
        loss_h, loss_t = self.val_losses.compute()
        loss = loss_h
        if self.model.tracegrad.trace:
            weight, mu = self.loss.weights(loss_h, loss_t)
            loss = weight * loss_h + mu * loss_t
        for name, value in (("loss", loss), ("loss_h", loss_h)):
            self.log(f"val/{name}", value, sync_dist=False)
        self._log_metric("val", self.val_metric)
        for metric in (self.val_losses, self.val_metric):
            metric.reset()

    def on_test_epoch_start(self) -> None:
        # The report callbacks read these when the test is over.
        self.test_metrics = nn.ModuleList(HamiltonianMAE(self.model.basis) for _ in self.test_subsets)
        self.test_metrics.to(self.device)

    def test_step(self, graph, batch_idx: int, dataloader_idx: int = 0) -> Prediction:  # type: ignore[override]
        prediction = self.model(graph, traces=False)
        self.test_metric(dataloader_idx).update(prediction, graph)
        return prediction

    def test_metric(self, dataloader_idx: int) -> HamiltonianMAE:
        """The metric of one loader of the last test."""
        metric = self.test_metrics[dataloader_idx]
        assert isinstance(metric, HamiltonianMAE)
        return metric

    def on_test_epoch_end(self) -> None:
        for i, subset in enumerate(self.test_subsets):
            self._log_metric("test", self.test_metric(i), f"/{subset}" if subset else "")

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        try:
            optimizer = self.make_optimizer(self.parameters(), lr=self.schedule.peak)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optim.optimizer: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": self.schedule.scheduler(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = {"format": 1, **self.record}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_architecture(checkpoint["state_dict"], self.state_dict(), "the checkpoint")

    def _predict(self, graph, *, shared: bool = False) -> tuple[Prediction, LossTerms]:
        """Prediction and loss; ``shared``: the ranks hold parts of one batch."""
        prediction = self.model(graph)
        terms = self.loss(prediction, graph, self._sum_ranks if shared else alone)
        if not torch.isfinite(terms.logs["loss"]):  # on every rank at once, so that none waits for the others
            raise TrainingError(self._non_finite(graph, terms))
        return prediction, terms

    def _sum_ranks(self, values: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def _non_finite(self, graph, terms: LossTerms) -> str:
        rows = graph.sample_id.tolist()
        bad = [row for row, value in zip(rows, terms.per_sample.tolist(), strict=True) if not isfinite(value)]
        parts = ", ".join(f"{name} = {value.item():.3g}" for name, value in terms.logs.items() if "_" in name)
        blame = f"not finite for rows {bad}" if bad and len(bad) < len(rows) else "no single row stands out"
        return (
            f"the loss is not finite at step {self.global_step} ({parts}) in the batch of database rows {rows}: "
            f"{blame}; look at these rows, lower optim.schedule.peak or raise optim.schedule.warmup_steps"
        )

    def _log_metric(self, stage: str, metric: HamiltonianMAE, ending: str = "") -> None:
        """Log the scalars in meV; torchmetrics has already summed them over ranks."""
        factor = MEV[self.model.basis.unit]
        for name, value in metric.compute().items():
            if value.ndim == 0:
                self.log(f"{stage}/{name}{ending}", value * factor, sync_dist=False, prog_bar=name == "h_mae")
