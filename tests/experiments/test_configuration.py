"""Every recipe composes and builds; messages about mistakes contain the nearest existing names."""

import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate

from experiments import evaluate
from experiments.settings.configuration import CONF, arm_in, composed, differences, plain
from experiments.settings.plugins import config_folders
from tracegrad.data.molecules.md17 import MOLECULES
from tracegrad.data.molecules.nabladft import ELEMENTS
from tracegrad.errors import ConfigError
from tracegrad.model.network import HamiltonianModel
from tracegrad.reports.arms import ARM_LABELS
from tracegrad.training.schedule import Plateau

RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_composes_and_resolves(recipe: str) -> None:
    values = plain(composed("train", [f"experiment={recipe}"]))
    assert Path(values["run_dir"]).parts[0] == "runs"
    assert values["tracegrad"] == values["model"]["tracegrad"]


@pytest.mark.parametrize("recipe", ["qs", "qd"])
def test_recipe_has_the_hyperparameters_of_the_paper(recipe: str) -> None:
    config = composed("train", [f"experiment={recipe}"])
    stable = recipe == "qs"
    assert config.optim.optimizer._target_ == "torch.optim.AdamW"
    assert config.optim.optimizer.betas == [0.99, 0.999]
    assert config.optim.schedule.peak == 5e-4
    assert config.optim.schedule.final == 1e-7
    assert config.optim.schedule.warmup_steps == 1000
    assert config.optim.schedule.total_steps == (300_000 if stable else 260_000)
    assert config.trainer.max_steps == config.optim.schedule.total_steps + 10_000
    assert config.trainer.gradient_clip_val == 5.0
    assert config.data.batch_size == 32
    assert config.data.database == ("stable" if stable else "dynamic_100k")
    assert config.data.split == ("ood" if stable else "mol")
    assert config.loss.trace_weight == 0.2
    assert config.loss.h == ["mse", "mae"]
    assert config.loss.t == "mae"
    assert config.tracegrad.channels == config.tracegrad.hidden == 1024
    assert (config.tracegrad.trace, config.tracegrad.grad) == (True, True)
    assert config.run_dir == f"runs/{recipe}/tracegrad_seed0"


@pytest.mark.parametrize("molecule", MOLECULES)
def test_md17_recipe_has_the_settings_of_the_released_qhnet(molecule: str) -> None:
    config = composed("train", [f"experiment=md17_{molecule}"])
    water = molecule == "water"
    assert (config.data.molecule, list(config.data.sizes)) == (molecule, [500 if water else 25_000, 500])
    assert (config.data.split_seed, config.data.batch_size) == (42, 10 if water else 5)
    schedule = config.optim.schedule
    assert (schedule.peak, schedule.final) == (5e-4 if water else 1e-3, 1e-8)
    assert (schedule.warmup_steps, schedule.total_steps) == (1000, 200_000)
    assert (config.trainer.max_steps, config.trainer.gradient_clip_val) == (201_000, 1.0)
    assert config.loss.h == ["mse", "mae"]


@pytest.mark.parametrize(
    ("part", "file"), {"tiny": "2k", "small": "5k", "medium": "10k", "large": "100k"}.items()
)
def test_nabladft_recipe(part: str, file: str) -> None:
    config = composed("train", [f"experiment=nabladft_{part}"])
    assert Path(config.data.path).name == f"train_{file}.db"
    assert Path(config.data.test_path).name == f"test_{file}_conformers.db"
    assert (list(config.data.fractions), config.data.split_seed) == ([0.9, 0.1], 23)
    assert instantiate(config.basis).elements == ELEMENTS
    assert config.trainer.max_steps == config.optim.schedule.total_steps == 1_000_000


def test_the_recipe_of_300k_differs_from_qd_in_the_data_only() -> None:
    config, usual = (
        plain(composed("train", [f"experiment={name}", "name=x", "run_dir=x"])) for name in ("qd_300k", "qd")
    )
    assert differences(usual, config, ["data"]) == []
    assert (config["data"]["database"], config["data"]["split"]) == ("dynamic_300k", "mol")
    assert config["data"]["table"] is None


CRYSTALS = {
    "mg": (0.003, (270, 90, 90), "C s2p2d1"),
    "mm": (0.005, (300, 100, 100), "S s2p2d1, Mo s3p2d2"),
    "bg": (0.003, (180, 60, 60), "C s2p2d1"),
    "bb": (0.005, (231, 113, 113), "Bi s3p2d2 with spin"),
    "bt": (0.003, (204, 38, 12), "Te s3p2d2, Bi s3p2d2 with spin"),
    "bs": (0.005, (231, 113, 113), "Se s3p2d2, Bi s3p2d2 with spin"),
}


