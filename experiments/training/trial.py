"""A few real steps and validation batches of a training, without anything written."""

import gc
import io
import logging
import os
import resource
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import lightning
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from callbacks.step_times import StepTimes
from experiments.training.forecast import Measured, training_length
from experiments.training.parts import Parts, make_callbacks
from experiments.training.trial_batches import (
    EPOCHS,
    costs_of,
    largest_share,
    most_expensive_batch,
    sample_batches,
    spread_batches,
)
from experiments.training.warning_filter import quiet

AT_LEAST = 3  # training batches to time, however long they take
SECONDS = 60.0  # after which no further training batch is timed
VALIDATED = 4  # validation batches to time, with the most expensive one among them
# Messages of torch where it has no own type of error for missing memory.
MEMORY_ERRORS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class MemoryShortage:
    """A batch needs more memory than there is.

    Attributes:
        setting: key of the batch size.
        size: its value.
        reason: message of the error.
        fitting_size: the largest of size/2, size/4, ... that fits; None: none of them.
    """

    setting: str
    size: int
    reason: str
    fitting_size: int | None


class Trial:
    """Trains and validates on some batches on one process, even if the training itself will have several.

    Args:
        config: settings of the training.
        parts: its data and network; the loaders give each process its share of a batch.
        world: number of processes of the training.
    """

    def __init__(self, config: DictConfig, parts: Parts, world: int):
        self.config, self.world = config, world
        self.data, self.module = parts.datamodule, parts.module
        self.accumulated = config.trainer.get("accumulate_grad_batches") or 1

    def measure(self) -> Measured | MemoryShortage:
        """Times, memory and size of a checkpoint, or the batch size that needs too much memory."""
        loader = self.data.train_dataloader()
        sample, mean_cost = sample_batches(loader.batches)
        # The most expensive batch comes first and again when the optimizer has its state, which needs the most
        # memory.
        order = [self._most_expensive_batch()] * (self.accumulated + 1)
        # One more batch is not timed, nor are those that the workers have prepared by the time of the first one.
        warm_up = len(order) + 1 + 2 * loader.num_workers
        order += islice(cycle(sample), warm_up - len(order) + len(sample))
        order += islice(cycle(sample), -len(order) % self.accumulated)
        times, checkpoint = StepTimes(warm_up, AT_LEAST, SECONDS), _CheckpointSize()
        memory: dict[str, Any] = {}

        def train() -> None:
            trainer = self._fit(loader, order, [times], checkpoint)
            memory.update(_memory(trainer.strategy.root_device))
            trainer.save_checkpoint("nowhere")

        reason = self._memory_error(train)
        if reason is not None:
            return MemoryShortage("data.batch_size", self.data.batch_size, reason, self._fitting_batch_size())

        batches, costs = self._validation_batches(VALIDATED)
        reason = self._memory_error(partial(self._validate, batches, times))
        if reason is not None:
            fitting = self._fitting_eval_batch_size()
            return MemoryShortage("data.eval_batch_size", self.data.eval_batch_size, reason, fitting)
        # The first batch contains the start of workers and kernels.
        timed = times.validation[1:] or times.validation
        tests = self.data.subsets("test").values()
        return Measured(
            costs=costs_of(loader.batches.costs, [order[entry.index] for entry in times.training]),
            work=[entry.work for entry in times.training],
            waits=[entry.wait for entry in times.training],
            mean_cost=mean_cost,
            val_costs=costs_of(costs, [batches[entry.index] for entry in timed]),
            val_seconds=[entry.wait + entry.work for entry in timed],
            val_cost=largest_share(costs, self.world),
            test_cost=sum(largest_share(self._costs(part), self.world) for part in tests),
            checkpoint_bytes=checkpoint.bytes,
            batch_size=len(loader.batches.costs) / len(loader.batches),
            accumulated=self.accumulated,
            world=self.world,
            **memory,
        )

    def _fitting_batch_size(self) -> int | None:
        """The first of the halved batch sizes whose most expensive batch can be trained on.

        Two steps are needed: the optimizer has its state from the second one on.
        """
        original = self.data.batch_size
        try:
            while self.data.batch_size // 2 >= self.world:
                self.data.batch_size //= 2
                steps = [self._most_expensive_batch()] * (2 * self.accumulated)
                if self._memory_error(partial(self._fit, self.data.train_dataloader(), steps)) is None:
                    return self.data.batch_size
            return None
        finally:
            self.data.batch_size = original

    def _fitting_eval_batch_size(self) -> int | None:
        """The first of the halved evaluation batch sizes whose most expensive validation batch can be predicted."""
        original = self.data.eval_batch_size
        try:
            while self.data.eval_batch_size > 1:
                self.data.eval_batch_size //= 2
                batches, _ = self._validation_batches(1)
                if self._memory_error(partial(self._validate, batches, StepTimes(0, 0, 0))) is None:
                    return self.data.eval_batch_size
            return None
        finally:
            self.data.eval_batch_size = original

    def _most_expensive_batch(self) -> list[int]:
        batches = self.data.train_dataloader().batches
        length = training_length(len(batches), self.config.trainer, last_step_validated=False)
        epochs = EPOCHS if length.steps is None else -(-length.steps // length.steps_per_epoch)
        return most_expensive_batch(batches, max(epochs, 1))

    def _validation_batches(self, count: int) -> tuple[list[list[int]], np.ndarray]:
        """Validation batches of the first process, the most expensive one first, and the costs of all samples."""
        costs = self._costs("val")
        batches = self.data.loader("val").batch_sampler
        assert batches is not None
        return spread_batches(list(batches), costs, count), costs

    def _costs(self, part: str) -> np.ndarray:
        return self.data.parts[part].costs  # type: ignore[attr-defined]

    def _fit(
        self,
        loader: DataLoader,
        batches: Sequence[list[int]],
        callbacks: Sequence[Callback] = (),
        *plugins: Any,
    ) -> lightning.Trainer:
        averages = [
            callback for callback in make_callbacks(self.config) if isinstance(callback, WeightAveraging)
        ]
        trainer = self._trainer(
            [*callbacks, *averages],
            plugins,
            max_steps=len(batches) // self.accumulated,
            max_epochs=-1,
            limit_val_batches=0,
        )
        # One more batch than steps, so that the epoch does not end: a schedule could expect a validation there.
        trainer.fit(self.module, _loader(loader, [*batches, batches[0]]))
        return trainer

    def _validate(self, batches: Sequence[list[int]], times: StepTimes) -> None:
        trainer = self._trainer([times], ())
        trainer.validate(self.module, _loader(self.data.loader("val"), batches), verbose=False)

    def _trainer(
        self, callbacks: Sequence[Callback], plugins: Sequence[Any], **changes: Any
    ) -> lightning.Trainer:
        """The trainer of the configuration on one process, which writes and prints nothing."""
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        settings = OmegaConf.to_container(self.config.trainer, resolve=True)
        assert isinstance(settings, dict)
        settings |= {"num_nodes": 1, "strategy": "auto"} | ({"devices": 1} if self.world > 1 else {})
        silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        settings |= dict.fromkeys(silent, False) | changes
        settings.pop("plugins", None)
        return instantiate(
            OmegaConf.create(settings),
            callbacks=list(callbacks),
            plugins=[LightningEnvironment(), *plugins],
        )

    def _memory_error(self, run: Callable[[], Any]) -> str | None:
        """Message of the error if ``run`` needs more memory than there is; None if it does not."""
        try:
            with quiet():
                # The validation is a separate call.
                warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
                run()
        except (MemoryError, RuntimeError) as error:
            if not _is_memory_error(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        else:
            return None
        # Not in the except block, whose error keeps the tensors of its traceback alive.
        self.module.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return reason


class _ByteCounter(io.BufferedIOBase):
    """A file that stores nothing and counts the bytes that are written to it."""

    bytes = 0

    def write(self, data: Any) -> int:
        self.bytes += len(data)
        return len(data)


class _CheckpointSize(TorchCheckpointIO):
    """Counts the bytes of a checkpoint instead of writing it."""

    bytes = 0

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        counter = _ByteCounter()
        torch.save(checkpoint, counter)  # type: ignore[arg-type]
        self.bytes = counter.bytes


def _is_memory_error(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in MEMORY_ERRORS)


def _loader(template: DataLoader, batches: Sequence[list[int]]) -> DataLoader:
    """A loader of these batches with the settings of the loader ``template``."""
    return DataLoader(
        template.dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=template.num_workers,
        pin_memory=template.pin_memory,
        persistent_workers=template.persistent_workers,
        collate_fn=template.collate_fn,
    )


def _memory(device: torch.device) -> dict[str, Any]:
    """Name of the device, largest memory in use, and memory of the device (bytes), for `Measured`."""
    if device.type == "cuda":
        return {
            "device": torch.cuda.get_device_name(device),
            "peak_bytes": torch.cuda.max_memory_allocated(device),
            "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
        }
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "device": "",
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
