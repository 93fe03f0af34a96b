"""A loader of training batches that goes on inside an epoch."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from tracegrad.data.loading.sampler import TrainingBatches


class ResumableLoader(DataLoader):
    """A DataLoader over `TrainingBatches` whose state is its place: the epoch and the batches of it that are done.

    Lightning puts the state into checkpoints and gives it back before the first batch of a run that goes on.
    ``between_steps`` is called when a batch is finished and before the next one is loaded; it may save a checkpoint,
    which then holds whole steps. It is not called after the last batch of an epoch.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.done = 0
        self.between_steps: Callable[[], None] | None = None

    @property
    def batches(self) -> TrainingBatches:
        """Where the batches come from."""
        assert isinstance(self.batch_sampler, TrainingBatches)
        return self.batch_sampler

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator starts when the first batch is wanted: the epoch has been set by then.
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
        # Of a finished epoch nothing is left: the next batches are those of the next one.
        self.batches.start = self.done = state["done"] % len(self)
