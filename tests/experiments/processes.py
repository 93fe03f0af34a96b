"""The train command as one process or as the ranks of a distributed training."""

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests import forked

ROOT = Path(__file__).parents[2]
MAIN = "tests.experiments.killed_train"
# A narrow QHNet, six steps an epoch, one checkpoint every two steps.
TINY = [
    *(
        "experiment=demo",
        "callbacks=default",
        "data.train_size=44",
        "data.fractions=[.8,.02,.18]",
        "threads=1",
    ),
    *(
        "model.backbone.channels=4",
        "model.backbone.bottleneck=4",
        "tracegrad.channels=8",
        "tracegrad.hidden=8",
    ),
    *(
        "trainer.max_steps=15",
        "trainer.log_every_n_steps=1",
        "trainer.enable_progress_bar=false",
        "test=false",
    ),
    *("callbacks.last.steps=2", "logger.wandb.mode=disabled"),
]
# The figures of a test and the timing of inference take longer than all the rest of a small run.
PLAIN = ["callbacks.test_report.figure_samples=0", "callbacks.inference_time.samples=0"]
# Rounding that does not depend on where memory lies, which differs between processes (docs/runs.md).
SAME_ROUNDING = {"MKL_CBWR": "COMPATIBLE", "TRACEGRAD_NATIVE": "0"}
DOUBLE = ["trainer.precision=64-true", "data.dtype=float64"]


def train(
    directory: Path,
    *overrides: str,
    ranks: int = 1,
    stop_after: int = 0,
    number: signal.Signals = signal.SIGKILL,
    settings: Sequence[str] = TINY,
    environment: dict[str, str] | None = None,
) -> list[subprocess.CompletedProcess]:
    """Run the command as ``ranks`` processes, which a signal ends after step ``stop_after`` (0: none)."""
    arguments = [*settings, f"run_dir={directory}", *overrides]
    shared = {**os.environ, **(environment or {})}
    if ranks > 1:
        arguments += ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={ranks}"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    processes = [
        forked.start(
            MAIN,
            *(str(stop_after), number.name, *arguments),
            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else shared,
        )
        for rank in range(ranks)
    ]
    return [process.wait() for process in processes]


def finished(*args, **kwargs) -> str:
    """The same for a training that must reach its end; returns what the first rank printed."""
    done = train(*args, **kwargs)
    assert [process.returncode for process in done] == [0] * len(done), "\n".join(p.stderr for p in done)
    return done[0].stdout
