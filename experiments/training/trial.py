"""A few real steps and validation batches of a training, without anything written into its run directory."""

import os
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from callbacks.step_times import BatchTimes, StepTimes
from experiments.training.forecast import training_length
from experiments.training.parts import Parts, make_callbacks, make_trainer
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
ONE_PROCESS = {"_target_": "lightning.pytorch.plugins.environments.LightningEnvironment"}
VALIDATED = 4  # validation batches to time, with the most expensive one among them


@dataclass(frozen=True)
class TrialResult:
    """Measurements on one process, scaled by costs (see `TrainingBatches`) to the process with the most work.

    Attributes:
        batches: times of single training batches.
        batch: seconds of a mean training batch.
        validation, test: seconds of a validation, and of the predictions of the test.
        device: name of the GPU; empty for the CPU.
        peak_bytes, memory_bytes: largest memory in use, and memory of the device.
        checkpoint_bytes: size of a checkpoint.
    """

    batches: BatchTimes
    batch: float
    validation: float
    test: float
    device: str
    peak_bytes: int
    memory_bytes: int
    checkpoint_bytes: int


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
        parts: its data and network; the loaders give each process its share of a batch.
        world: number of processes of the training.
    """

    def __init__(self, config: DictConfig, parts: Parts, world: int):
        self.config, self.world = config, world
        self.data, self.module = parts.datamodule, parts.module
        self.accumulated = config.trainer.get("accumulate_grad_batches") or 1

    def measure(self) -> TrialResult | MemoryShortage:
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
        times = StepTimes(warm_up, AT_LEAST, SECONDS)
        measured: dict[str, Any] = {}

        def train() -> None:
            trainer = self._fit(loader, order, [times])
            measured.update(
                device_memory(trainer.strategy.root_device), checkpoint_bytes=_checkpoint_bytes(trainer)
            )

        def train_smaller() -> None:
            # The optimizer has its state from the second step on.
            steps = [self._most_expensive_batch()] * (2 * self.accumulated)
            self._fit(self.data.train_dataloader(), steps)

        shortage = self._shortage("batch_size", self.world, train, train_smaller)
        if shortage:
            return shortage
        batches, costs = self._validation_batches(VALIDATED)

        def validate_smaller() -> None:
            self._validate(self._validation_batches(1)[0], StepTimes(0, 0, 0))

        shortage = self._shortage(
            "eval_batch_size", 1, partial(self._validate, batches, times), validate_smaller
        )
        if shortage:
            return shortage
        # The first batch contains the start of workers and kernels.
        first = 1 if len(batches) > 1 else 0
        per_cost = seconds_per_cost(times.validation, costs_of(costs, batches), first)
        tests = [self._costs(part) for part in self.data.subsets("test").values()]
        return TrialResult(
            batches=times.training,
            batch=mean_cost * seconds_per_cost(times.training, costs_of(loader.batches.costs, order)),
            validation=per_cost * largest_share(costs, self.world),
            test=per_cost * sum(largest_share(part, self.world) for part in tests),
            **measured,
        )

    def _shortage(
        self, key: str, least: int, attempt: Callable[[], Any], smaller: Callable[[], Any]
    ) -> MemoryShortage | None:
        """None if ``attempt`` fits into the memory, else the largest of the halved sizes with which ``smaller`` fits.

        Args:
            attempt: work with the size of the training.
            smaller: work that shows whether the present size of the data fits.
        """
        reason = self._memory_error(attempt)
        if reason is None:
            return None
        original = size = getattr(self.data, key)
        fits = False
        while not fits and size // 2 >= least:
            size //= 2
            setattr(self.data, key, size)
            fits = self._memory_error(smaller) is None
        setattr(self.data, key, original)
        return MemoryShortage(f"data.{key}", original, reason, size if fits else None)

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
        self, loader: DataLoader, batches: Sequence[list[int]], callbacks: Sequence[Callback] = ()
    ) -> lightning.Trainer:
        averages = [
            callback for callback in make_callbacks(self.config) if isinstance(callback, WeightAveraging)
        ]
        steps = len(batches) // self.accumulated
        trainer = self._trainer([*callbacks, *averages], max_steps=steps, max_epochs=-1, limit_val_batches=0)
        # One more batch than steps, so that the epoch does not end: a schedule could expect a validation there.
        trainer.fit(self.module, _loader(loader, [*batches, batches[0]]))
        return trainer

    def _validate(self, batches: Sequence[list[int]], times: StepTimes) -> None:
        loader = _loader(self.data.loader("val"), batches)
        self._trainer([times]).validate(self.module, loader, verbose=False)

    def _trainer(self, callbacks: Sequence[Callback], **changes: Any) -> lightning.Trainer:
        """The trainer of the configuration on one process, which writes and prints nothing."""
        silent = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        changes |= dict.fromkeys(silent, False) | {
            "num_nodes": 1,
            "strategy": "auto",
            "plugins": [ONE_PROCESS],
        }
        if self.world > 1:
            changes["devices"] = 1
        config = deepcopy(self.config)
        OmegaConf.set_struct(config, False)
        config.trainer.update(changes)
        return make_trainer(config, list(callbacks), [])

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
        garbage_collection_cuda()
        return reason


def _is_memory_error(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or is_oom_error(error)
        or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)
    )


def seconds_per_cost(times: BatchTimes, costs: Sequence[float], first: int = 0) -> float:
    """Seconds over cost of the timed batches from ``first`` on; ``costs`` are those of all batches of the loader."""
    return sum(times.seconds[first:]) / sum(costs[index] for index in times.indices[first:])


def _checkpoint_bytes(trainer: lightning.Trainer) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trial.ckpt")
        trainer.save_checkpoint(path)
        return path.stat().st_size


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


def device_memory(device: torch.device) -> dict[str, Any]:
    """Name of the device, largest memory in use, and memory of the device (bytes), for `TrialResult`."""
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
