"""DeepH-E3 in plain e3nn: tensor products path by path in the global frame. Slow; the oracle of the fast form.

Parameters carry the released names and layouts. ``legacy`` selects the normalisation and the signs of the Wigner
3j symbols of e3nn 0.3.5, under which the released checkpoints were trained.
"""

import torch
from e3nn import o3
from e3nn.nn import Gate
from torch import Tensor, nn

EXPANSION_END = 6.0  # angstrom; the Gaussians that initialise the edges


RADIAL = 128


FC_WIDTH = 64


EPS = 1e-5


# (l1, l2, l3) whose table in e3nn 0.3.5 is the negative of today's, l <= 6
NEGATED_WORDS = (
    "122 133 144 155 166 212 221 313 331 346 364 414 436 441 445 454 456 463 465 515 544 546 551 555 564 566 "
    "616 634 643 645 654 656 661 665"
)


NEGATED = {tuple(map(int, word)) for word in NEGATED_WORDS.split()}


def sign(l1: int, l2: int, l3: int, legacy: bool) -> float:
    return -1.0 if legacy and (l1, l2, l3) in NEGATED else 1.0


def w3j(l1: int, l2: int, l3: int, legacy: bool) -> Tensor:
    return sign(l1, l2, l3, legacy) * o3.wigner_3j(l1, l2, l3, dtype=torch.float64)


def path_normalization(legacy: bool) -> str:
    return "path" if legacy else "element"


def linear(irreps_in: o3.Irreps, irreps_out: o3.Irreps, biases: bool, legacy: bool) -> o3.Linear:
    return o3.Linear(irreps_in, irreps_out, biases=biases, path_normalization=path_normalization(legacy))


class Gaussians(nn.Module):
    """exp(-(r - mu)^2 / (2 spacing^2)), mu from 0 to ``end``."""

    def __init__(self, end: float, count: int):
        super().__init__()
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0.0, end, count), persistent=False)

    def forward(self, r: Tensor) -> Tensor:
        width = self.centres[1] - self.centres[0]
        return torch.exp(-0.5 * ((r[:, None] - self.centres) / width) ** 2)


class RankOneProduct(nn.Module):
    """All paths into ``out``; the weights of a path are W1[u, w] W2[v, w]."""

    def __init__(self, in1: o3.Irreps, in2: o3.Irreps, out: o3.Irreps, legacy: bool):
        super().__init__()
        triples = [
            (i, j, k)
            for i, (_, a) in enumerate(in1)
            for j, (_, b) in enumerate(in2)
            for k, (_, c) in enumerate(out)
            if c in a * b
        ]
        self.product = o3.TensorProduct(
            in1,
            in2,
            out,
            [(*triple, "uvw", True) for triple in triples],
            path_normalization=path_normalization(legacy),
            internal_weights=False,
            shared_weights=True,
        )
        self.signs = [sign(in1[i].ir.l, in2[j].ir.l, out[k].ir.l, legacy) for i, j, k in triples]
        self.weights1 = nn.ParameterList(torch.randn(in1[i].mul, out[k].mul) for i, _, k in triples)
        self.weights2 = nn.ParameterList(torch.randn(in2[j].mul, out[k].mul) for _, j, k in triples)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        weights = [
            (sign * torch.einsum("uw,vw->uvw", w1, w2)).flatten()
            for sign, w1, w2 in zip(self.signs, self.weights1, self.weights2, strict=True)
        ]
        return self.product(x, y, torch.cat(weights))


