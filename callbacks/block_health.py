"""State of the TraceGrad blocks during a training: does z differ between items, and what does v add to f?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.trainer_parts import hamiltonian_module
from tracegrad.errors import ConfigError
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.interface import ComponentFirstFeature
from tracegrad.training.loss import H, HamiltonianLoss, T

# A block with a value below one of these counts as switched off.
SMALLEST_SPREAD, SMALLEST_NONLINEARITY, SMALLEST_RATIO = 1e-3, 0.05, 1e-3


@dataclass
class BlockState:
    """State of one TraceGrad block on a batch; a block that adds no v has neither ratios nor non-linearities.

    Attributes:
        z_spread: standard deviation of z over the items (edges or atoms), averaged over channels, divided by the mean
            of |z|.
        ratio: |o - f| / |f| for each irrep of the feature, with Frobenius norms over the batch.
        nonlinearity: |w(f + g) - w(f) - w(g)| / (|w(f)| + |w(g)|) for each irrep, where w(f) = o - f is what the
            block adds and g is f with its items shifted by one. It is 0 if w is a linear map of f.
    """

    z_spread: float
    ratio: dict[str, float] = field(default_factory=dict)
    nonlinearity: dict[str, float] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """Why the block counts as switched off; an empty list if it works."""
        faults = []
        if self.z_spread < SMALLEST_SPREAD:
            faults.append(f"z is the same for all items (spread {self.z_spread:.1e})")
        if self.nonlinearity and max(self.nonlinearity.values()) < SMALLEST_NONLINEARITY:
            faults.append(f"v is a linear map of f (deviation at most {max(self.nonlinearity.values()):.3f})")
        if self.ratio and max(self.ratio.values()) < SMALLEST_RATIO:
            faults.append(f"v is negligible (at most {max(self.ratio.values()):.1e} of f)")
        return faults


@torch.no_grad()
def block_states(model: HamiltonianModel, graph: Any) -> dict[str, BlockState]:
    """State of each block on a batch, by site and number counted from 1, such as "edge1".

    The network runs in evaluation mode and is put back into its former mode.
    """
    states: dict[str, BlockState] = {}
    tracegrad, training = model.tracegrad, model.training

    def added(site: str, k: int, f: ComponentFirstFeature) -> tuple[ComponentFirstFeature, Tensor | None]:
        o, z = tracegrad.refine(site, k, f, need_z=True)
        return [a - b for a, b in zip(o, f, strict=True)], z

    def refine(site: str, k: int, f: ComponentFirstFeature) -> ComponentFirstFeature:
        w, z = added(site, k, f)
        if z is not None:
            name = f"{site}{k + 1}"
            states[name] = state = BlockState(_spread(z))
            if any(part.any() for part in w):
                other = [part.roll(1, dims=1) for part in f]
                both, _ = added(site, k, [a + b for a, b in zip(f, other, strict=True)])
                parts = zip(model.backbone.feature_irreps[site][k], f, w, both, strict=True)
                for (_, irrep), part, one, sum_ in parts:
                    size = one.norm()
                    deviation = (sum_ - one - one.roll(1, dims=1)).norm()
                    state.ratio[str(irrep)] = (size / part.norm()).item()
                    state.nonlinearity[str(irrep)] = (deviation / (2 * size)).item()
            elif tracegrad.grad and tracegrad.gradients[site][k]:
                state.ratio = {str(irrep): 0.0 for _, irrep in model.backbone.feature_irreps[site][k]}
        return [a + b for a, b in zip(f, w, strict=True)]

    model.eval()
    try:
        model.stages(graph, refine)
    finally:
        model.train(training)
    return states


def trace_share(model: HamiltonianModel, loss: HamiltonianLoss, graph: Any) -> float | None:
    """Share of the traces in the gradient of the loss: |grad(mu loss_T)| / |grad(loss_H)| on a batch.

    Both gradients (Eq. 8) are with respect to the weights of the backbone. None if the loss has no term of
    traces, or the features from which they follow are frozen.
    """
    if not model.tracegrad.trace or model.backbone.features_frozen:
        return None
    weights = [p for p in model.backbone.parameters() if p.requires_grad]
    training = model.training
    model.eval()  # in training a network may draw random numbers
    try:
        with torch.enable_grad():
            prediction = model(graph)
    finally:
        model.train(training)
    with torch.enable_grad():
        values = loss(prediction, graph)
        if T not in values.shares:
            return None
        weighted_t = values.weights[T] * values.shares[T]
        gradient_h = torch.autograd.grad(values.shares[H], weights, retain_graph=True, allow_unused=True)
        gradient_t = torch.autograd.grad(weighted_t, weights, allow_unused=True)
    return _norm(gradient_t) / _norm(gradient_h)


class BlockHealth(Callback):
    """Logs the state of the blocks at the start of a training and every ``every_n_steps`` optimizer steps.

    ``block/{site}{k}/z_spread``, ``.../ratio/{irrep}`` and ``.../nonlinearity/{irrep}`` are those of `BlockState`,
    ``block/trace_share`` is that of `trace_share`, all on the present training batch of the first rank. A warning
    names a block when it is first seen switched off, and a line says when it works again. Each measurement costs four
    forward passes and two backward passes and does not change the training.
    """

    def __init__(self, every_n_steps: int = 200):
        if not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise ConfigError(
                f"callbacks.block_health.every_n_steps is {every_n_steps!r}; give a whole number >= 1"
            )
        self.every_n_steps = every_n_steps
        self._off: set[str] = set()
        self._measured = -1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        module = hamiltonian_module(pl_module)
        step = trainer.global_step
        due = step % self.every_n_steps == 0 and step != self._measured
        if not due or not trainer.is_global_zero or not len(module.model.tracegrad.blocks):
            return
        self._measured = step
        with trainer.precision_plugin.forward_context():
            states = block_states(module.model, batch)
            share = trace_share(module.model, module.loss, batch)
        values = {} if share is None else {"block/trace_share": share}
        for name, state in states.items():
            values[f"block/{name}/z_spread"] = state.z_spread
            values |= {f"block/{name}/ratio/{irrep}": value for irrep, value in state.ratio.items()}
            values |= {
                f"block/{name}/nonlinearity/{irrep}": value for irrep, value in state.nonlinearity.items()
            }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        self._report(step, states)

    def _report(self, step: int, states: dict[str, BlockState]) -> None:
        for name, state in states.items():
            if state.faults and name not in self._off:
                print(
                    f"warning: step {step}: TraceGrad block {name} is switched off: {'; '.join(state.faults)}",
                    flush=True,
                )
                self._off.add(name)
            elif not state.faults and name in self._off:
                print(f"step {step}: TraceGrad block {name} works now", flush=True)
                self._off.remove(name)


def _spread(z: Tensor) -> float:
    z = z.double()
    return (z.std(0, correction=0).mean() / z.abs().mean()).item()


def _norm(gradients: Sequence[Tensor | None]) -> float:
    return sum(x.double().square().sum().item() for x in gradients if x is not None) ** 0.5
