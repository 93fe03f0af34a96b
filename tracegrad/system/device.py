"""Name of a device in records of times."""

import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")  # Linux


def device_name(device: torch.device) -> str:
    """Model of a GPU, or model of the CPU with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{_cpu()} ({threads} thread{'s' if threads > 1 else ''})"


def _cpu() -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "CPU"
