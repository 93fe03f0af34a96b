"""Time, memory and operations of several implementations of a task."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.memory import peak_bytes
from benchmarks.products import product_gflop
from benchmarks.timing import Timing, measure

MIB = 2**20


def compare(task: str, ways: Mapping[str, Callable[[], object]], repeats: int, device: str) -> list[Timing]:
    """`measure`, with peak memory and operations of each way; these two measurements also warm it up."""
    gflop = {way: product_gflop(call) for way, call in ways.items()}
    peaks = {way: peak_bytes(call, device) / MIB for way, call in ways.items()}
    first = max(next(iter(peaks.values())), 1 / MIB)
    return [
        replace(t, peak=peaks[t.way], relative_peak=peaks[t.way] / first, gflop=gflop[t.way])
        for t in measure(task, ways, repeats, device, warm=False)
    ]
