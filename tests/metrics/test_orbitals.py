"""Orbital metrics against the released evaluation, literal formulas and symmetries."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.molecules import random_hamiltonian
from tracegrad.blocks import cut_blocks
from tracegrad.errors import DataError
from tracegrad.graph import collate, molecule_graph
from tracegrad.metrics.functional import eigenpairs, eigenpairs_kernel, orbital_metrics
from tracegrad.metrics.functional.eigenpairs import lowest_states
from tracegrad.metrics.functional.orbitals import NAMES
from tracegrad.metrics.functional.shift import least_absolute_shift, shifted_mae
from tracegrad.metrics.orbitals import OrbitalMetrics, orbital_errors
from tracegrad.model import Prediction
from tracegrad.nn import native
from tracegrad.physics.solved import SolvedMolecule

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "orbitals.npz")
KEYS = sorted({name.split("/")[0] for name in GOLDEN.files})
ACETYLENE, AMMONIA, WATER = "3", "1", "2"


def golden(key: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    h_pred, h, overlap = (torch.from_numpy(GOLDEN[f"{key}/{name}"]) for name in ("H_pred", "H", "S"))
    return h_pred, h, overlap, int(GOLDEN[f"{key}/Z"].sum()) // 2


def literal(h_pred, h, overlap, n_occ: int) -> dict[str, float]:
    """Everything by loops over orbitals of scipy's generalised problem; shifts by trying all kinks."""
    (e, c), (e_pred, c_pred) = (scipy.linalg.eigh(x.numpy(), overlap.numpy()) for x in (h, h_pred))
    s = overlap.numpy()
    levels = [0]
    for k in range(1, n_occ):
        levels.append(levels[-1] + (e[k] - e[k - 1] > 1e-4))
    cosine = total = same = 0.0
    for j in range(n_occ):
        norms = np.linalg.norm(c[:, j]) * np.linalg.norm(c_pred[:, j])
        cosine += abs(c[:, j] @ c_pred[:, j]) / norms
        for k in range(n_occ):
            square = (c[:, j] @ s @ c_pred[:, k]) ** 2
            total += square
            same += square * (levels[j] == levels[k])
    error = (e_pred - e)[: n_occ + 1]
    difference = (h_pred - h).numpy()
    kinks = -difference[np.abs(s) > 1e-3] / s[np.abs(s) > 1e-3]
    return {
        "eps_mae": np.abs(error[:n_occ]).mean(),
        "eps_mae_shifted": min(np.abs(error[:n_occ] - shift).mean() for shift in error[:n_occ]),
        "h_mae_shifted": min(np.abs(difference + mu * s).mean() for mu in kinks),
        "homo_error": abs(error[n_occ - 1]),
        "lumo_error": abs(error[n_occ]),
        "gap_error": abs(error[n_occ] - error[n_occ - 1]),
        "psi_cosine": cosine / n_occ,
        "psi_overlap": total / n_occ,
        "psi_overlap_levels": same / n_occ,
    }


@pytest.mark.parametrize("key", KEYS)
def test_released_values_are_reproduced(key):
    found = orbital_metrics(*golden(key))
    _, eps, cosine, overlap, homo, lumo, gap = GOLDEN[f"{key}/metrics"].tolist()
    for name, expected in (("eps_mae", eps), ("homo_error", homo), ("lumo_error", lumo), ("gap_error", gap)):
        assert float(found[name]) == pytest.approx(expected, abs=1e-10)
    assert float(found["psi_overlap"]) == pytest.approx(overlap, abs=1e-10)
    if key != ACETYLENE:  # with a degenerate level it depends on the eigensolver
        assert float(found["psi_cosine"]) == pytest.approx(cosine, abs=1e-9)


@pytest.mark.parametrize("key", [WATER, AMMONIA])
def test_all_values_equal_the_literal_loops(key):
    found, expected = orbital_metrics(*golden(key)), literal(*golden(key))
    assert found.keys() == expected.keys() == set(NAMES)
    for name, value in expected.items():
        assert found[name].shape == ()
        assert float(found[name]) == pytest.approx(value, rel=1e-8), name