class EquiConv(nn.Module):
    def __init__(self, in1: o3.Irreps, sh: o3.Irreps, out: o3.Irreps, legacy: bool):
        super().__init__()
        scalars = o3.Irreps([m for m in out if m.ir.l == 0])
        gated = o3.Irreps([m for m in out if m.ir.l > 0])
        self.nonlin = Gate(
            scalars,
            [torch.nn.functional.silu if m.ir.p == 1 else torch.tanh for m in scalars],
            o3.Irreps([(gated.num_irreps, "0e")]),
            [torch.sigmoid],
            gated,
        )
        self.tp = RankOneProduct(in1, sh, self.nonlin.irreps_in, legacy)
        self.irreps_out = self.nonlin.irreps_out
        self.scale = o3.ElementwiseTensorProduct(self.irreps_out, o3.Irreps([(out.num_irreps, "0e")]))
        self.fc = nn.Sequential(
            nn.Linear(RADIAL, FC_WIDTH),
            nn.SiLU(),
            nn.Linear(FC_WIDTH, FC_WIDTH),
            nn.SiLU(),
            nn.Linear(FC_WIDTH, out.num_irreps),
        )

    def forward(self, x: Tensor, sh: Tensor, radial: Tensor) -> Tensor:
        return self.scale(self.nonlin(self.tp(x, sh)), self.fc(radial))


def graph_mean(x: Tensor, batch: Tensor) -> Tensor:
    """For every item, the mean over the items of its graph."""
    graphs = int(batch.max()) + 1
    sums = x.new_zeros(graphs, x.shape[1]).index_add(0, batch, x)
    return (sums / torch.bincount(batch, minlength=graphs)[:, None])[batch]


class LayerNorm(nn.Module):
    """Per graph and entry of the irreps: centred over items and channels; l = 0 divided by its rms."""

    def __init__(self, irreps: o3.Irreps):
        super().__init__()
        self.irreps = irreps
        self.weight = nn.Parameter(torch.ones(irreps.num_irreps))
        self.bias = nn.Parameter(torch.zeros(sum(mul for mul, ir in irreps if ir == o3.Irrep("0e"))))

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        columns, at, at_bias = [], 0, 0
        for (mul, ir), part in zip(self.irreps, x.split([m.dim for m in self.irreps], dim=-1), strict=True):
            part = part.reshape(len(x), mul, ir.dim)
            part = part - graph_mean(part.mean(dim=1), batch)[:, None, :]
            if ir.l == 0:
                part = part / (graph_mean(part.square().mean(dim=1), batch).sqrt() + EPS)[:, None, :]
            part = part * self.weight[at : at + mul, None]
            at += mul
            if ir == o3.Irrep("0e"):
                part = part + self.bias[at_bias : at_bias + mul, None]
                at_bias += mul
            columns.append(part.reshape(len(x), -1))
        return torch.cat(columns, dim=-1)


class Skip(nn.Module):
    """A Linear without bias where the irreps differ."""

    def __init__(self, irreps_in: o3.Irreps, irreps_out: o3.Irreps, legacy: bool):
        super().__init__()
        self.sc = None if irreps_in == irreps_out else linear(irreps_in, irreps_out, False, legacy)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.sc is None else self.sc(x)


class UpdateBlock(nn.Module):
    """The parts that the updates of nodes and of edges share."""

    def __init__(
        self, old: o3.Irreps, in1: o3.Irreps, sh: o3.Irreps, out: o3.Irreps, kinds: int, legacy: bool
    ):
        super().__init__()
        self.lin_pre = linear(old, old, True, legacy)
        self.conv = EquiConv(in1, sh, out, legacy)
        self.lin_post = linear(self.conv.irreps_out, out, True, legacy)
        self.sc = o3.FullyConnectedTensorProduct(
            old, o3.Irreps([(kinds, "0e")]), out, path_normalization=path_normalization(legacy)
        )
        self.norm = LayerNorm(out)
        self.skip_connect = Skip(old, out, legacy)

    def finish(self, message: Tensor, old: Tensor, one_hot: Tensor, batch: Tensor) -> Tensor:
        return self.norm(self.lin_post(message) + self.sc(old, one_hot), batch) + self.skip_connect(old)


class NodeUpdate(UpdateBlock):
    def forward(self, node, edge, one_hot, sh, radial, edge_index, batch):
        i, j = edge_index
        x = self.lin_pre(node)
        messages = self.conv(torch.cat([x[i], x[j], edge], dim=-1), sh, radial)
        summed = messages.new_zeros(len(node), messages.shape[1]).index_add(0, i, messages)
        return self.finish(summed, node, one_hot, batch)


