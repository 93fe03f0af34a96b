"""Processes of tests: a Python that lacks some packages, and the workers that a test has started."""

import os
import sysconfig
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]


def without(folder: Path, *packages: str) -> dict[str, str]:
    """The environment of a `python -S` that finds this checkout and what is installed, but for some packages.

    Neither their modules nor their metadata are there.
    """
    folder.mkdir(parents=True)
    beginnings = tuple(f"{name}{end}" for name in packages for end in ("-", "_", ".")) + tuple(
        f"__editable__{name}" for name in packages
    )
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        name = (
            entry.name.lower()
            .replace("__editable___", "__editable__")
            .replace("__editable__.", "__editable__")
        )
        if name not in packages and not name.startswith(beginnings):
            (folder / entry.name).symlink_to(entry)
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}


def workers() -> list[int]:
    """Process numbers of the living workers of this process (`tracegrad.system.workers`)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if (
                int(parent) == os.getpid()
                and state != "Z"
                and b"serve(" in (path.parent / "cmdline").read_bytes()
            ):
                found.append(int(path.parent.name))
    return found
