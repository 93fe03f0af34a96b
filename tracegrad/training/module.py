"""The LightningModule: training, validation and test of a `HamiltonianModel`."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer

from tracegrad.errors import ConfigError, TrainingError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.hamiltonian.trained_range import RangeRecorder, TrainedRange
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.model.network import HamiltonianModel, HamiltonianPrediction
from tracegrad.training.loss import H, HamiltonianLoss, LossValues, T, weighted_sum
from tracegrad.training.mean_losses import SampleMeans
from tracegrad.training.schedule import Schedule
from tracegrad.units import MEV
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, RANGE_KEY, check_architecture


class HamiltonianModule(lightning.LightningModule):
    """Trains a `HamiltonianModel`. Log names are ``{train,val,test}/{metric}[/{subset}]``; metrics of H are in meV.

    Losses (``loss``, ``loss_h``, ``loss_t``, ``mu``) are in powers of the unit of H. A further term x of the loss is
    logged as ``loss_x``, also in the test. With Eq. 8 and traces (and no further terms)
    ``val/loss`` is ``(1 + lambda) val/loss_h``, because mu is computed from the same means: use ``val/loss_h`` to
    judge H and ``val/loss_t`` to judge the traces. Models with a trace decoder also log ``test/t_mae``, the MAE of
    the traces, averaged over samples like loss_T, in meV^2 (without a unit if ``scale_labels`` scales the labels).

    A training loss that is not finite ends the training. A validation or test loss is logged even if it is not
    finite: the callbacks decide whether the run continues.

    Attributes:
        test_subsets: name of the samples of each test loader; "" is the main test set, whose logs and files carry no
            name.
        sample_name: name of a sample in tables, from its position in the database.

    Args:
        model: the network.
        loss: returns the loss for a basis and trace labels (a partial of `HamiltonianLoss`).
        optimizer: returns the optimizer for parameters and a learning rate.
        schedule: learning-rate schedule.
        record: plain data saved in every checkpoint (configuration and data fingerprint).
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
        self.seen: RangeRecorder | None = RangeRecorder(model.basis)
        self.test_subsets: list[str] = [""]
        self.sample_name: Callable[[int], str] = str
        self.val_metric, self.test_metrics = HamiltonianMAE(model.basis), nn.ModuleList()
        self.val_losses = SampleMeans(self.loss.active(traces=model.tracegrad.trace), empty=0.0)
        self.test_losses = nn.ModuleList()

    def forward(self, graph, *, traces: bool = True) -> HamiltonianPrediction:
        return self.model(graph, traces=traces)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.model.backbone.at_progress(self._progress())

    def training_step(self, graph, batch_idx: int) -> Tensor:
        if self.seen is not None:
            self.seen.add(graph)
        # Frozen features have traces that no training changes.
        prediction = self.model(graph, traces=not self.model.backbone.features_frozen)
        terms = self.loss(prediction, graph, self._sum_ranks)
        if not torch.isfinite(terms.logs["loss"]):  # value of the whole batch: all ranks stop together
            raise TrainingError(self._non_finite_message(graph, terms))
        logs = {f"train/{name}": value for name, value in terms.logs.items()}
        self.log_dict(logs, batch_size=graph.num_graphs)
        return terms.total * self.trainer.world_size  # the gradients of the ranks are averaged

    def validation_step(self, graph, batch_idx: int) -> HamiltonianPrediction:  # type: ignore[override]
        prediction = self.model(graph)
        self.val_losses.update(self.loss(prediction, graph).per_sample)
        self.val_metric.update(prediction, graph)
        return prediction  # for callbacks that compute further metrics

    def on_validation_epoch_end(self) -> None:
        means = self.val_losses.compute()
        self.log("val/loss", weighted_sum(self.loss.weights(means), means), sync_dist=False)
        for name, value in means.items():
            self.log(f"val/loss_{name}", value, sync_dist=False)
        self._log_metric("val", self.val_metric)
        for metric in (self.val_losses, self.val_metric):
            metric.reset()

    def on_test_epoch_start(self) -> None:
        # Callbacks read these metrics after the test.
        self.test_metrics = nn.ModuleList(HamiltonianMAE(self.model.basis) for _ in self.test_subsets)
        names = ["t_mae"] if self.model.tracegrad.trace else []
        names += [f"loss_{name}" for name in self._further_terms()]
        self.test_losses = nn.ModuleList(SampleMeans(names) for _ in self.test_subsets)
        for metrics in (self.test_metrics, self.test_losses):
            metrics.to(self.device)

    def test_step(self, graph, batch_idx: int, dataloader_idx: int = 0) -> HamiltonianPrediction:  # type: ignore[override]
        prediction = self.model(graph, traces=self.model.tracegrad.trace)
        self.test_metric(dataloader_idx).update(prediction, graph)
        values = {f"loss_{name}": self.loss.term(name)(prediction, graph) for name in self._further_terms()}
        if self.model.tracegrad.trace:
            values["t_mae"] = self.loss.trace_term.errors(prediction, graph, "mae")
        if values:
            self._test_losses(dataloader_idx).update(values)
        return prediction

    def test_metric(self, dataloader_idx: int) -> HamiltonianMAE:
        """The metric of one loader in the most recent test."""
        metric = self.test_metrics[dataloader_idx]
        assert isinstance(metric, HamiltonianMAE)
        return metric

    def _test_losses(self, dataloader_idx: int) -> SampleMeans:
        metric = self.test_losses[dataloader_idx]
        assert isinstance(metric, SampleMeans)
        return metric

    def _further_terms(self) -> list[str]:
        """Terms of the loss that the metrics of the test do not contain."""
        return [name for name in self.loss.active(traces=self.model.tracegrad.trace) if name not in (H, T)]

    def on_test_epoch_end(self) -> None:
        square = MEV[self.model.basis.unit] ** 2 if self.loss.trace_term.scale_labels == "none" else 1.0
        for i, subset in enumerate(self.test_subsets):
            ending = f"/{subset}" if subset else ""
            self._log_metric("test", self.test_metric(i), ending)
            losses = self._test_losses(i)
            for name, value in losses.compute().items() if losses.names else ():
                factor = square if name == "t_mae" else 1.0
                self.log(f"test/{name}{ending}", value * factor, sync_dist=False)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        try:
            optimizer = self.make_optimizer(self.parameters(), lr=self.schedule.peak)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optim.optimizer: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": self.schedule.scheduler(optimizer)}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients like Lightning, but also for fused optimizers in mixed precision, which Lightning refuses.

        With bf16-mixed there is no gradient scaler. With 16-mixed the gradients are divided by the scale before they
        are clipped; the fused step of torch then does not divide them again.
        """
        plugin = self.trainer.precision_plugin
        if not isinstance(plugin, MixedPrecision):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            if plugin.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
                plugin.scaler.unscale_(optimizer)
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = {"format": 1, **self.record}
        if self.seen is None:
            return
        if self.trainer.world_size > 1:
            self.seen.combine()  # Lightning lets all ranks save
        found = self.seen.result()
        checkpoint[CHECKPOINT_KEY][RANGE_KEY] = None if found is None else found.plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_architecture(checkpoint["state_dict"], self.state_dict(), "the checkpoint")
        known = checkpoint.get(CHECKPOINT_KEY, {}).get(RANGE_KEY)
        if known is None:
            self.seen = None  # of an earlier version: what is left of the training would be only a part
        elif self.seen is not None:
            self.seen.restore(TrainedRange.read(known, "the checkpoint"))

    def _progress(self) -> float:
        """Share of the training that has passed; 1 if neither its epochs nor its steps are limited."""
        trainer = self.trainer
        limits = ((trainer.current_epoch, trainer.max_epochs), (trainer.global_step, trainer.max_steps))
        return max((done / limit for done, limit in limits if limit and limit > 0), default=1.0)

    def _sum_ranks(self, values: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def _non_finite_message(self, graph, terms: LossValues) -> str:
        losses = list(zip(graph.sample_id.tolist(), self._row_losses(terms), strict=True))
        if (
            self.trainer.world_size > 1
        ):  # the samples at fault may be on another rank than the one that prints
            shares: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, losses)
            losses = [entry for share in shares for entry in share]
        rows = [row for row, _ in losses]
        bad = [row for row, value in losses if not isfinite(value)]
        parts = ", ".join(f"{name} = {value.item():.3g}" for name, value in terms.logs.items() if "_" in name)
        blame = f"not finite for rows {bad}" if bad and len(bad) < len(rows) else "no single row stands out"
        return (
            f"the loss is not finite at step {self.global_step} ({parts}) in the batch of database rows {rows}: "
            f"{blame}; look at these rows, lower optim.schedule.peak or raise optim.schedule.warmup_steps"
        )

    @staticmethod
    def _row_losses(terms: LossValues) -> list[float]:
        """Sum of the terms that have a value for every sample of this process."""
        rows = terms.per_sample[H]
        complete = [values.double() for values in terms.per_sample.values() if len(values) == len(rows)]
        return torch.stack(complete).sum(0).tolist()

    def _log_metric(self, stage: str, metric: HamiltonianMAE, ending: str = "") -> None:
        """Log the scalars of a metric in meV; torchmetrics has already reduced them over ranks."""
        factor = MEV[self.model.basis.unit]
        for name, value in metric.compute().items():
            if value.ndim == 0:
                self.log(f"{stage}/{name}{ending}", value * factor, sync_dist=False, prog_bar=name == "h_mae")
