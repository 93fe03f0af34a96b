"""The shift that minimises absolute deviations, compared with all kinks."""

import numpy as np
import pytest
import torch

from tracegrad.metrics.functional.shift import least_absolute_shift, shifted_mae


@pytest.mark.parametrize("items", [1, 7, 500])
def test_no_shift_is_better_than_the_least_absolute_one(items):
    rng = np.random.default_rng(items)
    d, s = torch.from_numpy(rng.normal(size=(2, 5, items)))
    s[:, ::3] *= 1e-6
    d[0] = 0.25 * s[0]
    mu = least_absolute_shift(d, s)
    assert float(mu[0]) == pytest.approx(-0.25, abs=1e-12)
    kinks = -d / s
    sums = (d[:, None] + kinks[:, :, None] * s[:, None]).abs().sum(2)
    found = (d + mu[:, None] * s).abs().sum(1)
    np.testing.assert_allclose(found.numpy(), sums.min(1).values.numpy(), rtol=1e-12, atol=1e-12)


def test_the_shift_without_a_direction_is_zero():
    zeros = torch.zeros(2, 4, dtype=torch.float64)
    assert least_absolute_shift(zeros + 1, zeros).tolist() == [0, 0]
    assert least_absolute_shift(zeros, zeros + 1).tolist() == [0, 0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_do_not_change_other_matrices(wrong):
    difference = np.random.default_rng(0).normal(size=(3, 9, 9))
    overlap = np.random.default_rng(1).normal(size=(3, 45))
    expected = shifted_mae(*map(torch.from_numpy, (difference, overlap)))
    difference[1, 2, 3] = wrong
    found = shifted_mae(*map(torch.from_numpy, (difference, overlap)))
    assert not found[1].isfinite()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=1e-12, atol=0)


def test_products_that_overflow_do_no_harm():
    difference = np.random.default_rng(0).normal(size=(1, 9, 9))
    overlap = np.random.default_rng(1).normal(size=(1, 45))
    expected = float(shifted_mae(*map(torch.from_numpy, (difference, overlap))))
    found = shifted_mae(*map(torch.from_numpy, (1e160 * difference, 1e160 * overlap)))
    assert float(found) == pytest.approx(1e160 * expected, rel=1e-12)


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_no_shift_of_a_matrix_is_better(skew):
    rng = np.random.default_rng(3)
    difference, overlap = rng.normal(size=(2, 4, 9, 9))
    overlap += overlap.transpose(0, 2, 1)
    difference += difference.transpose(0, 2, 1) + skew * rng.normal(size=difference.shape)
    overlap[:, 1:4, 1:4] = 0
    overlap[:, 0, 5] = overlap[:, 5, 0] = 1e-18
    difference[1] = -0.5 * overlap[1]
    difference[2] = 0
    overlap[3] = 0
    rows, columns = np.tril_indices(9)
    found = shifted_mae(*map(torch.from_numpy, (difference, overlap[:, rows, columns])))
    for d, s, mae in zip(difference, overlap, found.tolist(), strict=True):
        kinks = np.append(-d[s != 0] / s[s != 0], 0)
        assert mae == pytest.approx(min(np.abs(d + mu * s).mean() for mu in kinks), rel=1e-12, abs=1e-15)
