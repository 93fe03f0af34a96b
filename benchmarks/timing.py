"""Times of several implementations, measured alternately so that other load affects all of them equally."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Timing:
    """Seconds, memory and operations of one way (implementation) of a task."""

    task: str
    way: str
    median: float
    lowest: float
    highest: float
    relative: float  # median divided by that of the first way of the task
    peak: float | None = None  # peak memory (MiB)
    relative_peak: float | None = None
    gflop: float | None = None  # 1e9 floating-point operations of its matrix products
    floor: float | None = None  # seconds of these operations at the best rate of this machine


def measure(
    task: str, ways: Mapping[str, Callable[[], object]], repeats: int, device: str, *, warm: bool = True
) -> list[Timing]:
    """Time each way: one round to warm up if ``warm``, then ``repeats`` rounds, in which the ways alternate."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(repeats + warm):
        for way, call in ways.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            if round_ >= warm:
                times[way].append(time.perf_counter() - start)
    first = statistics.median(next(iter(times.values())))
    return [
        Timing(task, way, statistics.median(t), min(t), max(t), statistics.median(t) / first)
        for way, t in times.items()
    ]


def forward(model: Callable, *inputs: Any) -> None:
    """Forward pass without gradients."""
    with torch.inference_mode():
        model(*inputs)


def training_step(
    model: torch.nn.Module,
    loss: Callable[[Any], torch.Tensor],
    *inputs: Any,
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> Callable[[], None]:
    """A training step: forward pass and loss in the context ``precision``; backward pass and optimizer outside."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with precision():
            total = loss(model(*inputs))
        total.backward()
        optimizer.step()

    return step


def synchronize(device: str) -> None:
    """Wait for a GPU; kernels run asynchronously."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
