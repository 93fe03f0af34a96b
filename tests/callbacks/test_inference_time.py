"""The time of a prediction: what is measured, on what, and that it is logged."""

import time

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks import inference_time
from callbacks.inference_time import InferenceTime, seconds
from experiments.runs import quiet
from tests import crystals
from tests.callbacks.test_test_report import make_module, make_trainer
from tracegrad.errors import ConfigError
from tracegrad.graph import collate

CPU = torch.device("cpu")


def test_the_first_call_is_not_timed():
    waits = iter([0.3, 0.02, 0.04])
    assert 0.03 <= seconds(lambda: time.sleep(next(waits)), 2, CPU) < 0.1


@pytest.fixture
def loaders():
    graphs = [crystals.labelled_graph(c, crystals.SPINLESS, seed) for seed, c in enumerate(crystals.ALL)]
    return [DataLoader(graphs, 2, collate_fn=collate), DataLoader(graphs[:1], 1, collate_fn=collate)]


class Slow(crystals.SmallBackbone):
    """Takes 20 ms a structure more, and 300 ms for the first call of all."""

    calls: list[int]

    def forward(self, graph, *rest):
        self.calls.append(graph.num_graphs)
        time.sleep(0.02 * graph.num_graphs + (0.3 if len(self.calls) == 1 else 0.0))
        return super().forward(graph, *rest)


def timed(tmp_path, loaders, callback) -> tuple[dict[str, float], list[int]]:
    backbone = Slow(crystals.SPINLESS)
    backbone.calls = []
    module = make_module(backbone)
    module.test_subsets = ["", "twisted"]
    with quiet():
        trainer: lightning.Trainer = make_trainer(tmp_path, callbacks=[callback])
        logs = trainer.test(module, loaders, verbose=False)
    own = sum(len(loader) for loader in loaders)
    return {key: value for entry in logs for key, value in entry.items()}, backbone.calls[own:]


def test_single_samples_of_the_first_test_set_are_timed(tmp_path, loaders):
    logs, calls = timed(tmp_path, loaders, InferenceTime(samples=2, repeats=3))
    assert calls == [1] * (2 * 4)
    assert 0.02 < logs["test/inference_seconds"] < 0.15
    assert logs["test/inference_batch_size"] == 1


def test_the_time_of_a_batch_is_shared_by_its_samples(tmp_path, loaders):
    logs, calls = timed(tmp_path, loaders, InferenceTime(samples=2, repeats=1, batch_size=2))
    assert calls == [2, 2]
    assert 0.02 < logs["test/inference_seconds"] < 0.15
    assert logs["test/inference_batch_size"] == 2


def test_it_can_be_switched_off(tmp_path, loaders):
    logs, calls = timed(tmp_path, loaders, InferenceTime(samples=0))
    assert calls == []
    assert "test/inference_seconds" not in logs


def test_a_gpu_is_waited_for(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    inference_time.seconds(lambda: events.append("call"), 1, torch.device("cuda"))
    assert events == ["wait", "call", "wait"] * 2


@pytest.mark.parametrize("wrong", [{"samples": -1}, {"repeats": 0}, {"batch_size": 0}])
def test_mistakes(wrong):
    with pytest.raises(ConfigError, match=f"callbacks.inference_time.{next(iter(wrong))} is "):
        InferenceTime(**wrong)
