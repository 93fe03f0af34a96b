"""QHNet in plain e3nn: tensor products path by path in the irreps layout. Slow; the oracle of the fast form.

Features are ``[items, irreps.dim]`` with the channels of a degree outside its components. Modules carry the
names of `tracegrad.backbones.qhnet.QHNet`, so that parameters correspond name by name.
"""

import math
from collections import Counter

import torch
from e3nn import o3
from e3nn.nn import FullyConnectedNet
from torch import Tensor, nn
from torch.nn.functional import softplus

from tracegrad.backbones.qhnet import QHNet
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.nn.interface import Blocks

FILTER_WIDTH = 32


def ssp(x: Tensor) -> Tensor:
    """Shifted softplus."""
    return softplus(x) - math.log(2.0)


def natural(channels: int, lmax: int) -> o3.Irreps:
    """Parity (-1)^l, as the convolutions count."""
    return o3.Irreps([(channels, (degree, (-1) ** degree)) for degree in range(lmax + 1)])


def even(channels: int, lmax: int) -> o3.Irreps:
    """All degrees even, as the self and pair layers count."""
    return o3.Irreps([(channels, (degree, 1)) for degree in range(lmax + 1)])


def product(in1: o3.Irreps, in2: o3.Irreps, out: o3.Irreps, mode: str, **kwargs) -> o3.TensorProduct:
    """All paths into ``out``, ordered by (in1, in2, out), with the released path weights."""
    triples = [
        (i, j, k)
        for i, (_, a) in enumerate(in1)
        for j, (_, b) in enumerate(in2)
        for k, (_, c) in enumerate(out)
        if c in a * b
    ]
    instructions = [(i, j, k, mode, True, math.sqrt(out[k].ir.dim / len(triples))) for i, j, k in triples]
    return o3.TensorProduct(in1, in2, out, instructions, **kwargs)


def degrees_of(x: Tensor, irreps: o3.Irreps) -> list[Tensor]:
    """Per irrep: [items, channels, components]."""
    return [
        part.view(len(x), mul, ir.dim)
        for part, (mul, ir) in zip(x.split([m.dim for m in irreps], dim=-1), irreps, strict=True)
    ]


def invariants_of_pair(x: Tensor, irreps: o3.Irreps, dst: Tensor, other: Tensor, src: Tensor) -> Tensor:
    """[x_0 of dst, x_0 of other, <x_dst, x_src>_l / (2l + 1)]."""
    parts = degrees_of(x, irreps)
    invariants = [parts[0][dst, :, 0], parts[0][other, :, 0]]
    invariants += [(part[dst] * part[src]).sum(-1) / part.shape[-1] for part in parts[1:]]
    return torch.cat(invariants, dim=-1)


class Gate(nn.Module):
    def __init__(self, irreps: o3.Irreps):
        super().__init__()
        self.channels = irreps[0].mul
        width = irreps.num_irreps
        self.norm = o3.Norm(irreps[1:])
        self.scale = o3.ElementwiseTensorProduct(irreps[1:], o3.Irreps([(width - self.channels, "0e")]))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        scalars, rest = x[:, : self.channels], x[:, self.channels :]
        gates = self.mlp(torch.cat([scalars, self.norm(rest)], dim=-1))
        return torch.cat([gates[:, : self.channels], self.scale(rest, gates[:, self.channels :])], dim=-1)


class Convolution(nn.Module):
    def __init__(self, lmax: int, channels: int, radial: int, first: bool):
        super().__init__()
        self.first = first
        self.irreps = o3.Irreps([(channels, "0e")]) if first else natural(channels, lmax)
        out = natural(channels, lmax)
        if not first:
            self.pre = o3.Linear(self.irreps, self.irreps, biases=True)
            self.gate = Gate(self.irreps)
            self.linear = o3.Linear(self.irreps, self.irreps, biases=True)
        self.product = product(
            self.irreps, natural(1, lmax), out, "uvu", shared_weights=False, internal_weights=False
        )
        width = self.product.weight_numel
        scalars = 2 if first else lmax + 2
        self.radial_net = FullyConnectedNet([radial, FILTER_WIDTH, width], ssp)
        self.invariant_net = FullyConnectedNet([scalars * channels, FILTER_WIDTH, width], ssp)
        self.out = o3.Linear(out, out, biases=True)

    def forward(self, x: Tensor, dst: Tensor, src: Tensor, rbf: Tensor, sh: Tensor) -> Tensor:
        if self.first:
            invariants, gated = torch.cat([x[dst], x[dst]], dim=-1), x
        else:
            invariants = invariants_of_pair(self.pre(x), self.irreps, dst, dst, src)
            gated = self.linear(self.gate(x))
        weights = self.radial_net(rbf) * self.invariant_net(invariants)
        messages = self.product(gated[src], sh, weights)
        summed = messages.new_zeros(len(x), messages.shape[1]).index_add(0, dst, messages)
        return self.out(summed) if self.first else self.out(summed + gated) + x


