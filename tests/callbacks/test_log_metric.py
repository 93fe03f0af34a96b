"""A metric of a user's package: the example of docs/extend-a-metric.md, trained, tested and reported."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torchmetrics import Metric, SumMetric

from callbacks.log_metric import LogMetric
from experiments import evaluate, report, train
from experiments.training.warning_filter import quiet
from tests import crystals
from tests.callbacks.test_test_report import crystal_loaders, make_module, make_trainer
from tests.run_directories import crystal_result, result, write_run
from tracegrad.errors import ConfigError
from tracegrad.metrics.columns import Column
from tracegrad.reports.comparison import results_table
from tracegrad.reports.grid import table_grids
from tracegrad.reports.latex import to_latex
from tracegrad.reports.results import ResultsError, collect_results
from tracegrad.reports.structured import to_json
from tracegrad.training.module import HamiltonianModule

PAGE = (Path(__file__).parents[2] / "docs" / "extend-a-metric.md").read_text(encoding="utf-8")
CLASS, SETTINGS = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.S).group(1) for kind in ("python", "bash"))
TINY = [
    *(
        "data.train_size=16",
        "data.fractions=[.92,.04,.04]",
        "trainer.max_steps=2",
        "model.backbone.channels=4",
    ),
    *("model.backbone.bottleneck=2", "model.backbone.lmax=1", "tracegrad.channels=8", "tracegrad.hidden=8"),
    *("callbacks.orbitals=null", "callbacks.acceleration=null", "callbacks.inference_time.samples=0"),
    *("callbacks.test_report.figure_samples=0", "logger.wandb.mode=disabled"),
]


@pytest.fixture(autouse=True)
def _quiet():
    """Without warnings of Lightning that do not apply."""
    with quiet():
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a user with the class of the page, as the current one."""
    name = re.match(r'"""(\w+\.py):', CLASS).group(1)
    (tmp_path / name).write_text(CLASS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_metrics", None)


def call(monkeypatch, command, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    command.main()


@pytest.mark.slow
def test_the_page_trains_tests_and_reports(folder, monkeypatch, capsys):
    training, reporting = (shlex.split(line) for line in SETTINGS.replace("\\\n", "").splitlines())
    metric = [argument for argument in training if argument.startswith("+callbacks")]
    call(monkeypatch, train, *training[2:], *TINY)
    run = folder / "runs" / "demo" / "tracegrad_seed0"
    results = json.loads((run / "results.json").read_text())
    value = results["metrics"]["test/largest_error"]
    assert value > results["metrics"]["test/h_mae"] > 0
    assert [column["name"] for column in results["columns"]] == ["largest error"]
    with (run / "metrics.csv").open(newline="") as file:
        assert [row["val/largest_error"] for row in csv.DictReader(file) if row["val/largest_error"]]
    out = capsys.readouterr().out
    assert "largest error" in out
    assert f"{value:.1f}" in out

    monkeypatch.delitem(sys.modules, "my_metrics")
    (folder / "my_metrics.py").rename(folder / "elsewhere")  # a report needs no import of the package
    call(monkeypatch, report, *reporting[2:])
    out = capsys.readouterr().out
    assert "largest error" in out
    assert f"{value:.1f}" in out
    files = run.parents[1] / "demo" / "report"
    assert "| largest error (meV) |" in (files / "table.md").read_text()
    assert " & largest error & " in (files / "table.tex").read_text()
    with (files / "table.csv").open(newline="") as file:
        assert float(list(csv.DictReader(file))[-1]["test/largest_error"]) == value

    (folder / "elsewhere").rename(folder / "my_metrics.py")
    call(monkeypatch, evaluate, f"run={run}", "plugins=[my_metrics]", *metric)
    again = json.loads((run / "evaluation_test_best" / "evaluation.json").read_text())
    assert again["metrics"]["test/largest_error"] == pytest.approx(value)


class Moments(Metric):
    """Two numbers of every subset: with energies in the unit of H, and without a unit."""

    columns = (
        Column("mean_modulus", "mean of H"),
        Column("batches", "batches", unit="", lower_is_better=None, panel="my section", digits=0),
    )

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction, graph, basis) -> None:
        self.sums += torch.stack([prediction.blocks["edge"].abs().mean(), torch.ones(())])

    def compute(self) -> dict[str, torch.Tensor]:
        return {"mean_modulus": self.sums[0] / self.sums[1], "batches": self.sums[1]}


def test_each_subset_has_a_copy_and_energies_are_in_mev(tmp_path):
    module: HamiltonianModule = make_module(crystals.SmallBackbone(crystals.SPINLESS))
    module.test_subsets = ["", "twisted"]
    loaders = crystal_loaders(crystals.SPINLESS)
    trainer = make_trainer(tmp_path, callbacks=[LogMetric(Moments())])
    logs = trainer.test(module, loaders, verbose=False)[0]
    assert (logs["test/batches"], logs["test/batches/twisted"]) == (2, 1)
    for loader, ending in zip(loaders, ("", "/twisted"), strict=True):
        means = [module.model(graph).blocks["edge"].abs().mean() for graph in loader]
        assert logs[f"test/mean_modulus{ending}"] == pytest.approx(
            1000 * float(torch.stack(means).detach().mean())
        )
    assert trainer.test(module, loaders, verbose=False)[0] == logs  # counts nothing twice


def test_metrics_that_cannot_be_logged_are_named(tmp_path):
    class Taken(Moments):
        columns = (Column("h_mae", "another MAE"),)

    class Divided(Moments):
        columns = (Column("a/b", "a"),)

    class Wrong(Moments):
        columns = (Column("other", "other"),)

    with pytest.raises(ConfigError, match="Taken: h_mae is a metric of TraceGrad"):
        LogMetric(Taken())
    with pytest.raises(ConfigError, match='Divided: a/b has a "/"'):
        LogMetric(Divided())
    with pytest.raises(ConfigError, match=r"SumMetric: a torchmetrics\.Metric with columns"):
        LogMetric(SumMetric())
    trainer = make_trainer(tmp_path, callbacks=[LogMetric(Wrong())])
    module = make_module(crystals.SmallBackbone(crystals.SPINLESS))
    with pytest.raises(ConfigError, match=r"Wrong: compute returns \['batches', 'mean_modulus'\], but its"):
        trainer.test(module, crystal_loaders(crystals.SPINLESS)[:1], verbose=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "a b"}, "write its key with letters"),
        ({"name": r"\input{x}"}, "is no name"),
        ({"panel": ""}, "is no name"),
        ({"digits": 99}, "digits is 99"),
        ({"unit": None}, "unit is None"),
        ({"digits": True}, "digits is True"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_columns_that_cannot_be_printed_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        Column(**{"key": "x", "name": "x", **change})


def with_columns(content, values, *columns):
    return {**content, "metrics": {**content["metrics"], **values}, "columns": list(columns)}


def test_tables_show_columns_of_results_in_their_sections(tmp_path):
    accuracy = {"key": "largest", "name": "largest 100 % of_psi", "digits": 1}
    own = {"key": "count", "name": "count", "unit": "", "lower_is_better": False, "panel": "my section"}
    values = {"test/largest": 7.25, "test/largest/twisted": 8.25, "test/count": 3.0}
    for arm in ("none", "grad"):
        write_run(tmp_path / arm, with_columns(crystal_result(arm, 0, 5.0), values, accuracy, own))
    (table,) = results_table(collect_results(tmp_path))
    names = [column.name for column in table.columns]
    assert names[3::4] == ["largest 100 % of_psi (nt)", "largest 100 % of_psi (t)"]
    assert names[8:] == ["count (nt)"]
    first, second = table_grids(table)
    assert first.lines[-1].cells[3].value == "7.2"
    assert second.title.endswith("split: my section")
    assert second.lines[-1].cells[0].value == "3.000"
    assert r"largest 100 \% of\_psi (t) & " in to_latex([first, second])
    assert json.loads(to_json([table]))["tables"][0]["columns"][-1]["panel"] == "my section"


def test_columns_of_results_change_nothing_of_tracegrad_and_damaged_ones_are_named(tmp_path):
    other = {"key": "h_mae", "name": "mine", "unit": "s"}
    write_run(tmp_path / "a", with_columns(result("none", 0, 5.0), {}, other), files=False)
    (table,) = results_table(collect_results(tmp_path))
    assert [column.name for column in table.columns] == ["MAE^H_all", "MAE^H_diag", "MAE^H_nondiag"]
    for columns, message in (
        ([{"key": "x"}], "columns: .*name"),
        ([{"key": "x", "name": "$"}], "is no name"),
        ([3], "columns: "),
        (3, "columns: "),
    ):
        content = {**result("grad", 0, 5.0), "columns": columns}
        (tmp_path / "a" / "results.json").write_text(json.dumps(content))
        with pytest.raises(ResultsError, match=message) as caught:
            collect_results(tmp_path)
        assert str(tmp_path / "a" / "results.json") in str(caught.value)