def random_problem(seed: int, n: int = 20, noise: float = 0.02):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, n))
    h, overlap = a + a.T, b @ b.T / n + np.eye(n)
    error = rng.normal(size=(n, n)) * noise
    return tuple(torch.from_numpy(x) for x in (h + error + error.T, h, overlap))


def test_a_batch_gives_what_its_molecules_give_alone():
    problems = [random_problem(seed) for seed in range(4)]
    n_occ = torch.tensor([3, 7, 1, 19])
    together = orbital_metrics(*(torch.stack(x) for x in zip(*problems, strict=True)), n_occ)
    for k, problem in enumerate(problems):
        alone = orbital_metrics(*problem, int(n_occ[k]))
        for name, value in literal(*problem, int(n_occ[k])).items():
            assert together[name].shape == (4,)
            assert float(alone[name]) == pytest.approx(float(together[name][k]), rel=1e-11)
            if name != "h_mae_shifted":  # its kinks at small overlaps are left out there
                assert float(alone[name]) == pytest.approx(value, rel=1e-8)


def test_a_shift_of_the_energy_zero_costs_the_plain_errors_alone():
    _, h, overlap, n_occ = golden(WATER)
    found = orbital_metrics(h + 0.3 * overlap, h, overlap, n_occ)
    assert float(found["eps_mae"]) == pytest.approx(0.3, rel=1e-9)
    assert float(found["homo_error"]) == pytest.approx(0.3, rel=1e-9)
    for name in ("eps_mae_shifted", "h_mae_shifted", "gap_error"):
        assert float(found[name]) < 1e-10
    assert float(found["psi_cosine"]) == pytest.approx(1, abs=1e-9)


def test_the_solved_part_of_an_asymmetric_prediction_is_the_symmetric_one():
    h_pred, h, overlap = random_problem(0)
    skew = torch.randn_like(h)
    expected = orbital_metrics(h_pred, h, overlap, 5)
    found = orbital_metrics(h_pred + skew - skew.mT, h, overlap, 5)
    for name in NAMES:
        if name != "h_mae_shifted":
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-9)
    assert float(found["h_mae_shifted"]) > 10 * float(expected["h_mae_shifted"])


