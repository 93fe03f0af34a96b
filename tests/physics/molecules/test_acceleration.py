"""One SCF: its cycles, errors and energies equal those of the reference implementation."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.linalg
from pyscf import dft

from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.physics.molecules.acceleration import (
    GUESSES,
    ScfSettings,
    ScfTask,
    check_gpu,
    check_guesses,
    mean_absolute,
    occupied_agreement,
    solve,
)
from tracegrad.physics.molecules.dft import build_molecule, fock_label
from tracegrad.physics.molecules.energies import EnergyFunctional

GOLDEN = Path(__file__).parents[2] / "golden" / "scf_reference.npz"
SETTINGS = ScfSettings("b3lyp5")
STARTS = ("prediction", *GUESSES)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


def run(golden, molecule: str, start: str, settings: ScfSettings = SETTINGS):
    names = ("numbers", "positions", "reference", "predicted")
    numbers, positions, reference, predicted = (golden[f"{molecule}/{name}"] for name in names)
    hamiltonian = predicted if start == "prediction" else None
    return solve(ScfTask(0, numbers, positions, reference, start, hamiltonian), settings)


@pytest.fixture(scope="module")
def water(golden):
    return {start: run(golden, "H2O", start) for start in STARTS}


@pytest.mark.slow
@pytest.mark.parametrize("molecule", ["H2O", "HCN", "NH3", "CH4", "C2H2", "H2CO"])
def test_reference_cycle_counts(golden, water, molecule):
    level = mean_absolute(golden[f"{molecule}/predicted"], golden[f"{molecule}/reference"])
    for start in STARTS:
        found = water[start] if molecule == "H2O" else run(golden, molecule, start)
        expected = {
            name: golden[f"{molecule}/{start}/{name}"] for name in ("cycles", "hit", "errors", "energy")
        }
        assert found.converged
        assert (found.cycles, found.first_hit(level)) == (expected["cycles"], expected["hit"])
        # The core Hamiltonian of linear C2H2 has degenerate levels at its gap; rounding decides which one is filled.
        rtol = 1e-2 if (molecule, start) == ("C2H2", "1e") else 1e-3
        np.testing.assert_allclose(found.errors, expected["errors"], rtol=rtol, atol=1e-9)
        assert found.energy == pytest.approx(float(expected["energy"]), abs=1e-9)


def test_what_a_run_records(golden, water):
    found = water["minao"]
    assert found.energies.shape == found.errors.shape == found.seconds.shape == (found.cycles + 1,)
    assert (np.diff(found.seconds) > 0).all()
    assert found.seconds[0] > 0
    assert found.seconds[-1] <= found.wall_seconds
    assert found.core_seconds > 0
    assert found.energies[-1] == pytest.approx(found.energy, abs=1e-8)
    assert found.energy_after(1) == found.energies[0]
    assert found.energy_after(100) == found.energies[-1]
    overlap = build_molecule(golden["H2O/numbers"], golden["H2O/positions"]).intor("int1e_ovlp")
    np.testing.assert_allclose(found.occupied.T @ found.occupied, np.eye(5), atol=1e-10)
    orbitals = scipy.linalg.eigh(golden["H2O/reference"], overlap)[1][:, :5]
    root = scipy.linalg.sqrtm(overlap).real
    assert occupied_agreement(found.occupied, root @ orbitals) == pytest.approx(1, abs=1e-10)


def test_first_cycle_from_a_prediction_diagonalises_its_density(golden, water):
    """F_0 is rebuilt after one diagonalisation; the matrix of the guess itself is never tested."""
    overlap = build_molecule(golden["H2O/numbers"], golden["H2O/positions"]).intor("int1e_ovlp")
    field = dft.RKS(build_molecule(golden["H2O/numbers"], golden["H2O/positions"]), xc="b3lyp5")

    def density(fock):
        orbitals = scipy.linalg.eigh(fock, overlap)[1][:, :5]
        return 2 * orbitals @ orbitals.T

    first = density(field.get_fock(dm=density(golden["H2O/predicted"])))
    expected = np.abs(field.get_fock(dm=first) - golden["H2O/reference"]).mean()
    assert water["prediction"].errors[0] == pytest.approx(expected, rel=1e-6)
    assert water["prediction"].energies[0] == pytest.approx(field.energy_tot(first), abs=1e-10)


def test_agreement_is_that_of_the_principal_angles():
    rng = np.random.default_rng(1)
    one, other = (np.linalg.qr(rng.normal(size=(9, 4)))[0] for _ in range(2))
    cosines = np.cos(scipy.linalg.subspace_angles(one, other))
    assert occupied_agreement(one, other) == pytest.approx(np.mean(cosines**2), abs=1e-12)
    assert occupied_agreement(one, one[:, ::-1]) == pytest.approx(1, abs=1e-12)


def test_a_level_that_is_never_reached_and_a_run_that_does_not_converge(golden):
    short = run(golden, "H2O", "1e", ScfSettings("b3lyp5", max_cycle=2))
    assert not short.converged
    assert short.cycles == 1
    assert short.first_hit(1e-3) is None
    assert short.first_hit(0.15) == 1
    assert short.first_hit(short.errors[0]) == 1  # below, not at


class _OnGpu:
    """An array on a GPU: its numbers must be copied with `get`."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def get(self) -> np.ndarray:
        return self.array


