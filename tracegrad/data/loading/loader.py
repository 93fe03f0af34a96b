"""A loader of training batches that can resume within an epoch."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from tracegrad.data.loading.sampler import TrainingBatches


class ResumableLoader(DataLoader):
    """A DataLoader over `TrainingBatches` whose state is the epoch and the number of its finished batches.

    Lightning saves the state in checkpoints and restores it before the first batch of a resumed run.
    ``between_steps`` is called after each batch, except the last one of an epoch, and before the next batch is
    loaded; a checkpoint that it saves is at the end of a step.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.done = 0
        self.between_steps: Callable[[], None] | None = None

    @property
    def batches(self) -> TrainingBatches:
        """The sampler of the batches."""
        assert isinstance(self.batch_sampler, TrainingBatches)
        return self.batch_sampler

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator starts when the first batch is requested: by then the epoch has been set.
        self.done = self.batches.start
        for i, batch in enumerate(super().__iter__()):
            if i and self.between_steps is not None:
                self.between_steps()
            self.done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.batches.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.set_epoch(state["epoch"])
        # After a finished epoch the next batches are those of the next epoch, from its first batch on.
        self.batches.start = self.done = state["done"] % len(self)
