"""A training for the tests of sweeps: does at once what mode= says, and notes its GPUs and its calls."""

import os
import signal
import sys
import time
from pathlib import Path

settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
directory = Path(settings["run_dir"].strip("'"))
mode = settings["mode"]
calls = directory / "calls"
with calls.open("a") as file:
    file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\n")
first = len(calls.read_text().splitlines()) == 1
print("step 5/10  epoch 0  val/h_mae 12.5 meV  3 s left", flush=True)


def saved(*_: object) -> None:
    (directory / "saved").touch()
    sys.exit(128 + signal.SIGTERM)


if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif mode == "wait":
    signal.signal(signal.SIGTERM, saved)
if mode in ("wait", "stubborn"):
    (directory / "ready").touch()
    while not (directory.parent / "go").exists():
        time.sleep(0.01)
elif mode == "crash" or (mode == "flaky" and first):
    sys.exit("Traceback (most recent call last):\nValueError: boom")
elif mode == "mistake":
    sys.exit("step 1/10\nerror: optim.lr is wrong\n")
elif mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif mode == "quiet":
    sys.exit(0)
print("step 10/10  epoch 1  val/h_mae 11.5 meV", flush=True)
(directory / "results.json").write_text("{}")
