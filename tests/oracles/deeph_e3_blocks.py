"""Blocks of DeepH-E3 from irreps, shell pair by shell pair: the oracle of targets, spin and their order."""

import math

import torch
from e3nn import o3
from torch import Tensor

from tests.oracles.deeph_e3_e3nn import w3j

# components of OpenMX (p: x y z; d: z2 x2-y2 xy xz yz; f: 5z3 5xz2 5yz2 zx2-zy2 xyz x3 y3) in m = -l..l
OPENMX = {0: [0], 1: [2, 0, 1], 2: [2, 4, 0, 3, 1], 3: [3, 4, 2, 5, 1, 6, 0]}


def targets_of(numbers: list[int], shells: list[list[int]]) -> list[dict[str, list[int]]]:
    """Per target: 'Za Zb' -> [shell of a, shell of b]; species ascending, a target at its first species pair."""

    def key(species: int, shell: int) -> tuple[int, int]:
        degree = shells[species][shell]
        return degree, shells[species][:shell].count(degree)

    targets: dict[tuple, dict[str, list[int]]] = {}
    for a in range(len(numbers)):
        for b in range(len(numbers)):
            for p in range(len(shells[a])):
                for q in range(len(shells[b])):
                    target = targets.setdefault((key(a, p), key(b, q)), {})
                    target[f"{numbers[a]} {numbers[b]}"] = [p, q]
    return list(targets.values())


def degrees_of(
    targets: list[dict[str, list[int]]], numbers: list[int], shells: list[list[int]]
) -> list[list[int]]:
    """(l1, l2) of every target."""
    degrees = []
    for target in targets:
        pair, (p, q) = next(iter(target.items()))
        a, b = (numbers.index(int(z)) for z in pair.split())
        degrees.append([shells[a][p], shells[b][q]])
    return degrees


def irreps_of_target(l1: int, l2: int, spinful: bool) -> list[o3.Irrep]:
    """Scalar part: L; vector part, spinful only: L x 1 for one L after another."""
    parity = (-1) ** (l1 + l2)
    scalar = [o3.Irrep(degree, parity) for degree in range(abs(l1 - l2), l1 + l2 + 1)]
    vector = [o3.Irrep(k, parity) for ir in scalar for k in range(abs(ir.l - 1), ir.l + 2)]
    return scalar + vector if spinful else scalar


def default_irreps(
    numbers: list[int],
    shells: list[list[int]],
    spinful: bool,
    irreps_embed: str = "64x0e",
    irreps_mid: str = "64x0e+32x1o+16x2e+8x3o+8x4e",
    lmax: int = 4,
    num_block: int = 3,
    r_max: float = 7.2,
) -> dict:
    """Arguments of `PlainDeepHE3` for species ascending in Z with shells of degrees ``shells[species]``."""
    degrees = degrees_of(targets_of(numbers, shells), numbers, shells)
    per_part = [ir for l1, l2 in degrees for ir in irreps_of_target(l1, l2, spinful)]
    out_edge = o3.Irreps([(1, ir) for ir in per_part * (2 if spinful else 1)])
    post_edge = out_edge.sort().irreps.simplify()
    sh = o3.Irreps([(1, (degree, (-1) ** degree)) for degree in range(lmax + 1)])
    return {
        "num_species": len(numbers),
        "irreps_embed_node": irreps_embed,
        "irreps_edge_init": irreps_embed,
        "irreps_sh": str(sh),
        "irreps_mid_node": irreps_mid,
        "irreps_post_node": str(post_node(o3.Irreps(irreps_mid), sh, post_edge)),
        "irreps_out_node": "1x0e",
        "irreps_mid_edge": irreps_mid,
        "irreps_post_edge": str(post_edge),
        "irreps_out_edge": str(out_edge),
        "num_block": num_block,
        "r_max": r_max,
    }


def post_node(mid: o3.Irreps, sh: o3.Irreps, needed: o3.Irreps) -> o3.Irreps:
    """``mid`` and, for pseudoscalars, which natural parities cannot reach, as many 1e as there are 1o."""

    def missing(irreps: o3.Irreps) -> set[o3.Irrep]:
        return {ir for _, ir in needed} - {ir for _, a in irreps for _, b in sh for ir in a * b}

    node = mid
    if o3.Irrep("0o") in missing(mid):
        node = mid + o3.Irreps([(mid.count(o3.Irrep("1o")), "1e")])
    if missing(node):
        raise ValueError(
            f"no product of {node} with {sh} gives {missing(node)}: raise the degrees of irreps_mid"
        )
    return node


