"""Peak memory of a call, beyond what stands in memory before it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

# On the CPU every allocation of torch's allocator is counted, as the profiler records it: to the byte, the same in
# every run, and with the tensors of compiled kernels. The resident set of a process that does one thing after another
# says less: memory that the system's allocator keeps of earlier calls hides the need of this one, or is in pieces too
# small for it. In a fresh process both agree (363 and 349 MiB for the forward of plain QHNet). Not counted is what
# matrix libraries keep for themselves.


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The most that a call has allocated at a time; call it once before, so that what stays is there."""
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
        now += event.nbytes()  # negative where memory is given back
        most = max(most, now)
    return most


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the profiler writes past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
