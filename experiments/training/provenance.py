"""Provenance of a result: code, command, versions and hardware."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tracegrad import __version__

PACKAGES = (
    "torch",
    "lightning",
    "e3nn",
    "torch-geometric",
    "torchmetrics",
    "pyscf",
    "numpy",
    "h5py",
    "hydra-core",
)


def git_revision() -> str:
    """Commit of the source tree, with ``-dirty`` when it has changes; "unknown" outside a checkout."""
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():  # an installed package may lie in a repository of the user
        return "unknown"
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=source,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def package_versions() -> dict[str, str]:
    """Versions of TraceGrad and of those of `PACKAGES` that are installed."""
    versions = {"tracegrad": __version__}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def provenance() -> dict[str, Any]:
    """Revision, command, time, versions and hardware, as plain data."""
    return {
        "command": ["tracegrad", Path(sys.argv[0]).stem, *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }
