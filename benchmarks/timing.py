"""Times of alternatives, taken in turns so that other load on the machine falls on all of them."""

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
    """Seconds of one way to do a task, and what else was found out about it."""

    task: str
    way: str
    median: float
    lowest: float
    highest: float
    relative: float  # time divided by that of the first way of the task
    peak: float | None = None  # MiB that it takes at a time
    relative_peak: float | None = None
    gflop: float | None = None  # 1e9 floating-point operations of its matrix products
    floor: float | None = None  # seconds that these take at the rate of this machine


def measure(
    task: str, ways: Mapping[str, Callable[[], object]], repeats: int, device: str, *, warm: bool = True
) -> list[Timing]:
    """Median and spread of each way: a round to warm up, if it is wanted, then ``repeats`` rounds in turns."""
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
    """Prediction without gradients."""
    with torch.inference_mode():
        model(*inputs)


def training_step(
    model: torch.nn.Module,
    loss: Callable[[Any], torch.Tensor],
    *inputs: Any,
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> Callable[[], None]:
    """Forward and loss of the output in the context of a precision, backward and an optimizer step outside of it."""
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
    """Name of the processor as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
