"""Learning-rate schedules as factors of the peak rate."""

from dataclasses import dataclass

from tracegrad.errors import ConfigError


@dataclass(frozen=True)
class WarmupLinear:
    """Linear from 0 over ``warmup_steps``, then linear to ``final`` at ``total_steps``, then constant.

    Args:
        peak: highest learning rate.
        final: learning rate at and after ``total_steps``.
    """

    peak: float
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
        """Factor of ``peak`` for the given number of finished optimizer steps."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        left = max(0.0, (self.total_steps - step) / (self.total_steps - self.warmup_steps))
        floor = self.final / self.peak
        return floor + (1 - floor) * left
