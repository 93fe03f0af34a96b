"""Peak memory of a call in addition to what was allocated before it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

# On the CPU the profiler records every allocation of torch: exact, reproducible, and with the tensors of compiled
# kernels. The resident memory of the process would be less precise, because the system's allocator keeps memory of
# earlier calls, which may or may not be reused. In a new process both agree (363 and 349 MiB for the forward pass of
# plain QHNet). Internal buffers of matrix libraries are not counted.


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Peak of the bytes that a call allocates; call it once before, so that permanent allocations exist already."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    allocations = [event for event in events if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(allocations, key=lambda event: event.start_ns()):
        now += event.nbytes()  # negative where memory is freed
        most = max(most, now)
    return most


@contextmanager
def _silent() -> Iterator[None]:
    """A block in which the profiler's own output on stderr, which does not pass through Python, is dropped."""
    sys.stderr.flush()
    original = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(original, 2)
        os.close(original)
