"""Ways to do a task against each other: time, memory, operations."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.memory import peak_bytes
from benchmarks.products import product_gflop
from benchmarks.timing import Timing, measure

MIB = 2**20


def compare(task: str, ways: Mapping[str, Callable[[], object]], repeats: int, device: str) -> list[Timing]:
    """`measure` with the peak memory and the operations of each way, which are also its rounds to warm up."""
    gflop = {way: product_gflop(call) for way, call in ways.items()}
    peaks = {way: peak_bytes(call, device) / MIB for way, call in ways.items()}
    first = max(next(iter(peaks.values())), 1 / MIB)
    return [
        replace(t, peak=peaks[t.way], relative_peak=peaks[t.way] / first, gflop=gflop[t.way])
        for t in measure(task, ways, repeats, device, warm=False)
    ]
