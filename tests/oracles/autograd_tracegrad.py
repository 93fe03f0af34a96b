"""TraceGrad with the gradient taken by autograd, in the irreps layout of e3nn: the oracle of the closed form."""

import torch
from e3nn import o3
from torch import Tensor

from tracegrad.nn.interface import ComponentFirstFeature
from tracegrad.nn.invariant.gram import FullInvariants, ProjectedInvariants
from tracegrad.nn.invariant.tracegrad import TraceGradBlock


def to_irreps(feature: ComponentFirstFeature) -> Tensor:
    """[items, irreps.dim] from component-first parts."""
    return torch.cat([part.permute(1, 2, 0).flatten(1) for part in feature], dim=-1)


def to_parts(flat: Tensor, irreps: o3.Irreps) -> ComponentFirstFeature:
    """Component-first parts from [items, irreps.dim]."""
    parts = flat.split([m.dim for m in irreps], dim=-1)
    return [
        part.view(len(flat), mul, ir.dim).permute(2, 0, 1)
        for part, (mul, ir) in zip(parts, irreps, strict=True)
    ]


def dense_weights(block: TraceGradBlock) -> list[Tensor]:
    """W of Eq. 6, [i, j, c] per irrep, as a differentiable function of the block's parameters."""
    form = block.invariants
    if isinstance(form, FullInvariants):
        return [dense_from_upper(weight) for weight in form.weights]
    if isinstance(form, ProjectedInvariants):
        # Both forms are divided by the root of the number of their pairs.
        ratio = (sum(p.shape[0] ** 2 for p in form.maps) / sum(p.shape[1] ** 2 for p in form.maps)) ** 0.5
        small = (dense_from_upper(weight) for weight in form.full.weights)
        return [
            ratio * torch.einsum("ir,rsc,js->ijc", p, v, p) / p.shape[0]
            for p, v in zip(form.maps, small, strict=True)
        ]
    halves = ([h.view(-1, form.channels, form.rank) for h in w.chunk(2, dim=-1)] for w in form.weights)
    return [torch.einsum("icr,jcr->ijc", a, b) / form.rank**0.5 for a, b in halves]


def dense_from_upper(weight: Tensor) -> Tensor:
    """[i, j, c] with zeros below the diagonal from the entries i <= j."""
    mul = int((2 * weight.shape[0] + 0.25) ** 0.5)
    rows, columns = torch.triu_indices(mul, mul)
    return weight.new_zeros(mul, mul, weight.shape[1]).index_put((rows, columns), weight)


def entries(irreps: o3.Irreps) -> list[tuple[o3.Irrep, int, int]]:
    """(irrep, start in the flat feature, position among channels of this irrep) of every channel."""
    seen: dict[o3.Irrep, int] = {}
    result, offset = [], 0
    for mul, ir in irreps:
        for _ in range(mul):
            result.append((ir, offset, seen.setdefault(ir, 0)))
            seen[ir] += 1
            offset += ir.dim
    return result


def literal_invariants(f: Tensor, irreps: o3.Irreps, weights: dict[o3.Irrep, Tensor]) -> Tensor:
    """u of Eq. 6 as sums over i, j with Clebsch-Gordan coefficients, normalised over all pairs."""
    total, pairs = f.new_zeros(len(f), next(iter(weights.values())).shape[-1]), 0
    for ir_i, at_i, i in entries(irreps):
        for ir_j, at_j, j in entries(irreps):
            if ir_i != ir_j:
                continue
            coupling = o3.wigner_3j(ir_i.l, ir_j.l, 0, dtype=f.dtype)[:, :, 0]
            f_i, f_j = f[:, at_i : at_i + ir_i.dim], f[:, at_j : at_j + ir_j.dim]
            scalar = torch.einsum("mk,nm,nk->n", coupling, f_i, f_j)
            total = total + scalar[:, None] * weights[ir_i][i, j]
            pairs += 1
    return total / pairs**0.5


def tensor_product_invariants(f: Tensor, irreps: o3.Irreps, weights: dict[o3.Irrep, Tensor]) -> Tensor:
    """The same by e3nn's FullyConnectedTensorProduct with repeated irreps left as they are."""
    channels = next(iter(weights.values())).shape[-1]
    previous = torch.get_default_dtype()
    torch.set_default_dtype(f.dtype)  # e3nn stores its tables in the default dtype
    try:
        product = o3.FullyConnectedTensorProduct(
            irreps, irreps, [(channels, "0e")], internal_weights=False, shared_weights=True
        )
    finally:
        torch.set_default_dtype(previous)
    starts: list[int] = []
    seen: dict[o3.Irrep, int] = {}
    for mul, ir in irreps:
        starts.append(seen.setdefault(ir, 0))
        seen[ir] += mul
    flat = []
    for instruction in product.instructions:
        a, b = instruction.i_in1, instruction.i_in2
        rows = slice(starts[a], starts[a] + irreps[a].mul)
        columns = slice(starts[b], starts[b] + irreps[b].mul)
        flat.append(weights[irreps[a].ir][rows, columns].flatten())
    return product(f, f, torch.cat(flat))


def autograd_block(
    block: TraceGradBlock, irreps: o3.Irreps, feature: ComponentFirstFeature, invariants=literal_invariants
) -> tuple[Tensor, ComponentFirstFeature]:
    """z and v = d(sum_c z_c)/df by differentiation; ``feature`` needs a gradient."""
    kinds = list(dict.fromkeys(ir for _, ir in irreps))
    weights = dict(zip(kinds, dense_weights(block), strict=True))
    with torch.enable_grad():
        f = to_irreps(feature)
        if not f.requires_grad:
            f.requires_grad_()
        z = block.s_nonlin(invariants(f, irreps, weights))
        (v,) = torch.autograd.grad(z.sum(), f, create_graph=True)
    return z, to_parts(v, irreps)
