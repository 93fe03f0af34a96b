"""Conversion of released weights of QHNet."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tracegrad.backbones.qhnet import QHNet
from tracegrad.errors import CheckpointError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.component_first.features import paths
from tracegrad.weights.checkpoint import read_plain
from tracegrad.weights.released.state import released_state, some_names

KIND = "a released QHNet"
# Parameters that the forward pass of the released QHNet does not use.
_UNUSED = (
    "e3_gnn_layer.0.conv.norm_gate.",
    "e3_gnn_layer.0.conv.linear_node.",
    "e3_gnn_layer.0.conv.linear_node_pre.",
    ".tp_node_pair_2.",
    ".linear_node_pair_2.",
    "expand_ii.",
    "expand_ij.",
)
# Buffers and empty tensors without trained content.
_CONSTANT = (
    ".output_mask",
    "_w3j_",
    "distance_expansion.cutoff",
    "distance_expansion.logc",
    "distance_expansion.n",
    "distance_expansion.v",
)
# Larger sizes are taken as a sign of a damaged or foreign file.
_LARGEST = {
    "species": 1000,
    "channels": 4096,
    "lmax": 8,
    "bottleneck": 4096,
    "layers": 100,
    "pair_layers": 100,
    "radial": 1000,
}


def load_released_qhnet(source: str | Path | Mapping[str, Any]) -> HamiltonianModel:
    """QHNet with the weights of a released checkpoint of the QH9 benchmark. All sizes follow from the shapes.

    Args:
        source: path of a checkpoint, its content ``{"state_dict": ...}``, or a state_dict of tensors (or arrays).

    Returns:
        The model in evaluation mode and in the dtype of the weights.

    Raises:
        CheckpointError: an unreadable file, missing tensors, tensors that QHNet does not have, or shapes that do not
            agree.
    """
    if not isinstance(source, (str, Path)):
        return _loaded(source)
    try:
        return _loaded(read_plain(source))
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _loaded(content: Any) -> HamiltonianModel:
    state = released_state(content, KIND)
    released_names = {ours: theirs for theirs, ours in _qhnet_names(state)}
    used = set(released_names.values())
    unknown = sorted(
        key
        for key, value in state.items()
        if key not in used and value.numel() and not any(part in key for part in (*_UNUSED, *_CONSTANT))
    )
    if unknown:
        raise CheckpointError(f"not a released QHNet: it has no place for {some_names(unknown)}")
    missing = sorted(used - state.keys())
    if missing:
        raise CheckpointError(f"not a released QHNet: tensors are missing: {some_names(missing)}")
    integers = sorted(key for key in used if not state[key].is_floating_point())
    if integers:
        raise CheckpointError(
            f"not a released QHNet: weights are no floating-point numbers: {some_names(integers)}"
        )

    backbone = QHNet(OrbitalBasis.def2_svp(), **_qhnet_sizes(state))
    weights = backbone.state_dict()
    for ours, tensor in weights.items():
        theirs = state[released_names[ours]]
        flat = theirs.ndim == 1 and theirs.numel() == tensor.numel()
        if not flat and theirs.shape != tensor.shape:
            raise CheckpointError(
                f"not a released QHNet: {released_names[ours]} has shape {list(theirs.shape)}, "
                f"{list(tensor.shape)} is needed for {ours}"
            )
        weights[ours] = theirs.detach().reshape(tensor.shape)
    backbone.to(weights["embedding.weight"].dtype)
    backbone.load_state_dict(weights)
    return HamiltonianModel(backbone).eval()


def _qhnet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `QHNet`; before anything is allocated, each is checked against more than one tensor."""
    species, channels = _matrix(state, "node_embedding.weight")
    radial, _ = _matrix(state, "e3_gnn_layer.0.conv.fc_node.layer0.weight")
    linear = state["e3_gnn_node_layer.0.linear_node_1.weight"].numel()
    bottleneck = state["output_ii.weight"].numel()
    degrees = linear // max(channels, 1) ** 2
    sizes: dict[str, Any] = {
        "species": species,
        "channels": channels,
        "lmax": degrees - 1,
        "bottleneck": bottleneck // max(channels * degrees, 1),
        "layers": _count(state, "e3_gnn_layer."),
        "pair_layers": _pair_layers(state),
        "radial": radial,
    }
    for name, size in sizes.items():
        least = max(OrbitalBasis.def2_svp().elements) + 1 if name == "species" else 1
        if not least <= size <= _LARGEST[name]:
            raise CheckpointError(
                f"not a released QHNet: its tensors' shapes give {name} = {size}, "
                f"which should be {least} to {_LARGEST[name]}"
            )
    if sizes["pair_layers"] > sizes["layers"]:
        raise CheckpointError(
            f"not a released QHNet: {sizes['pair_layers']} pair layers after {sizes['layers']} convolutions"
        )
    n_paths = len(paths(sizes["lmax"], sizes["lmax"], sizes["lmax"], parity=False))
    counts = {
        "e3_gnn_node_layer.0.linear_node_1.weight": degrees * channels**2,
        "e3_gnn_node_layer.0.norm_gate_1.fc.0.bias": degrees * channels,
        "e3_gnn_node_layer.0.tp.weight": n_paths * channels,
        "e3_gnn_node_pair_layer.0.fc.2.weight": n_paths * channels**2,
        "e3_gnn_node_pair_layer.0.fc_node_pair.layer0.weight": radial * channels,
        "output_ii.weight": degrees * channels * sizes["bottleneck"],
        "output_ij.weight": degrees * channels * sizes["bottleneck"],
    }
    for name, count in counts.items():
        if state[name].numel() != count:
            raise CheckpointError(
                f"not a released QHNet: {name} has shape {list(state[name].shape)}, but {count} numbers "
                f"follow from lmax {sizes['lmax']}, {channels} channels and {radial} radial functions"
            )
    if "distance_expansion.cutoff" in state:
        cutoff = state["distance_expansion.cutoff"]
        if cutoff.numel() != 1 or not 0 < float(cutoff) < math.inf:
            raise CheckpointError("not a released QHNet: distance_expansion.cutoff is no distance above 0")
        sizes["cutoff"] = float(cutoff)
    return sizes


