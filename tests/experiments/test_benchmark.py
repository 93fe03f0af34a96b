import json

import numpy as np
import pytest

from experiments.benchmark import main
from experiments.benchmarks.molecules import random_molecule

ARGUMENTS = ["--small", "--molecules", "2", "--atoms", "5", "--repeats", "1", "--device", "cpu"]


def test_small_benchmark_runs_and_writes_its_table(tmp_path, capsys):
    path = tmp_path / "benchmark.json"
    main([*ARGUMENTS, "--output", str(path)])
    assert "QHNet training step" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]
    assert f"molecules: 2 of 5 atoms, {2 * 5 * 4} pairs" in content["notes"]
    ways = {(entry["task"], entry["way"]) for entry in content["timings"]}
    assert {("QHNet forward", "plain e3nn"), ("QHNet arm training step", "tracegrad")} <= ways
    assert {("DeepH-E3 forward", "plain e3nn"), ("DeepH-E3 arm training step", "tracegrad")} <= ways
    assert all(0 < entry["lowest"] <= entry["median"] <= entry["highest"] for entry in content["timings"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--repeats", "0"], "--repeats has to be at least 1"), (["--output", "/no/such/file"], "is no folder")],
)
def test_impossible_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_random_molecules_have_distances_of_molecules():
    numbers, positions = random_molecule(np.random.default_rng(0), 18)
    assert (numbers == 1).sum() == 9
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 0.99
    assert distances.min(axis=1).max() < 1.46
