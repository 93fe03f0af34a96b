"""Two processes compute the same as one."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch

from tests.experiments.processes import DOUBLE, PLAIN, TINY, finished, train
from tracegrad.weights.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
# 43 samples in six batches of 7 and 8, so that the ranks hold different numbers of molecules, atoms and elements.
SETTINGS = [
    *TINY,
    *DOUBLE,
    *PLAIN,
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
    single, both = (load_checkpoint(run / "checkpoints" / "last.ckpt") for run in runs)
    assert single["global_step"] == both["global_step"] == 7
    for name, tensor in single["state_dict"].items():
        torch.testing.assert_close(both["state_dict"][name], tensor, rtol=1e-8, atol=1e-11, msg=name)
    # What the training has seen, too, although each rank has seen a part.
    assert single["tracegrad"]["range"] == both["tracegrad"]["range"]
    assert single["tracegrad"]["range"]["distances"]["H-O"]


def test_logged_losses_and_metrics_are_those_of_one_process(runs):
    """train/mu too; and no row is written twice."""
    single, both = map(rows, runs)
    imbalances = [float(row.pop("train/rank_imbalance") or 1) for row in both]
    assert 1 <= max(imbalances) < 1.5
    both = [row for row in both if any(value for key, value in row.items() if key not in ("step", "epoch"))]
    assert len(single) == len(both)
    compared = set()
    for one, other in zip(single, both, strict=True):
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


# On one of the ranks.
POISON = "+callbacks.poison={_target_: tests.callbacks.poison.Poison, rank: 1, %s: %s}"
REVERT = "+callbacks.revert={_target_: callbacks.revert.RevertAndDecay, directory: %s, patience: 1}"
ORBITALS = "+callbacks.orbitals={_target_: callbacks.orbital_metrics.OrbitalMetrics, directory: %s, val_molecules: 4}"


def test_a_validation_that_is_not_finite_on_one_rank_is_survived_by_both(tmp_path):
    """It is logged, never the best, and reverted; no rank waits for another one for ever."""
    more = [REVERT % (tmp_path / "checkpoints"), ORBITALS % tmp_path]
    out = finished(tmp_path, POISON % ("epochs", [1]), *more, ranks=2)
    assert out.count("not finite, in 1 validations in a row; back to the start of epoch 1") == 1
    logged = [row for row in rows(tmp_path) if row["val/loss"]]
    for name in ("val/loss", "val/loss_t", "val/h_mae", "val/eps_mae"):
        assert [math.isfinite(float(row[name])) for row in logged] == [True, False, True], name
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 15
    assert load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] != 1


def test_a_training_loss_that_is_not_finite_on_one_rank_ends_both_with_its_rows(tmp_path):
    done = train(tmp_path, POISON % ("steps", [3]), ranks=2)
    assert [process.returncode for process in done] == [1, 1]
    messages = [process.stderr.strip().splitlines()[-1] for process in done]
    assert messages[0] == messages[1]
    found = re.match(
        r"error: the loss is not finite at step 3 .* of database rows \[(.*)\]: not finite for rows \[(.*)\];",
        messages[0],
    )
    assert found, messages
    all_rows, bad = ({int(row) for row in group.split(", ")} for group in found.groups())
    assert bad < all_rows
