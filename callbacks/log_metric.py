"""A further metric of predicted Hamiltonians in validations and tests."""

from copy import deepcopy
from typing import Any

from lightning import LightningModule, Trainer
from torchmetrics import Metric

from callbacks.predictions import PredictedBatch, PredictionCallback
from callbacks.trainer_parts import hamiltonian_module
from tracegrad.errors import ConfigError
from tracegrad.metrics.columns import KNOWN, Column, log_name
from tracegrad.units import MEV


class LogMetric(PredictionCallback):
    """Logs the columns of a metric in validations and tests, where tables, results and reports find them.

    Args:
        metric: has ``columns`` (`Column`), ``update(prediction, graph, basis)``, which adds a batch with labels, and
            ``compute()``, which returns a number for the key of each column. Energies are in the unit of H; where the
            unit of a column is meV, they are converted. Each subset of a test has a copy of the metric.

    Raises:
        ConfigError: the metric is of another type or has no columns, or a key belongs to a metric of TraceGrad or
            has a "/".
    """

    def __init__(self, metric: Metric):
        name = type(metric).__name__
        columns = getattr(metric, "columns", ())
        if not isinstance(metric, Metric) or not columns or not all(isinstance(c, Column) for c in columns):
            raise ConfigError(
                f"{name}: a torchmetrics.Metric with columns (tracegrad.metrics.columns) is needed"
            )
        known = {column.key for column in KNOWN}
        for key in (column.key for column in columns):
            if key in known or "/" in key:
                reason = "is a metric of TraceGrad" if key in known else 'has a "/", which separates subsets'
                raise ConfigError(f"{name}: {key} {reason}; give the column another key")
        self.columns: tuple[Column, ...] = tuple(columns)
        self._metric = metric
        self._metrics: list[Metric] = []  # one for each subset of the data

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module, 1)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._metrics[0].update(outputs, batch, hamiltonian_module(pl_module).model.basis)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "val", [""])

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module, len(hamiltonian_module(pl_module).test_subsets))

    def on_predicted(self, batch: PredictedBatch) -> None:
        self._metrics[batch.loader].update(batch.prediction, batch.graph, batch.module.model.basis)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "test", hamiltonian_module(pl_module).test_subsets)

    def _start(self, pl_module: LightningModule, subsets: int) -> None:
        self._metrics = [deepcopy(self._metric).to(pl_module.device) for _ in range(subsets)]

    def _log(self, pl_module: LightningModule, stage: str, subsets: list[str]) -> None:
        """Log the values over all samples of all ranks; torchmetrics reduces them."""
        factor = MEV[hamiltonian_module(pl_module).model.basis.unit]
        for metric, subset in zip(self._metrics, subsets, strict=True):
            values = metric.compute()
            if values.keys() != {column.key for column in self.columns}:
                raise ConfigError(
                    f"{type(metric).__name__}: compute returns {sorted(values)}, but its columns are "
                    f"{sorted(column.key for column in self.columns)}; give both the same keys"
                )
            for column in self.columns:
                value = values[column.key] * (factor if column.unit == "meV" else 1)
                pl_module.log(log_name(stage, column.key, subset), value, sync_dist=False)
