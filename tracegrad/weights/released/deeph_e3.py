"""Conversion of released weights of DeepH-E3."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from e3nn.o3 import Irrep, Irreps
from torch import Tensor

from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.backbones.deeph_e3_updates import Update
from tracegrad.errors import CheckpointError, ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.item_first.edge_product import EdgeProduct, filter_degrees
from tracegrad.nn.item_first.irreps_linear import SCALAR, IrrepsLinear
from tracegrad.weights.checkpoint import read_plain
from tracegrad.weights.released.state import released_state, some_names

KIND = "a released DeepH-E3"
# Parts of names: a layer after the last block that does not enter H, and tables without trained content.
_IGNORED = ("lin_node.", "basis.", "distance_expansion.", ".output_mask", "_w3j")
_HIGHEST_DEGREE = 8

# Where the numbers of a released tensor go: tensors of this network, in the order of the released numbers, each with
# the shape that its piece has there.
Pieces = list[tuple[Tensor, tuple[int, ...]]]


def load_released_deeph_e3(
    state_dict: str | Path | Mapping[str, Any],
    dataset_info: Mapping[str, Any],
    legacy_e3nn: bool = True,
    *,
    r_max: float = 7.2,
    hermitian: bool = False,
    time_reversal: bool = False,
    edge_chunk: int | None = None,
    recompute: bool = False,
) -> HamiltonianModel:
    """DeepH-E3 with released weights. All sizes and irreps follow from the shapes of the tensors.

    Args:
        state_dict: tensors (or arrays) by their released names, ``{"state_dict": ...}``, or the path of a file with
            either.
        dataset_info: ``index_to_Z`` (atomic numbers), ``orbital_types`` (degrees of the shells of each) and
            ``spinful``, as in the ``dataset_info.json`` of DeepH-E3.
        legacy_e3nn: the weights were trained with e3nn 0.3.5, which the released code pins.
        r_max: range of the radial functions, angstrom; it cannot be inferred from the weights.
        hermitian, time_reversal, edge_chunk, recompute: see `DeepHE3`.

    Returns:
        The model in evaluation mode and in the dtype of the weights.

    Raises:
        CheckpointError: an unreadable file, an incomplete dataset_info, missing or surplus tensors, or shapes that do
            not agree.
    """
    content = read_plain(state_dict) if isinstance(state_dict, str | Path) else state_dict
    state = {
        key: value
        for key, value in released_state(content, KIND).items()
        if value.numel() and not any(part in key for part in _IGNORED)
    }
    basis = _basis(dataset_info)
    try:
        sizes = _sizes(state, basis)
        backbone = DeepHE3(
            basis,
            **sizes,
            cutoff=r_max,
            legacy_e3nn=legacy_e3nn,
            hermitian=hermitian,
            time_reversal=time_reversal,
            edge_chunk=edge_chunk,
            recompute=recompute,
        )
    except KeyError as error:
        raise CheckpointError(
            f"not {KIND}: it has no {error.args[0]} but {some_names(sorted(state))}"
        ) from error
    except IndexError as error:
        raise CheckpointError(
            f"not {KIND}: its weights are flat; give them in their released shapes"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"not {KIND} for this dataset_info: {error}") from error
    backbone.to(state["embedding.weight"].dtype)
    used: set[str] = set()
    with torch.no_grad():
        for name, pieces in _names(backbone):
            used.add(name)
            _fill(name, state, pieces)
    surplus = sorted(state.keys() - used)
    if surplus:
        raise CheckpointError(f"not {KIND} for this dataset_info: it has no place for {some_names(surplus)}")
    return HamiltonianModel(backbone).eval()


def _basis(info: Mapping[str, Any]) -> OrbitalBasis:
    missing = sorted({"index_to_Z", "orbital_types", "spinful"} - info.keys())
    if missing:
        raise CheckpointError(f"dataset_info lacks {missing}; it holds index_to_Z, orbital_types and spinful")
    numbers = [int(z) for z in info["index_to_Z"]]
    types = [[int(degree) for degree in degrees] for degrees in info["orbital_types"]]
    if len(numbers) != len(types) or numbers != sorted(set(numbers)):
        raise CheckpointError(
            f"dataset_info: index_to_Z is {numbers} and orbital_types has {len(types)} entries; "
            "one list of degrees for each element is needed, elements in ascending order"
        )
    return OrbitalBasis.openmx(dict(zip(numbers, types, strict=True)), bool(info["spinful"]))


def _sizes(state: Mapping[str, Tensor], basis: OrbitalBasis) -> dict[str, Any]:
    """Arguments of `DeepHE3` from the shapes of the tensors."""
    blocks = 1 + max(
        (int(key.split(".")[1]) for key in state if key.startswith("node_update_blocks.")), default=0
    )
    embed, rest = divmod(state["embedding.weight"].numel(), len(basis.elements))
    if rest or embed != state["edge_update_blocks.0.lin_pre.bias"].numel():
        raise CheckpointError(
            f"not {KIND} for this dataset_info: an embedding of {state['embedding.weight'].numel()} numbers for "
            f"{len(basis.elements)} elements and edges that start with "
            f"{state['edge_update_blocks.0.lin_pre.bias'].numel()} channels do not fit together"
        )
    node, degrees = _natural_irreps(state, "node_update_blocks.0")
    sizes: dict[str, Any] = {
        "embed": embed,
        "blocks": blocks,
        "radial": state["node_update_blocks.0.conv.fc.0.weight"].shape[1],
        "lmax": degrees - 1,
    }
    if blocks == 1:
        return sizes | {"irreps": str(node), "last_node_irreps": str(node)}
    edge, _ = _natural_irreps(state, "edge_update_blocks.0")
    sizes["lmax"] = _harmonics_lmax(state, node, edge, degrees - 1)
    last_channels = state[f"node_update_blocks.{blocks - 1}.conv.fc.4.bias"].numel()
    extra = last_channels - node.num_irreps
    last = Irreps([*node, (extra, Irrep(1, 1))]) if extra > 0 else node
    return sizes | {"irreps": str(edge), "node_irreps": str(node), "last_node_irreps": str(last)}


def _natural_irreps(state: Mapping[str, Tensor], update: str) -> tuple[Irreps, int]:
    """Irreps of the output of an update, and the number of degrees of its spherical harmonics.

    The first input has degree 0; its product with harmonics of degree l has degree l. The weights of this path have
    one column for each output channel of degree l (and for each gate, if l = 0).
    """
    channels = state[f"{update}.conv.fc.4.bias"].numel()
    muls = [state[f"{update}.lin_post.bias"].numel()]
    while sum(muls) < channels and len(muls) <= _HIGHEST_DEGREE:
        name = f"{update}.conv.tp.weights1.{len(muls)}"
        if state[name].shape[1] > channels - sum(muls):
            break
        muls.append(state[name].shape[1])
    degrees = len(muls)
    if sum(muls) < channels:  # a degree above those of the harmonics, which no product with scalars has
        muls.append(channels - sum(muls))
    return Irreps([(mul, Irrep(degree, (-1) ** degree)) for degree, mul in enumerate(muls)]), degrees


def _harmonics_lmax(state: Mapping[str, Tensor], node: Irreps, edge: Irreps, least: int) -> int:
    """Highest degree of the harmonics, from the number of paths of an edge update."""
    update = "edge_update_blocks.0"
    paths = sum(key.startswith(f"{update}.conv.tp.weights1.") for key in state)
    for lmax in range(least, _HIGHEST_DEGREE + 1):
        sources = [ir for irreps in (node, node) for _, ir in irreps] + [SCALAR]
        targets = [ir for _, ir in edge]
        if (
            sum(len(filter_degrees(source, target, lmax)) for source in sources for target in targets)
            == paths
        ):
            return lmax
    raise CheckpointError(
        f"not {KIND}: {paths} weights of {update}.conv.tp fit no degree of harmonics "
        f"from {least} to {_HIGHEST_DEGREE}"
    )


def _fill(name: str, state: Mapping[str, Tensor], pieces: Pieces) -> None:
    """Copy the numbers of a released tensor into its pieces."""
    if name not in state:
        raise CheckpointError(f"not {KIND}: {name} is missing")
    source = state[name]
    count = sum(math.prod(shape) for _, shape in pieces)
    if not source.is_floating_point() or source.numel() != count:
        raise CheckpointError(
            f"not {KIND} for this dataset_info: {name} has shape {list(source.shape)} and dtype {source.dtype}; "
            f"{count} floating-point numbers are needed"
        )
    flat = source.detach().reshape(-1)
    start = 0
    for place, shape in pieces:
        size = math.prod(shape)
        place.copy_(flat[start : start + size].view(shape).reshape(place.shape))
        start += size


def _names(backbone: DeepHE3) -> Iterator[tuple[str, Pieces]]:
    """Released name of each tensor, and its pieces."""
    yield "embedding.weight", _one_piece(backbone.embedding)
    for kind, updates in (("node", backbone.node_updates), ("edge", backbone.edge_updates)):
        for k, update in enumerate(updates):
            assert isinstance(update, Update)
            yield from _update_names(f"{kind}_update_blocks.{k}", update)
    yield from _head_names(backbone)


def _update_names(prefix: str, update: Any) -> Iterator[tuple[str, Pieces]]:
    yield from _linear_names(f"{prefix}.lin_pre", update.pre)
    yield from _linear_names(f"{prefix}.lin_post", update.post)
    if update.skip is not None:
        yield from _linear_names(f"{prefix}.skip_connect.sc", update.skip)
    first = update.own.linears[0]
    of_kinds: Pieces = []
    for i in _by_input(first):
        # Released order of the numbers: [input channel, kind of node, output channel].
        weights = [linear.weights[i] for linear in update.own.linears]
        of_kinds += [
            piece for row in range(len(weights[0])) for weight in weights for piece in _one_piece(weight[row])
        ]
    yield f"{prefix}.sc.weight", of_kinds
    yield f"{prefix}.norm.weight", [piece for weight in update.norm.weights for piece in _one_piece(weight)]
    yield f"{prefix}.norm.bias", _one_piece(update.norm.bias)
    yield from _product_names(f"{prefix}.conv.tp", update.convolution.product)
    for layer in (0, 2, 4):
        linear = update.convolution.radial_net[layer]
        yield f"{prefix}.conv.fc.{layer}.weight", _one_piece(linear.weight)
        yield f"{prefix}.conv.fc.{layer}.bias", _one_piece(linear.bias)


def _linear_names(name: str, linear: IrrepsLinear) -> Iterator[tuple[str, Pieces]]:
    yield f"{name}.weight", [piece for i in _by_input(linear) for piece in _one_piece(linear.weights[i])]
    if linear.bias is not None:
        yield f"{name}.bias", _one_piece(linear.bias)


def _by_input(linear: IrrepsLinear) -> list[int]:
    """Positions of the weights, sorted by their input."""
    sources = [source for source in linear.sources if source is not None]
    return sorted(range(len(sources)), key=lambda i: sources[i])


def _product_names(name: str, product: EdgeProduct) -> Iterator[tuple[str, Pieces]]:
    """The released product has one weight for each path: an irrep of the input, of Y and of the output."""
    places = {(c.source, c.target): n for n, c in enumerate(product.couplings)}
    w1, w2 = product.views(product.w1), product.views(product.w2, inputs=True)
    position = 0
    for s, irreps in enumerate(product.inputs):
        for mul, ir in irreps:
            kind = product.kinds.index(ir)
            owners = [t for t, other in enumerate(product.inputs) if ir in [i for _, i in other]]
            start = sum(m for t in owners if t < s for m, i in product.inputs[t] if i == ir)
            for l2 in range(product.lmax + 1):
                for o in range(len(product.output)):
                    n = places.get((kind, o))
                    if n is None or l2 not in product.couplings[n].degrees:
                        continue
                    path = product.couplings[n].degrees.index(l2)
                    yield f"{name}.weights1.{position}", _one_piece(w1[n][path, start : start + mul])
                    yield f"{name}.weights2.{position}", _one_piece(w2[n][path, owners.index(s)])
                    position += 1


def _head_names(backbone: DeepHE3) -> Iterator[tuple[str, Pieces]]:
    """The released head has one output of one channel for each irrep of each pair of shells."""
    entries = released_outputs(backbone)
    weights: Pieces = []
    for i, (_, ir) in enumerate(backbone.expansion.irreps):
        weight = backbone.head.weights[i]
        weights += [(weight[:, channel], (len(weight),)) for entry, channel in entries if entry == ir]
    yield "lin_edge.weight", weights
    bias = backbone.head.bias
    if bias is not None:
        yield "lin_edge.bias", [(bias[channel], (1,)) for entry, channel in entries if entry == SCALAR]


def released_outputs(backbone: DeepHE3) -> list[tuple[Irrep, int]]:
    """Irrep and channel in this network of each output of the released network, in its order.

    Pairs of shells come in the order in which pairs of species, by ascending atomic number, first have them; with
    spin all real parts come before all imaginary parts.
    """
    basis = backbone.basis
    order = backbone.expansion.channel_order()
    shells = len(basis.union) // basis.spins
    shells_of = {z: [i for i in range(shells) if basis.shell_mask[z][i]] for z in basis.elements}
    pairs = dict.fromkeys(
        (row, column)
        for a in basis.elements
        for b in basis.elements
        for row in shells_of[a]
        for column in shells_of[b]
    )
    return [entry for part in range(basis.spins) for pair in pairs for entry in order[*pair, part]]


def _one_piece(tensor: Tensor) -> Pieces:
    return [(tensor, tuple(tensor.shape))]


def export_deeph_e3(backbone: DeepHE3) -> dict[str, Tensor]:
    """Weights by the names and in the layouts of the released code, without its unused last layer of the nodes.

    Inverse of `load_released_deeph_e3`.
    """
    with torch.no_grad():
        return {
            name: torch.cat([place.reshape(-1) for place, _ in pieces]) for name, pieces in _names(backbone)
        }
