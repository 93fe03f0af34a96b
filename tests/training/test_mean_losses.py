"""Mean losses of a data set do not depend on batches and ranks."""

import pytest
import torch

from tracegrad.training.loss import LossTerms
from tracegrad.training.mean_losses import MeanLosses, SampleMean


def terms(h: list[float], t: list[float]) -> LossTerms:
    zero = torch.zeros(())
    return LossTerms(
        zero, zero, torch.tensor(h, dtype=torch.float64), torch.tensor(t, dtype=torch.float64), {}
    )


def test_means_are_over_samples_not_batches():
    whole, batches, rank = MeanLosses(), MeanLosses(), MeanLosses()
    whole.update(terms([1.0, 2.0, 4.0], [3.0, 5.0]))
    batches.update(terms([1.0], []))
    rank.update(terms([2.0, 4.0], [3.0, 5.0]))
    for name in ("sums", "counts"):  # what torchmetrics does over ranks
        setattr(batches, name, getattr(batches, name) + getattr(rank, name))
    batches._update_count += 1
    assert [float(value) for value in whole.compute()] == pytest.approx([7 / 3, 4.0], rel=1e-14)
    assert [float(value) for value in batches.compute()] == pytest.approx([7 / 3, 4.0], rel=1e-14)


def test_no_traces_give_zero():
    metric = MeanLosses()
    metric.update(terms([2.0], []))
    assert [float(value) for value in metric.compute()] == [2.0, 0.0]


def test_mean_of_samples_is_not_finite_if_a_sample_is_not():
    metric = SampleMean()
    metric.update(torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64))
    metric.update(torch.tensor([]))
    assert float(metric.compute()) == pytest.approx(1.0 + 5e-13, rel=1e-15)
    metric.update(torch.tensor([torch.nan]))
    assert metric.compute().isnan()
    metric = SampleMean()
    metric.update(torch.tensor([]))  # no sample has traces
    assert metric.compute().isnan()
