import json
from functools import partial

import e3nn
import numpy as np
import pytest
import torch

from benchmarks import networks, products, waiting
from benchmarks.__main__ import TASKS, main, parse, tasks_of
from benchmarks.crystals import BISMUTH_TELLURIDE, GRAPHENE, SMALL, SPINFUL_SMALL, crystal_of
from benchmarks.memory import peak_bytes
from benchmarks.molecules import random_molecule
from benchmarks.products import product_gflop
from benchmarks.table import with_floors
from benchmarks.timing import Timing
from benchmarks.tracegrad_block import SMALL as BLOCKS
from benchmarks.tracegrad_block import Case
from benchmarks.waiting import Steps
from tracegrad.hamiltonian.graph import collate
from tracegrad.nn.component_first.linear import EquivariantLinear
from tracegrad.ops.matrix_product import product

ARGUMENTS = ["--small", "--molecules", "2", "--atoms", "5", "--repeats", "1", "--device", "cpu"]
NETWORKS = {"plain e3nn", "backbone", "backbone + TraceGrad"}


@pytest.fixture
def uncompiled():
    """The plain forms as they are: compiling them takes longer than all the rest."""
    before = e3nn.get_optimization_defaults()["jit_script_fx"]
    e3nn.set_optimization_defaults(jit_script_fx=False)
    yield
    e3nn.set_optimization_defaults(jit_script_fx=before)


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
def test_small_benchmark_runs_and_writes_its_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(products, "SHAPES", ((256, 64, 32), (32, 64, 128)))
    monkeypatch.setattr(waiting, "SECONDS", 0.0)  # the least number of steps
    path = tmp_path / "benchmark.json"
    main([*ARGUMENTS, "--output", str(path)])
    assert "QHNet training step" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]
    assert f"molecules: 2 of 5 atoms, {2 * 5 * 4} pairs" in content["notes"]
    rows = {(entry["task"], entry["way"]): entry for entry in content["timings"]}
    for name in ("QHNet", "DeepH-E3", "DeepH-E3 spinful"):
        for kind in ("forward", "training step"):
            assert {way for task, way in rows if task == f"{name} {kind}"} == NETWORKS
    assert {
        ("QHNet arm training step", "tracegrad"),
        ("DeepH-E3 arm training step", "tracegrad"),
        ("DeepH-2-style training step", "DeepH-2-style + TraceGrad"),
    } <= rows.keys()
    assert all(0 < entry["lowest"] <= entry["median"] <= entry["highest"] for entry in rows.values())
    entry = rows["DeepH-E3 forward", "backbone"]
    assert entry["peak"] > 0
    assert entry["floor"] == pytest.approx(entry["gflop"] / max(content["product_rates"].values()))
    assert {task.partition(" ")[0] for task, _ in rows} >= {"orbitals", "step", "collation", "opening"}
    assert any("waiting for data" in note for note in content["notes"])
    assert any(note.startswith("time per atom") for note in content["notes"])


def test_single_tasks_can_be_chosen(capsys):
    assert list(tasks_of(parse([*ARGUMENTS, "--only", "ranks", "tracegrad"]))) == ["tracegrad", "ranks"]
    assert list(tasks_of(parse(ARGUMENTS))) == list(TASKS)
    with pytest.raises(SystemExit):
        parse(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in TASKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats has to be at least 1"),
        (["--output", "/no/such/file"], "is not a folder"),
    ],
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


@pytest.mark.parametrize(
    ("crystal", "sizes"), [(GRAPHENE, SMALL), (BISMUTH_TELLURIDE, SPINFUL_SMALL)], ids=["graphene", "Bi2Te3"]
)
def test_labels_of_crystals_are_hermitian(crystal, sizes):
    graph = crystal_of(crystal, sizes, np.random.default_rng(0))
    assert set(graph.numbers.tolist()) == set(sizes.basis.elements)
    assert graph.h_edge.is_complex() == sizes.spinful
    torch.testing.assert_close(graph.h_edge, graph.h_edge[graph.reverse].mH, rtol=0, atol=0)


