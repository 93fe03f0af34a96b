"""What SCF runs from a prediction and from standard guesses say about the prediction.

With 0-based cycles (`tracegrad.physics.molecules.acceleration`):

* achieved ratio = cycles from the prediction / cycles from the guess
* error-level ratio = first cycle of the guess' run in which mean |F_k - F_ref| lies below the MAE of the prediction /
  cycles of that run; 1 where that never happens, which is counted. The released code fails there.

A run that does not converge counts with all the cycles that it was given, and is counted, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from jaxtyping import Int

from tracegrad.physics.molecules.acceleration import ScfRun, occupied_agreement
from tracegrad.units import MEV_PER_HARTREE

# Two converged runs are the same state if they agree to this. Runs that PySCF calls converged differ by some 1e-10
# hartree in the energy and 1e-10 in the spaces, different states by more than 1e-3 in both.
SAME_ENERGY = 1e-6  # hartree
SAME_SPACE = 1e-5
# A label and the Fock matrix of our own SCF differ by convergence noise, about 1e-7 hartree; two functionals by 1e-3.
LABEL_NOISE = 1e-5

COLUMNS = (
    *("row", "name", "formula", "atoms", "guess", "h_mae", "cycles_prediction", "cycles_guess", "first_hit"),
    *("achieved_ratio", "error_level_ratio", "seconds_predicting", "seconds_prediction", "seconds_guess"),
    *("seconds_saved", "wall_seconds_prediction", "wall_seconds_guess", "energy_prediction", "energy_guess"),
    *(
        "energy_error_1",
        "energy_error_2",
        "converged_prediction",
        "converged_guess",
        "same_state",
        "label_error",
    ),
)


@dataclass(frozen=True)
class Acceleration:
    """The runs of one molecule; ``guesses`` maps each guess to its run, the first one is compared with."""

    row: int
    name: str
    formula: str
    numbers: Int[np.ndarray, " n_atoms"]
    level: float  # MAE of the predicted Hamiltonian, hartree
    seconds_predicting: float
    prediction: ScfRun
    guesses: Mapping[str, ScfRun]

    def achieved_ratio(self, guess: str) -> float:
        """1 where the guess leaves no cycle to save."""
        cycles = self.guesses[guess].cycles
        return self.prediction.cycles / cycles if cycles else 1.0

    def error_level_ratio(self, guess: str) -> float:
        """1 where the level is never reached."""
        hit, cycles = self.guesses[guess].first_hit(self.level), self.guesses[guess].cycles
        return hit / cycles if hit is not None and cycles else 1.0

    def seconds_saved(self, guess: str) -> float:
        """Time of one core that the prediction saves, with the wall time of the prediction taken off.

        Other than wall times it does not depend on what else the machine did, also when the guess was cached.
        """
        return self.guesses[guess].core_seconds - self.prediction.core_seconds - self.seconds_predicting

    def wall_seconds_saved(self, guess: str) -> float:
        """Wall time that was saved, as it was measured; a guess from a cache has that of its own machine."""
        return self.guesses[guess].wall_seconds - self.prediction.wall_seconds - self.seconds_predicting

    @property
    def runs(self) -> list[ScfRun]:
        return [self.prediction, *self.guesses.values()]

    @property
    def converged_energy(self) -> float:
        """The lowest energy (hartree) that a run converged to, or that was reached at all."""
        return min([run.energy for run in self.runs if run.converged] or [run.energy for run in self.runs])

    def energy_error(self, diagonalisations: int) -> float:
        """Error of the energy (hartree) after so many SCF cycles from the prediction."""
        return abs(self.prediction.energy_after(diagonalisations) - self.converged_energy)

    @property
    def same_state(self) -> bool:
        """Whether the runs from the prediction and from the first guess converge to one energy and density."""
        other = next(iter(self.guesses.values()))
        return (
            self.prediction.converged
            and other.converged
            and abs(self.prediction.energy - other.energy) < SAME_ENERGY
            and 1 - occupied_agreement(self.prediction.occupied, other.occupied) < SAME_SPACE
        )

    @property
    def label_error(self) -> float | None:
        """Mean |F - F_ref| (hartree) at the end of the first guess that converged."""
        return next((float(run.errors[-1]) for run in self.guesses.values() if run.converged), None)

    def table(self) -> list[tuple]:
        """One row of `COLUMNS` for each guess: ratios, cycles, seconds; energies in hartree, errors in meV."""
        errors = [self.energy_error(k) * MEV_PER_HARTREE for k in (1, 2)]
        label = self.label_error
        return [
            (
                *(self.row, self.name, self.formula, len(self.numbers), guess, self.level * MEV_PER_HARTREE),
                *(self.prediction.cycles, run.cycles, run.first_hit(self.level)),
                *(self.achieved_ratio(guess), self.error_level_ratio(guess), self.seconds_predicting),
                *(self.prediction.core_seconds, run.core_seconds, self.seconds_saved(guess)),
                *(
                    self.prediction.wall_seconds,
                    run.wall_seconds,
                    self.prediction.energy,
                    run.energy,
                    *errors,
                ),
                *(int(self.prediction.converged), int(run.converged), int(self.same_state)),
                None if label is None else label * MEV_PER_HARTREE,
            )
            for guess, run in self.guesses.items()
        ]


def summary(results: Sequence[Acceleration], guesses: Sequence[str]) -> dict[str, float]:
    """Means, sample standard deviations (``_std``) and counts over molecules; energies in meV."""
    found: dict[str, float] = {}
    for guess in guesses:
        for name in ("achieved_ratio", "error_level_ratio"):
            values = [getattr(result, name)(guess) for result in results]
            found[f"{name}_{guess}"] = _mean(values)
            found[f"{name}_{guess}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else nan
        found[f"scf_seconds_saved_{guess}"] = _mean([result.seconds_saved(guess) for result in results])
        walls = [result.wall_seconds_saved(guess) for result in results]
        found[f"scf_wall_seconds_saved_{guess}"] = _mean(walls)
        hits = [result.guesses[guess].first_hit(result.level) for result in results]
        found[f"scf_level_not_reached_{guess}"] = float(hits.count(None))
    for k in (1, 2):
        errors = [result.energy_error(k) * MEV_PER_HARTREE for result in results]
        found[f"scf_energy_error_{k}"] = _mean(errors)
    found["scf_same_state"] = _mean([float(result.same_state) for result in results])
    found["scf_not_converged"] = float(sum(not run.converged for result in results for run in result.runs))
    found["scf_molecules"] = float(len(results))
    return found


def label_warning(results: Sequence[Acceleration], functional: str) -> str | None:
    """What to say if labels are not the Fock matrices that the functional gives; None if they are."""
    errors = [result.label_error for result in results if result.label_error is not None]
    far = [error for error in errors if error > LABEL_NOISE]
    if not far:
        return None
    return (
        f"the converged Fock matrices of {len(far)} of {len(errors)} molecules differ from the labels by "
        f"{np.median(far):.1e} hartree in the mean (median; noise of convergence is about 1e-7): if those are most "
        f"of them, {functional} is not the functional of the database and the error-level ratios mean nothing; "
        "set functional to the right one"
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else nan
