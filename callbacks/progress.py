"""Progress of a run: a bar on a terminal, one line per validation elsewhere."""

import sys
import time

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class ProgressLines(Callback):
    """Prints step, error and remaining time after each validation, and the start of a test; for log files."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()
        self._first = trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        step, last = trainer.global_step, trainer.estimated_stepping_batches
        line = f"step {step}/{last}  epoch {trainer.current_epoch}"
        if "val/h_mae" in trainer.callback_metrics:
            line += f"  val/h_mae {trainer.callback_metrics['val/h_mae'].item():.4g} meV"
        done = step - self._first
        if done:
            left = (last - step) * (time.monotonic() - self._start) / done
            line += f"  {left:.0f} s left"
        print(line, flush=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print("test: predictions, then tables and figures", flush=True)


def progress() -> Callback:
    """A progress bar if the standard output is a terminal, else `ProgressLines`."""
    return RichProgressBar() if sys.stdout.isatty() else ProgressLines()
