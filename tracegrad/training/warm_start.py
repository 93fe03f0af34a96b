"""Initial weights of a training from a trained network: one of TraceGrad's or a released one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tracegrad.errors import CheckpointError
from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.checkpoint import check_architecture
from tracegrad.weights.model_file import ENDING
from tracegrad.weights.released.loading import load_released
from tracegrad.weights.saved import checkpoint_file, load_model

RELEASED_SUFFIXES = (".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class WarmStart:
    """What a network has taken over from a trained one.

    Args:
        file: file of the trained weights.
        loaded: names of the tensors that were taken over.
        total: number of tensors of the network.
        new: parts (blocks, decoders) without trained weights, and new gains of blocks that have been taken over.
    """

    file: Path
    loaded: list[str]
    total: int
    new: list[str]


def start_from(model: HamiltonianModel, source: str | Path) -> WarmStart:
    """Copy the weights of a trained network into ``model``; parts that the trained network lacks keep their values.

    The backbone is copied completely; a TraceGrad block or decoder is copied if all of its tensors fit. If a copied
    block had no gain, that is o = f + v, and the block of ``model`` has one, the gain becomes 1.

    Args:
        model: the network to initialise.
        source: a run directory, a checkpoint or an exported .safetensors file, a released QHNet (.pt), or a model
            folder of DeepH-E3 (assumed to be trained with e3nn 0.3.5).

    Raises:
        CheckpointError: no such network, or one with another backbone.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file or directory; give a run directory, a .ckpt or {ENDING} file, a released QHNet "
            "(.pt) or a model folder of DeepH-E3"
        )
    released = path.suffix in RELEASED_SUFFIXES if path.is_file() else not (path / "checkpoints").is_dir()
    if released:
        network = load_released(path)
        trained, file = network.model, network.file
    else:
        trained, file = load_model(path), checkpoint_file(path)
    _check_backbone(model, trained, file)
    state = model.state_dict()
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in trained.state_dict().items():
        groups.setdefault(_part(name), {})[name] = tensor
    fitting = {
        name: tensor
        for group in groups.values()
        for name, tensor in group.items()
        if all(key in state and state[key].shape == value.shape for key, value in group.items())
    }
    with torch.no_grad():
        model.load_state_dict(state | {name: value.to(state[name].dtype) for name, value in fitting.items()})
    copied = {_part(name) for name in fitting}
    with torch.no_grad():
        for site, gains in model.tracegrad.gains.items():
            for k, gain in enumerate(gains):
                name = f"tracegrad.gains.{site}.{k}"
                if name not in fitting and _part(name) in copied and trained.tracegrad.gradients[site][k]:
                    gain.fill_(1.0)
    # In a copied block only the gain can be new.
    new = dict.fromkeys(
        name if _part(name) in copied else _part(name) for name in state if name not in fitting
    )
    return WarmStart(file, sorted(fitting), len(state), list(new))


def _part(name: str) -> str:
    """The part of a network that a tensor belongs to: the backbone, a TraceGrad block with its gain, or a decoder."""
    owner, *inner = name.split(".")
    if owner != "tracegrad":
        return owner
    kind, site = inner[:2]
    return f"{owner}.{kind}.{site}" if kind == "decoders" else f"{owner}.blocks.{site}.{inner[2]}"


def _check_backbone(model: HamiltonianModel, trained: HamiltonianModel, file: Path) -> None:
    """Raise `CheckpointError` unless the weights of the trained backbone have the same meaning in ``model``."""
    ours, theirs = model.backbone, trained.backbone
    if ours.label != theirs.label:
        raise CheckpointError(
            f"{file}: holds a {theirs.label}, and the network to train is a {ours.label}; choose another init_from, "
            "or the model and the data that belong to it"
        )
    shells_differ = ours.periodic and ours.basis.shells != theirs.basis.shells
    if shells_differ or ours.basis.union != theirs.basis.union or ours.basis.spinful != theirs.basis.spinful:
        raise CheckpointError(
            f"{file}: was trained for {theirs.basis.name}, and the network to train is for {ours.basis.name}; "
            "both need the same elements, shells and spin"
        )
    states = [{f"backbone.{key}": t for key, t in b.state_dict().items()} for b in (theirs, ours)]
    check_architecture(states[0], states[1], str(file))
    for name in ours.beside_tensors:
        needed, set_here = getattr(theirs, name, None), getattr(ours, name, None)
        if needed != set_here:
            raise CheckpointError(
                f"{file}: its weights need model.backbone.{name}={str(needed).lower()}, which is "
                f"{str(set_here).lower()} here"
            )
