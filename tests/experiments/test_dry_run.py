"""Forecasts: their counts are those of the training, and batches that need too much memory are named with advice."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.step_times import BatchTimes
from experiments.settings.configuration import composed, plain
from experiments.training.dry_run import dry_run
from experiments.training.forecast import TrainingLength, duration, size, training_length, worker_advice
from experiments.training.trial import seconds_per_cost
from experiments.training.trial_batches import most_expensive_batch, sample_batches, spread_batches
from tests import forked
from tests.experiments.processes import TINY
from tests.experiments.test_train_crystals import SMALL as CRYSTALS
from tracegrad.data.loading.sampler import TrainingBatches
from tracegrad.errors import ConfigError
from tracegrad.training.module import HamiltonianModule

# The recipe of the crystals has another schedule, whose settings are removed.
PLATEAU = ["optim=deeph_e3_plateau", "~optim.schedule.start", "~optim.schedule.interval"]


def forecast(
    directory: Path, capsys: pytest.CaptureFixture[str], *overrides: str, settings: list[str] = TINY
) -> tuple[bool, str]:
    """Whether the batches fit, and what is printed; nothing may be left in the run directory."""
    config = composed("train", [*settings, f"run_dir={directory / 'run'}", "dry_run=true", *overrides])
    fits = dry_run(config, plain(config))
    assert not list(directory.iterdir())
    return fits, capsys.readouterr().out


def printed_bytes(out: str) -> tuple[float, float]:
    """The disk space and the size of a checkpoint in a forecast."""
    found = re.search(r"disk +(\S+) (\S+): 3 checkpoints of (\S+) (\S+),", out)
    assert found, out
    units = {"kB": 1e3, "MB": 1e6}
    return float(found[1]) * units[found[2]], float(found[3]) * units[found[4]]


def printed_parameters(out: str) -> list[int]:
    """Numbers of parameters in all, of the backbone and of TraceGrad."""
    found = re.search(r"parameters  (\S+): backbone (\S+), TraceGrad (\S+)", out)
    assert found, out
    return [int(number.replace(",", "")) for number in found.groups()]


def out_of_memory(above: int) -> Callable[..., Any]:
    """A training step that runs out of memory for larger batches."""
    step = HamiltonianModule.training_step

    def limited(self: HamiltonianModule, graph: Any, batch_idx: int) -> Any:
        if graph.num_graphs > above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has ...")
        return step(self, graph, batch_idx)

    return limited


def test_the_counts_are_those_of_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """44 samples in batches of 8: 6 steps per epoch; 15 steps: 2 whole epochs and a validation at the last step."""
    fits, out = forecast(tmp_path, capsys)
    assert fits
    assert "epoch       6 steps of 7.33 samples" in out
    assert "15 steps in 2.5 epochs and 3 validations" in out
    total, backbone, tracegrad = printed_parameters(out)
    assert total == backbone + tracegrad > 0
    disk, checkpoint = printed_bytes(out)
    assert 12 * total < checkpoint < 12 * total + 400_000
    assert disk == pytest.approx(4 * checkpoint, rel=0.02)  # three kept, one being written
    step, least, most = map(
        float, re.search(r"step +(\S+) s \(median; (\S+) to (\S+) s of \d+\)", out).groups()
    )
    assert 0 < least <= step <= most


@pytest.mark.slow
def test_a_run_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_text("of another run")
    done = forked.run("experiments.train", *TINY, f"run_dir={tmp_path}", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("dry run of demo, QHNet+TraceGrad, on the CPU (1 threads)\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoints", "last.ckpt"]


@pytest.mark.slow
def test_averages_and_gathered_gradients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint with averaged weights contains the others, too; six batches make two steps of three."""
    _, bare = forecast(tmp_path, capsys, "+trainer.accumulate_grad_batches=3")
    assert "epoch       2 steps of 22 samples" in bare
    assert "15 steps in 7.5 epochs and 8 validations" in bare
    _, averaged = forecast(tmp_path, capsys, "callbacks=ema")
    more = printed_bytes(averaged)[1] - printed_bytes(bare)[1]
    assert more == pytest.approx(4 * printed_parameters(bare)[0], rel=0.4)  # and headers of tensors


@pytest.mark.slow
def test_crystals_with_a_plateau_and_several_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*PLATEAU, "trainer.max_epochs=5", "data.batch_size=2"]
    processes = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_steps=-1"]
    fits, out = forecast(tmp_path, capsys, *processes, *settings, settings=CRYSTALS)
    assert fits
    assert "epoch       2 steps of 2 samples" in out
    assert "10 steps in 5 epochs and 5 validations" in out
    assert "processes   2: an estimate, measured on one process" in out


@pytest.mark.slow
def test_a_batch_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HamiltonianModule, "training_step", out_of_memory(3))
    fits, out = forecast(tmp_path, capsys)
    assert not fits
    assert out.startswith(
        "does not fit: data.batch_size=8 needs more memory than this machine has (CUDA out of memory)\n"
    )
    assert "data.batch_size=2 fits" in out  # 8, 4, 2
    assert "tracegrad.recompute=true" in out
    assert "edge_chunk" not in out  # QHNet has none
    monkeypatch.setattr(HamiltonianModule, "training_step", out_of_memory(0))
    fits, out = forecast(tmp_path, capsys, "data.batch_size=2", settings=CRYSTALS)
    assert not fits
    assert "no smaller data.batch_size fits either" in out
    assert "model.backbone.recompute=true, a smaller model.backbone.edge_chunk" in out