def _matrix(state: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    shape = state[name].shape
    if len(shape) != 2:
        raise CheckpointError(f"not a released QHNet: {name} has shape {list(shape)}, it should be a matrix")
    return shape[0], shape[1]


def _qhnet_names(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Released name and name in `QHNet` of each parameter."""
    if "node_embedding.weight" not in state:
        raise CheckpointError(
            f"not a released QHNet: it has no node_embedding.weight but {some_names(sorted(state)) or 'nothing'}"
        )
    pairs = [("node_embedding.weight", "embedding.weight"), ("distance_expansion._alpha", "radial.alpha")]
    for i in range(_count(state, "e3_gnn_layer.")):
        theirs, ours = f"e3_gnn_layer.{i}.conv", f"convolutions.{i}"
        pairs += _layer_names(theirs, ours, "fc_node.layer{}", "radial_net.layer{}", (0, 1), ("weight",))
        pairs += _layer_names(theirs, ours, "layer_l0.layer{}", "invariant_net.layer{}", (0, 1), ("weight",))
        pairs += _layer_names(theirs, ours, "linear_out", "out")
        if i > 0:
            pairs += _gate_names(f"{theirs}.norm_gate", f"{ours}.gate")
            pairs += _layer_names(theirs, ours, "linear_node", "linear")
            pairs += _layer_names(theirs, ours, "linear_node_pre", "pre")
    for i in range(_pair_layers(state)):
        theirs, ours = f"e3_gnn_node_layer.{i}", f"self_layers.{i}"
        for j in range(2):
            pairs += _gate_names(f"{theirs}.norm_gate_{j + 1}", f"{ours}.gates.{j}")
            pairs += _layer_names(theirs, ours, f"linear_node_{j + 1}", f"linears.{j}")
        pairs += [(f"{theirs}.tp.weight", f"{ours}.weight")]
        pairs += _gate_names(f"{theirs}.norm_gate", f"{ours}.gate")
        pairs += _layer_names(theirs, ours, "linear_node_3", "out")
    for i in range(_pair_layers(state)):
        theirs, ours = f"e3_gnn_node_pair_layer.{i}", f"pair_layers.{i}"
        pairs += _layer_names(theirs, ours, "linear_node_pair_inner", "inner")
        pairs += _gate_names(f"{theirs}.norm_gate_pre", f"{ours}.gate_in")
        pairs += _layer_names(theirs, ours, "linear_node_pair_n", "linear")
        pairs += _layer_names(theirs, ours, "fc_node_pair.layer{}", "radial_net.layer{}", (0, 1), ("weight",))
        pairs += _layer_names(theirs, ours, "fc.{}", "invariant_net.{}", (0, 2))
        pairs += _gate_names(f"{theirs}.norm_gate", f"{ours}.gate_out")
        pairs += _layer_names(theirs, ours, "linear_node_pair", "out")
    for site, head in (("ii", "self_head"), ("ij", "pair_head")):
        pairs += [(f"output_{site}.weight", f"{head}.bottleneck.weight")]
        pairs += _layer_names(f"fc_{site}.hamiltonian", f"{head}.weight_net", "{}", "{}", (0, 2))
        pairs += _layer_names(f"fc_{site}_bias.hamiltonian", f"{head}.bias_net", "{}", "{}", (0, 2))
    return pairs


def _layer_names(
    theirs: str,
    ours: str,
    their_layer: str,
    our_layer: str,
    positions: tuple[int, ...] = (0,),
    kinds: tuple[str, ...] = ("weight", "bias"),
) -> list[tuple[str, str]]:
    """Released name and name here of weight and bias of one or several layers."""
    return [
        (f"{theirs}.{their_layer.format(i)}.{kind}", f"{ours}.{our_layer.format(i)}.{kind}")
        for i in positions
        for kind in kinds
    ]


def _gate_names(theirs: str, ours: str) -> list[tuple[str, str]]:
    return _layer_names(theirs, ours, "fc.{}", "mlp.{}", (0, 2))


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of layers with this prefix, at least 1, from the highest index."""
    indices = {key[len(prefix) :].split(".", 1)[0] for key in state if key.startswith(prefix)}
    known = {str(i) for i in range(_LARGEST["layers"])}
    if not indices <= known:
        raise CheckpointError(
            f"not a released QHNet: it has no place for {prefix}{min(indices - known)}; "
            f"layers are numbered 0 to {_LARGEST['layers'] - 1}"
        )
    return max(map(int, indices), default=0) + 1


def _pair_layers(state: Mapping[str, Tensor]) -> int:
    return max(_count(state, prefix) for prefix in ("e3_gnn_node_layer.", "e3_gnn_node_pair_layer."))