def test_the_overlap_of_levels_does_not_feel_a_rotation_inside_them():
    """A prediction whose degenerate orbitals are turned by 0.7 rad is as good; one that swaps levels is not."""
    n, n_occ = 6, 4
    overlap = torch.eye(n, dtype=torch.float64)
    energies = torch.tensor([-3.0, -1.0, -1.0 + 5e-5, -0.5, 0.2, 1.0]).double()
    turn = torch.eye(n, dtype=torch.float64)
    turn[1:3, 1:3] = torch.tensor([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    found = orbital_metrics(turn @ energies.diag() @ turn.T, energies.diag(), overlap, n_occ)
    assert float(found["psi_overlap"]) == pytest.approx(1, abs=1e-12)
    assert float(found["psi_overlap_levels"]) == pytest.approx(1, abs=1e-12)
    assert float(found["psi_cosine"]) == pytest.approx((2 + 2 * np.cos(0.7)) / 4, abs=1e-9)
    swapped = energies[[1, 0, 2, 3, 4, 5]].diag()  # the lowest orbital changes places with one of the level
    found = orbital_metrics(swapped, energies.diag(), overlap, n_occ)
    assert float(found["psi_overlap"]) == pytest.approx(1, abs=1e-12)
    assert float(found["psi_overlap_levels"]) == pytest.approx(0.5, abs=1e-12)
    assert float(found["eps_mae"]) < 1e-12


def test_nan_shows_in_its_molecule_alone():
    problems = [random_problem(seed) for seed in range(3)]
    h_pred, h, overlap = (torch.stack(x) for x in zip(*problems, strict=True))
    expected = orbital_metrics(h_pred, h, overlap, 5)
    h_pred[1, 2, 3] = torch.nan
    h_pred[2, 0, 0] = torch.inf
    for name, value in orbital_metrics(h_pred, h, overlap, 5).items():
        assert value.isnan().tolist() == [False, True, True]
        assert float(value[0]) == pytest.approx(float(expected[name][0]), rel=1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h_pred": torch.zeros(3, 3).double()}, r"h_pred has shape \(3, 3\), but h_ref \(20, 20\)"),
        ({"h_ref": torch.zeros(20).double()}, r"h_ref has shape \(20,\)"),
        ({"h_pred": torch.zeros(20, 20)}, r"h_pred is torch\.float32"),
        ({"h_ref": torch.full((20, 20), torch.nan).double()}, "h_ref holds NaN"),
        ({"overlap": -torch.eye(20).double()}, "not positive definite"),
        ({"n_occ": 0}, "n_occ is 0 for 20 orbitals; 1 to 19"),
        ({"n_occ": 20}, "n_occ is 20"),
        ({"n_occ": torch.tensor([3, 3])}, r"n_occ has shape \(2,\)"),
        ({"n_occ": 2.5}, "n_occ has shape"),
    ],
)
def test_impossible_input_is_named(change, message):
    h_pred, h_ref, overlap = random_problem(0)
    arguments = {"h_pred": h_pred, "h_ref": h_ref, "overlap": overlap, "n_occ": 4} | change
    with pytest.raises(DataError, match=message):
        orbital_metrics(**arguments)


def solved_and_predicted(seed: int, noise: float, n: int = 90, gap: float = 0.05):
    """H' and its difference from H, and energies and orbitals of H; ``gap`` separates states 21 and 22."""
    rng = np.random.default_rng(seed)
    energies = np.concatenate(
        [np.sort(rng.uniform(-1.5, -0.3, 20)), [0.03], 0.03 + gap + np.linspace(0, 4, n - 21)]
    )
    orbitals = np.linalg.qr(rng.normal(size=(n, n)))[0] @ np.diag(rng.uniform(0.5, 2, n))
    inverse = np.linalg.inv(orbitals)
    error = rng.normal(size=(n, n)) * noise
    error = inverse.T @ (error + error.T) @ inverse
    h = inverse.T @ np.diag(energies) @ inverse
    return tuple(torch.from_numpy(x) for x in (h + error, error, energies, orbitals))


def batch(problems):
    return [torch.stack(x) for x in zip(*problems, strict=True)]


@pytest.fixture(params=["0", "1"], ids=["plain", "kernel"])
def form(request, monkeypatch):
    monkeypatch.setenv(native.SWITCH, request.param)


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


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3, 5e-3, 0.3])
def test_lowest_states_are_those_of_the_full_problem(noise):
    assert_lowest(*batch([solved_and_predicted(seed, noise) for seed in range(3)]))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-6, 1e-4, 1e-3])
def test_a_next_state_that_is_as_low_as_the_highest_wanted_one_is_no_obstacle(gap):
    """The lowest empty level may be degenerate."""
    assert_lowest(*batch([solved_and_predicted(seed, 1e-5, gap=gap) for seed in range(2)]))


def moved(problem, state: int, energy: float):
    """The prediction with the energy of one state of the reference changed."""
    h, difference, energies, orbitals = problem
    image = torch.linalg.inv(orbitals)[state]
    change = (energy - energies[state]) * image[:, None] * image
    return h + change, difference + change, energies, orbitals


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("state", "energy"), [(22, 0.02), (21, 0.03), (70, -0.8), (70, 0.02), (19, 0.2)])
def test_states_that_change_places_are_found(state, energy):
    assert_lowest(*batch([moved(solved_and_predicted(seed, 1e-4), state, energy) for seed in range(2)]))


@pytest.mark.usefixtures("form")
def test_good_predictions_need_no_diagonalisation_and_hidden_low_states_are_seen():
    good = solved_and_predicted(0, 1e-4)
    hidden = moved(solved_and_predicted(0, 0.0), 70, -0.8)
    crossed = moved(good, 22, 0.02)
    _, *problems = batch([good, hidden, crossed])
    sure = eigenpairs._near_reference(*problems, 21)[2]
    assert sure.tolist() == [True, False, True]


@pytest.mark.parametrize("noise", [0.001, 0.05, 0.1])
def test_other_states_are_above_the_bound_where_it_is_said(noise):
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
        sure = eigenpairs._alone(*parts, torch.tensor([height], dtype=torch.float32))
        assert sure.tolist() == [bool(values[5] > height)]


