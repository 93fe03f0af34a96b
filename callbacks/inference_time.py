"""The time that a trained network takes for a prediction (Appendix I)."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from lightning import Callback

from tracegrad.data.datamodule import evenly
from tracegrad.errors import ConfigError
from tracegrad.graph import collate
from tracegrad.module import HamiltonianModule


class InferenceTime(Callback):
    """Logs ``test/inference_seconds``, a sample, and ``test/inference_batch_size`` at the end of a test.

    The paper takes batches of one sample and 50 inferences of every test sample. Here each batch first goes
    through the network once untimed, which loads kernels and fills caches; what is timed is the forward pass
    alone, on a batch that lies on the device, with the device waited for before and after. With several ranks
    each measures the same batches, and the mean over ranks is logged.

    Args:
        samples: so many of the first test set, evenly spread, the same for every arm and seed; 0: no times.
        repeats: timed inferences of each batch; their mean counts.
        batch_size: samples of a batch.
    """

    def __init__(self, samples: int = 10, repeats: int = 5, batch_size: int = 1):
        for name, value, least in (
            ("samples", samples, 0),
            ("repeats", repeats, 1),
            ("batch_size", batch_size, 1),
        ):
            if value < least:
                raise ConfigError(f"callbacks.inference_time.{name} is {value}; at least {least} is needed")
        self.samples, self.repeats, self.batch_size = samples, repeats, batch_size

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self.samples:
            return
        assert isinstance(pl_module, HamiltonianModule)
        dataset = _first_dataset(trainer)
        rows = evenly(len(dataset), min(self.samples, len(dataset))).tolist()
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        model, total = pl_module.model, 0.0
        with trainer.precision_plugin.forward_context():
            for batch in batches:
                graph = collate([dataset[row] for row in batch]).to(pl_module.device)
                total += seconds(partial(model, graph, traces=False), self.repeats, pl_module.device)
        largest = max(map(len, batches))
        for name, value in (("seconds", total / len(rows)), ("batch_size", largest)):
            pl_module.log(f"test/inference_{name}", torch.tensor(value, dtype=torch.float64), sync_dist=True)


def seconds(call: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Mean time of a call, after one that is not timed."""
    times = []
    for i in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        if i:
            times.append(time.perf_counter() - start)
    return float(np.mean(times))


def _wait(device: torch.device) -> None:
    """Kernels of a GPU run on after the call that starts them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _first_dataset(trainer: lightning.Trainer) -> Any:
    loaders = trainer.test_dataloaders
    loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
    return loader.dataset  # type: ignore[union-attr]