@pytest.mark.parametrize("recipe", CRYSTALS)
def test_crystal_recipe_has_the_hyperparameters_of_the_paper(recipe: str) -> None:
    config = composed("train", [f"experiment={recipe}"])
    peak, sizes, basis = CRYSTALS[recipe]
    assert config.name == recipe
    assert config.optim.optimizer._target_ == "torch.optim.Adam"
    assert config.optim.optimizer.betas == [0.9, 0.999]
    schedule = config.optim.schedule
    assert (schedule.peak, schedule.start, schedule.interval, schedule.decay) == (peak, 1400, 200, 0.5)
    assert config.callbacks.stop_rate.minimum == 3e-5
    assert (config.callbacks.revert.patience, config.callbacks.revert.ratio) == (20, 2.0)
    assert config.callbacks.revert.decay == 0.8
    assert config.trainer.gradient_clip_val is None
    assert tuple(config.data.sizes) == sizes
    assert config.data.split_seed == config.seed == config.callbacks.seeding.seed == config.data.seed == 42
    assert config.data.batch_size == 1
    assert (config.data.table, config.data.label) == (recipe.upper(), recipe.upper())
    assert instantiate(config.basis).name == basis
    assert config.loss.h == ["mse"]
    assert (config.loss.t, config.loss.trace_weight) == ("mae", 0.3)
    assert config.tracegrad.w == "full"
    assert config.tracegrad.channels == config.tracegrad.hidden == 1024
    assert (config.tracegrad.trace, config.tracegrad.grad) == (True, True)
    assert config.run_dir == f"runs/{recipe}/tracegrad_seed42"


@pytest.mark.parametrize("recipe", CRYSTALS)
def test_recipe_of_the_deeph2_style_network_differs_in_the_network_only(recipe: str) -> None:
    config, usual = (
        plain(composed("train", [f"experiment={name}", "name=x", "run_dir=x"]))
        for name in (f"{recipe}_deeph2", recipe)
    )
    assert differences(usual, config, ["model"]) == [f"optim.schedule.peak: {CRYSTALS[recipe][0]} -> 0.001"]
    backbone = instantiate(config["model"]["backbone"])
    assert backbone.label == "DeepH-2-style"
    assert backbone.basis.name == CRYSTALS[recipe][2]


@pytest.mark.parametrize(("model", "expected"), [("deeph2", 4.0e6), ("deeph2_large", 37.2e6)])
def test_sizes_of_the_deeph2_style_network(model: str, expected: float) -> None:
    """Counted for MoS2 by a formula of the layers, which leaves out the smallest."""
    backbone = instantiate(composed("train", ["experiment=mm", f"model={model}"]).model.backbone)
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(expected, rel=0.06)


def test_training_of_the_successor_of_deeph2() -> None:
    config = composed("train", ["experiment=mm_deeph2_plateau"])
    assert config.optim.optimizer._target_ == "torch.optim.AdamW"
    assert (config.optim.optimizer.weight_decay, config.optim.optimizer.eps) == (1e-3, 1e-8)
    schedule = instantiate(config.optim.schedule)
    assert schedule == Plateau(peak=2e-3, factor=0.5, patience=170, cooldown=30, threshold=0.05)
    assert config.callbacks.stop_rate.minimum == pytest.approx(0.002 * schedule.peak)
    assert config.callbacks.revert is None
    assert (config.loss.h, config.model.backbone.hermitian) == (["mae"], True)
    assert (config.seed, config.data.split_seed, config.trainer.max_epochs) == (137, 42, 10_000)


@pytest.mark.parametrize(
    ("recipe", "arm"),
    # Every recipe, and every arm of molecules and of crystals.
    [(recipe, "none") for recipe in RECIPES]
    + [(recipe, arm) for recipe in ("qs", "mg") for arm in ARM_LABELS if arm != "none"],
)
def test_the_arm_of_a_recipe_is_chosen_by_one_word(recipe: str, arm: str) -> None:
    config = composed("train", [f"experiment={recipe}", f"tracegrad={arm}"])
    assert arm_in(config.tracegrad) == arm
    assert config.run_dir == f"runs/{recipe}/{arm}_seed{config.seed}"


def test_full_size_deeph_e3_has_the_published_size() -> None:
    """627,981 parameters as published, minus the 65 of the unused map of the last nodes."""
    model: HamiltonianModel = instantiate(composed("train", ["experiment=mg", "tracegrad=none"]).model)
    assert sum(p.numel() for p in model.parameters()) == 627_981 - 65


