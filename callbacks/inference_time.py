"""Time of a prediction of a trained network (Appendix I)."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.gather import gathered
from callbacks.trainer_parts import first_dataset, hamiltonian_module, stop_bar
from tracegrad.data.loading.hamiltonian_module import evenly_spaced
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.graph import collate
from tracegrad.reports.results import InferenceProtocol
from tracegrad.system.device import device_name
from tracegrad.system.progress import ProgressDisplay

# A line announces a measurement that is expected to take longer than this.
LONG = 60.0  # seconds

Clock = Callable[[], float]


class InferenceTime(Callback):
    """Logs ``test/inference_seconds`` (per sample) and ``test/inference_batch_size`` at the end of a test.

    The paper uses batches of one sample and 50 inferences of every test sample (``callbacks=appendix_i``). Each batch
    first passes through the network once without being timed, which loads kernels and fills caches. Then only the
    forward pass is timed, with the batch on the device, from the moment at which the device is idle until it is idle
    again. Several ranks share the batches. A test that is interrupted keeps no times; the next one measures all
    again.

    Args:
        samples: number of samples of the first test set, evenly spread, the same for every arm and seed; None:
            every sample; 0: nothing is timed.
        repeats: timed inferences of each batch, of which the mean is taken.
        batch_size: samples of a batch.
        clock: returns seconds since some fixed moment.

    Attributes:
        protocol: how the last test was timed (`InferenceProtocol`) as plain data; None if nothing was timed.
    """

    def __init__(
        self,
        samples: int | None = 10,
        repeats: int = 5,
        batch_size: int = 1,
        clock: Clock = time.perf_counter,
    ):
        for name, value, least in (
            ("samples", samples, 0),
            ("repeats", repeats, 1),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"callbacks.inference_time.{name} is {value}; at least {least} is needed")
        self.samples, self.repeats, self.batch_size, self.clock = samples, repeats, batch_size, clock
        self.protocol: dict[str, Any] | None = None

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.protocol = None
        dataset = first_dataset(trainer.test_dataloaders)
        count = len(dataset) if self.samples is None else min(self.samples, len(dataset))
        if not count:
            return
        rows = evenly_spaced(len(dataset), count).tolist()
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        share = batches[trainer.global_rank :: trainer.world_size]
        device = device_name(pl_module.device)
        measured = gathered(
            trainer, [(seconds, device) for seconds in self._measured(trainer, pl_module, dataset, share)]
        )
        devices = ", ".join(dict.fromkeys(name for _, name in measured))
        protocol = InferenceProtocol(count, self.repeats, max(map(len, batches)), devices)
        self.protocol = asdict(protocol)
        total = sum(seconds for seconds, _ in measured)
        for name, value in (("seconds", total / count), ("batch_size", protocol.batch_size)):
            pl_module.log(f"test/inference_{name}", torch.tensor(value, dtype=torch.float64), sync_dist=True)

    def _measured(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        dataset: Any,
        batches: list[list[int]],
    ) -> list[float]:
        """Seconds of an inference of each batch of this rank."""
        stop_bar(trainer)
        model = hamiltonian_module(pl_module).model
        now = device_clock(pl_module.device, self.clock)
        seconds: list[float] = []
        shown = trainer.is_global_zero
        with (
            ProgressDisplay("batches", seconds=600.0, shown=shown) as progress,
            trainer.precision_plugin.forward_context(),
        ):
            on_progress = progress.bar("inference time")
            for batch in batches:
                graph = collate([dataset[row] for row in batch]).to(pl_module.device)
                seconds.append(mean_seconds(partial(model, graph, traces=False), self.repeats, now))
                expected = seconds[0] * (self.repeats + 1) * len(batches)
                if shown and len(seconds) == 1 and expected > LONG:
                    progress.report(
                        f"inference time: about {expected / 60:.0f} min for {self.repeats} inferences of each of "
                        f"{len(batches)} batches; if interrupted, the same command measures all "
                        "again"
                    )
                on_progress(len(seconds), len(batches))
        return seconds


def mean_seconds(call: Callable[[], Any], repeats: int, now: Clock) -> float:
    """Mean seconds of ``repeats`` calls, after one call that is not timed; ``now`` waits for the device."""
    call()
    times = []
    for _ in range(repeats):
        start = now()
        call()
        times.append(now() - start)
    return float(np.mean(times))


def device_clock(device: torch.device, clock: Clock) -> Clock:
    """A clock that waits until the device is idle: kernels of a GPU still run when their call has returned."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    return now
