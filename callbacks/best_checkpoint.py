"""The best checkpoint of a run, also after its directory has been moved."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` for scores that may not be finite and for run directories that may be moved.

    Lightning's class accepts any first score as the best one, even NaN. And if the directory has been moved, it
    forgets the best score and later replaces the best checkpoint by a worse one.
    """

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        if current is not None and not torch.isfinite(current):
            return False
        return super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))

        def present_path(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = ("best_model_path", "last_model_path", "kth_best_model_path")
        state = state_dict | {"dirpath": self.dirpath} | {key: present_path(state_dict[key]) for key in paths}
        state["best_k_models"] = {
            present_path(path): score for path, score in state_dict["best_k_models"].items()
        }
        super().load_state_dict(state)
