"""Orbital metrics against the released evaluation, literal formulas and symmetries."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.molecules import random_hamiltonian
from tests.solved import batch, large_problem
from tracegrad.errors import DataError
from tracegrad.hamiltonian.blocks import cut_blocks
from tracegrad.hamiltonian.graph import collate, molecule_graph
from tracegrad.metrics.functional import eigenpairs, orbital_metrics
from tracegrad.metrics.functional.orbitals import NAMES
from tracegrad.metrics.orbitals import MeanOrbitalErrors, orbital_errors
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.physics.molecules.solved import SolvedMolecule

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "orbitals.npz")
KEYS = sorted({name.split("/")[0] for name in GOLDEN.files})
ACETYLENE, AMMONIA, WATER = "3", "1", "2"


def golden(key: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    h_pred, h, overlap = (torch.from_numpy(GOLDEN[f"{key}/{name}"]) for name in ("H_pred", "H", "S"))
    return h_pred, h, overlap, int(GOLDEN[f"{key}/Z"].sum()) // 2


def literal(h_pred, h, overlap, n_occ: int) -> dict[str, float]:
    """All metrics by loops over the orbitals of scipy's generalised problem; shifts by trying all kinks."""
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


def test_a_batch_gives_the_same_values_as_single_molecules():
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


def test_a_shift_of_the_energy_zero_changes_only_errors_without_shift():
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


def test_the_overlap_of_levels_does_not_change_with_a_rotation_inside_them():
    """Degenerate orbitals rotated by 0.7 rad have no error; exchanged levels have one."""
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


def test_nan_shows_only_in_its_molecule():
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
    metric, values = MeanOrbitalErrors(), []
    for start in range(0, len(graphs), size):
        on_site, pairs = (torch.cat(x) for x in zip(*blocks[start : start + size], strict=True))
        graph = collate(graphs[start : start + size])
        errors = orbital_errors(
            HamiltonianPrediction({"self": on_site, "edge": pairs}), graph, basis, solved.__getitem__
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


@pytest.mark.parametrize("threads", [1, 2])
def test_large_molecules_of_several_sizes_give_the_same_values_as_single_ones(basis, threads, monkeypatch):
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
    metric = MeanOrbitalErrors()
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
