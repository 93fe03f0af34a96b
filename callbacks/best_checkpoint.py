"""The best checkpoint of a run, also of one that has moved to another folder."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` that keeps its best score where the run directory has another place than before.

    Lightning's own forgets the score then and replaces the best checkpoint by a worse one.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = ("best_model_path", "last_model_path", "kth_best_model_path")
        state = state_dict | {"dirpath": self.dirpath} | {key: moved(state_dict[key]) for key in paths}
        state["best_k_models"] = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state)
