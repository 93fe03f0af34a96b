"""Time of a prediction: which samples are measured, and how the time is recorded and logged."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.inference_time import InferenceTime, device_clock, mean_seconds
from experiments.training.warning_filter import quiet
from tests import crystals
from tests.callbacks.test_test_report import make_module, make_trainer
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.graph import collate
from tracegrad.system.device import device_name

CPU = torch.device("cpu")


class Clock:
    """A clock that moves only when time is added to it."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_the_first_call_is_not_timed():
    clock, durations = Clock(), iter([300.0, 2.0, 4.0])

    def call():
        clock.time += next(durations)

    assert mean_seconds(call, 2, device_clock(CPU, clock)) == 3.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_waited_for():
    device = torch.device("cuda")
    done = torch.cuda.Event()
    x = torch.rand(4096, 4096, device=device)

    def clock() -> float:
        assert done.query()
        return 0.0

    now = device_clock(device, clock)
    for _ in range(50):
        x = x @ x / 4096
    done.record()
    now()
    assert device_name(device) == torch.cuda.get_device_name(device)


@pytest.fixture
def loaders():
    graphs = [crystals.labelled_graph(c, crystals.SPINLESS, seed) for seed, c in enumerate(crystals.ALL)]
    return [DataLoader(graphs, 2, collate_fn=collate), DataLoader(graphs[:1], 1, collate_fn=collate)]


class Slow(crystals.SmallBackbone):
    """A network that needs 20 s of the clock per atom, and 300 s more for its first call."""

    clock: Clock
    calls: list[int]

    def forward(self, graph, *rest):
        self.calls.append(graph.num_graphs)
        self.clock.time += 20 * graph.num_nodes + (300 if len(self.calls) == 1 else 0)
        return super().forward(graph, *rest)


def timed(tmp_path, loaders, **settings) -> tuple[dict[str, float], list[int], InferenceTime]:
    backbone = Slow(crystals.SPINLESS)
    backbone.calls, backbone.clock = [], Clock()
    callback = InferenceTime(**settings, clock=backbone.clock)
    module = make_module(backbone)
    module.test_subsets = ["", "twisted"]
    with quiet():
        trainer: lightning.Trainer = make_trainer(tmp_path, callbacks=[callback])
        logs = trainer.test(module, loaders, verbose=False)
    own = sum(len(loader) for loader in loaders)
    return {key: value for entry in logs for key, value in entry.items()}, backbone.calls[own:], callback


ATOMS = [len(numbers) for numbers, *_ in crystals.ALL]


def test_single_samples_of_the_first_test_set_are_timed(tmp_path, loaders):
    logs, calls, callback = timed(tmp_path, loaders, samples=2, repeats=3)
    assert calls == [1] * (2 * (3 + 1))
    assert logs["test/inference_seconds"] == pytest.approx(20 * (ATOMS[0] + ATOMS[3]) / 2)
    assert logs["test/inference_batch_size"] == 1
    assert callback.protocol == {"samples": 2, "repeats": 3, "batch_size": 1, "device": device_name(CPU)}


def test_the_protocol_of_appendix_i_takes_every_sample(tmp_path, loaders, capsys):
    logs, calls, callback = timed(tmp_path, loaders, samples=None, repeats=50)
    assert calls == [1] * (len(ATOMS) * (50 + 1))
    assert logs["test/inference_seconds"] == pytest.approx(20 * sum(ATOMS) / len(ATOMS))
    assert (callback.protocol["samples"], callback.protocol["repeats"]) == (len(ATOMS), 50)
    # One inference of the first sample takes 60 s, and there are 51 inferences of each of four samples.
    assert (
        "inference time: about 204 min for 50 inferences of each of 4 batches; if interrupted, the same"
        in (capsys.readouterr().out)
    )


def test_the_time_of_a_batch_is_shared_by_its_samples(tmp_path, loaders, capsys):
    logs, calls, callback = timed(tmp_path, loaders, samples=2, repeats=1, batch_size=2)
    assert calls == [2, 2]
    assert logs["test/inference_seconds"] == pytest.approx(20 * (ATOMS[0] + ATOMS[3]) / 2)
    assert logs["test/inference_batch_size"] == callback.protocol["batch_size"] == 2


def test_it_can_be_switched_off(tmp_path, loaders):
    logs, calls, callback = timed(tmp_path, loaders, samples=0)
    assert calls == []
    assert callback.protocol is None
    assert "test/inference_seconds" not in logs


@pytest.mark.parametrize("wrong", [{"samples": -1}, {"repeats": 0}, {"batch_size": 0}])
def test_mistakes(wrong):
    with pytest.raises(ConfigError, match=f"callbacks.inference_time.{next(iter(wrong))} is "):
        InferenceTime(**wrong)
