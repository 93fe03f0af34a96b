"""z and v of a TraceGrad block with a low-rank W, computed for chunks of items.

The two linear maps of a low-rank W give 2 C numbers for every component of every item, 16 times the feature itself at
the sizes of the paper. Stored for all edges they would be most of the memory of a network. Here a chunk of items
passes through the whole block at a time, in memory that all chunks share, which is also faster when no gradient is
recorded. The backward pass computes the maps again, 2 of 14 matrix products; on a CPU that takes no longer than to
write and read what would be stored.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from tracegrad.nn.interface import ComponentFirstFeature
from tracegrad.nn.invariant.gram import LowRankInvariants
from tracegrad.nn.invariant.invariant_mlp import InvariantMLP
from tracegrad.nn.invariant.term_kernel import (
    Terms,
    add_inner,
    add_inner_with_derivative,
    crossed,
    crossed_with_sum,
)
from tracegrad.ops import native
from tracegrad.ops.matrix_product import linear, product
from tracegrad.ops.plain_gradients import plain_gradients

# How many numbers the maps of one chunk may have. Larger chunks use the matrix products of s_nonlin better.
CPU_NUMBERS, LOW_MEMORY_CPU_NUMBERS, GPU_NUMBERS = 16_000_000, 4_000_000, 64_000_000


def low_rank_block(
    invariants: LowRankInvariants,
    s_nonlin: InvariantMLP,
    feature: ComponentFirstFeature,
    *,
    save_memory: bool = False,
) -> tuple[Tensor, ComponentFirstFeature]:
    """z and v as `TraceGradBlock` defines them.

    Args:
        invariants: u and its Jacobian.
        s_nonlin: from u to z.
        feature: f, one tensor for each irrep.
        save_memory: on a CPU take smaller chunks: less memory, 15 % more time.
    """
    call = _LowRankCall(invariants, s_nonlin, LOW_MEMORY_CPU_NUMBERS if save_memory else CPU_NUMBERS)
    inputs = [*feature, *call.plain.parameters()]
    if not feature[0].shape[1]:
        return call.whole(inputs)
    z, *v = _Block.apply(call, *inputs)
    return z, v


class _Encoder(nn.Module):
    """s_nonlin and its gradient."""

    def __init__(self, s_nonlin: InvariantMLP):
        super().__init__()
        self.s_nonlin = s_nonlin

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.s_nonlin.value_and_gradient(u)


class _Plain(nn.Module):
    """The block for all items at once, in plain torch."""

    def __init__(self, invariants: LowRankInvariants, encoder: _Encoder):
        super().__init__()
        self.invariants, self.encoder = invariants, encoder

    def forward(self, feature: ComponentFirstFeature) -> tuple[Tensor, ComponentFirstFeature]:
        u, saved = self.invariants(feature)
        z, g = self.encoder(u)
        return z, self.invariants.pull_back(feature, saved, g)


class _LowRankCall:
    """What `low_rank_block` needs besides its tensors.

    The parameters are passed as tensors, because those of the modules may be other ones in the backward pass.
    """

    def __init__(self, invariants: LowRankInvariants, s_nonlin: InvariantMLP, cpu_numbers: int):
        self.invariants = invariants
        self.cpu_numbers = cpu_numbers
        self.encoder = _Encoder(s_nonlin)
        self.plain = _Plain(invariants, self.encoder)

    def parts(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """The inputs of `_Block` as feature, weights of the invariants, and weights of the encoder by name."""
        count = len(self.invariants.weights)
        names = [name for name, _ in self.encoder.named_parameters()]
        rest = tensors[2 * count :]
        return list(tensors[:count]), list(tensors[count : 2 * count]), dict(zip(names, rest, strict=True))

    def whole(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ComponentFirstFeature]:
        """z and v in plain torch from the inputs of `_Block`."""
        feature, rest = list(tensors[: len(self.invariants.weights)]), tensors[len(self.invariants.weights) :]
        names = [name for name, _ in self.plain.named_parameters()]
        return functional_call(_separate_copy(self.plain), dict(zip(names, rest, strict=True)), (feature,))


def _separate_copy(module: nn.Module) -> nn.Module:
    """A copy of the module with the same parameters.

    `functional_call` exchanges the parameters of its module, which other threads must not see.
    """
    shared = {id(x): x for x in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


class _Chunks:
    """The linear maps of one chunk of items after another."""

    def __init__(self, call: _LowRankCall, feature: ComponentFirstFeature, weights: Sequence[Tensor]):
        self.weights = weights
        self.channels, self.rank = call.invariants.channels, call.invariants.rank
        self.norms = [call.invariants.norm(part) for part in feature]
        self.items, self.width = feature[0].shape[1], weights[0].shape[1]
        each = sum(map(len, feature)) * self.width
        budget = call.cpu_numbers if feature[0].device.type == "cpu" else GPU_NUMBERS
        self.size = -(-self.items // max(1, -(-self.items * each // budget))) or 1
        self.new = feature[0].new_empty
        self.sizes = [len(f) * self.size * self.width for f in feature]

    def __iter__(self) -> Iterator[slice]:
        for start in range(0, self.items, self.size):
            yield slice(start, min(start + self.size, self.items))

    def memory(self) -> list[Tensor]:
        """Memory for the terms of all irreps of one chunk."""
        return [self.new(size) for size in self.sizes]

    def mapped(self, feature: Sequence[Tensor], at: slice, memory: Sequence[Tensor]) -> list[Terms]:
        """Terms of the items ``at``, written to ``memory``."""
        out = []
        for part, w, flat in zip(feature, self.weights, memory, strict=True):
            rows = _rows(part[:, at])
            terms = flat[: len(rows) * self.width].view(len(rows), -1)
            torch.mm(rows, w, out=terms)
            out.append(terms.view(len(part), -1, 2, self.width // 2))
        return out

    def inner(self, x: Sequence[Terms]) -> Float[Tensor, "_n _channels"]:
        """u of all irreps."""
        u = self.new(x[0].shape[1], self.width // 2).zero_()
        for part, norm in zip(x, self.norms, strict=True):
            add_inner(u, part, norm)
        return self.narrow(u)

    def inner_with_derivative(
        self, x: Sequence[Terms], y: Sequence[Terms]
    ) -> tuple[Float[Tensor, "_n _channels"], Float[Tensor, "_n _channels"]]:
        """u of all irreps, and its derivative in the direction of y."""
        u, derivative = self.new(2, x[0].shape[1], self.width // 2).zero_()
        for p, q, norm in zip(x, y, self.norms, strict=True):
            add_inner_with_derivative(u, derivative, p, q, norm)
        return self.narrow(u), self.narrow(derivative)

    def narrow(self, u: Float[Tensor, "_n _terms"]) -> Float[Tensor, "_n _channels"]:
        """Sums over the terms of each channel."""
        return u.view(len(u), self.channels, self.rank).sum(2) if self.rank > 1 else u

    def wide(self, g: Float[Tensor, "_n _channels"]) -> Float[Tensor, "_n _terms"]:
        """One number for each term of each channel."""
        return g.repeat_interleave(self.rank, dim=1) if self.rank > 1 else g


def _rows(part: Float[Tensor, "_m _n _c"]) -> Float[Tensor, "_rows _c"]:
    """A matrix with a row for each component of each item."""
    return part.reshape(-1, part.shape[2])


class _Block(torch.autograd.Function):
    """z and v, one chunk of items after another."""

    @staticmethod
    def forward(ctx, call: _LowRankCall, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        feature, weights, _ = call.parts(tensors)
        z = []
        v = [f.new_empty(f.shape) for f in feature]
        chunks = _Chunks(call, feature, weights)
        memory, scratch = chunks.memory(), chunks.new(max(chunks.sizes))
        for at in chunks:
            ab = chunks.mapped(feature, at, memory)
            z_chunk, g = call.encoder(chunks.inner(ab))
            z.append(z_chunk)
            g = chunks.wide(g).contiguous()
            for x, out, w, norm in zip(ab, v, weights, chunks.norms, strict=True):
                exchanged = scratch[: x.numel()].view(x.shape)
                crossed(exchanged, x, g, norm)
                out[:, at] = linear(exchanged.view(-1, chunks.width), w).view(*x.shape[:2], -1)
        return torch.cat(z), *v

    @staticmethod
    def backward(ctx, of_z: Tensor, *of_v: Tensor) -> tuple[Tensor | None, ...]:
        call: _LowRankCall = ctx.call
        if torch.is_grad_enabled() or not native.enabled(of_z, *of_v):

            def whole(*tensors: Tensor) -> list[Tensor]:
                z, v = call.whole(tensors)
                return [z, *v]

            return None, *plain_gradients(whole, ctx.saved_tensors, [of_z, *of_v], ctx.needs_input_grad[1:])
        with torch.autocast(of_z.device.type, enabled=False):  # as in the forward pass
            return None, *_gradients(call, ctx.saved_tensors, of_z, of_v)


def _gradients(
    call: _LowRankCall, tensors: Sequence[Tensor], of_z: Tensor, of_v: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs of `_Block`, one chunk of items after another."""
    feature, weights, parameters = call.parts(tensors)
    trained = [p.requires_grad for p in parameters.values()]
    of_f = [f.new_empty(f.shape) for f in feature]
    of_w, of_p = ([torch.zeros_like(x) for x in values] for values in (weights, parameters.values()))
    chunks = _Chunks(call, feature, weights)
    memory_ab, memory_pq, scratch = chunks.memory(), chunks.memory(), chunks.new(2 * max(chunks.sizes))
    encoder = _separate_copy(call.encoder)
    z_and_g = of_z, of_z  # of the chunk that `encode` was called for last; any tensors before the first

    def encode(u: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal z_and_g
        z_and_g = functional_call(encoder, dict(zip(parameters, values, strict=True)), (u,))
        return z_and_g

    for at in chunks:
        ab, pq = chunks.mapped(feature, at, memory_ab), chunks.mapped(of_v, at, memory_pq)
        u, of_g = chunks.inner_with_derivative(ab, pq)
        of_outputs = [of_z[at], of_g]
        of_u, *of_parameters = plain_gradients(
            encode, [u, *parameters.values()], of_outputs, [True, *trained]
        )
        for total, part in zip(of_p, of_parameters, strict=True):
            if part is not None:
                total += part
        assert of_u is not None
        g, of_u = (chunks.wide(x.detach()).contiguous() for x in (z_and_g[1], of_u))
        for k, (x, y, w, norm) in enumerate(zip(ab, pq, weights, chunks.norms, strict=True)):
            both = scratch[: 2 * x.numel()].view(2, *x.shape)
            # The inputs of the maps of v, and the gradients of a and b.
            crossed_with_sum(both, x, y, g, of_u, norm)
            of_rows = linear(both[1].view(-1, chunks.width), w)
            of_f[k][:, at] = of_rows.view(*x.shape[:2], -1)
            pair = torch.cat([_rows(of_v[k][:, at]), _rows(feature[k][:, at])])
            of_w[k] += product(pair.T, both.view(-1, chunks.width))
    return *of_f, *of_w, *(x if t else None for x, t in zip(of_p, trained, strict=True))