class EdgeUpdate(UpdateBlock):
    def forward(self, node, edge, one_hot, sh, radial, edge_index, batch):
        i, j = edge_index
        messages = self.conv(torch.cat([node[i], node[j], self.lin_pre(edge)], dim=-1), sh, radial)
        return self.finish(messages, edge, one_hot, batch[i])


class PlainDeepHE3(nn.Module):
    """Arguments as the released network takes them; build it with the default dtype at float64."""

    def __init__(
        self,
        num_species: int,
        irreps_embed_node: str,
        irreps_edge_init: str,
        irreps_sh: str,
        irreps_mid_node: str,
        irreps_post_node: str,
        irreps_out_node: str,
        irreps_mid_edge: str,
        irreps_post_edge: str,
        irreps_out_edge: str,
        num_block: int,
        r_max: float = 7.2,
        use_sc: bool = True,
        no_parity: bool = False,
        use_sbf: bool = False,
        only_ij: bool = False,
        if_sort_irreps: bool = False,
        legacy: bool = False,
    ):
        super().__init__()
        if not use_sc or no_parity or use_sbf or only_ij or if_sort_irreps:
            raise ValueError("the oracle holds the default form of the network only")
        self.num_species, self.num_block = num_species, num_block
        embed, init, sh, out_node, out_edge = map(
            o3.Irreps, (irreps_embed_node, irreps_edge_init, irreps_sh, irreps_out_node, irreps_out_edge)
        )
        self.irreps_sh = sh
        last = num_block - 1
        nodes, edges = [embed], [init]
        for block in range(num_block):
            nodes.append(o3.Irreps(irreps_post_node if block == last else irreps_mid_node))
            edges.append(o3.Irreps(irreps_post_edge if block == last else irreps_mid_edge))
        self.embedding = linear(o3.Irreps([(num_species, "0e")]), embed, False, legacy)
        self.basis = Gaussians(r_max, RADIAL)
        self.distance_expansion = Gaussians(EXPANSION_END, init.dim)
        self.node_update_blocks = nn.ModuleList(
            NodeUpdate(nodes[b], nodes[b] + nodes[b] + edges[b], sh, nodes[b + 1], num_species, legacy)
            for b in range(num_block)
        )
        self.edge_update_blocks = nn.ModuleList(
            EdgeUpdate(
                edges[b], nodes[b + 1] + nodes[b + 1] + edges[b], sh, edges[b + 1], num_species**2, legacy
            )
            for b in range(num_block)
        )
        self.lin_node = linear(nodes[-1], out_node, True, legacy)
        self.lin_edge = linear(edges[-1], out_edge, True, legacy)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        i, j = edge_index
        length, vector = edge_attr[:, 0], edge_attr[:, 1:]
        kinds = nn.functional.one_hot(x, self.num_species).to(vector.dtype)
        pairs = nn.functional.one_hot(self.num_species * x[i] + x[j], self.num_species**2).to(vector.dtype)
        sh = o3.spherical_harmonics(self.irreps_sh, vector[:, [1, 2, 0]], True, normalization="component")
        radial = self.basis(length)
        node, edge = self.embedding(kinds), self.distance_expansion(length)
        for update_node, update_edge in zip(self.node_update_blocks, self.edge_update_blocks, strict=True):
            node = update_node(node, edge, kinds, sh, radial, edge_index, batch)
            edge = update_edge(node, edge, pairs, sh, radial, edge_index, batch)
        return self.lin_node(node), self.lin_edge(edge)

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Released files hold parameters only; the constant tables of e3nn stay."""
        parameters = dict(self.named_parameters())
        tables = {name: value for name, value in self.state_dict().items() if name not in parameters}
        return super().load_state_dict({**tables, **state_dict}, strict=strict, assign=assign)


def released(net_args: dict, state: dict[str, Tensor], legacy: bool) -> PlainDeepHE3:
    """The network in float64 with released parameters."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn stores its tables in the default dtype
    try:
        net = PlainDeepHE3(**net_args, legacy=legacy)
    finally:
        torch.set_default_dtype(previous)
    net.load_state_dict(state)
    return net