def test_full_size_model_has_the_published_size() -> None:
    """20,415,673 parameters as released, minus those that its forward pass never uses."""
    model: HamiltonianModel = instantiate(composed("train", ["experiment=qs", "tracegrad=none"]).model)
    linear = 128 * 128
    first_convolution = 2 * (linear + 128) + 2 * (linear + 128)  # its gate, and two linear maps of scalars
    pair_layers = 2 * (65 * 128 + 5 * linear + 128)  # a second product and its linear map
    expansions = 2 * (32 * 56 + 14)
    dead = first_convolution + pair_layers + expansions
    assert sum(p.numel() for p in model.parameters()) == 20_415_673 - dead == 20_165_277


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=demo_crystal"], "nearest: .*demo_crystals"),
        (["tracegrad=gradtrace"], "no tracegrad named 'gradtrace'"),
        (["data.batchsize=3"], "no setting 'data.batchsize'; nearest: data.batch_size"),
        (["channels=3"], "no setting 'channels'; nearest: .*channels"),
        (["data.batch_size=many"], "data.batch_size is 'many', but it must be a whole number"),
        (["test=3"], "test is 3, but it must be true or false"),
        (["loss.trace_weight=big"], "must be a number"),
        (["loss.h=mae"], "must be a list"),
        (["nonsense"], "not understood: nonsense"),
    ],
)
def test_mistakes_name_the_nearest(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed("train", overrides)


@pytest.mark.parametrize("recipe", ["mg", "qs", "demo", "demo_crystals"])
def test_appendix_i_is_added_to_the_callbacks_of_the_recipe(recipe: str) -> None:
    usual = plain(composed("train", [f"experiment={recipe}"]))
    added = plain(composed("train", ["callbacks=appendix_i", f"experiment={recipe}"]))
    timing, cheap = (config["callbacks"]["inference_time"] for config in (added, usual))
    assert (timing["samples"], timing["repeats"], timing["batch_size"]) == (None, 50, 1)
    assert (cheap["samples"], cheap["repeats"], cheap["batch_size"]) == (10, 5, 1)
    added["callbacks"]["inference_time"] = cheap
    assert added == usual
    part = composed(
        "train", [f"experiment={recipe}", "callbacks=appendix_i", "callbacks.inference_time.samples=500"]
    )
    assert (part.callbacks.inference_time.samples, part.callbacks.inference_time.repeats) == (500, 50)


def test_appendix_i_stands_alone_in_an_evaluation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = composed("evaluate", ["run=x", "callbacks=appendix_i", "callbacks.inference_time.samples=3"])
    assert list(config.callbacks) == ["inference_time"]
    assert (config.callbacks.inference_time.samples, config.callbacks.inference_time.repeats) == (3, 50)
    monkeypatch.setattr(sys, "argv", ["evaluate", "run=x", "callbacks=ema"])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "belong to a training; a test takes callbacks=appendix_i" in capsys.readouterr().err


def test_missing_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.path is needed; give data\.path=VALUE"):
        plain(composed("train", ["data=custom"]))


def test_differences_are_readable_and_can_be_ignored() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    new = {"a": {"b": 2, "c": [1, 2]}, "e": None, "d": "x"}
    assert differences(old, new) == ["a.b: 1 -> 2"]
    assert differences(old, new, ["a"]) == []
    assert differences({"ab": 1}, {"ab": 2}, ["a"]) == ["ab: 1 -> 2"]


def test_recipes_of_a_folder_of_the_user(tmp_path):
    folder = tmp_path / "mine"
    (folder / "experiment").mkdir(parents=True)
    recipe = folder / "experiment" / "mine.yaml"
    head = "# @package _global_\ndefaults:\n  - override /data: demo\n"
    recipe.write_text(f"{head}seed: 7\n")
    assert composed("train", ["experiment=mine"], [folder]).seed == 7
    recipe.write_text(f"{head}modle: {{compile: true}}\n")
    with pytest.raises(
        ConfigError, match=r"no setting 'modle', which a file of --config-dir has; nearest: model"
    ):
        composed("train", ["experiment=mine"], [folder])
    recipe.write_text(head.replace("/data", "/dta"))
    with pytest.raises(
        ConfigError, match=r"mine\.yaml overrides 'dta', which is no group of settings; nearest: data"
    ):
        composed("train", ["experiment=mine"], [folder])
    with pytest.raises(ConfigError, match=r"no setting 'modle'; nearest: model"):
        composed("train", ["modle=1"], [folder])


def test_folders_of_options_are_taken_out_of_the_arguments(tmp_path):
    (tmp_path / "a").mkdir()
    folder = (tmp_path / "a").resolve()
    for words in (["--config-dir", str(folder)], [f"--config-dir={folder}"], ["-cd", str(folder)]):
        assert config_folders([*words, "seed=1"]) == (["seed=1"], [folder])
    with pytest.raises(ConfigError, match=r"no such folder; give one with recipes in experiment/"):
        config_folders(["--config-dir", str(tmp_path / "none")])


def test_all_options_that_begin_like_an_unknown_one_are_named():
    with pytest.raises(
        ConfigError, match=r"no loss named 'qh9_foo'; nearest: .*qh9, qh9_shifted, qh9_states"
    ):
        composed("train", ["loss=qh9_foo"])
