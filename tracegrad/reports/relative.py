"""Relative changes between two arms that are trained with the same seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracegrad.errors import TraceGradError

LEVEL, POWER = 0.95, 0.8


@dataclass(frozen=True)
class RelativeChange:
    """Relative change of an error from one arm to another, as a fraction: -0.2 means 20 % smaller.

    With the ratios r of the errors of each seed and x the standard error of the mean of ln r:

    Attributes:
        by_seed: r - 1 of each seed.
        mean: exp(mean ln r) - 1, the change of the geometric mean.
        low, high: Student's 95 % confidence interval of the mean; None for one seed.
        detectable: the smallest reduction (a positive fraction) that a study of as many seeds would show in four of
            five repetitions, 1 - exp(-(t_0.975 + t_0.8) x); None for one seed.
    """

    by_seed: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    detectable: float | None

    @property
    def finding(self) -> str:
        """What the interval shows about the first arm."""
        if self.low is None or self.high is None:
            return "one seed"
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if self.high < 0 else "worse"


def relative_change(errors: Sequence[float], references: Sequence[float]) -> RelativeChange:
    """Relative change of ``errors`` against ``references``; both have one value for each seed, in the same order.

    Raises:
        TraceGradError: there are no errors, their numbers differ, or one is not finite and positive.
    """
    from scipy.special import stdtrit  # here: it takes long to import

    if len(errors) != len(references) or not errors:
        raise TraceGradError(
            f"a relative change needs two errors for each seed, there are {len(errors)} and {len(references)}"
        )
    if not all(0 < x < math.inf for x in (*errors, *references)):
        raise TraceGradError("a relative change needs errors that are finite and above 0")
    logs = np.log(np.asarray(errors, dtype=float) / np.asarray(references, dtype=float))
    mean, count = float(logs.mean()), len(logs)
    by_seed = tuple(np.expm1(logs).tolist())
    if count == 1:
        return RelativeChange(by_seed, math.expm1(mean), None, None, None)
    standard_error = float(logs.std(ddof=1)) / math.sqrt(count)
    level, power = (float(stdtrit(count - 1, p)) for p in ((1 + LEVEL) / 2, POWER))
    return RelativeChange(
        by_seed,
        math.expm1(mean),
        math.expm1(mean - level * standard_error),
        math.expm1(mean + level * standard_error),
        -math.expm1(-(level + power) * standard_error),
    )
