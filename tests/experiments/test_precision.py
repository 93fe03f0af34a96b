"""Every supported precision trains, with any optimizer and clipping; the message for others names a substitute."""

from functools import partial

import lightning
import pytest
import torch
import yaml
from hydra.utils import instantiate
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from callbacks.smoothing import SmoothedLoss
from experiments.settings.configuration import CONF, composed, plain
from experiments.training.parts import build, make_trainer, rebuild
from experiments.training.runs import train
from experiments.training.warning_filter import quiet
from tests import crystals
from tests.callbacks.test_test_report import make_trainer as small_trainer
from tests.experiments.test_train import SMALL
from tests.experiments.test_train_crystals import BISMUTHENE
from tests.experiments.test_train_crystals import SMALL as SMALL_CRYSTALS
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.graph import collate
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.module import HamiltonianModule
from tracegrad.training.schedule import SlipperySlope
from tracegrad.weights.checkpoint import load_checkpoint

# Every recipe uses one of these optimizers, with or without clipping.
OPTIMIZERS = sorted(path.stem for path in (CONF / "optim").glob("*.yaml"))
CLIP = 1e-3  # far below the norm of any gradient here


class Norms(lightning.Callback):
    """Norms and largest entries of the gradients in the steps of the optimizer."""

    def __init__(self):
        self.norms, self.largest = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        gradients = torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None])
        self.norms.append(float(gradients.norm()))
        self.largest.append(float(gradients.abs().max()))


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("16-true", "trainer.precision=16-true is not supported; use bf16-mixed (on GPUs also 16-mixed)"),
        ("bf16-true", "trainer.precision=bf16-true is not supported; use bf16-mixed"),
        ("bf16", "trainer.precision=bf16 is not supported; use bf16-mixed"),
        ("transformer-engine", "trainer.precision=transformer-engine is not supported; use bf16-mixed"),
        ("half", "trainer.precision=half is unknown; choose one of 32-true, 64-true, bf16-mixed, 16-mixed"),
        ("16-mixed", "trainer.precision=16-mixed needs a GPU; use bf16-mixed or 32-true on CPUs"),
    ],
)
def test_what_does_not_work_is_refused_before_the_data_are_read(tmp_path, precision, message):
    overrides = [
        *SMALL,
        f"run_dir={tmp_path / 'run'}",
        f"trainer.precision={precision}",
        "data.path=missing.db",
    ]
    config = composed("train", overrides)
    with pytest.raises(ConfigError) as error:
        train(config, plain(config))
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_16_mixed_is_refused_where_the_best_device_is_a_cpu():
    config = composed("train", [*SMALL, "trainer=auto", "trainer.precision=16-mixed"])
    with pytest.raises(ConfigError, match="16-mixed needs a GPU"):
        build(config, plain(config))


def test_a_run_of_16_mixed_is_evaluated_in_single_precision_on_cpus(tmp_path):
    values = plain(composed("train", [*SMALL, f"run_dir={tmp_path}", "trainer.precision=16-mixed"]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    config, _ = rebuild(tmp_path, {})
    assert config.trainer.precision == "32-true"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "overrides"),
    [
        (SMALL, []),
        (SMALL, ["optim.optimizer.fused=false"]),
        (SMALL, ["+trainer.gradient_clip_algorithm=value"]),
        (SMALL_CRYSTALS, []),
        (SMALL_CRYSTALS, BISMUTHENE),
    ],
    ids=["fused", "plain", "by value", "crystals", "spinful"],
)
def test_bf16_mixed_trains_and_clips(tmp_path, base, overrides):
    settings = ["trainer.precision=bf16-mixed", f"trainer.gradient_clip_val={CLIP}", "trainer.max_steps=2"]
    config = composed("train", [*base, *overrides, *settings, f"run_dir={tmp_path}"])
    parts, norms = build(config, plain(config)), Norms()
    trainer = make_trainer(config, [norms], [])
    with quiet():
        trainer.fit(parts.module, parts.datamodule)
    clipped = norms.largest if "+trainer.gradient_clip_algorithm=value" in overrides else norms.norms
    assert clipped == pytest.approx([CLIP] * len(clipped), rel=1e-4)
    assert len(clipped) == 2
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in parts.module.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_of_all_recipes_train_in_every_precision_of_cpus(tmp_path, optimizer):
    """With a small network and the trainer that clips."""
    overrides = [f"optim={optimizer}", "trainer=cpu", "trainer.max_steps=2", f"run_dir={tmp_path}"]
    config = composed("train", overrides)
    assert config.trainer.gradient_clip_val
    for config.trainer.precision in ("bf16-mixed", "32-true", "64-true"):
        dtype = torch.float64 if config.trainer.precision == "64-true" else torch.float32
        module = make_module(instantiate(config.optim.optimizer), instantiate(config.optim.schedule)).to(
            dtype
        )
        with quiet():
            make_trainer(config, [SmoothedLoss()], []).fit(module, loader(dtype), loader(dtype))
        assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("clip", [CLIP, None])