@pytest.mark.usefixtures("form")
def test_large_errors_are_solved_without_diagonalisation_too():
    large = batch([solved_and_predicted(seed, 4e-3) for seed in range(6)])
    assert eigenpairs._near_reference(*large[1:], 21)[2].sum() >= 4
    assert_lowest(*large)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("count", [1, 2, 33, 45])
def test_any_number_of_states_can_be_wanted(count):
    assert_lowest(*batch([solved_and_predicted(seed, 1e-4) for seed in range(2)]), count)


@pytest.mark.usefixtures("form")
def test_the_skew_part_of_an_error_is_left_out():
    h, error, energies, orbitals = batch([solved_and_predicted(seed, 1e-4) for seed in range(2)])
    skew = torch.randn_like(error)
    assert_lowest(h, error + skew - skew.mT, energies, orbitals)


STEPS = {"window": (19, 31), "steps": 20, "limits": (1e-7, 0.5, 2e-6, 1e-4)}


@pytest.fixture
def kernel():
    if eigenpairs_kernel._routines() is None or native.library("int one() { return 1; }") is None:
        pytest.skip("no compiler, or torch without MKL")
    return eigenpairs_kernel.decoupled


def test_the_kernel_takes_the_steps_of_the_plain_form(kernel):
    _, *problems = batch([solved_and_predicted(seed, 3e-4 * (1 + 3 * seed)) for seed in range(4)])
    found = kernel(*problems, 21, **STEPS)
    expected = eigenpairs._decoupled(*problems, 21, STEPS["window"])
    assert found is not None
    assert torch.equal(found[2], expected[2])
    good = expected[2]
    assert good.any()
    np.testing.assert_allclose(found[0][good], expected[0][good], rtol=0, atol=1e-11)
    signs = (found[1] * expected[1]).sum(2, keepdim=True).sign()
    np.testing.assert_allclose((signs * found[1])[good], expected[1][good], rtol=0, atol=1e-7)


def test_the_memory_of_a_thread_serves_sizes_and_limits_in_turns(kernel):
    cases = [
        (batch([solved_and_predicted(k, 1e-4, n=n) for k in range(2)])[1:], count)
        for n, count in ((90, 21), (130, 21), (90, 22), (70, 21))
    ]
    threads = torch.get_num_threads()

    def run(case):
        problems, count = case
        steps = STEPS | {"window": (count - 2, count + 10)}
        refused = kernel(*problems, count, **(steps | {"limits": (1e-7, 0.5, 0.0, 1e-4)}))
        assert not refused[2].any()
        return kernel(*problems, count, **steps)

    alone = []
    for case in cases:
        with ThreadPoolExecutor(1) as pool:  # memory of its own
            alone.append(pool.submit(run, case).result())
    with ThreadPoolExecutor(2) as pool:
        turns = list(pool.map(run, cases * 8))
    for k, found in enumerate(turns):
        assert found[2].all()
        assert all(map(torch.equal, found, alone[k % len(cases)]))
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("form")
def test_what_was_not_found_is_not_sure():
    """A coupling that is too small to be seen in the residual, to many states that are close."""
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


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("smallest", [1e-7, 1e-5])
def test_an_overlap_that_is_almost_singular_costs_no_digits(smallest):
    """A shift of the energy zero is large in single precision where C is."""
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


def test_where_torch_keeps_its_routines_to_itself_the_plain_form_serves(monkeypatch):
    problem = batch([solved_and_predicted(0, 1e-4)])
    monkeypatch.setattr(eigenpairs_kernel, "ROUTINES", ("no_such_routine_",))
    eigenpairs_kernel._routines.cache_clear()
    try:
        assert eigenpairs_kernel.decoupled(*problem[1:], 21, **STEPS) is None
        assert_lowest(*problem)
    finally:
        eigenpairs_kernel._routines.cache_clear()


def test_the_kernel_refuses_matrices_that_do_not_fit():
    _, *problems = batch([solved_and_predicted(0, 1e-4)])
    for change in ({"window": (21, 31)}, {"window": (19, 91)}):
        with pytest.raises(ValueError, match="do not fit"):
            eigenpairs.decoupled(*problems, 21, **(STEPS | change))


