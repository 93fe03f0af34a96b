"""A few real steps and validations of a training, which leave nothing behind."""

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
    dearest_batch,
    largest_share,
    sample_batches,
    spread_batches,
)
from experiments.training.warning_filter import quiet

LEAST = 3  # training batches to time, however long they take
SECONDS = 60.0  # for all of them
VALIDATED = 4  # validation batches, the dearest among them
# What torch says where it raises no error of a kind of its own.
MEMORY_ERRORS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Misfit:
    """A batch that needs more memory than there is; ``fits`` is the first of the halved sizes that does not."""

    setting: str
    size: int
    reason: str
    fits: int | None


class Trial:
    """Trains and validates on some batches, on one process, whatever the number of processes of the training.

    Args:
        config: of the training.
        parts: what it builds; the loaders of the data know the number of processes.
        world: this number.
    """

    def __init__(self, config: DictConfig, parts: Parts, world: int):
        self.config, self.world = config, world
        self.data, self.module = parts.datamodule, parts.module
        self.accumulated = config.trainer.get("accumulate_grad_batches") or 1

    def measure(self) -> Measured | Misfit:
        """Times, memory and the size of a checkpoint; or what does not fit."""
        loader = self.data.train_dataloader()
        sample, mean_cost = sample_batches(loader.batches)
        # The dearest one again when the optimizer has its state: memory is decided there.
        order = [self._dearest()] * (self.accumulated + 1)
        # Not timed either: one more, and as many as the workers have ready when the first one is there.
        warm = len(order) + 1 + 2 * loader.num_workers
        order += islice(cycle(sample), warm - len(order) + len(sample))
        order += islice(cycle(sample), -len(order) % self.accumulated)
        times, weigher = StepTimes(warm, LEAST, SECONDS), _Weigher()
        memory: dict[str, Any] = {}

        def train() -> None:
            trainer = self._fit(loader, order, [times], weigher)
            memory.update(_memory(trainer.strategy.root_device))
            trainer.save_checkpoint("nowhere")

        reason = self._memory_error(train)
        if reason is not None:
            return Misfit("data.batch_size", self.data.batch_size, reason, self._fitting_batch_size())

        batches, costs = self._validation_batches(VALIDATED)
        reason = self._memory_error(partial(self._validate, batches, times))
        if reason is not None:
            fits = self._fitting_eval_batch_size()
            return Misfit("data.eval_batch_size", self.data.eval_batch_size, reason, fits)
        timed = times.validation[1:] or times.validation  # the first one starts what is slow at the start
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
            checkpoint_bytes=weigher.bytes,
            batch_size=len(loader.batches.costs) / len(loader.batches),
            accumulated=self.accumulated,
            world=self.world,
            **memory,
        )

    def _fitting_batch_size(self) -> int | None:
        """The first of the halved batch sizes whose dearest batch can be trained on, with an optimizer's state."""
        given = self.data.batch_size
        try:
            while self.data.batch_size // 2 >= self.world:
                self.data.batch_size //= 2
                steps = [self._dearest()] * (2 * self.accumulated)
                if self._memory_error(partial(self._fit, self.data.train_dataloader(), steps)) is None:
                    return self.data.batch_size
            return None
        finally:
            self.data.batch_size = given

    def _fitting_eval_batch_size(self) -> int | None:
        """The first of the halved evaluation batch sizes whose dearest validation batch can be predicted."""
        given = self.data.eval_batch_size
        try:
            while self.data.eval_batch_size > 1:
                self.data.eval_batch_size //= 2
                batches, _ = self._validation_batches(1)
                if self._memory_error(partial(self._validate, batches, StepTimes(0, 0, 0))) is None:
                    return self.data.eval_batch_size
            return None
        finally:
            self.data.eval_batch_size = given

    def _dearest(self) -> list[int]:
        batches = self.data.train_dataloader().batches
        length = training_length(len(batches), self.config.trainer, last_step_validated=False)
        epochs = EPOCHS if length.steps is None else -(-length.steps // length.steps_per_epoch)
        return dearest_batch(batches, max(epochs, 1))

    def _validation_batches(self, count: int) -> tuple[list[list[int]], np.ndarray]:
        """Some batches of the first process, the dearest first, and the costs of all samples."""
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
        # One batch more, so that no epoch ends: schedules may wait for a validation then.
        trainer.fit(self.module, _loader(loader, [*batches, batches[0]]))
        return trainer

    def _validate(self, batches: Sequence[list[int]], times: StepTimes) -> None:
        trainer = self._trainer([times], ())
        trainer.validate(self.module, _loader(self.data.loader("val"), batches), verbose=False)

    def _trainer(
        self, callbacks: Sequence[Callback], plugins: Sequence[Any], **changes: Any
    ) -> lightning.Trainer:
        """The trainer of the configuration on one process, which writes and says nothing."""
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
        """What the error says if the memory is too small for what is run."""
        try:
            with quiet():
                warnings.filterwarnings(
                    "ignore", message=".*have no `val_dataloader`.*"
                )  # it comes later, alone
                run()
        except (MemoryError, RuntimeError) as error:
            if not _is_memory_error(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        else:
            return None
        # Here, where the error and what its traceback holds are gone.
        self.module.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return reason


class _Scales(io.BufferedIOBase):
    """A file that keeps nothing but the count of its bytes."""

    bytes = 0

    def write(self, data: Any) -> int:
        self.bytes += len(data)
        return len(data)


class _Weigher(TorchCheckpointIO):
    """Counts the bytes of a checkpoint in place of writing it."""

    bytes = 0

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        scales = _Scales()
        torch.save(checkpoint, scales)  # type: ignore[arg-type]
        self.bytes = scales.bytes


def _is_memory_error(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in MEMORY_ERRORS)


def _loader(like: DataLoader, batches: Sequence[list[int]]) -> DataLoader:
    """A loader with the settings of another one and these batches."""
    return DataLoader(
        like.dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=like.num_workers,
        pin_memory=like.pin_memory,
        persistent_workers=like.persistent_workers,
        collate_fn=like.collate_fn,
    )


def _memory(device: torch.device) -> dict[str, Any]:
    """Name of the device, the most memory that was in use, and how much there is."""
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