def test_peak_counts_what_is_there_at_a_time(capfd):
    def call() -> None:
        a = torch.zeros(3, 1000)
        b = a + 1  # 24,000 bytes
        del a
        b.add_(1)
        c = b[0] * 2  # 16,000 bytes
        del b, c

    assert peak_bytes(call, "cpu") == pytest.approx(24_000, abs=64)
    assert capfd.readouterr().err == ""


def test_peak_leaves_out_what_stood_before():
    kept = [torch.zeros(100_000)]
    assert peak_bytes(lambda: kept.append(torch.zeros(1000)), "cpu") == pytest.approx(4000, abs=64)
    assert peak_bytes(kept.clear, "cpu") == 0


@pytest.mark.parametrize("inference", [False, True])
def test_operations_of_products(inference):
    a, b, batch = torch.randn(5, 7), torch.randn(7, 3), torch.randn(4, 5, 7)
    linear = torch.nn.Linear(7, 3)

    def call() -> None:
        with torch.inference_mode(inference):
            linear(a + a)  # addmm, and an addition that is no product
            square = torch.einsum("nij,nkj->nik", batch, batch)
            square.baddbmm_(batch, batch.mT)
            torch.mm(a, b, out=torch.empty(5, 3))

    assert product_gflop(call) * 1e9 == pytest.approx(2 * (2 * 5 * 7 * 3 + 2 * 4 * 5 * 7 * 5))
    if not inference:
        leaf = a.clone().requires_grad_()
        both = product_gflop(lambda: (leaf @ b).sum().backward()) * 1e9
        assert both == pytest.approx(2 * 2 * 5 * 7 * 3)  # forward, and the gradient of one factor


def test_operations_of_linear_maps_of_all_degrees():
    linear = EquivariantLinear(2, 5, 7)
    x = torch.randn(9, 4, 5, requires_grad=True)
    assert product_gflop(lambda: linear(x).sum().backward()) * 1e9 == pytest.approx(3 * 2 * 9 * 4 * 5 * 7)


def test_operations_of_products_by_onednn():
    a, b = torch.randn(500, 400), torch.randn(400, 300)
    assert product_gflop(lambda: product(a, b)) * 1e9 == pytest.approx(2 * 500 * 400 * 300)


def test_floor_is_operations_over_rate():
    slow, idle = (Timing("task", way, 1.0, 1.0, 1.0, 1.0, gflop=n) for way, n in (("a", 30.0), ("b", 0.0)))
    found = with_floors([slow, idle], 60.0)
    assert [t.floor for t in found] == [0.5, None]


def test_share_of_waiting():
    assert Steps([0.1, 0.3], [3.0, 0.6]).share == pytest.approx(0.1)


def test_plain_block_has_the_same_gradient():
    for sizes in BLOCKS:
        torch.manual_seed(0)
        assert Case.draw(sizes, "cpu").difference() < 1e-4


def test_lower_precisions_are_compared(monkeypatch):
    """With the autocast of a CPU, which the benchmark leaves out."""
    low = {"bf16": partial(torch.autocast, "cpu", torch.bfloat16)}
    monkeypatch.setattr(networks, "lower_precisions", lambda device: low)
    torch.manual_seed(0)
    model = SMALL.model(trace=True, grad=True)
    graph = collate([crystal_of(GRAPHENE, SMALL, np.random.default_rng(0))])
    (line,) = networks.lower_precision_errors(model, graph, "cpu")
    assert 1e-5 < float(line.rpartition(" ")[2]) < 0.3
    seen = []
    calls = {way: lambda: seen.append(torch.is_autocast_enabled("cpu")) for way in NETWORKS}
    variants = networks.lowered(calls, "cpu")
    assert list(variants) == ["backbone, bf16", "backbone + TraceGrad, bf16"]
    for call in (*variants.values(), *calls.values()):
        call()
    assert seen == [True, True, False, False, False]
