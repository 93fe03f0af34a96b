"""Initial weights of a training from a trained network: one of TraceGrad's or a released one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tracegrad.errors import CheckpointError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.interface import Backbone
from tracegrad.weights.checkpoint import check_architecture
from tracegrad.weights.model_file import ENDING
from tracegrad.weights.released.loading import load_released
from tracegrad.weights.saved import checkpoint_file, load_model

# Beginnings of the names of the tensors of a backbone, and of blocks and decoders of TraceGrad.
WHOLE, BLOCKS, DECODERS = "backbone.", "tracegrad.blocks.", "tracegrad.decoders."
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

    The backbone is copied completely, or only its first stage if that is what the trained network is; a TraceGrad
    block or decoder is copied if all of its tensors fit. If a copied block had no gain, that is o = f + v, and the
    block of ``model`` has one, the gain becomes 1. A network for both spins gets the weights of one without spin for
    each of them.

    Args:
        model: the network to initialise.
        source: a run directory, a checkpoint or an exported .safetensors file, a released QHNet (.pt), or a model
            folder of DeepH-E3 (assumed to be trained with e3nn 0.3.5).

    Raises:
        CheckpointError: no such network, one with another backbone, or one of another arm where the first stage and
            TraceGrad are not trained.
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
    inside, from_inside = _check_backbone(model, trained, file)
    state = model.state_dict()
    groups: dict[str, dict[str, Tensor]] = {}
    for old, tensor in trained.state_dict().items():
        name = inside + old.removeprefix(from_inside) if old.startswith(WHOLE) else old
        groups.setdefault(_part(name), {})[name] = _for_both_spins(tensor, state.get(name), model.basis)
    fitting = {
        name: tensor
        for group in groups.values()
        for name, tensor in group.items()
        if all(key in state and state[key].shape == value.shape for key, value in group.items())
    }
    if model.backbone.features_frozen:
        _check_arm(state, [name for group in groups.values() for name in group], fitting, file)
    with torch.no_grad():
        model.load_state_dict(state | {name: value.to(state[name].dtype) for name, value in fitting.items()})
    copied = {_part(name) for name in fitting}
    with torch.no_grad():
        for site, gains in model.tracegrad.gains.items():
            for k, gain in enumerate(gains):
                name = f"tracegrad.gains.{site}.{k}"
                if name not in fitting and _part(name) in copied and trained.tracegrad.gradients[site][k]:
                    gain.fill_(1.0)
    new = dict.fromkeys(_new_part(name, copied) for name in state if name not in fitting)
    return WarmStart(file, sorted(fitting), len(state), list(new))


def _check_arm(
    state: Mapping[str, Tensor], trained: Sequence[str], fitting: Mapping[str, Tensor], file: Path
) -> None:
    """Raise `CheckpointError` unless TraceGrad, which is not trained here, is completely that of the trained network.

    A gain that only the network to train has becomes 1, which changes nothing.
    """
    whole = (BLOCKS, DECODERS)
    lacking = [name for name in state if name.startswith(whole) and name not in fitting]
    left_over = [name for name in trained if name not in fitting and not name.startswith(WHOLE)]
    if lacking or left_over:
        what = f"it lacks {lacking[0]}" if lacking else f"{left_over[0]} has no place"
        raise CheckpointError(
            f"{file}: is of another arm than the network to train ({what}), and model.backbone.stage=second keeps "
            "the first stage with its TraceGrad as they are; choose the same tracegrad= as there, or stage=joint"
        )


def _new_part(name: str, copied: set[str]) -> str:
    """What is new where a tensor is: of a copied backbone another stage, of a copied block the gain."""
    if name.startswith(WHOLE):
        return ".".join(name.split(".")[:2])
    return name if _part(name) in copied else _part(name)


def _part(name: str) -> str:
    """The part of a network that a tensor belongs to: the backbone, a TraceGrad block with its gain, or a decoder."""
    owner, *inner = name.split(".")
    if owner != "tracegrad":
        return owner
    kind, site = inner[:2]
    return f"{owner}.{kind}.{site}" if kind == "decoders" else f"{owner}.blocks.{site}.{inner[2]}"


def _check_backbone(model: HamiltonianModel, trained: HamiltonianModel, file: Path) -> tuple[str, str]:
    """Beginnings of the names of the tensors of a backbone in ``model``, and of those of ``trained`` that go there.

    They are those of the whole backbones, or of a first stage that was trained alone.

    Raises:
        CheckpointError: the weights do not have the same meaning in ``model``.
    """
    if model.h0 != trained.h0:
        here = f"the network to train {_target(model.h0)}"
        raise CheckpointError(
            f"{file}: holds a network that {_target(trained.h0)}, and {here}; set "
            f"model.h0={trained.h0 or 'null'}, or choose another init_from"
        )
    ours, theirs = model.backbone, trained.backbone
    inside = from_inside = WHOLE
    if len(theirs.state_dict()) == len(theirs.first_stage().state_dict()):  # it is nothing but a first stage
        inside, from_inside = (_first_stage(backbone) for backbone in (ours, theirs))
        ours, theirs = ours.first_stage(), theirs.first_stage()
    if ours.label != theirs.label:
        raise CheckpointError(
            f"{file}: holds a {theirs.label}, and the network to train is a {model.backbone.label}; choose another "
            "init_from, or the model and the data that belong to it"
        )
    both_spins = theirs.basis.collinear and not ours.basis.collinear
    shells_differ = both_spins or (ours.periodic and ours.basis.shells != theirs.basis.shells)
    if shells_differ or ours.basis.union != theirs.basis.union or ours.basis.spinful != theirs.basis.spinful:
        raise CheckpointError(
            f"{file}: was trained for {theirs.basis.name}, and the network to train is for {ours.basis.name}; "
            "both need the same elements, shells and spin"
        )
    needed_state = {inside + key: t for key, t in ours.state_dict().items()}
    given_state = {
        inside + key: _for_both_spins(t, needed_state.get(inside + key), ours.basis)
        for key, t in theirs.state_dict().items()
    }
    check_architecture(given_state, needed_state, str(file))
    for name in ours.beside_tensors:
        needed, set_here = getattr(theirs, name, None), getattr(ours, name, None)
        if needed != set_here:
            raise CheckpointError(
                f"{file}: its weights need model.backbone.{name}={str(needed).lower()}, which is "
                f"{str(set_here).lower()} here"
            )
    return inside, from_inside


def _for_both_spins(tensor: Tensor, needed: Tensor | None, basis: OrbitalBasis) -> Tensor:
    """The embedding of elements without spin for both spins of a collinear basis; other tensors as they are."""
    doubled = basis.collinear and tensor.ndim > 0
    if doubled and needed is not None and needed.shape == (2 * len(tensor), *tensor.shape[1:]):
        return torch.cat([tensor, tensor])
    return tensor


def _target(h0: str | None) -> str:
    return "predicts H" if h0 is None else f"predicts H - H0 with H0 = {h0}"


def _first_stage(backbone: Backbone) -> str:
    """Beginning of the names of the tensors of the first stage."""
    stage = backbone.first_stage()
    (name,) = (name for name, module in backbone.named_modules() if module is stage)
    return f"{WHOLE}{name}." if name else WHOLE