def blocks_from_irreps(
    edge_out: Tensor, degrees: list[list[int]], spinful: bool, legacy: bool = False
) -> Tensor:
    """[edges, H] or, spinful, complex [edges, 4 (uu, ud, du, dd), H]: targets in order, row-major, OpenMX order."""
    if not spinful:
        blocks, at = [], 0
        for l1, l2 in degrees:
            block, at = scalar_block(edge_out, at, l1, l2, legacy)
            blocks.append(openmx(block, l1, l2))
        return torch.cat(blocks, dim=-1)
    real, imaginary = edge_out.chunk(2, dim=-1)
    parts = torch.complex(spin_parts(real, degrees, legacy), spin_parts(imaginary, degrees, legacy))
    s, y, z, x = parts.unbind(1)
    return torch.stack([s + z, x - 1j * y, x + 1j * y, s - z], dim=1) / math.sqrt(2.0)


def scalar_block(net: Tensor, at: int, l1: int, l2: int, legacy: bool) -> tuple[Tensor, int]:
    """sum_L w3j(l1, l2, L) net_L, read from column ``at`` on."""
    block = net.new_zeros(len(net), 2 * l1 + 1, 2 * l2 + 1)
    for degree in range(abs(l1 - l2), l1 + l2 + 1):
        part = net[:, at : at + 2 * degree + 1]
        block = block + torch.einsum("abm,nm->nab", w3j(l1, l2, degree, legacy).to(net), part)
        at += 2 * degree + 1
    return block, at


def spin_parts(net: Tensor, degrees: list[list[int]], legacy: bool) -> Tensor:
    """[edges, 4 (s, y, z, x), H]"""
    blocks, at = [], 0
    for l1, l2 in degrees:
        scalar, at = scalar_block(net, at, l1, l2, legacy)
        vector = net.new_zeros(len(net), 3, 2 * l1 + 1, 2 * l2 + 1)
        for degree in range(abs(l1 - l2), l1 + l2 + 1):
            coupled = net.new_zeros(len(net), 2 * degree + 1, 3)
            for k in range(abs(degree - 1), degree + 2):
                part = net[:, at : at + 2 * k + 1]
                coupled = coupled + torch.einsum("msk,nk->nms", w3j(degree, 1, k, legacy).to(net), part)
                at += 2 * k + 1
            vector = vector + torch.einsum("abm,nms->nsab", w3j(l1, l2, degree, legacy).to(net), coupled)
        blocks.append(openmx(torch.cat([scalar[:, None], vector], dim=1), l1, l2))
    return torch.cat(blocks, dim=-1)


def openmx(block: Tensor, l1: int, l2: int) -> Tensor:
    """[..., a, b] in m = -l..l -> [..., ab] in the order of OpenMX."""
    return block[..., OPENMX[l1], :][..., OPENMX[l2]].flatten(-2)


def atom_blocks(
    h: Tensor,
    targets: list[dict[str, list[int]]],
    numbers: list[int],
    shells: list[list[int]],
    species: Tensor,
    edge_index: Tensor,
) -> Tensor:
    """[edges, M, M] from `blocks_from_irreps`: rows of atom i, columns of atom j, spin outermost; NaN is padding."""
    sizes = [sum(2 * degree + 1 for degree in of_species) for of_species in shells]
    spins = 1 if h.ndim == 2 else 2
    blocks = torch.full((len(h), spins * max(sizes), spins * max(sizes)), math.nan, dtype=h.dtype)
    for e, (i, j) in enumerate(edge_index.T.tolist()):
        a, b = int(species[i]), int(species[j])
        at = 0
        for target, (l1, l2) in zip(targets, degrees_of(targets, numbers, shells), strict=True):
            shape = 2 * l1 + 1, 2 * l2 + 1
            if f"{numbers[a]} {numbers[b]}" in target:
                p, q = target[f"{numbers[a]} {numbers[b]}"]
                row = sum(2 * degree + 1 for degree in shells[a][:p])
                column = sum(2 * degree + 1 for degree in shells[b][:q])
                for part in range(spins**2):
                    r = row + part // spins * sizes[a]
                    c = column + part % spins * sizes[b]
                    values = h[e].reshape(spins**2, -1)[part, at : at + shape[0] * shape[1]]
                    blocks[e, r : r + shape[0], c : c + shape[1]] = values.reshape(shape)
            at += shape[0] * shape[1]
    return blocks