class SelfLayer(nn.Module):
    def __init__(self, lmax: int, channels: int):
        super().__init__()
        irreps = even(channels, lmax)
        self.gates = nn.ModuleList([Gate(irreps) for _ in range(2)])
        self.linears = nn.ModuleList([o3.Linear(irreps, irreps, biases=True) for _ in range(2)])
        self.product = product(irreps, irreps, irreps, "uuu", shared_weights=True, internal_weights=False)
        self.weight = nn.Parameter(torch.randn(self.product.weight_numel))
        self.gate = Gate(irreps)
        self.out = o3.Linear(irreps, irreps, biases=True)

    def forward(self, x: Tensor) -> Tensor:
        a = self.linears[0](self.gates[0](x))
        b = self.linears[1](self.gates[1](x))
        return self.out(self.gate(self.product(a, b, self.weight) + x))


class PairLayer(nn.Module):
    def __init__(self, lmax: int, channels: int, radial: int):
        super().__init__()
        self.irreps = irreps = even(channels, lmax)
        self.inner = o3.Linear(irreps, irreps, biases=True)
        self.gate_in = Gate(irreps)
        self.linear = o3.Linear(irreps, irreps, biases=True)
        self.product = product(irreps, irreps, irreps, "uuu", shared_weights=False, internal_weights=False)
        width = self.product.weight_numel
        self.radial_net = FullyConnectedNet([radial, channels, width], ssp)
        self.invariant_net = nn.Sequential(
            nn.Linear((lmax + 2) * channels, channels), nn.SiLU(), nn.Linear(channels, width)
        )
        self.gate_out = Gate(irreps)
        self.out = o3.Linear(irreps, irreps, biases=True)

    def forward(self, x: Tensor, dst: Tensor, src: Tensor, rbf: Tensor) -> Tensor:
        invariants = invariants_of_pair(self.inner(x), self.irreps, dst, src, src)
        h = self.linear(self.gate_in(x))
        weights = self.radial_net(rbf) * self.invariant_net(invariants)
        return self.out(self.gate_out(self.product(h[src], h[dst], weights)))