def large_problem(seed: int, noise: float, n: int = 90):
    """The same as arguments of `orbital_metrics`."""
    h_pred, difference, _, orbitals = solved_and_predicted(seed, noise, n)
    inverse = torch.linalg.inv(orbitals)
    return h_pred, h_pred - difference, inverse.mT @ inverse


@pytest.mark.parametrize("noise", [1e-5, 1e-4, 3e-3])
def test_metrics_of_many_orbitals_equal_those_of_full_diagonalisation(monkeypatch, noise):
    problems = [large_problem(seed, noise * (1 + seed)) for seed in range(3)]
    together = orbital_metrics(*batch(problems), 20)
    alone = [orbital_metrics(*problem, 20) for problem in problems]
    monkeypatch.setattr(eigenpairs, "SMALLEST", 1000)
    expected = orbital_metrics(*batch(problems), 20)
    for name in NAMES:
        np.testing.assert_allclose(together[name], expected[name], rtol=0, atol=2e-9, err_msg=name)
        np.testing.assert_allclose([float(x[name]) for x in alone], expected[name], rtol=0, atol=2e-9)


def test_many_orbitals_of_an_asymmetric_or_infinite_prediction():
    h_pred, h, overlap = large_problem(0, 1e-4)
    expected = orbital_metrics(h_pred, h, overlap, 20)
    skew = 1e-3 * torch.randn_like(h)
    found = orbital_metrics(*batch([(h_pred + skew - skew.mT, h, overlap), (h_pred / 0, h, overlap)]), 20)
    for name in NAMES:
        if name != "h_mae_shifted":
            assert float(found[name][0]) == pytest.approx(float(expected[name]), abs=1e-9), name
        assert found[name][1].isnan()


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


def test_a_shift_without_a_direction_is_none():
    zeros = torch.zeros(2, 4, dtype=torch.float64)
    assert least_absolute_shift(zeros + 1, zeros).tolist() == [0, 0]
    assert least_absolute_shift(zeros, zeros + 1).tolist() == [0, 0]


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_leave_other_matrices_alone(wrong):
    difference = np.random.default_rng(0).normal(size=(3, 9, 9))
    overlap = np.random.default_rng(1).normal(size=(3, 45))
    expected = shifted_mae(*map(torch.from_numpy, (difference, overlap)))
    difference[1, 2, 3] = wrong
    found = shifted_mae(*map(torch.from_numpy, (difference, overlap)))
    assert not found[1].isfinite()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=1e-12, atol=0)


@pytest.mark.usefixtures("form")
def test_products_that_overflow_do_no_harm():
    difference = np.random.default_rng(0).normal(size=(1, 9, 9))
    overlap = np.random.default_rng(1).normal(size=(1, 45))
    expected = float(shifted_mae(*map(torch.from_numpy, (difference, overlap))))
    found = shifted_mae(*map(torch.from_numpy, (1e160 * difference, 1e160 * overlap)))
    assert float(found) == pytest.approx(1e160 * expected, rel=1e-12)


@pytest.mark.parametrize("kernels", ["0", "1"])
@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_no_shift_of_a_matrix_is_better(kernels, skew, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernels)
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


