"""The lowest states near a reference against full diagonalisations."""

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.solved import batch, solved_and_predicted
from tracegrad.metrics.functional import eigenpairs
from tracegrad.metrics.functional.eigenpairs import lowest_states


def assert_lowest(h_pred, difference, energies, orbitals, count=21):
    """The states are those of scipy's generalised problem."""
    values, y = lowest_states(difference, energies, orbitals, count)
    for h, c, e, v in zip(h_pred, orbitals, values, y, strict=True):
        inverse = np.linalg.inv(c.numpy())
        expected = scipy.linalg.eigh(h.numpy(), inverse.T @ inverse, eigvals_only=True)[:count]
        assert np.abs(e.numpy() - expected).max() < 1e-10
        a = c.T @ h @ c
        assert float((v @ a - e[:, None] * v).norm()) < 2e-6
        assert float((v @ v.mT - torch.eye(count)).abs().max()) < 5e-8


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3, 5e-3, 0.3])
def test_lowest_states_are_those_of_the_full_problem(noise):
    assert_lowest(*batch([solved_and_predicted(seed, noise) for seed in range(3)]))


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-6, 1e-4, 1e-3])
def test_the_next_state_may_be_degenerate_with_the_highest_computed_one(gap):
    """The lowest empty level may be degenerate."""
    assert_lowest(*batch([solved_and_predicted(seed, 1e-5, gap=gap) for seed in range(2)]))


def moved(problem, state: int, energy: float):
    """The prediction with the energy of one state of the reference changed."""
    h, difference, energies, orbitals = problem
    image = torch.linalg.inv(orbitals)[state]
    change = (energy - energies[state]) * image[:, None] * image
    return h + change, difference + change, energies, orbitals


@pytest.mark.parametrize(("state", "energy"), [(22, 0.02), (21, 0.03), (70, -0.8), (70, 0.02), (19, 0.2)])
def test_states_that_change_places_are_found(state, energy):
    assert_lowest(*batch([moved(solved_and_predicted(seed, 1e-4), state, energy) for seed in range(2)]))


def test_good_predictions_need_no_diagonalisation_and_hidden_low_states_are_seen():
    good = solved_and_predicted(0, 1e-4)
    hidden = moved(solved_and_predicted(0, 0.0), 70, -0.8)
    crossed = moved(good, 22, 0.02)
    _, *problems = batch([good, hidden, crossed])
    sure = eigenpairs._decoupled(*problems, 21)[2]
    assert sure.tolist() == [True, False, True]


@pytest.mark.parametrize("noise", [0.001, 0.05, 0.1])
def test_other_states_are_above_the_bound_if_so_reported(noise):
    """The bound by norms (small noise) and the Cholesky factor, against eigenvalues of the complement of [1, X]."""
    rng = np.random.default_rng(3)
    for height in (-0.5, 0.0, 0.3, 0.6, 1.2):
        error = rng.normal(size=(30, 30)) * noise
        a = np.diag(np.r_[-np.arange(1, 6), 1 + np.linspace(0, 2, 25)] + 0.0) + error + error.T
        values, vectors = np.linalg.eigh(a)
        x = vectors[5:, :5] @ np.linalg.inv(vectors[:5, :5])
        levels = np.arange(25.0)  # any part of the diagonal
        p = [a[:5, :5], a[:5, 5:], a[5:, 5:] - np.diag(levels), levels, x.T]
        parts = [torch.from_numpy(part.astype(np.float32))[None] for part in p]
        sure = eigenpairs._others_lie_above(*parts, torch.tensor([height], dtype=torch.float32))
        assert sure.tolist() == [bool(values[5] > height)]


def test_large_errors_are_solved_without_diagonalisation_too():
    large = batch([solved_and_predicted(seed, 4e-3) for seed in range(6)])
    assert eigenpairs._decoupled(*large[1:], 21)[2].sum() >= 4
    assert_lowest(*large)


@pytest.mark.parametrize("count", [1, 2, 33, 45])
def test_any_number_of_states_can_be_computed(count):
    assert_lowest(*batch([solved_and_predicted(seed, 1e-4) for seed in range(2)]), count)


def test_the_antisymmetric_part_of_an_error_is_ignored():
    h, error, energies, orbitals = batch([solved_and_predicted(seed, 1e-4) for seed in range(2)])
    skew = torch.randn_like(error)
    assert_lowest(h, error + skew - skew.mT, energies, orbitals)


def test_states_that_were_missed_are_not_verified():
    """A coupling to many close states that is too small to change the residual."""
    rng = np.random.default_rng(17)
    n, p = 100, 21
    levels = [np.linspace(-1.5, -0.3, 20), [0.03], 0.033 + np.linspace(0, 6e-4, 52), np.linspace(0.1, 4, 27)]
    error = rng.normal(size=(n, n)) * 3e-4
    error[:p] = error[:, :p] = 0
    coupling = rng.normal(size=n - p - 10)
    error[p - 1, p + 10 :] = 3.8e-5 * coupling / np.linalg.norm(coupling)
    problem = [torch.from_numpy(x)[None] for x in (error, np.concatenate(levels), np.eye(n))]
    values, _ = lowest_states(*problem, p)
    h = np.diag(np.concatenate(levels)) + (error + error.T) / 2
    np.testing.assert_allclose(values[0], np.linalg.eigvalsh(h)[:p], rtol=0, atol=2e-9)


@pytest.mark.parametrize("smallest", [1e-7, 1e-5])
def test_an_overlap_that_is_almost_singular_costs_no_digits(smallest):
    """If C is large, a shift of the energy zero is large in single precision."""
    rng = np.random.default_rng(4)
    n, p = 100, 21
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    weights = np.geomspace(smallest, 3, n)
    turn = np.linalg.qr(np.eye(n) + 0.1 * rng.normal(size=(n, n)) / n**0.5)[0]
    orbitals = (q * weights**-0.5)[:, ::-1] @ turn
    overlap = q * weights @ q.T
    energies = np.concatenate([np.linspace(-1.5, -0.3, p - 1), [0.03], np.linspace(0.08, 4, n - p)])
    change = rng.normal(size=(n, n)) * 5e-4
    change += change.T
    image = orbitals.T @ overlap
    error = 0.6 * overlap + image.T @ change @ image
    problem = [torch.from_numpy(np.ascontiguousarray(x))[None] for x in (error, energies, orbitals)]
    values, _ = lowest_states(*problem, p)
    expected = np.linalg.eigvalsh(np.diag(energies + 0.6) + change)[:p]
    np.testing.assert_allclose(values[0], expected, rtol=0, atol=1e-10)