class _SilentRKS(dft.rks.RKS):
    """Like RKS of gpu4pyscf: no callback, no further diagonalisation at the end, results on a GPU."""

    def kernel(self, dm0=None, **options):
        self.callback = None
        self.conv_check = False
        energy = super().kernel(dm0=dm0, **options)
        self.mo_coeff, self.mo_occ = _OnGpu(self.mo_coeff), _OnGpu(self.mo_occ)
        return energy


def test_a_kernel_without_callback_is_followed_all_the_same(golden, water, monkeypatch):
    module = ModuleType("gpu4pyscf.dft")
    module.RKS = _SilentRKS  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gpu4pyscf", ModuleType("gpu4pyscf"))
    monkeypatch.setitem(sys.modules, "gpu4pyscf.dft", module)
    check_gpu()
    for start in STARTS:
        found = run(golden, "H2O", start, ScfSettings("b3lyp5", gpu=True))
        np.testing.assert_allclose(found.errors, water[start].errors, rtol=1e-7)
        np.testing.assert_allclose(found.energies, water[start].energies, rtol=1e-12)
        assert found.core_seconds == found.wall_seconds


def test_gpu_without_gpu4pyscf_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpu4pyscf", None)
    with pytest.raises(ConfigError, match=r"gpu=true, but gpu4pyscf cannot be used .* or set gpu=false"):
        check_gpu()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda w: ScfSettings("pbe0"), ConfigError, "'pbe0' is none of b3lyp, b3lyp5, pbe"),
        (lambda w: ScfSettings("b3lyp", max_cycle=0), ConfigError, "max_cycle is 0"),
        (
            lambda w: check_guesses(["huckel"]),
            ConfigError,
            r"guesses are \['huckel'\]; give one or more of minao, 1e",
        ),
        (lambda w: check_guesses(["1e", "1e"]), ConfigError, "each once"),
        (lambda w: check_guesses([]), ConfigError, "one or more"),
        (lambda w: solve(ScfTask(7, *w, "atom"), SETTINGS), ConfigError, "guess 'atom' is unknown"),
        (
            lambda w: solve(ScfTask(7, *w, "prediction"), SETTINGS),
            ConfigError,
            "needs the predicted Hamiltonian",
        ),
        (
            lambda w: solve(ScfTask(7, *w, "prediction", np.full((24, 24), np.nan)), SETTINGS),
            DataError,
            "not finite",
        ),
        (
            lambda w: solve(ScfTask(7, np.array([47, 1, 1]), *w[1:], "1e"), SETTINGS),
            BasisError,
            "row 7: element Ag",
        ),
    ],
)
def test_what_cannot_be_run_is_named(golden, make, error, message):
    with pytest.raises(error, match=message):
        make([golden[f"H2O/{name}"] for name in ("numbers", "positions", "reference")])


def test_forces_of_a_prediction_and_of_a_converged_run(golden):
    settings = ScfSettings("b3lyp5", forces=True)
    start, converged = (run(golden, "H2O", start, settings) for start in ("prediction", "minao"))
    numbers, positions = golden["H2O/numbers"], golden["H2O/positions"]
    label = fock_label(numbers, positions, "b3lyp5", with_forces=True)
    np.testing.assert_allclose(converged.forces, label.forces[None], atol=1e-5)
    assert converged.direct_energies == pytest.approx([label.energy], abs=1e-8)
    functional = EnergyFunctional(build_molecule(numbers, positions), "b3lyp5")
    for step in (0, 1):
        found = functional(golden["H2O/predicted"], steps=step, forces=True)
        np.testing.assert_allclose(start.forces[step], found.forces, atol=1e-10)
        assert start.direct_energies[step] == pytest.approx(found.energy, abs=1e-10)
    assert start.residuals[0] > 1e-5
    assert len(converged.residuals) == 0
    assert start.energies[0] == pytest.approx(start.direct_energies[1], abs=1e-8)  # after one diagonalisation
    assert (start.cycles, converged.cycles) == tuple(
        run(golden, "H2O", s).cycles for s in ("prediction", "minao")
    )
