"""A Python that has imported what the commands need, and forks a process for each command that it is asked for.

Importing torch, Lightning and the rest takes longer than the training of a test; here it happens once. The processes
are as real as others: they can be killed, and they share nothing. `tests.forked` talks to it.

Requests are lines of JSON on the standard input. One with "main" (a module) starts a process and is answered with its
number; one with "wait" (that number) is answered with the exit status, or with null once "seconds" are over.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from itertools import product
from typing import Any, NoReturn

from lightning.pytorch.utilities import rank_zero_only

MODULES = (
    "experiments.settings.configuration",
    "experiments.settings.entry",
    "experiments.training.dry_run",
    "experiments.training.runs",
    "tracegrad.reports.comparison",
    "tracegrad.reports.terminal",
    "tracegrad.backbones.qhnet",
    "tracegrad.backbones.deeph_e3",
    "callbacks.dft_acceleration",
    "callbacks.final_validation",
    "callbacks.orbital_metrics",
    "callbacks.progress",
    "callbacks.seeding",
    "callbacks.test_report",
    "pyscf.dft",
    "matplotlib.pyplot",
)


def requests() -> dict[str, Any]:
    """Answer requests until one starts a process; returns, in that process, the request."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = status(request["wait"], request["seconds"])
        else:
            answer = os.fork()
            if not answer:
                return request
        print(json.dumps(answer), flush=True)
    sys.exit()


def status(process: int, seconds: float) -> int | None:
    """Exit status of a process as `subprocess` gives it; None where it is still running after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        ended, state = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(state)
        if time.monotonic() >= end:
            return None
        time.sleep(0.02)


def become(request: dict[str, Any]) -> None:
    """Make this process what a new Python would be: its input and output, environment, folder and arguments."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        target = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, number)
        os.close(target)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
    ):  # the tests themselves may run under nohup or in the background
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder for folder in folders if folder and folder not in sys.path]
    # Lightning reads it when it is imported.
    rank_zero_only.rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    sys.argv = [request["main"], *request["arguments"]]


def prepare() -> None:
    """Import, and fill the caches that every training fills first: Clebsch-Gordan tables and settings."""
    for module in MODULES:
        importlib.import_module(module)
    from experiments.settings.configuration import composed
    from tracegrad.numerics.wigner_3j import wigner_3j

    for experiment in ("demo", "demo_crystals"):
        composed("train", [f"experiment={experiment}", "threads=1"])
    for l1, l2 in product(range(5), repeat=2):
        for l3 in range(abs(l1 - l2), min(l1 + l2, 5) + 1):
            wigner_3j(l1, l2, l3)


def leave(code: object) -> NoReturn:
    """End as `sys.exit(code)` does, but without taking all modules apart, which takes two seconds after a fork."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    prepare()
    request = requests()
    become(request)
    try:
        runpy.run_module(request["main"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        leave(end.code)
    leave(0)
