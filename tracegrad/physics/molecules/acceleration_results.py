"""Measures of the acceleration of the SCF by a prediction, from runs that start at it and at standard guesses.

With cycles counted from 0 (`tracegrad.physics.molecules.acceleration`):

* achieved ratio = cycles from the prediction / cycles from the guess
* error-level ratio = k / cycles from the guess, where k is the first cycle of the run from the guess with
  mean |F_k - F_ref| below the MAE of the prediction. It is 1 if there is no such cycle (`scf_level_not_reached`);
  the released code fails in this case.

A run that does not converge contributes its largest number of cycles and is counted in `scf_not_converged`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import spearmanr

from tracegrad.physics.molecules.acceleration import ScfRun, occupied_agreement
from tracegrad.units import ANGSTROM_PER_BOHR, MEV_PER_HARTREE

# Two converged runs have reached the same state if energies and occupied spaces agree within these tolerances. Runs
# to the same state differ by about 1e-10 hartree and 1e-10, different states by more than 1e-3 in both.
SAME_ENERGY = 1e-6  # hartree
SAME_SPACE = 1e-5
# Hartree. A label and the Fock matrix of our converged SCF differ by about 1e-7, two functionals by about 1e-3.
LABEL_NOISE = 1e-5
SPREAD = "ensemble_spread"
MEASURES = ("scf_residual", "commutator_norm", SPREAD)  # of a prediction, without a label


@dataclass(frozen=True)
class Acceleration:
    """The runs of one molecule from its prediction and from each guess (``guesses``: name -> run).

    The run from the first guess decides about the converged state (`same_state`). ``spread`` is that of the networks
    of an ensemble (hartree), None for a single network.
    """

    row: int
    name: str
    formula: str
    numbers: Int[np.ndarray, " n_atoms"]
    level: float  # MAE of the predicted Hamiltonian, hartree
    seconds_predicting: float
    prediction: ScfRun
    guesses: Mapping[str, ScfRun]
    spread: float | None = None

    def achieved_ratio(self, guess: str) -> float:
        """Cycles from the prediction / cycles from the guess; 1 if the guess needs none."""
        cycles = self.guesses[guess].cycles
        return self.prediction.cycles / cycles if cycles else 1.0

    def error_level_ratio(self, guess: str) -> float:
        """First cycle from the guess below the MAE of the prediction / its cycles; 1 if there is no such cycle."""
        hit, cycles = self.guesses[guess].first_hit(self.level), self.guesses[guess].cycles
        return hit / cycles if hit is not None and cycles else 1.0

    def seconds_saved(self, guess: str) -> float:
        """Core time (s) of the run from the guess, less that from the prediction and the time of the prediction.

        Unlike wall times it does not depend on the load of the machine, even if the run from the guess comes from
        the store.
        """
        return self.guesses[guess].core_seconds - self.prediction.core_seconds - self.seconds_predicting

    def wall_seconds_saved(self, guess: str) -> float:
        """The same with the measured wall times (s), which depend on the load of the machine during each run."""
        return self.guesses[guess].wall_seconds - self.prediction.wall_seconds - self.seconds_predicting

    @property
    def runs(self) -> list[ScfRun]:
        """All runs: from the prediction, then from the guesses."""
        return [self.prediction, *self.guesses.values()]

    @property
    def converged_energy(self) -> float:
        """The lowest final energy (hartree) of the converged runs, or of all runs if none converged."""
        return min([run.energy for run in self.runs if run.converged] or [run.energy for run in self.runs])

    def energy_error(self, diagonalisations: int) -> float:
        """Error of the energy (hartree) after a number of diagonalisations from the prediction."""
        return abs(self.prediction.energy_after(diagonalisations) - self.converged_energy)

    @property
    def reference_forces(self) -> Float[np.ndarray, "atoms 3"] | None:
        """Forces (hartree / bohr) of the converged run with the lowest energy; None if they were not computed."""
        runs = [run for run in self.guesses.values() if run.converged and len(run.forces)]
        return min(runs, key=lambda run: run.energy).forces[0] if runs else None

    def direct_energy_error(self, step: int) -> float | None:
        """Error of the energy (hartree) of the predicted density, after 0 steps or 1; None: not computed."""
        energies = self.prediction.direct_energies
        return abs(energies[step] - self.converged_energy) if len(energies) else None

    def force_error(self, step: int) -> float | None:
        """Mean absolute error of the force components (hartree / bohr), after 0 steps or 1; None: not computed."""
        reference = self.reference_forces
        if reference is None or not len(self.prediction.forces):
            return None
        return float(np.abs(self.prediction.forces[step] - reference).mean())

    def measure(self, k: int) -> float | None:
        """Measures of the prediction without a label, hartree, in the order of `MEASURES`; None: not computed.

        See `tracegrad.physics.molecules.energies` and `tracegrad.model.ensemble`.
        """
        if MEASURES[k] == SPREAD:
            return self.spread
        residuals = self.prediction.residuals
        return float(residuals[k]) if len(residuals) else None

    @property
    def same_state(self) -> bool:
        """Whether the runs from the prediction and from the first guess converge to the same energy and density."""
        other = next(iter(self.guesses.values()))
        return (
            self.prediction.converged
            and other.converged
            and abs(self.prediction.energy - other.energy) < SAME_ENERGY
            and 1 - occupied_agreement(self.prediction.occupied, other.occupied) < SAME_SPACE
        )

    @property
    def label_error(self) -> float | None:
        """Mean |F - F_ref| (hartree) at the end of the first converged run from a guess; None if none converged."""
        return next((float(run.errors[-1]) for run in self.guesses.values() if run.converged), None)

    def table(self) -> list[tuple[Any, ...]]:
        """One row of `COLUMNS` for each guess."""
        return [tuple(value(self, guess) for value in COLUMNS.values()) for guess in self.guesses]


def _in_mev_per_angstrom(force: float | None) -> float | None:
    return None if force is None else force * MEV_PER_HARTREE / ANGSTROM_PER_BOHR


def _in_mev(energy: float | None) -> float | None:
    return None if energy is None else energy * MEV_PER_HARTREE


# Columns of `Acceleration.table`. Energies are in hartree, errors (h_mae, energy_error, label_error) in meV, those of
# forces in meV / angstrom.
COLUMNS: dict[str, Callable[[Acceleration, str], Any]] = {
    "row": lambda result, guess: result.row,
    "name": lambda result, guess: result.name,
    "formula": lambda result, guess: result.formula,
    "atoms": lambda result, guess: len(result.numbers),
    "guess": lambda result, guess: guess,
    "h_mae": lambda result, guess: _in_mev(result.level),
    "cycles_prediction": lambda result, guess: result.prediction.cycles,
    "cycles_guess": lambda result, guess: result.guesses[guess].cycles,
    "first_hit": lambda result, guess: result.guesses[guess].first_hit(result.level),
    "achieved_ratio": lambda result, guess: result.achieved_ratio(guess),
    "error_level_ratio": lambda result, guess: result.error_level_ratio(guess),
    "seconds_predicting": lambda result, guess: result.seconds_predicting,
    "seconds_prediction": lambda result, guess: result.prediction.core_seconds,
    "seconds_guess": lambda result, guess: result.guesses[guess].core_seconds,
    "seconds_saved": lambda result, guess: result.seconds_saved(guess),
    "wall_seconds_prediction": lambda result, guess: result.prediction.wall_seconds,
    "wall_seconds_guess": lambda result, guess: result.guesses[guess].wall_seconds,
    "energy_prediction": lambda result, guess: result.prediction.energy,
    "energy_guess": lambda result, guess: result.guesses[guess].energy,
    "energy_error_1": lambda result, guess: _in_mev(result.energy_error(1)),
    "energy_error_2": lambda result, guess: _in_mev(result.energy_error(2)),
    "energy_error_0": lambda result, guess: _in_mev(result.direct_energy_error(0)),
    "force_error_0": lambda result, guess: _in_mev_per_angstrom(result.force_error(0)),
    "force_error_1": lambda result, guess: _in_mev_per_angstrom(result.force_error(1)),
    "scf_residual": lambda result, guess: _in_mev(result.measure(0)),
    "commutator_norm": lambda result, guess: _in_mev(result.measure(1)),
    SPREAD: lambda result, guess: _in_mev(result.spread),
    "converged_prediction": lambda result, guess: int(result.prediction.converged),
    "converged_guess": lambda result, guess: int(result.guesses[guess].converged),
    "same_state": lambda result, guess: int(result.same_state),
    "label_error": lambda result, guess: _in_mev(result.label_error),
}


def summary(results: Sequence[Acceleration], guesses: Sequence[str]) -> dict[str, float]:
    """Means, sample standard deviations (``_std``) and counts over molecules; meV, and meV / angstrom for forces."""
    means: dict[str, float] = {}
    for guess in guesses:
        for name in ("achieved_ratio", "error_level_ratio"):
            values = [getattr(result, name)(guess) for result in results]
            means[f"{name}_{guess}"] = _mean(values)
            means[f"{name}_{guess}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else nan
        means[f"scf_seconds_saved_{guess}"] = _mean([result.seconds_saved(guess) for result in results])
        walls = [result.wall_seconds_saved(guess) for result in results]
        means[f"scf_wall_seconds_saved_{guess}"] = _mean(walls)
        hits = [result.guesses[guess].first_hit(result.level) for result in results]
        means[f"scf_level_not_reached_{guess}"] = float(hits.count(None))
    for k in (1, 2):
        errors = [result.energy_error(k) * MEV_PER_HARTREE for result in results]
        means[f"scf_energy_error_{k}"] = _mean(errors)
    direct = [_in_mev(result.direct_energy_error(0)) for result in results]
    means["energy_mae"] = _mean([error for error in direct if error is not None])
    for k, name in enumerate(("force_mae", "force_mae_1")):
        of_forces = [_in_mev_per_angstrom(result.force_error(k)) for result in results]
        means[name] = _mean([error for error in of_forces if error is not None])
    for k, name in enumerate(MEASURES):
        measured = [result for result in results if result.measure(k) is not None]
        if name == SPREAD and not measured:  # no ensemble
            continue
        values = [result.measure(k) or 0.0 for result in measured]
        energies = [result.direct_energy_error(0) or 0.0 for result in measured]
        means[name] = _mean([value * MEV_PER_HARTREE for value in values])
        means[f"{name}_correlation"] = rank_correlation(values, [result.level for result in measured])
        means[f"{name}_energy_correlation"] = rank_correlation(values, energies)
    means["scf_same_state"] = _mean([float(result.same_state) for result in results])
    means["scf_not_converged"] = float(sum(not run.converged for result in results for run in result.runs))
    means["scf_molecules"] = float(len(results))
    return means


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation of two lists; nan for fewer than three values, or if all of a list are equal."""
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return nan
    return float(spearmanr(one, other).statistic)


def label_warning(results: Sequence[Acceleration], functional: str) -> str | None:
    """A warning if the labels are not the Fock matrices of the functional; None if they are."""
    errors = [result.label_error for result in results if result.label_error is not None]
    far = [error for error in errors if error > LABEL_NOISE]
    if not far:
        return None
    return (
        f"the converged Fock matrices of {len(far)} of {len(errors)} molecules differ from the labels by "
        f"{np.median(far):.1e} hartree in the mean (median; noise of convergence is about 1e-7): if these are most "
        f"molecules, {functional} is not the functional of the database and the error-level ratios mean nothing; "
        "set functional to the right one"
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else nan
