"""The operator of the activation of small networks: y = outer * (log(1 + exp(inner * x)) - log 2).

Both factors are normalisations of the matrix products before and after the activation.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from tracegrad.ops.gpu import kernel
from tracegrad.ops.operator import Operator

LOG_2 = math.log(2)
LINEAR = 20.0  # beyond, torch's softplus is the identity
BLOCK = 512  # numbers of a Triton program


def shifted_softplus(x: Float[Tensor, "*n"], inner: float = 1.0, outer: float = 1.0) -> Float[Tensor, "*n"]:
    """outer * (log(1 + exp(inner * x)) - log 2)."""
    return SHIFTED_SOFTPLUS(x, inner, outer)


def _plain(x: Tensor, inner: float, outer: float) -> Tensor:
    return (softplus(x * inner) - LOG_2) * outer


def _check(x: Tensor, inner: float, outer: float) -> None:
    """Every shape fits."""


def _on_cpu(x: Tensor, inner: float, outer: float) -> Tensor:
    return softplus(x * inner).sub_(LOG_2).mul_(outer)


def _gradient_on_cpu(
    gradients: Sequence[Tensor], x: Tensor, inner: float, outer: float, needed: Sequence[bool]
) -> list[Tensor]:
    y = x * inner
    slope = torch.where(y > LINEAR, 1.0, y.sigmoid())
    return [slope.mul_(gradients[0]).mul_(inner * outer)]


SOURCE = """
def activation(
    X, G, RESULT, size_count, INNER: tl.constexpr, OUTER: tl.constexpr, LOG_2: tl.constexpr, LINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < size_count
    x = tl.load(X + at, mask=here, other=0.0) * INNER
    small = tl.where(x > LINEAR, 0.0, x)
    e = tl.exp(small)
    if G is None:
        y = (tl.where(x > LINEAR, x, tl.log(1.0 + e)) - LOG_2) * OUTER
    else:
        slope = tl.where(x > LINEAR, 1.0, e / (1.0 + e))
        y = slope * tl.load(G + at, mask=here, other=0.0) * (INNER * OUTER)
    tl.store(RESULT + at, y, mask=here)
"""


def _by_triton(x: Tensor, gradient: Tensor | None, inner: float, outer: float) -> Tensor:
    result = x.new_empty(x.shape)
    if x.numel():
        kernel(SOURCE, "activation")[(-(-x.numel() // BLOCK),)](
            *(x.contiguous(), gradient if gradient is None else gradient.contiguous(), result),
            x.numel(),
            # As constants these keep the precision of Python; as arguments they would be float32.
            INNER=inner,
            OUTER=outer,
            LOG_2=LOG_2,
            LINEAR=LINEAR,
            BLOCK=BLOCK,
        )
    return result


def _on_gpu(x: Tensor, inner: float, outer: float) -> Tensor:
    return _by_triton(x, None, inner, outer)


def _gradient_on_gpu(
    gradients: Sequence[Tensor], x: Tensor, inner: float, outer: float, needed: Sequence[bool]
) -> list[Tensor]:
    return [_by_triton(x, gradients[0], inner, outer)]


SHIFTED_SOFTPLUS = Operator(
    "shifted_softplus",
    "Tensor x, float inner, float outer",
    _plain,
    lambda x, inner, outer: x.new_empty(x.shape),
    check=_check,
)
SHIFTED_SOFTPLUS.register("CPU", _on_cpu, _gradient_on_cpu)
SHIFTED_SOFTPLUS.register("CUDA", _on_gpu, _gradient_on_gpu)
