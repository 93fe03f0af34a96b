"""The best checkpoint of a run, also of one that has moved to another folder."""

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` for scores that may not be finite and for run directories that may move.

    Lightning's own takes any first score as the best one, NaN, too; and it forgets the score where the directory has
    another place than before, and then replaces the best checkpoint by a worse one.
    """

    def check_monitor_top_k(self, trainer: lightning.Trainer, current: Tensor | None = None) -> bool:
        if current is not None and not torch.isfinite(current):
            return False
        return super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = ("best_model_path", "last_model_path", "kth_best_model_path")
        state = state_dict | {"dirpath": self.dirpath} | {key: moved(state_dict[key]) for key in paths}
        state["best_k_models"] = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state)
