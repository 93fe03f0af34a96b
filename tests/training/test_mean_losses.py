"""Mean losses of a data set do not depend on batches and ranks."""

import pytest
import torch

from tracegrad.training.mean_losses import SampleMeans


def values(h: list[float], t: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(x, dtype=torch.float64) for name, x in (("h", h), ("t", t))}


def means_of(metric: SampleMeans) -> list[float]:
    return [float(value) for value in metric.compute().values()]


def test_means_are_over_samples_not_batches():
    whole, batches, rank = (SampleMeans(["h", "t"]) for _ in range(3))
    whole.update(values([1.0, 2.0, 4.0], [3.0, 5.0]))
    batches.update(values([1.0], []))
    rank.update(values([2.0, 4.0], [3.0, 5.0]))
    for name in ("sums", "counts"):  # what torchmetrics does over ranks
        setattr(batches, name, getattr(batches, name) + getattr(rank, name))
    batches._update_count += 1
    assert means_of(whole) == pytest.approx([7 / 3, 4.0], rel=1e-14)
    assert means_of(batches) == pytest.approx([7 / 3, 4.0], rel=1e-14)


def test_the_mean_of_no_sample_is_chosen():
    metric = SampleMeans(["h", "t"], empty=0.0)
    metric.update(values([2.0], []))
    assert means_of(metric) == [2.0, 0.0]
    metric = SampleMeans(["t"])
    metric.update(values([], []))  # no sample has traces
    assert metric.compute()["t"].isnan()


def test_a_mean_is_not_finite_if_a_sample_is_not():
    metric = SampleMeans(["h"])
    metric.update(values([1.0, 1.0 + 1e-12], []))
    assert float(metric.compute()["h"]) == pytest.approx(1.0 + 5e-13, rel=1e-15)
    metric.update(values([torch.nan], []))
    assert metric.compute()["h"].isnan()
