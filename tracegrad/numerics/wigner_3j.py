"""Real Wigner 3j symbols in the signs of today's e3nn, and in those of e3nn 0.3.5."""

from functools import lru_cache

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from tracegrad.errors import ConfigError

# Degrees whose table in e3nn 0.3.5 is the negative of today's, up to degree 6.
_NEGATIVE_IN_LEGACY = frozenset(
    tuple(map(int, digits))
    for digits in (
        *("122", "133", "144", "155", "166", "212", "221", "313", "331", "346", "364", "414", "436", "441"),
        *("445", "454", "456", "463", "465", "515", "544", "546", "551", "555", "564", "566", "616", "634"),
        *("643", "645", "654", "656", "661", "665"),
    )
)


@lru_cache(maxsize=512)
@torch.inference_mode(False)  # a table made in inference mode must work in training, too
def wigner_3j(l1: int, l2: int, l3: int, legacy: bool = False) -> Float[Tensor, "m1 m2 m3"]:
    """Real Wigner 3j symbols with unit Frobenius norm (float64, signs of e3nn >= 0.5.1).

    The table is cached: do not write into it. ``legacy`` gives the signs of e3nn 0.3.5, known up to degree 6.

    Raises:
        ConfigError: ``legacy`` with a degree above 6.
    """
    if legacy and max(l1, l2, l3) > 6:
        raise ConfigError(f"the signs of e3nn 0.3.5 are known up to degree 6, not for {(l1, l2, l3)}")
    table = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
    return -table if legacy and (l1, l2, l3) in _NEGATIVE_IN_LEGACY else table
