"""The train command with an end by a signal after a chosen step.

`python -m tests.experiments.killed_train STEP SIGNAL override ...`: the signal comes after the optimizer's step and
before anything that follows it; STEP 0 sends none. With LIMIT_FILE_BYTES in the environment no file may grow beyond
that.
"""

import os
import resource
import signal
import sys

from experiments.train import main
from tracegrad.training.module import HamiltonianModule


def on_train_batch_end(self, outputs, batch, batch_idx: int) -> None:
    if self.global_step == step:
        os.kill(os.getpid(), number)


step, number = int(sys.argv[1]), signal.Signals[sys.argv[2]]
sys.argv = ["train.py", *sys.argv[3:]]
HamiltonianModule.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]
if limit := os.environ.get("LIMIT_FILE_BYTES"):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
main()
