"""Recipes of HarmoSE-style networks: the second stage on each database of crystals, and the demonstration."""

import pytest
from hydra.utils import instantiate

from experiments.settings.configuration import composed, plain
from tracegrad.backbones.harmose import HarmoSE


@pytest.mark.parametrize("database", ["mg", "mm", "bg", "bb", "bt", "bs"])
def test_recipes_train_the_second_stage_on_the_data_of_the_first(database):
    recipe = f"{database}_harmose"
    assert composed("train", [f"experiment={recipe}"]).run_dir == f"runs/{recipe}/tracegrad_seed42"
    first, second = (
        plain(composed("train", [f"experiment={name}", "run_dir=run"])) for name in (database, recipe)
    )
    assert second["model"]["backbone"]["stage"] == "second"
    assert second["optim"]["schedule"].pop("peak") == 0.001
    del first["optim"]["schedule"]["peak"]
    assert second["callbacks"].pop("equivariance")["structures"] == 2
    for part in ("basis", "data", "loss", "optim", "callbacks", "trainer", "tracegrad", "seed"):
        assert second[part] == first[part], part
    own = second["model"]["backbone"]
    for key, value in first["model"]["backbone"].items():
        assert own[key] == value or key == "_target_", key


@pytest.mark.parametrize("stage", ["first", "second", "joint"])
def test_the_demonstration_takes_the_small_network(stage):
    more = ["loss=deeph_joint"] if stage == "joint" else []
    config = composed(
        "train",
        ["experiment=demo_crystals", "model=harmose_small", f"model.backbone.stage={stage}", *more],
    )
    model = instantiate(config.model)
    assert isinstance(model.backbone, HarmoSE)
    assert (model.backbone.transformer is None) == (stage == "first")
    assert sum(p.numel() for p in model.parameters()) < 300_000
