"""Networks that start from trained weights: those of a run, or released ones."""

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

RELEASED = (".pt", ".pth", ".pkl")
# Settings of backbones that tensors do not show.
HIDDEN = ("cutoff", "legacy_e3nn")


@dataclass(frozen=True)
class WarmStart:
    """What a network has taken over: the file, the tensors, how many it has, and what of it is new.

    ``new`` names whole parts (blocks, decoders), or the gains of blocks that are not new themselves.
    """

    file: Path
    loaded: list[str]
    total: int
    new: list[str]


def start_from(model: HamiltonianModel, source: str | Path) -> WarmStart:
    """Put the weights of a trained network into ``model``; what the other does not have keeps its values.

    The backbone is taken over whole, TraceGrad blocks and decoders where all of their tensors have a place. Blocks
    whose v was added as it is keep doing so: their gains, which only this network has, become 1.

    Args:
        source: a run directory, a checkpoint of it or an exported .safetensors file, a released QHNet (.pt), or a
            model folder of DeepH-E3 (whose weights count as trained with e3nn 0.3.5).

    Raises:
        CheckpointError: no such network, or one with another backbone.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file or directory; give a run directory, a .ckpt or {ENDING} file, a released QHNet "
            "(.pt) or a model folder of DeepH-E3"
        )
    released = path.suffix in RELEASED if path.is_file() else not (path / "checkpoints").is_dir()
    if released:
        found = load_released(path)
        other, file = found.model, found.file
    else:
        other, file = load_model(path), checkpoint_file(path)
    _check_backbone(model, other, file)
    own, theirs = model.state_dict(), other.state_dict()
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in theirs.items():
        groups.setdefault(_part(name), {})[name] = tensor
    fitting = {
        name: tensor
        for group in groups.values()
        for name, tensor in group.items()
        if all(key in own and own[key].shape == value.shape for key, value in group.items())
    }
    with torch.no_grad():
        model.load_state_dict(own | {name: value.to(own[name].dtype) for name, value in fitting.items()})
    taken = {_part(name) for name in fitting}
    with torch.no_grad():
        for site, gains in model.tracegrad.gains.items():
            for k, gain in enumerate(gains):
                name = f"tracegrad.gains.{site}.{k}"
                if name not in fitting and _part(name) in taken and other.tracegrad.gradients[site][k]:
                    gain.fill_(1.0)
    # Of a block that is taken over only the gain can be new.
    new = dict.fromkeys(name if _part(name) in taken else _part(name) for name in own if name not in fitting)
    return WarmStart(file, sorted(fitting), len(own), list(new))


def _part(name: str) -> str:
    """The part of a network that a tensor belongs to: the backbone, a TraceGrad block with its gain, or a decoder."""
    owner, *inner = name.split(".")
    if owner != "tracegrad":
        return owner
    kind, site = inner[:2]
    return f"{owner}.{kind}.{site}" if kind == "decoders" else f"{owner}.blocks.{site}.{inner[2]}"


def _check_backbone(model: HamiltonianModel, other: HamiltonianModel, file: Path) -> None:
    """Raise `CheckpointError` unless the weights of the other backbone mean the same in this one."""
    own, theirs = model.backbone, other.backbone
    if own.label != theirs.label:
        raise CheckpointError(
            f"{file}: holds a {theirs.label}, and the network to train is a {own.label}; choose another init_from, "
            "or the model and the data that belong to it"
        )
    crystals = own.periodic and own.basis.shells != theirs.basis.shells
    if crystals or own.basis.union != theirs.basis.union or own.basis.spinful != theirs.basis.spinful:
        raise CheckpointError(
            f"{file}: was trained for {theirs.basis.name}, and the network to train is for {own.basis.name}; "
            "both need the same elements, shells and spin"
        )
    found, wanted = ({f"backbone.{key}": t for key, t in b.state_dict().items()} for b in (theirs, own))
    check_architecture(found, wanted, str(file))
    for name in HIDDEN:
        needed, set_here = getattr(theirs, name, None), getattr(own, name, None)
        if needed != set_here:
            raise CheckpointError(
                f"{file}: its weights need model.backbone.{name}={str(needed).lower()}, which is "
                f"{str(set_here).lower()} here"
            )