@pytest.mark.slow
def test_memory_that_only_the_optimizer_needs_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step of the most expensive batch fits; with the moments of Adam it does not."""
    step = HamiltonianModule.training_step

    def limited(self: HamiltonianModule, graph: Any, batch_idx: int) -> Any:
        if self.trainer.optimizers[0].state and graph.num_graphs > 4:
            raise MemoryError
        return step(self, graph, batch_idx)

    monkeypatch.setattr(HamiltonianModule, "training_step", limited)
    fits, out = forecast(tmp_path, capsys)
    assert not fits
    assert "(MemoryError)" in out
    assert "data.batch_size=4 fits" in out


@pytest.mark.slow
def test_a_validation_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = HamiltonianModule.validation_step

    def limited(self: HamiltonianModule, graph: Any, batch_idx: int) -> None:
        if graph.num_graphs > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
        step(self, graph, batch_idx)

    monkeypatch.setattr(HamiltonianModule, "validation_step", limited)
    fits, out = forecast(tmp_path, capsys, "data.eval_batch_size=8")
    assert not fits
    assert "does not fit: data.eval_batch_size=8" in out
    assert "data.eval_batch_size=2 fits" in out


def test_other_errors_are_not_taken_for_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: HamiltonianModule, graph: Any, batch_idx: int) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(HamiltonianModule, "training_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        forecast(tmp_path, capsys)


def test_settings_that_the_forecast_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"does not support trainer\.limit_train_batches"):
        forecast(tmp_path, capsys, "+trainer.limit_train_batches=3")


@pytest.mark.parametrize(
    ("batches", "trainer", "last", "expected"),
    [
        (10, {"max_steps": 100, "max_epochs": -1}, True, (10, 100, 10)),
        (10, {"max_steps": 105, "max_epochs": -1}, True, (10, 105, 11)),
        (10, {"max_steps": 105, "max_epochs": -1}, False, (10, 105, 10)),
        (10, {"max_steps": 105, "max_epochs": 4}, True, (10, 40, 4)),
        (10, {"max_steps": -1, "max_epochs": 7, "check_val_every_n_epoch": 3}, True, (10, 70, 2)),
        (10, {"max_steps": 70, "max_epochs": -1, "check_val_every_n_epoch": 3}, True, (10, 70, 3)),
        (10, {"max_steps": 8, "max_epochs": -1, "accumulate_grad_batches": 4}, True, (3, 8, 3)),
        (10, {"max_steps": -1, "max_epochs": None}, True, (10, 10_000, 1000)),
        (10, {"max_steps": -1, "max_epochs": -1}, True, (10, None, None)),
    ],
)
def test_the_length_of_a_training(
    batches: int, trainer: dict[str, Any], last: bool, expected: tuple[int, int | None, int | None]
) -> None:
    assert training_length(batches, trainer, last_step_validated=last) == TrainingLength(*expected)


def test_times_are_scaled_by_costs() -> None:
    """The second and third batch, of cost 1 and 3, take 2 and 4 s: 6 s / 4 for each unit of cost."""
    times = BatchTimes(indices=[0, 1, 2], waits=[5.0, 0.5, 0.1], work=[9.0, 1.5, 3.9])
    assert seconds_per_cost(times, [7, 1, 3], first=1) == pytest.approx(1.5)
    assert times.waiting == pytest.approx(5.6 / 20)
    assert times.seconds == [14, 2, 4]


def test_the_most_expensive_batch_of_all_epochs_and_a_sample_of_one() -> None:
    costs = np.random.default_rng(0).integers(1, 50, 97).astype(float)
    for world in (1, 3):
        batches = TrainingBatches(costs, 8, seed=3, world=world)
        whole = []
        for epoch in range(6):
            batches.set_epoch(epoch)
            whole += batches.global_batches()
        most_expensive = max(whole, key=lambda batch: costs[batch].sum())
        found = most_expensive_batch(batches, 6)
        assert set(found) <= set(most_expensive.tolist())
        if world == 1:
            assert sorted(found) == sorted(most_expensive.tolist())
        else:
            assert costs[found].sum() >= costs[most_expensive].sum() / world
        sample, mean_cost = sample_batches(batches)
        assert len(sample) == 12
        assert min(costs) <= mean_cost
        if world == 1:
            assert mean_cost == pytest.approx(costs.sum() / len(batches))


def test_spread_batches_begin_with_the_most_expensive() -> None:
    costs = np.arange(10.0)
    batches = [[i] for i in (3, 9, 0, 5, 7)]
    assert spread_batches(batches, costs, 3) == [[9], [5], [0]]
    assert spread_batches(batches, costs, 9) == [[9], [7], [5], [3], [0]]


def test_advice_on_workers() -> None:
    def advice(waiting: float, workers: int) -> str | None:
        return worker_advice(BatchTimes([0], [waiting], [1 - waiting]), workers, cores=8)

    assert advice(0.03, 0) is None
    assert "20% of the time is spent waiting for data (0.2 s per batch)" in (advice(0.2, 0) or "")
    assert "data.num_workers=2 (now 0; 8 cores)" in (advice(0.2, 0) or "")
    assert "data.num_workers=7 (now 6; 8 cores)" in (advice(0.2, 6) or "")
    assert "no core is left" in (advice(0.2, 7) or "")


def test_units() -> None:
    assert [duration(s) for s in (5, 90, 600, 10_000, 400_000)] == [
        "5 s",
        "90 s",
        "10.0 min",
        "2.8 h",
        "4.6 days",
    ]
    assert [size(n) for n in (5, 5e3, 5.25e6, 8e10)] == ["5 B", "5 kB", "5.25 MB", "80 GB"]
