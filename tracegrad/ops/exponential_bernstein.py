"""The operator of exponential Bernstein polynomials with a smooth cutoff, as in PhiSNet and QHNet.

    b_v(r) = f_cut(r) binom(K-1, v) exp(-a r)^(K-1-v) (1 - exp(-a r))^v for v = 0 .. K - 1, with a = softplus(alpha)

and f_cut(r) = exp(-r^2 / ((c - r)(c + r))) inside the cutoff c, 0 outside.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from tracegrad.numerics.constants import Constant
from tracegrad.ops import native
from tracegrad.ops.gpu import kernel, next_power_of_2
from tracegrad.ops.operator import Operator
from tracegrad.ops.shapes import check_shapes, size

BLOCK = 32  # distances of a Triton program
FUNCTIONS = (native.Function("forward", "pp" + "pddiii"), native.Function("backward", "pppp" + "pddiii"))


def exponential_bernstein(
    r: Float[Tensor, " n"], alpha: Float[Tensor, ""], cutoff: float, count: int
) -> Float[Tensor, "n count"]:
    """K = ``count`` functions of each distance."""
    return EXPONENTIAL_BERNSTEIN(r, alpha, cutoff, count)


@lru_cache(maxsize=16)
def _tables(count: int) -> tuple[Constant, Constant]:
    """v and log binom(K - 1, v)."""
    binomials = [math.log(math.comb(count - 1, k)) for k in range(count)]
    return Constant(torch.arange(count)), Constant(torch.tensor(binomials, dtype=torch.float64))


def _plain(r: Tensor, alpha: Tensor, cutoff: float, count: int) -> Tensor:
    v, log_binomial = (table(r) for table in _tables(count))
    decay = (softplus(alpha) * r)[:, None]
    log_b = log_binomial - (count - 1 - v) * decay + v * torch.log(-torch.expm1(-decay))
    inside = r < cutoff
    safe = torch.where(inside, r, 0.0)
    f_cut = torch.exp(-safe.square() / ((cutoff - safe) * (cutoff + safe)))
    return torch.where(inside, f_cut, 0.0)[:, None] * log_b.exp()


def _outputs(r: Tensor, alpha: Tensor, cutoff: float, count: int) -> Tensor:
    return r.new_empty(r.shape[0], count)


def _check(r: Tensor, alpha: Tensor, cutoff: float, count: int) -> None:
    check_shapes("exponential Bernstein polynomials", r=(r, (size(r, 0),)), alpha=(alpha, ()))


def _by_kernel(
    name: str, r: Tensor, alpha: Tensor, cutoff: float, count: int, tensors: Sequence[Tensor]
) -> bool:
    library = native.file_library("exponential_bernstein.cpp", r.dtype, *FUNCTIONS)
    if library is None:
        return False
    log_binomial = _tables(count)[1](r)
    addresses = [native.pointer(x) for x in (*tensors, log_binomial)]

    def share(first: int, last: int) -> None:
        getattr(library, name)(*addresses, float(softplus(alpha)), cutoff, count, first, last)

    native.in_threads(share, len(r), 40 * len(r) * count)
    return True


def _on_cpu(r: Tensor, alpha: Tensor, cutoff: float, count: int) -> Tensor | None:
    out = _outputs(r, alpha, cutoff, count)
    return out if _by_kernel("forward", r, alpha, cutoff, count, (r.contiguous(), out)) else None


def _gradient_on_cpu(
    gradients: Sequence[Tensor],
    r: Tensor,
    alpha: Tensor,
    cutoff: float,
    count: int,
    needed: Sequence[bool],
) -> list[Tensor] | None:
    of_r, of_decay = torch.empty_like(r), torch.empty_like(r)
    tensors = (gradients[0].contiguous(), r.contiguous(), of_r, of_decay)
    if not _by_kernel("backward", r, alpha, cutoff, count, tensors):
        return None
    return _needed(of_r, of_decay, alpha, needed)


def _needed(of_r: Tensor, of_decay: Tensor, alpha: Tensor, needed: Sequence[bool]) -> list[Tensor]:
    """The gradients of r and alpha from those of r and, for each distance, of the decay softplus(alpha)."""
    return [*([of_r] if needed[0] else []), *([of_decay.sum() * alpha.sigmoid()] if needed[1] else [])]


# A tile [distances, functions]. Distances outside the cutoff are replaced by half of it.
SOURCE = """
def bernstein(
    R, ALPHA, LOG_BINOMIAL, G, B, OF_R, OF_DECAY, n_count, CUTOFF: tl.constexpr, COUNT: tl.constexpr,
    BLOCK: tl.constexpr, V_BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.arange(0, V_BLOCK)
    here, known = i < n_count, v < COUNT
    alpha = tl.load(ALPHA + 0 * i)
    a = tl.where(alpha > 20.0, alpha, tl.log(1.0 + tl.exp(tl.minimum(alpha, 20.0))))
    r = tl.load(R + i, mask=here, other=0.0)
    inside = (r < CUTOFF) & here
    r = tl.where(inside, r, 0.5 * CUTOFF)
    decay = a * r
    rest = 1.0 - tl.exp(-decay)
    # The series keeps the digits that the difference from 1 loses at small distances.
    series = 0.0 * decay + 1.0
    for k in tl.static_range(8):
        series = 1.0 - decay / (9 - k) * series
    rest = tl.where(decay < 0.05, decay * series, rest)
    gap = (CUTOFF - r) * (CUTOFF + r)
    power = v.to(R.dtype.element_ty)[None, :]
    log_b = tl.load(LOG_BINOMIAL + v, mask=known, other=0.0)[None, :] - (COUNT - 1 - power) * decay[:, None]
    log_b += power * tl.log(rest)[:, None] - (r * r / gap)[:, None]
    both = inside[:, None] & known[None, :]
    b = tl.where(both, tl.exp(tl.where(both, log_b, 0.0)), 0.0)
    place = i[:, None] * COUNT + v[None, :]
    if G is None:
        tl.store(B + place, b, mask=here[:, None] & known[None, :])
    else:
        part = b * tl.load(G + place, mask=both, other=0.0)
        slope = (1.0 - rest) / rest
        of_decay = tl.sum(part * (power * slope[:, None] - (COUNT - 1 - power)), 1)
        of_r = of_decay * a - tl.sum(part, 1) * 2.0 * r * CUTOFF * CUTOFF / (gap * gap)
        tl.store(OF_R + i, of_r, mask=here)
        tl.store(OF_DECAY + i, of_decay * r, mask=here)
"""


def _by_triton(
    r: Tensor,
    alpha: Tensor,
    cutoff: float,
    count: int,
    *others: Tensor | None,
) -> None:
    if len(r):
        kernel(SOURCE, "bernstein")[(-(-len(r) // BLOCK),)](
            *(r.contiguous(), alpha, _tables(count)[1](r), *others, len(r)),
            CUTOFF=float(cutoff),
            COUNT=count,
            BLOCK=BLOCK,
            V_BLOCK=next_power_of_2(count),
        )


def _on_gpu(r: Tensor, alpha: Tensor, cutoff: float, count: int) -> Tensor:
    out = _outputs(r, alpha, cutoff, count)
    _by_triton(r, alpha, cutoff, count, None, out, None, None)
    return out


def _gradient_on_gpu(
    gradients: Sequence[Tensor],
    r: Tensor,
    alpha: Tensor,
    cutoff: float,
    count: int,
    needed: Sequence[bool],
) -> list[Tensor]:
    of_r, of_decay = torch.empty_like(r), torch.empty_like(r)
    _by_triton(r, alpha, cutoff, count, gradients[0].contiguous(), None, of_r, of_decay)
    return _needed(of_r, of_decay, alpha, needed)


EXPONENTIAL_BERNSTEIN = Operator(
    "exponential_bernstein",
    "Tensor r, Tensor alpha, float cutoff, int count",
    _plain,
    _outputs,
    check=_check,
)
EXPONENTIAL_BERNSTEIN.register("CPU", _on_cpu, _gradient_on_cpu)
EXPONENTIAL_BERNSTEIN.register("CUDA", _on_gpu, _gradient_on_gpu)
