"""What a command line of a sweep means: values, seeds, directories, places for runs."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.settings.configuration import composed, plain
from experiments.sweeps.engine import plan
from experiments.sweeps.points import folder, literal, make_points
from experiments.sweeps.settings import SweepSettings, parse_values, read_settings
from tracegrad.errors import ConfigError

AWKWARD = [
    "a b",
    "1,2",
    "[x]",
    "it's",
    "back\\slash",
    "a/b",
    "${seed}",
    "true",
    "null",
    "",
    "100%",
    "λ",
    "-1",
    "nan",
]


def ablation(*arguments: str) -> SweepSettings:
    return read_settings("ablate", arguments)


def sweep(*arguments: str) -> SweepSettings:
    return read_settings("sweep", arguments)


@pytest.mark.parametrize(
    "value", [*AWKWARD, 1, 0.1, 1e-7, True, None, ["mse"], ["a b", 1, None], {"a": "b c"}]
)
def test_values_come_back_from_hydra_as_they_were(value: Any) -> None:
    override = OverridesParser.create().parse_override(f"key={literal(value)}")
    assert override.value() == value
    assert type(override.value()) is type(value)


def test_directories_follow_from_the_values_alone() -> None:
    assert folder({"loss.t": "mae", "loss.trace_weight": 0.1}) == "loss.t=mae,loss.trace_weight=0.1"
    assert folder({"b": 1, "a": 2}) == folder({"a": 2, "b": 1})
    assert folder({"tracegrad": "grad"}) == "grad"
    names = [folder({"key": value}) for value in AWKWARD]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set(" ,[]'\\/$") for name in names)
    long = [folder({"key": "x" * 300 + ending}) for ending in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) < 255


def test_a_run_has_its_value_and_its_directory(tmp_path: Path) -> None:
    runs = tmp_path / "with a space, [brackets] and it's = signs"
    for value in ("a b", "[1,2], 'x'"):
        grid = {"data.label": [value]}
        (point,) = make_points(runs, ["experiment=demo"], grid, [{"seed": 3}], group="a, b", result=None)
        config = plain(composed("train", point.overrides))
        assert config["data"]["label"] == value
        assert config["run_dir"] == str(point.directory)
        assert point.directory.parent == runs
        assert (config["seed"], config["logger"]["wandb"]["group"]) == (3, "a, b")


def test_ablation_points_keep_their_directories() -> None:
    settings = ablation("experiment=demo", "arms=none,grad", "seeds=0,5", "runs=somewhere")
    points, runs, _ = plan(settings)
    assert runs == Path("somewhere")
    assert [str(point.directory) for point in points] == [
        "somewhere/none_seed0",
        "somewhere/grad_seed0",
        "somewhere/none_seed5",
        "somewhere/grad_seed5",
    ]
    assert [point.name for point in points][:2] == ["none seed 0", "grad seed 0"]
    assert points[0].result == "results.json"
    points, runs, _ = plan(ablation("experiment=mg", "test=false", "arms=trace"))
    assert runs == Path("runs/mg")
    assert points[0].result is None


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("10", tuple(range(42, 52))),
        ("1", (42,)),
        ("0,1,2", (0, 1, 2)),
        ("[7]", (7,)),
        ("7,", (7,)),
        ("[3, 3, 1]", (3, 1)),
    ],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert ablation("experiment=mg", f"seeds={text}").seeds == [{"seed": seed} for seed in seeds]


def test_a_number_of_seeds_counts_from_that_of_the_experiment() -> None:
    def seeds(settings: SweepSettings) -> list[int]:
        return [seed["seed"] for seed in settings.seeds]

    assert seeds(ablation("experiment=bs")) == [42, 43, 44]
    assert seeds(sweep("experiment=bs", "tracegrad=grad", "sweep=lambda")) == [42]
    assert seeds(ablation("experiment=qs", "seeds=2")) == [0, 1]
    assert seeds(ablation("experiment=demo", "seeds=2")) == [0, 1]
    assert seeds(sweep("grid.experiment=mg,bg", "seeds=2")) == [42, 43]
    assert seeds(ablation("experiment=mg", "seeds=10", "equal_seeds=true")) == [42] * 10
    points, _, _ = plan(ablation("experiment=mg", "arms=none", "seeds=10", "equal_seeds=true"))
    assert [composed("train", point.overrides).seed for point in points[:2]] == [42, 42]


def test_equal_seeds_are_repetitions(tmp_path: Path) -> None:
    settings = ablation("experiment=demo", "seeds=10", "equal_seeds=true", "seed=42", f"runs={tmp_path}")
    assert settings.seeds == [{"seed": 42, "repetition": i} for i in range(10)]
    points, _, _ = plan(settings)
    assert len(points) == 40
    assert len({point.directory for point in points}) == 40
    assert points[4].directory == tmp_path / "none_seed42_rep1"
    config = composed("train", points[-1].overrides)
    assert (config.seed, config.repetition) == (42, 9)


def test_ready_sweeps_are_those_of_the_paper() -> None:
    weights = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert sweep("sweep=lambda").grid == {"loss.trace_weight": weights}
    assert sweep("sweep=trace_error").grid == {"loss.t": ["mae", "mse"]}
    both = {"loss.t": ["mae", "mse"], "loss.trace_weight": weights}
    assert sweep("sweep=lambda_trace_error").grid == both


@pytest.mark.parametrize("experiment", ["qs", "mg"])
def test_ready_sweeps_fit_the_recipes(experiment: str) -> None:
    points, runs, _ = plan(sweep(f"experiment={experiment}", "sweep=lambda_trace_error"))
    assert runs == Path(f"runs/{experiment}_lambda_trace_error")
    assert len(points) == 20
    loss = composed("train", points[-1].overrides).loss
    assert (loss.trace_weight, loss.t) == (1.0, "mse")


def test_grids() -> None:
    settings = sweep("sweep=lambda", "grid.loss.trace_weight=0.5,1.5", "grid.tracegrad=trace,tracegrad")
    assert settings.grid == {"loss.trace_weight": [0.5, 1.5], "tracegrad": ["trace", "tracegrad"]}
    assert parse_values("a", "range(0,3)") == [0, 1, 2]
    assert parse_values("a", "[mse],[mse,mae]") == [["mse"], ["mse", "mae"]]
    assert parse_values("a", "'x, y',null,true,1e-3") == ["x, y", None, True, 0.001]
    assert parse_values("a", "5") == [5]
    runs = plan(sweep("experiment=demo", "grid.optim.schedule.peak=1e-3,1e-2", "grid.loss.t=mae"))[1]
    assert runs == Path("runs/demo_peak_t")


def test_a_sweep_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "widths.yaml"
    path.write_text("grid: {tracegrad.channels: [8, 16]}\n")
    settings = sweep("experiment=demo", f"sweep={path}")
    assert settings.grid == {"tracegrad.channels": [8, 16]}
    assert plan(settings)[1] == Path("runs/demo_widths")
    path.write_text("points: 3\n")
    with pytest.raises(ConfigError, match=r"widths\.yaml: a sweep has description and grid"):
        sweep(f"sweep={path}")


def test_places_and_slurm() -> None:
    settings = ablation("gpus=0,1,2,3,4", "gpus_per_run=2")
    assert settings.gpu_groups == [("0", "1"), ("2", "3")]
    settings = ablation(
        "launcher=slurm", "slurm.partition=gpu", "slurm.gpus_per_node=4", "slurm.exclusive=true"
    )
    assert settings.slurm == {"partition": "gpu", "gpus_per_node": 4, "exclusive": True}
    settings = ablation("launcher=slurm", "slurm.partition=gpu,long", "slurm.constraint=a100&nvlink")
    assert settings.slurm == {"partition": "gpu,long", "constraint": "a100&nvlink"}


def test_settings_that_are_not_given_are_those_of_conf() -> None:
    settings = sweep("grid.loss.t=mae,mse", "seeds=[0]")
    assert (settings.runs, settings.jobs, settings.gpus, settings.launcher) == (None, None, [], "local")
    assert (settings.retries, settings.stop_limit, settings.wait, settings.dry_run) == (1, 120, False, False)


def test_an_ablation_may_vary_a_grid_beside_the_arms() -> None:
    settings = ablation("arms=none,grad", "grid.loss.t=mae,mse", "seeds=[0]")
    assert settings.grid == {"tracegrad": ["none", "grad"], "loss.t": ["mae", "mse"]}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("24:00:00", 1440), ("2-00:00:00", 2880), ("1-12", 2160), ("0:30:30", 31)],
)
def test_times_of_slurm(text: str, minutes: int) -> None:
    assert ablation("launcher=slurm", f"slurm.time={text}").slurm == {"time": minutes}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arms=none,gradient"], r"unknown arms \['gradient'\]"),
        (["seeds=a"], "seeds=a must be whole numbers"),
        (["seeds=0"], r"write seeds=\[0\]"),
        (["seeds=0,1", "equal_seeds=true"], "equal_seeds=true repeats one seed"),
        (["equal_seeds=yes"], "equal_seeds is 'yes', but it must be true or false"),
        (["jobs=0"], "jobs=0 must be"),
        (["retries=-1"], "retries=-1 must be"),
        (["gpus=0,0"], "names a GPU twice"),
        (["gpus=0", "gpus_per_run=2"], "gpus_per_run=2, but there are 1"),
        (["tracegrad=grad"], "tracegrad is set by the sweep; choose with arms="),
        (["seed=1"], "seed is set by the sweep"),
        (["run_dir=x"], "run_dir is set by the sweep"),
        (["launcher=cloud"], "launcher=cloud is unknown"),
        (["slurm.time=1"], "slurm.* is for launcher=slurm"),
        (["launcher=slurm", "slurm.time=soon"], "slurm.time=soon must be"),
        (["launcher=slurm", "gpus=0"], "give slurm.gpus_per_node="),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ablation("experiment=demo", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to vary"),
        (["sweep=lamda"], "no sweep 'lamda'; there are lambda, lambda_trace_error, trace_error"),
        (["grid.loss.t="], r"grid\.loss\.t has no values"),
        (["grid.loss.t=mae,mae"], "a value twice"),
        (["grid.loss.t=[mae"], "is not understood"),
        (["grid.seed=1,2"], "seed cannot be varied"),
        (["sweep=lambda", "loss.trace_weight=1"], r"choose with grid\.loss\.trace_weight="),
    ],
)
def test_mistakes_of_grids(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(sweep("experiment=demo", *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.batchsize=3"], "nearest: data.batch_size"),
        (["grid.loss.trace_wait=1,2"], "nearest: loss.trace_weight"),
        (["grid.loss.trace_weight=1,big"], "loss.trace_weight is 'big', but it must be a number"),
        (["grid.tracegrad=none,gradient"], "no tracegrad named 'gradient'"),
        (["trainer.num_nodes=2"], "a point of a sweep runs on one machine"),
        (["trainer=slurm"], "trainer=ddp"),
        (["gpus=0,1", "gpus_per_run=2"], "add trainer=ddp"),
    ],
)
def test_mistakes_of_runs_show_before_the_first(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(sweep("experiment=demo", "grid.loss.t=mae,mse", *arguments))


def test_runs_with_other_settings_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "loss.t=mae_seed0"
    directory.mkdir()
    (directory / "results.json").write_text("{}")
    (directory / "config.yaml").write_text("name: other\n")
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        plan(sweep("experiment=demo", "grid.loss.t=mae,mse", f"runs={tmp_path}"))
