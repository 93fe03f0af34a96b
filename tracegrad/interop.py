"""Released weights of other codes, loaded into the models of this one."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.backbones.qhnet import QHNet
from tracegrad.basis import OrbitalBasis
from tracegrad.errors import CheckpointError
from tracegrad.model import HamiltonianModel

# Parameters of the released QHNet that its forward pass never uses.
_DEAD = (
    "e3_gnn_layer.0.conv.norm_gate.",
    "e3_gnn_layer.0.conv.linear_node.",
    "e3_gnn_layer.0.conv.linear_node_pre.",
    ".tp_node_pair_2.",
    ".linear_node_pair_2.",
    "expand_ii.",
    "expand_ij.",
)
# Buffers and placeholders without trained content.
_CONSTANT = (
    ".output_mask",
    "_w3j_",
    "distance_expansion.cutoff",
    "distance_expansion.logc",
    "distance_expansion.n",
    "distance_expansion.v",
)


def load_released_qhnet(source: str | Path | Mapping[str, Any]) -> HamiltonianModel:
    """QHNet with the weights of a released checkpoint of the QH9 benchmark.

    Args:
        source: path of a checkpoint, its ``{"state_dict": ...}`` or a bare state_dict of tensors (or arrays).

    Returns:
        A model in evaluation mode, float64 when the weights are. All sizes come from the tensors' shapes.

    Raises:
        CheckpointError: unreadable file, missing tensors, or tensors that a QHNet does not have.
    """
    state = _released_state(source)
    names = {ours: theirs for theirs, ours in _qhnet_names(state)}
    used = set(names.values())
    unknown = sorted(
        key
        for key, value in state.items()
        if key not in used and value.numel() and not any(part in key for part in (*_DEAD, *_CONSTANT))
    )
    if unknown:
        raise CheckpointError(f"not a released QHNet: it has no place for {_some(unknown)}")
    missing = sorted(used - state.keys())
    if missing:
        raise CheckpointError(f"not a released QHNet: tensors are missing: {_some(missing)}")

    backbone = QHNet(OrbitalBasis.def2_svp(), **_qhnet_sizes(state))
    own = backbone.state_dict()
    for ours, tensor in own.items():
        theirs = state[names[ours]]
        if theirs.numel() != tensor.numel():
            raise CheckpointError(
                f"not a released QHNet: {names[ours]} has shape {list(theirs.shape)}, "
                f"{tensor.numel()} numbers are needed for {ours}"
            )
        own[ours] = theirs.detach().reshape(tensor.shape)
    backbone.to(own["embedding.weight"].dtype)
    backbone.load_state_dict(own)
    return HamiltonianModel(backbone).eval()


def _released_state(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    if isinstance(source, (str, Path)):
        try:
            source = torch.load(source, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{source}: not a readable checkpoint of plain tensors ({error})"
            ) from error
    if not isinstance(source, Mapping):
        raise CheckpointError(f"a state_dict is a mapping of names to tensors, not {type(source).__name__}")
    entries: Mapping[str, Any] = source.get("state_dict", source)
    state = {}
    for key, value in entries.items():
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"not a state_dict: {key} is {type(value).__name__}, not a tensor")
        state[key.removeprefix("module.")] = tensor
    return state


def _qhnet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    species, channels = state["node_embedding.weight"].shape
    sizes: dict[str, Any] = {
        "species": species,
        "channels": channels,
        "lmax": state["e3_gnn_node_layer.0.linear_node_1.weight"].numel() // channels**2 - 1,
        "layers": _count(state, "e3_gnn_layer."),
        "pair_layers": _count(state, "e3_gnn_node_pair_layer."),
        "radial": state["e3_gnn_layer.0.conv.fc_node.layer0.weight"].shape[0],
    }
    sizes["bottleneck"] = state["output_ii.weight"].numel() // channels // (sizes["lmax"] + 1)
    if "distance_expansion.cutoff" in state:
        sizes["cutoff"] = float(state["distance_expansion.cutoff"])
    return sizes


def _qhnet_names(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs (released name, own name) of every parameter."""
    if "node_embedding.weight" not in state:
        raise CheckpointError(
            f"not a released QHNet: it has no node_embedding.weight but {_some(sorted(state))}"
        )
    pairs = [("node_embedding.weight", "embedding.weight"), ("distance_expansion._alpha", "radial.alpha")]
    for i in range(_count(state, "e3_gnn_layer.")):
        theirs, ours = f"e3_gnn_layer.{i}.conv", f"convolutions.{i}"
        pairs += _plain(theirs, ours, "fc_node.layer{}", "radial_net.layer{}", (0, 1), ("weight",))
        pairs += _plain(theirs, ours, "layer_l0.layer{}", "invariant_net.layer{}", (0, 1), ("weight",))
        pairs += _plain(theirs, ours, "linear_out", "out")
        if i > 0:
            pairs += _gate(f"{theirs}.norm_gate", f"{ours}.gate")
            pairs += _plain(theirs, ours, "linear_node", "linear")
            pairs += _plain(theirs, ours, "linear_node_pre", "pre")
    for i in range(_count(state, "e3_gnn_node_layer.")):
        theirs, ours = f"e3_gnn_node_layer.{i}", f"self_layers.{i}"
        for j in range(2):
            pairs += _gate(f"{theirs}.norm_gate_{j + 1}", f"{ours}.gates.{j}")
            pairs += _plain(theirs, ours, f"linear_node_{j + 1}", f"linears.{j}")
        pairs += [(f"{theirs}.tp.weight", f"{ours}.weight")]
        pairs += _gate(f"{theirs}.norm_gate", f"{ours}.gate")
        pairs += _plain(theirs, ours, "linear_node_3", "out")
    for i in range(_count(state, "e3_gnn_node_pair_layer.")):
        theirs, ours = f"e3_gnn_node_pair_layer.{i}", f"pair_layers.{i}"
        pairs += _plain(theirs, ours, "linear_node_pair_inner", "inner")
        pairs += _gate(f"{theirs}.norm_gate_pre", f"{ours}.gate_in")
        pairs += _plain(theirs, ours, "linear_node_pair_n", "linear")
        pairs += _plain(theirs, ours, "fc_node_pair.layer{}", "radial_net.layer{}", (0, 1), ("weight",))
        pairs += _plain(theirs, ours, "fc.{}", "invariant_net.{}", (0, 2))
        pairs += _gate(f"{theirs}.norm_gate", f"{ours}.gate_out")
        pairs += _plain(theirs, ours, "linear_node_pair", "out")
    for site, head in (("ii", "self_head"), ("ij", "pair_head")):
        pairs += [(f"output_{site}.weight", f"{head}.bottleneck.weight")]
        pairs += _plain(f"fc_{site}.hamiltonian", f"{head}.weight_net", "{}", "{}", (0, 2))
        pairs += _plain(f"fc_{site}_bias.hamiltonian", f"{head}.bias_net", "{}", "{}", (0, 2))
    return pairs


def _plain(
    theirs: str,
    ours: str,
    their_layer: str,
    our_layer: str,
    positions: tuple[int, ...] = (0,),
    kinds: tuple[str, ...] = ("weight", "bias"),
) -> list[tuple[str, str]]:
    return [
        (f"{theirs}.{their_layer.format(i)}.{kind}", f"{ours}.{our_layer.format(i)}.{kind}")
        for i in positions
        for kind in kinds
    ]


def _gate(theirs: str, ours: str) -> list[tuple[str, str]]:
    return _plain(theirs, ours, "fc.{}", "mlp.{}", (0, 2))


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    indices = {int(key[len(prefix) :].split(".", 1)[0]) for key in state if key.startswith(prefix)}
    return max(indices, default=-1) + 1


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
