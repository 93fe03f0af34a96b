"""Learning-rate schedules."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, MultiplicativeLR, ReduceLROnPlateau

from tracegrad.errors import ConfigError


@dataclass(frozen=True)
class Schedule(ABC):
    """Base class of the schedules.

    Args:
        peak: highest learning rate; the optimizer is built with it.
    """

    peak: float

    def __post_init__(self) -> None:
        if not self.peak > 0:
            raise ConfigError(f"optim.schedule.peak is {self.peak}; a learning rate above 0 is needed")

    @abstractmethod
    def scheduler(self, optimizer: Optimizer) -> dict[str, Any]:
        """Lightning's scheduler configuration for an optimizer."""


@dataclass(frozen=True)
class WarmupLinear(Schedule):
    """Linear from 0 over ``warmup_steps``, then linear to ``final`` at ``total_steps``, then constant.

    Args:
        peak: highest learning rate.
        final: learning rate at and after ``total_steps``.
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps until ``final`` is reached.
    """

    final: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.final <= self.peak or self.peak == 0:
            raise ConfigError(
                f"optim.schedule.final is {self.final} and optim.schedule.peak is {self.peak}; "
                "a learning rate falls from peak > 0 to final >= 0"
            )
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ConfigError(
                f"optim.schedule.warmup_steps is {self.warmup_steps} and "
                f"optim.schedule.total_steps is {self.total_steps}; "
                "the warm-up must end before the schedule"
            )

    def __call__(self, step: int) -> float:
        """Learning rate over ``peak`` after ``step`` optimizer steps."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        left = max(0.0, (self.total_steps - step) / (self.total_steps - self.warmup_steps))
        floor = self.final / self.peak
        return floor + (1 - floor) * left

    def scheduler(self, optimizer: Optimizer) -> dict[str, Any]:
        return {"scheduler": LambdaLR(optimizer, self), "interval": "step", "name": "lr"}


@dataclass(frozen=True)
class SlipperySlope(Schedule):
    """Constant up to and including epoch ``start``, then multiplied by ``decay`` every ``interval`` epochs.

    Epochs are counted from 0, so that ``start + 1`` epochs run at the peak. A drop multiplies the current rate of the
    optimizer, so that changes by callbacks persist. Named and used by the DeepH-E3 code.
    """

    start: int = 1400
    interval: int = 200
    decay: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start < 0 or self.interval < 1:
            raise ConfigError(
                f"optim.schedule.start is {self.start} and optim.schedule.interval is {self.interval}; "
                "the first drop needs start >= 0, the others an interval of at least 1 epoch"
            )
        if not 0 < self.decay < 1:
            raise ConfigError(f"optim.schedule.decay is {self.decay}; choose a factor between 0 and 1")

    def drop(self, epochs: int) -> float:
        """Factor that multiplies the rate when ``epochs`` epochs have finished."""
        since = epochs - 1 - self.start
        return self.decay if since >= 0 and since % self.interval == 0 else 1.0

    def scheduler(self, optimizer: Optimizer) -> dict[str, Any]:
        def factor(epochs: int) -> float:  # a bound method would add the attributes of self to checkpoints
            return self.drop(epochs)

        return {"scheduler": MultiplicativeLR(optimizer, factor), "interval": "epoch", "name": "lr"}


@dataclass(frozen=True)
class Plateau(Schedule):
    """Multiplied by ``factor`` after more than ``patience`` validations without progress of the smoothed loss.

    `callbacks.smoothing.SmoothedLoss` logs the smoothed loss, ``val/loss_smooth``.

    Args:
        peak: highest learning rate.
        factor: factor of each drop.
        patience: number of validations without progress that are tolerated.
        cooldown: number of validations after a drop that are not counted.
        threshold: a loss below ``1 - threshold`` times the lowest one is progress.
    """

    factor: float = 0.5
    patience: int = 120
    cooldown: int = 40
    threshold: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < 1 or not 0 <= self.threshold < 1:
            raise ConfigError(
                f"optim.schedule.factor is {self.factor} and optim.schedule.threshold is {self.threshold}; "
                "both are fractions: 0 < factor < 1 and 0 <= threshold < 1"
            )
        if self.patience < 0 or self.cooldown < 0:
            raise ConfigError(
                f"optim.schedule.patience is {self.patience} and optim.schedule.cooldown is {self.cooldown}; "
                "they are numbers of validations, 0 or more"
            )

    def scheduler(self, optimizer: Optimizer) -> dict[str, Any]:
        scheduler = ReduceLROnPlateau(
            optimizer,
            factor=self.factor,
            patience=self.patience,
            cooldown=self.cooldown,
            threshold=self.threshold,
        )
        return {"scheduler": scheduler, "interval": "epoch", "name": "lr", "monitor": "val/loss_smooth"}