def molecules(basis):
    """Graphs of the golden molecules with predictions, and their solved references."""
    graphs, blocks, solved = [], [], {}
    for row, key in enumerate(KEYS * 2):
        numbers = GOLDEN[f"{key}/Z"].astype(np.int64)
        h, overlap = GOLDEN[f"{key}/H"], GOLDEN[f"{key}/S"]
        graphs.append(
            molecule_graph(
                numbers,
                GOLDEN[f"{key}/positions"],
                basis,
                hamiltonian=h,
                sample_id=row,
                dtype=torch.float64,
            )
        )
        noise = 1e-4 * row * random_hamiltonian(numbers, basis, row)
        blocks.append(cut_blocks(torch.from_numpy(GOLDEN[f"{key}/H_pred"] + noise), numbers, basis))
        energies, orbitals = scipy.linalg.eigh(h, overlap)
        lower = np.tril_indices(len(h))
        solved[row] = SolvedMolecule(int(numbers.sum()) // 2, energies, orbitals, overlap[lower], h[lower])
    return graphs, blocks, solved


def run(graphs, blocks, solved, basis, size: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    metric, values = OrbitalMetrics(), []
    for start in range(0, len(graphs), size):
        on_site, pairs = (torch.cat(x) for x in zip(*blocks[start : start + size], strict=True))
        graph = collate(graphs[start : start + size])
        errors = orbital_errors(
            Prediction({"self": on_site, "edge": pairs}), graph, basis, solved.__getitem__
        )
        metric.update(errors)
        values.append(errors.values)
    return metric.compute(), torch.cat(values)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_metric_is_the_mean_over_molecules_for_any_batches(basis, threads):
    graphs, blocks, solved = molecules(basis)
    torch.set_num_threads(threads)
    expected, table = run(graphs, blocks, solved, basis, 1)
    assert torch.get_num_threads() == threads
    for k, key in enumerate(KEYS[:2]):
        _, h, overlap, n_occ = golden(key)
        noise = 1e-4 * k * random_hamiltonian(graphs[k].numbers.numpy(), basis, k)
        alone = orbital_metrics(torch.from_numpy(GOLDEN[f"{key}/H_pred"] + noise), h, overlap, n_occ)
        for name, value in zip(NAMES, table[k].tolist(), strict=True):
            assert float(alone[name]) == pytest.approx(value, rel=1e-7), name
    for size in (5, len(graphs)):
        found, other = run(graphs, blocks, solved, basis, size)
        assert found.keys() == set(NAMES)
        torch.testing.assert_close(other, table, rtol=1e-7, atol=1e-12)
        for i, name in enumerate(NAMES):
            assert found[name].dtype == torch.float64
            assert float(found[name]) == pytest.approx(float(table[:, i].mean()), rel=1e-9)
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-9)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("threads", [1, 2])
def test_large_molecules_of_several_sizes_give_what_they_give_alone(basis, threads, monkeypatch):
    graphs, blocks, solved, expected = [], [], {}, []
    for row, formula in enumerate(
        ([6] * 4 + [1] * 10, [8] * 5 + [1] * 2, [6] * 4 + [1] * 10, [6, 6, 8, 8, 8, 1, 1])
    ):
        numbers = np.array(formula)
        problem = large_problem(row, 1e-4 * (1 + row), int(basis.sizes[numbers].sum()))
        h_pred, h, overlap = problem
        occupied = int(numbers.sum()) // 2
        graphs.append(
            molecule_graph(
                numbers,
                np.random.default_rng(row).normal(size=(len(numbers), 3)),
                basis,
                hamiltonian=h.numpy(),
                sample_id=row,
                dtype=torch.float64,
            )
        )
        blocks.append(cut_blocks(h_pred, numbers, basis))
        energies, orbitals = scipy.linalg.eigh(h.numpy(), overlap.numpy())
        lower = np.tril_indices(len(h))
        solved[row] = SolvedMolecule(occupied, energies, orbitals, overlap.numpy()[lower], h.numpy()[lower])
        with monkeypatch.context() as patch:
            patch.setattr(eigenpairs, "SMALLEST", 1000)
            expected.append([float(x) for x in orbital_metrics(*problem, occupied).values()])
    torch.set_num_threads(threads)
    table = run(graphs, blocks, solved, basis, len(graphs))[1]
    assert min(molecule.size for molecule in solved.values()) >= eigenpairs.SMALLEST
    np.testing.assert_allclose(table, expected, rtol=1e-7, atol=2e-9)


def test_states_are_sums_over_molecules_that_ranks_may_add():
    metric = OrbitalMetrics()
    assert all(metric._reductions[name] is not None for name in metric._defaults)
    assert {function.__name__ for function in metric._reductions.values()} == {"dim_zero_sum"}


def test_the_reference_of_another_molecule_is_refused(basis):
    graphs, blocks, solved = molecules(basis)
    other = solved | {0: solved[1]}
    with pytest.raises(DataError, match=r"row 0 has \d+ orbitals instead of"):
        run(graphs, blocks, other, basis, 3)
    moved = replace(solved[0], hamiltonian=solved[0].hamiltonian + 0.1)
    with pytest.raises(DataError, match=r"row 0 has a Hamiltonian whose diagonal is 0\.1000 hartree apart"):
        run(graphs, blocks, solved | {0: moved}, basis, 3)