class Head(nn.Module):
    def __init__(self, lmax: int, channels: int, bottleneck: int, species: int, shells: tuple[int, ...]):
        super().__init__()
        self.irreps = even(bottleneck, lmax)
        self.bottleneck = o3.Linear(even(channels, lmax), self.irreps)
        self.channels, self.shells = bottleneck, shells
        counts = Counter(shells)
        degrees = sorted(counts)
        self.counts = counts
        self.triples = [
            (degree, l1, l2)
            for degree in range(lmax + 1)
            for l1 in degrees
            for l2 in degrees
            if abs(l1 - l2) <= degree <= l1 + l2
        ]
        sizes = [counts[l1] * counts[l2] for _, l1, l2 in self.triples]
        n_bias = sum(size for size, (degree, *_) in zip(sizes, self.triples, strict=True) if degree == 0)
        for l1, l2, degree in {(l1, l2, degree) for degree, l1, l2 in self.triples}:
            self.register_buffer(f"w3j_{l1}_{l2}_{degree}", o3.wigner_3j(l1, l2, degree))
        self.weight_net, self.bias_net = (
            nn.Sequential(nn.Linear(species * channels, channels), nn.SiLU(), nn.Linear(channels, width))
            for width in (bottleneck * sum(sizes), n_bias)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        parts = degrees_of(self.bottleneck(x), self.irreps)
        weights, biases = self.weight_net(embedding), self.bias_net(embedding)
        starts = {d: sum(2 * other + 1 for other in self.shells if other < d) for d in self.counts}
        dim = sum(2 * degree + 1 for degree in self.shells)
        blocks = x.new_zeros(len(x), dim, dim)
        at, at_bias = 0, 0
        for degree, l1, l2 in self.triples:
            n_u, n_v = self.counts[l1], self.counts[l2]
            weight = weights[:, at : at + self.channels * n_u * n_v].view(-1, self.channels, n_u, n_v)
            at += self.channels * n_u * n_v
            mixed = torch.einsum("nwuv,nwk->nuvk", weight, parts[degree])
            if degree == 0:
                mixed = mixed + biases[:, at_bias : at_bias + n_u * n_v].view(-1, n_u, n_v, 1)
                at_bias += n_u * n_v
            table = getattr(self, f"w3j_{l1}_{l2}_{degree}")
            block = torch.einsum("ijk,nuvk->nuivj", table, mixed) / self.channels
            rows, columns = n_u * (2 * l1 + 1), n_v * (2 * l2 + 1)
            term = torch.zeros_like(blocks)
            row, column = starts[l1], starts[l2]
            term[:, row : row + rows, column : column + columns] = block.reshape(-1, rows, columns)
            blocks = blocks + term
        return blocks


class PlainQHNet(nn.Module):
    """The same network as `QHNet`; build it with `plain_copy`."""

    def __init__(self, basis, lmax, channels, bottleneck, layers, pair_layers, cutoff, radial, species):
        super().__init__()
        self.lmax, self.cutoff, self.count = lmax, cutoff, radial
        self.first_pair = layers - pair_layers
        self.embedding = nn.Embedding(species, channels)
        self.radial = nn.Module()
        self.radial.alpha = nn.Parameter(torch.tensor(0.0))
        self.convolutions = nn.ModuleList(
            Convolution(lmax, channels, radial, first=i == 0) for i in range(layers)
        )
        self.self_layers = nn.ModuleList(SelfLayer(lmax, channels) for _ in range(pair_layers))
        self.pair_layers = nn.ModuleList(PairLayer(lmax, channels, radial) for _ in range(pair_layers))
        self.self_head = Head(lmax, channels, bottleneck, 1, basis.union)
        self.pair_head = Head(lmax, channels, bottleneck, 2, basis.union)

    def radial_basis(self, r: Tensor) -> Tensor:
        """[edges, radial]; 0 outside the cutoff."""
        top = self.count - 1
        decay = torch.exp(-softplus(self.radial.alpha) * r)  # type: ignore[arg-type]
        inside = r < self.cutoff
        safe = torch.where(inside, r, 0.0)
        cut = torch.exp(-(safe**2) / ((self.cutoff - safe) * (self.cutoff + safe))) * inside
        return torch.stack(
            [math.comb(top, v) * decay ** (top - v) * (1 - decay) ** v * cut for v in range(self.count)], -1
        )

    def forward(self, graph) -> Blocks:
        dst, src = graph.edge_index
        vectors = graph.positions[dst] - graph.positions[src]
        rbf = self.radial_basis(vectors.norm(dim=-1))
        degrees = list(range(self.lmax + 1))
        sh = o3.spherical_harmonics(degrees, vectors[:, [1, 2, 0]], True, normalization="component")
        embedded = x = self.embedding(graph.numbers)
        f_self = f_pair = 0
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x, dst, src, rbf, sh)
            if i >= self.first_pair:
                f_self = self.self_layers[i - self.first_pair](x) + f_self
                f_pair = self.pair_layers[i - self.first_pair](x, dst, src, rbf) + f_pair
        on_site = self.self_head(f_self, embedded)
        pairs = self.pair_head(f_pair, torch.cat([embedded[dst], embedded[src]], dim=-1))
        position = {edge: e for e, edge in enumerate(zip(dst.tolist(), src.tolist(), strict=True))}
        reverse = [position[s, d] for d, s in position]
        return {"self": on_site + on_site.mT, "edge": pairs + pairs[reverse].mT}


def plain_copy(model: QHNet) -> PlainQHNet:
    """The plain form of ``model`` with its parameters, dtype and device."""
    parameter = next(model.parameters())
    basis: OrbitalBasis = model.basis
    species, channels = model.embedding.weight.shape
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn stores its tables in the default dtype
    try:
        plain = PlainQHNet(
            basis,
            model.lmax,
            channels,
            model.self_head.bottleneck.weight.shape[-1],
            len(model.convolutions),
            len(model.self_layers),
            model.radial.cutoff,
            model.radial.count,
            species,
        )
    finally:
        torch.set_default_dtype(previous)
    plain.to(parameter.device, parameter.dtype)
    theirs = dict(plain.named_parameters())
    ours = dict(model.named_parameters())
    if theirs.keys() != ours.keys():
        raise ValueError(f"parameters differ: {sorted(theirs.keys() ^ ours.keys())}")
    with torch.no_grad():
        for name, value in ours.items():
            theirs[name].copy_(value.reshape(theirs[name].shape))
    return plain