def test_fused_and_plain_optimizers_make_the_same_steps_with_a_scaler(tmp_path, clip):
    """The scaler and autocast of 16-mixed, which is for GPUs, on a CPU."""
    weights, norms = [], []
    for fused in (True, False):
        torch.manual_seed(0)
        module = make_module(partial(torch.optim.AdamW, fused=fused), SlipperySlope(0.01))
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
        norms.append(Norms())
        trainer = small_trainer(
            tmp_path, callbacks=[norms[-1]], plugins=[plugin], max_steps=3, gradient_clip_val=clip
        )
        with quiet():
            trainer.fit(module, loader(torch.float32), loader(torch.float32))
        assert plugin.scaler.get_scale() == 2.0**10  # no step was left out
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.allclose(*weights, rtol=1e-4, atol=1e-6)
    torch.manual_seed(0)
    start = make_module(torch.optim.AdamW, SlipperySlope(0.01)).parameters()
    assert not torch.allclose(weights[0], torch.cat([p.detach().flatten() for p in start]), atol=1e-3)
    if clip:
        for found in norms:
            assert found.norms == pytest.approx([CLIP] * 3, rel=1e-4)


@pytest.mark.slow
def test_metrics_of_mixed_precision_are_not_rounded_to_16_bits(tmp_path):
    """Errors of predictions under autocast are computed and summed in double precision."""
    config = composed(
        "train",
        [*SMALL, "trainer.precision=bf16-mixed", "trainer.max_steps=6", "test=false", f"run_dir={tmp_path}"],
    )
    train(config, plain(config))
    parts = build(config, plain(config))
    parts.datamodule.setup("fit")
    parts.module.load_state_dict(load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"])
    trainer = make_trainer(config, [], [])
    with quiet():
        (logs,) = trainer.validate(parts.module, parts.datamodule, verbose=False)
    metric, losses = HamiltonianMAE(parts.module.model.basis), []
    parts.module.eval()
    for graph in parts.datamodule.val_dataloader():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            prediction = parts.module.model(graph)
        assert {blocks.dtype for blocks in prediction.blocks.values()} == {torch.float32}
        prediction.traces = {site: t.float() for site, t in prediction.traces.items()}
        metric.update(prediction, graph)
        losses.append(parts.module.loss(prediction, graph))
    loss_t = torch.cat([terms.per_sample["t"] for terms in losses]).double().mean()
    assert logs["val/h_mae"] == pytest.approx(float(metric.compute()["h_mae"]) * 27211.386245988, rel=1e-6)
    assert logs["val/loss_t"] == pytest.approx(float(loss_t), rel=1e-6)


def make_module(optimizer, schedule) -> HamiltonianModule:
    backbone = crystals.SmallBackbone(crystals.SPINLESS)
    tracegrad = partial(TraceGrad, trace=True, grad=True, channels=4, hidden=4)
    return HamiltonianModule(HamiltonianModel(backbone, tracegrad), HamiltonianLoss, optimizer, schedule)


def loader(dtype: torch.dtype) -> DataLoader:
    graphs = [crystals.labelled_graph(c, crystals.SPINLESS, i, dtype) for i, c in enumerate(crystals.ALL)]
    return DataLoader(graphs, 2, collate_fn=collate)
