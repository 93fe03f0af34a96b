"""Two processes compute what one computes."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tests.experiments.processes import DOUBLE, TINY, finished
from tracegrad.checkpoint import load_checkpoint

# 43 samples in six batches of 7 and 8, so that the ranks hold different numbers of molecules, atoms and elements.
SETTINGS = [
    *TINY,
    *DOUBLE,
    "data.train_size=43",
    "trainer.max_steps=7",
    "test=true",
    "data.fractions=[.8,.09,.11]",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same training on one process and on two."""
    root = tmp_path_factory.mktemp("runs")
    for ranks in (1, 2):
        finished(root / str(ranks), ranks=ranks, settings=SETTINGS)
    return root / "1", root / "2"


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_steps_are_those_of_one_process(runs):
    """Weights after seven steps: gradients and mu of Eq. 8 are those of the whole batch."""
    alone, together = (load_checkpoint(run / "checkpoints" / "last.ckpt") for run in runs)
    assert alone["global_step"] == together["global_step"] == 7
    for name, tensor in alone["state_dict"].items():
        torch.testing.assert_close(together["state_dict"][name], tensor, rtol=1e-8, atol=1e-11, msg=name)


def test_logged_losses_and_metrics_are_those_of_one_process(runs):
    """train/mu too; and no row is written twice."""
    alone, together = map(rows, runs)
    imbalances = [float(row.pop("train/rank_imbalance") or 1) for row in together]
    assert 1 <= max(imbalances) < 1.5
    together = [
        row for row in together if any(value for key, value in row.items() if key not in ("step", "epoch"))
    ]
    assert len(alone) == len(together)
    compared = set()
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert (one[key] == "") == (other[key] == ""), key
            if one[key] and not key.endswith("seconds"):
                assert float(other[key]) == pytest.approx(float(one[key]), rel=1e-10), key
                compared.add(key)
    assert {"train/loss", "train/loss_t", "train/mu", "val/loss", "val/h_mae", "test/h_mae"} <= compared


def test_results_and_tables_are_those_of_one_process(runs):
    """An odd number of test molecules: none is counted twice."""
    results = [json.loads((run / "results.json").read_text()) for run in runs]
    assert results[0]["counts"]["test"] % 2
    for name, value in results[0]["metrics"].items():
        if not name.endswith("seconds"):
            assert results[1]["metrics"][name] == pytest.approx(value, rel=1e-10), name
    tables = []
    for run in runs:
        with (run / "test_samples.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert [row["row"] for row in tables[0]] == [row["row"] for row in tables[1]]
    assert len(tables[0]) == results[0]["counts"]["test"]
