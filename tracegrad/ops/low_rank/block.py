"""The operator of a whole TraceGrad block with a low-rank W: z and v = sum_c dz_c/df.

The two linear maps of a low-rank W give 2 C numbers for every component of every item, 16 times the feature itself at
the sizes of the paper. Stored for all edges they would be most of the memory of a network. The forms take a chunk of
items through the whole block at a time, in memory that all chunks share, which is also faster when no gradient is
recorded. The backward pass computes the maps again, 2 of 14 matrix products; on a CPU that takes no longer than to
write and read what would be stored. On a GPU the plain form trains faster, and the forms are used where no gradient
is recorded or where memory is to be saved.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.low_rank import cpu, gpu
from tracegrad.ops.low_rank.encoder import StageTensors, derivatives, value_and_gradient
from tracegrad.ops.low_rank.terms import invariants_of, mapped_terms, narrow, pulled_terms, wide
from tracegrad.ops.matrix_product import linear, product
from tracegrad.ops.operator import Operator

# How many numbers the maps of one chunk may have. Larger chunks use the matrix products of s_nonlin better.
CPU_NUMBERS, LOW_MEMORY_CPU_NUMBERS, GPU_NUMBERS = 16_000_000, 4_000_000, 64_000_000
FIELDS = 4  # tensors of a stage of s_nonlin


def low_rank_block(
    feature: Sequence[Tensor],
    weights: Sequence[Tensor],
    stages: Sequence[StageTensors],
    scales: Sequence[float],
    rank: int,
    *,
    save_memory: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """z and v.

    Args:
        feature: f, one tensor [m, n, c] for each irrep.
        weights: both linear maps of each irrep, [c, 2 C rank].
        stages: of s_nonlin, from u to z; all with the same eps, and with a LayerNorm or no activation.
        scales: factor of the inner products of each irrep.
        rank: number of terms of each invariant.
        save_memory: take smaller chunks: less memory, 15 % more time. A GPU takes chunks only then.
    """
    encoder = [x for stage in stages for x in stage[:FIELDS]]
    z, *v = LOW_RANK_BLOCK(
        list(feature), list(weights), encoder, list(scales), stages[0].eps, rank, save_memory
    )
    return z, v


def _stages(encoder: Sequence[Tensor | None], eps: float) -> list[StageTensors]:
    stages = []
    for k in range(0, len(encoder), FIELDS):
        weight, bias, norm_weight, norm_bias = encoder[k : k + FIELDS]
        assert weight is not None
        stages.append(StageTensors(weight, bias, norm_weight, norm_bias, eps))
    return stages


def _plain(
    feature: Sequence[Tensor],
    weights: Sequence[Tensor],
    encoder: Sequence[Tensor | None],
    scales: Sequence[float],
    eps: float,
    rank: int,
    save_memory: bool,
) -> list[Tensor]:
    terms = mapped_terms(feature, weights)
    z, g = value_and_gradient(invariants_of(terms, scales, rank), _stages(encoder, eps))
    return [z, *pulled_terms(terms, weights, g, scales, rank)]


def _outputs(
    feature: Sequence[Tensor], weights: Sequence[Tensor], encoder: Sequence[Tensor | None], *_
) -> list[Tensor]:
    last = encoder[-FIELDS]
    assert last is not None
    z = feature[0].new_empty(feature[0].shape[1], last.shape[0])
    return [z, *(f.new_empty(f.shape) for f in feature)]


def _check(
    feature: Sequence[Tensor],
    weights: Sequence[Tensor],
    encoder: Sequence[Tensor | None],
    scales: Sequence[float],
    eps: float,
    rank: int,
    save_memory: bool,
) -> None:
    items, width = feature[0].shape[1] if feature[0].ndim == 3 else -1, weights[0].shape[-1]
    expected: list[tuple[int, ...]] = [
        (len(f), items, w.shape[0]) for f, w in zip(feature, weights, strict=False)
    ]
    expected += [(w.shape[0], width) for w in weights]
    inner = width // (2 * rank)
    for weight in encoder[::FIELDS]:
        assert weight is not None
        outer = weight.shape[0]
        expected += [(outer, inner), *[(outer,)] * (FIELDS - 1)]
        inner = outer
    given = [None if x is None else tuple(x.shape) for x in (*feature, *weights, *encoder)]
    fits = [x in (shape, None) for x, shape in zip(given, expected, strict=False)]
    dtypes = {x.dtype for x in (*feature, *weights, *encoder) if x is not None}
    if (
        not all(fits)
        or len(given) != len(expected)
        or not len(feature) == len(weights) == len(scales)
        or width % (2 * rank)
        or len(dtypes) > 1
    ):
        raise OperatorArgumentError(
            f"low-rank block: tensors of shapes {given} and {len(scales)} factors; of one dtype and of shapes "
            f"{expected} are needed"
        )


def _covers(
    feature: Sequence[Tensor], weights: Sequence[Tensor], encoder: Sequence[Tensor | None], *others
) -> bool:
    given = (*feature, *weights, *(x for x in encoder if x is not None))
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    return bool(others[-1]) or not recorded or feature[0].device.type == "cpu"


class _Chunks:
    """The linear maps of one chunk of items after another."""

    def __init__(
        self,
        feature: Sequence[Tensor],
        weights: Sequence[Tensor],
        scales: Sequence[float],
        rank: int,
        save_memory: bool,
    ):
        self.weights, self.scales, self.rank = weights, scales, rank
        on_cpu = feature[0].device.type == "cpu"
        self.kernels = cpu if on_cpu else gpu
        self.items, self.width = feature[0].shape[1], weights[0].shape[1]
        each = sum(map(len, feature)) * self.width
        budget = (LOW_MEMORY_CPU_NUMBERS if save_memory else CPU_NUMBERS) if on_cpu else GPU_NUMBERS
        self.size = -(-self.items // max(1, -(-self.items * each // budget))) or 1
        self.new = feature[0].new_empty
        self.sizes = [len(f) * self.size * self.width for f in feature]

    def __iter__(self) -> Iterator[slice]:
        for start in range(0, self.items, self.size):
            yield slice(start, min(start + self.size, self.items))

    def memory(self) -> list[Tensor]:
        """Memory for the terms of all irreps of one chunk."""
        return [self.new(size) for size in self.sizes]

    def mapped(self, feature: Sequence[Tensor], at: slice, memory: Sequence[Tensor]) -> list[Tensor]:
        """Terms of the items ``at``, written to ``memory``."""
        out = []
        for part, w, flat in zip(feature, self.weights, memory, strict=True):
            rows = _rows(part[:, at])
            terms = flat[: len(rows) * self.width].view(len(rows), -1)
            torch.mm(rows, w, out=terms)
            out.append(terms.view(len(part), -1, 2, self.width // 2))
        return out

    def inner(self, x: Sequence[Tensor], y: Sequence[Tensor] | None = None) -> list[Tensor]:
        """u of all irreps, and with y its derivative in the direction of y."""
        sums = self.new(1 if y is None else 2, x[0].shape[1], self.width // 2).zero_()
        self.kernels.add_inner(sums[0], None if y is None else sums[1], x, y, self.scales)
        return [narrow(u, self.rank) for u in sums]


def _rows(part: Tensor) -> Tensor:
    """A matrix with a row for each component of each item."""
    return part.reshape(-1, part.shape[2])


def _in_chunks(
    feature: Sequence[Tensor],
    weights: Sequence[Tensor],
    encoder: Sequence[Tensor | None],
    scales: Sequence[float],
    eps: float,
    rank: int,
    save_memory: bool,
) -> list[Tensor]:
    """The form of both devices."""
    stages = _stages(encoder, eps)
    z, *v = _outputs(feature, weights, encoder)
    chunks = _Chunks(feature, weights, scales, rank, save_memory)
    memory, scratch = chunks.memory(), chunks.new(max(chunks.sizes))
    for at in chunks:
        ab = chunks.mapped(feature, at, memory)
        (u,) = chunks.inner(ab)
        z[at], g = value_and_gradient(u, stages)
        g = wide(g, rank).contiguous()
        for x, out, w, scale in zip(ab, v, weights, scales, strict=True):
            exchanged = scratch[: x.numel()].view(x.shape)
            chunks.kernels.write_crossed([exchanged], None, [x], None, g, None, [scale])
            out[:, at] = linear(exchanged.view(-1, chunks.width), w).view(*x.shape[:2], -1)
    return [z, *v]


def _gradients_in_chunks(
    gradients: Sequence[Tensor],
    feature: Sequence[Tensor],
    weights: Sequence[Tensor],
    encoder: Sequence[Tensor | None],
    scales: Sequence[float],
    eps: float,
    rank: int,
    save_memory: bool,
    needed: Sequence[bool],
) -> list[Tensor]:
    """The gradient of both devices."""
    of_z, *of_v = gradients
    stages = _stages(encoder, eps)
    trained = needed[2 * len(feature) :]
    of_f = [f.new_empty(f.shape) for f in feature]
    of_w = [torch.zeros_like(w) for w in weights]
    of_p = [
        torch.zeros_like(p) if p is not None and flag else None
        for p, flag in zip(encoder, trained, strict=True)
    ]
    chunks = _Chunks(feature, weights, scales, rank, save_memory)
    memory_ab, memory_pq, scratch = chunks.memory(), chunks.memory(), chunks.new(2 * max(chunks.sizes))
    with torch.autocast(of_z.device.type, enabled=False):  # as in the forward pass
        for at in chunks:
            ab, pq = chunks.mapped(feature, at, memory_ab), chunks.mapped(of_v, at, memory_pq)
            u, of_g = chunks.inner(ab, pq)
            g, of_u, of_parameters = derivatives(u, stages, of_z[at], of_g, trained)
            for total, part in zip(of_p, of_parameters, strict=True):
                if total is not None and part is not None:
                    total += part
            g, of_u = (wide(x, rank).contiguous() for x in (g, of_u))
            for k, (x, y, w, scale) in enumerate(zip(ab, pq, weights, scales, strict=True)):
                # The inputs of the maps of v, and the gradients of a and b.
                both = scratch[: 2 * x.numel()].view(2, *x.shape)
                chunks.kernels.write_crossed([both[0]], [both[1]], [x], [y], g, of_u, [scale])
                of_f[k][:, at] = linear(both[1].view(-1, chunks.width), w).view(*x.shape[:2], -1)
                pair = torch.cat([_rows(of_v[k][:, at]), _rows(feature[k][:, at])])
                of_w[k] += product(pair.T, both.view(-1, chunks.width))
    made = zip((*of_f, *of_w, *of_p), needed, strict=True)
    return [x for x, flag in made if flag and x is not None]


LOW_RANK_BLOCK = Operator(
    "low_rank_block",
    "Tensor[] feature, Tensor[] weights, Tensor?[] encoder, float[] scales, float eps, int rank, bool save_memory",
    _plain,
    _outputs,
    check=_check,
    covers=_covers,
    results=None,
)
LOW_RANK_BLOCK.register("CPU", _in_chunks, _gradients_in_chunks)
LOW_RANK_BLOCK.register("CUDA", _in_chunks, _gradients_in_chunks)
