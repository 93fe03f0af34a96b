"""Runs a self-consistent field (SCF) from a predicted Hamiltonian or a standard guess and records its convergence.

Cycles are counted from 0, as by PySCF's callback and in the released numbers: a run whose callback was called
five times has 4 cycles. F_k is the Fock matrix that the callback of cycle k receives. It is built without DIIS from
the density after k + 1 diagonalisations; the Fock matrix of the guess itself is never compared with the reference.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pyscf import dft, gto

from tracegrad.errors import ConfigError
from tracegrad.physics.molecules.density import density, overlap_power
from tracegrad.physics.molecules.dft import BASIS, GRID_LEVEL, XC_CODES, build_molecule, check_geometry
from tracegrad.physics.molecules.energies import EnergyFunctional, commutator_norm, scf_residual

PREDICTION = "prediction"
GUESSES = ("minao", "1e")  # PySCF's names
CONV_TOL = 1e-9  # hartree, PySCF's default, with which the labels were computed


@dataclass(frozen=True)
class ScfSettings:
    """Settings of an SCF: RKS in def2-SVP on the integration grid of the labels.

    Args:
        functional: of the labels, a key of `XC_CODES`.
        max_cycle: diagonalisations after which a run counts as not converged.
        gpu: solve with gpu4pyscf.
        forces: compute energy and forces of the density of a prediction, before the SCF and after one step of it, and
            the forces of converged runs from a guess. Their time is not that of the SCF. Not on a GPU.
    """

    functional: str
    max_cycle: int = 50
    gpu: bool = False
    forces: bool = False

    def __post_init__(self) -> None:
        if self.functional not in XC_CODES:
            raise ConfigError(
                f"functional {self.functional!r} is none of {', '.join(XC_CODES)}; give the one that the "
                "Hamiltonians of the database were computed with"
            )
        if self.max_cycle < 1:
            raise ConfigError(f"max_cycle is {self.max_cycle}; at least 1 is needed")

    def describe(self) -> dict[str, Any]:
        """Everything that determines the numbers of a run, except the versions of programs and the machine."""
        return {
            "xc": XC_CODES[self.functional],
            "basis": BASIS,
            "grid_level": GRID_LEVEL,
            "conv_tol": CONV_TOL,
            "max_cycle": self.max_cycle,
            "gpu": self.gpu,
            "forces": self.forces,
        }


@dataclass(frozen=True)
class ScfTask:
    """One SCF to compute.

    Args:
        row: of the molecule in its database.
        numbers: atomic numbers of a neutral closed-shell molecule.
        positions: angstrom.
        reference: Fock matrix F_ref of the database (hartree, PySCF's orbital order).
        start: minao, 1e or prediction.
        hamiltonian: the predicted Hamiltonian (hartree, PySCF's orbital order), needed if the start is `prediction`.
    """

    row: int
    numbers: Int[np.ndarray, " n_atoms"]
    positions: Float[np.ndarray, "n_atoms 3"]
    reference: Float[np.ndarray, "n n"]
    start: str
    hamiltonian: Float[np.ndarray, "n n"] | None = None


@dataclass(frozen=True)
class ScfRun:
    """One self-consistent field, cycle by cycle."""

    converged: bool
    energy: float  # hartree, at the end
    energies: Float[np.ndarray, " cycles"]  # hartree, of the density after k + 1 diagonalisations
    errors: Float[np.ndarray, " cycles"]  # mean |F_k - F_ref|, hartree
    seconds: Float[np.ndarray, " cycles"]  # wall time from the start, with the computation of the guess
    wall_seconds: float  # of the whole run
    # CPU time of the single thread: the wall time of a run that shares its core with nothing. On a GPU: wall time.
    core_seconds: float
    # Orthonormal columns S^(1/2) C, so that the occupied spaces of two runs can be compared without S.
    occupied: Float[np.ndarray, "n n_occ"]
    # From a prediction: of its density and of that after one step. From a guess: of the converged one. Hartree and
    # hartree / bohr; empty if they were not computed.
    direct_energies: Float[np.ndarray, " densities"]
    # Of the density of a prediction: `scf_residual` and `commutator_norm`, hartree.
    residuals: Float[np.ndarray, " measures"]
    forces: Float[np.ndarray, "densities atoms 3"]

    @property
    def cycles(self) -> int:
        """Number of the last cycle; the first one is 0."""
        return len(self.energies) - 1

    def first_hit(self, level: float) -> int | None:
        """The first cycle with an error below ``level`` (hartree); None if there is none."""
        below = np.flatnonzero(self.errors < level)
        return int(below[0]) if below.size else None

    def energy_after(self, diagonalisations: int) -> float:
        """Energy (hartree) after a number of diagonalisations, or the last one if the run needed fewer."""
        return float(self.energies[min(diagonalisations, len(self.energies)) - 1])


def solve(task: ScfTask, settings: ScfSettings) -> ScfRun:
    """Compute one SCF.

    Raises:
        TraceGradError: the molecule is no neutral closed shell of these elements, the Hamiltonian is missing or not
            finite, the guess is unknown, or gpu4pyscf is missing.
    """
    check_geometry(task.numbers, task.positions, f"row {task.row}")
    if task.start not in (PREDICTION, *GUESSES):
        raise ConfigError(f"guess {task.start!r} is unknown; choose from {', '.join(GUESSES)}")
    if not settings.gpu:
        _warm_up()
    molecule = build_molecule(task.numbers, task.positions)
    began, cpu_began = time.perf_counter(), time.process_time()
    field = _gpu_module().RKS(molecule) if settings.gpu else dft.RKS(molecule)
    field.xc = XC_CODES[settings.functional]
    field.grids.level = GRID_LEVEL
    field.chkfile = None
    field.conv_tol = CONV_TOL
    field.max_cycle = settings.max_cycle
    log = _CycleLog(task.reference, began)
    if settings.gpu:
        _watch(field, log)
    else:
        field.callback = log.cycle
    overlap = molecule.intor("int1e_ovlp")
    field.kernel(dm0=_initial_density(molecule, overlap, task))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    coefficients = _host(field.mo_coeff)[:, _host(field.mo_occ) > 0]
    direct = _energies_and_forces(molecule, task, settings, field)
    return ScfRun(
        converged=bool(field.converged),
        energy=float(field.e_tot),
        energies=np.array(log.energies),
        errors=np.array(log.errors),
        seconds=np.array(log.seconds),
        wall_seconds=wall,
        core_seconds=wall if settings.gpu else cpu,
        occupied=overlap_power(overlap, 0.5) @ coefficients,
        **direct,
    )


def occupied_agreement(one: Float[np.ndarray, "n n_occ"], other: Float[np.ndarray, "n n_occ"]) -> float:
    """Mean squared cosine of the principal angles between two occupied spaces (orthonormal columns).

    It is 1 for equal spaces.
    """
    return float(np.sum((one.T @ other) ** 2) / one.shape[1])


class _CycleLog:
    """Records energy, error of the Fock matrix and time of each cycle."""

    def __init__(self, reference: np.ndarray, began: float) -> None:
        self.reference, self.began = reference, began
        self.energies: list[float] = []
        self.errors: list[float] = []
        self.seconds: list[float] = []

    def cycle(self, local: dict[str, Any]) -> None:
        """Called by PySCF after each cycle, with the local variables of its kernel."""
        self.energies.append(float(local["e_tot"]))
        self.add_fock(local["fock"])

    def add_fock(self, fock: Any) -> None:
        """Record error and time of a cycle with this Fock matrix."""
        self.errors.append(mean_absolute(_host(fock), self.reference))
        self.seconds.append(time.perf_counter() - self.began)


def _initial_density(
    molecule: gto.Mole, overlap: Float[np.ndarray, "n n"], task: ScfTask
) -> Float[np.ndarray, "n n"]:
    if task.start != PREDICTION:
        # gpu4pyscf's minao guess differs from PySCF's, which the released cycle counts belong to.
        return dft.RKS(molecule).get_init_guess(molecule, task.start)
    if task.hamiltonian is None:
        raise ConfigError("an SCF from the prediction needs the predicted Hamiltonian")
    return density(task.hamiltonian, overlap, molecule.nelectron)


def _energies_and_forces(
    molecule: gto.Mole, task: ScfTask, settings: ScfSettings, field: Any
) -> dict[str, np.ndarray]:
    """``direct_energies``, ``residuals`` and ``forces`` of `ScfRun`; empty for runs that have not converged."""
    energies: list[float] = []
    residuals: list[float] = []
    forces: list[np.ndarray] = []
    if settings.forces and not settings.gpu:
        if task.hamiltonian is not None:
            functional = EnergyFunctional(molecule, settings.functional)
            for steps in (0, 1):
                found = functional(task.hamiltonian, steps=steps, forces=True)
                assert found.forces is not None
                if not steps:
                    residuals = [
                        scf_residual(task.hamiltonian, found),
                        commutator_norm(functional.overlap, found),
                    ]
                energies.append(found.energy)
                forces.append(found.forces)
        elif field.converged:
            gradient = field.nuc_grad_method()
            gradient.verbose = 0
            energies.append(float(field.e_tot))
            forces.append(-gradient.kernel())
    return {
        "direct_energies": np.array(energies),
        "residuals": np.array(residuals),
        "forces": np.array(forces).reshape(len(forces), molecule.natm, 3),
    }


def _host(array: Any) -> np.ndarray:
    """The array in host memory: cupy arrays are copied from the GPU."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


@cache
def _warm_up() -> None:
    """Run a small SCF, so that the time of the first run does not contain the modules that PySCF loads late."""
    field = dft.RKS(gto.M(atom="H 0 0 0; H 0 0 0.74", basis=BASIS, verbose=0, parse_arg=False))
    field.xc = XC_CODES["b3lyp"]
    field.chkfile = None
    field.kernel()


def check_gpu() -> None:
    """Raise `ConfigError` unless gpu4pyscf can be imported."""
    _gpu_module()


def _gpu_module() -> Any:
    try:
        return importlib.import_module("gpu4pyscf.dft")
    except ImportError as error:
        raise ConfigError(
            f"gpu=true, but gpu4pyscf cannot be used ({error}); install gpu4pyscf for your version of CUDA "
            "(pip install gpu4pyscf-cuda12x), or set gpu=false"
        ) from error


def _watch(field: Any, log: _CycleLog) -> None:
    """Record the cycles of a solver that calls no callback, such as that of gpu4pyscf.

    In each cycle such a solver calls `get_fock` once without DIIS, for the new density, and `energy_tot` once, in
    either order. Its very first call of `energy_tot` is for the guess and is not recorded.
    """
    get_fock: Callable[..., Any] = field.get_fock
    energy_tot: Callable[..., Any] = field.energy_tot
    guess = [True]  # emptied by the first energy

    def watched_fock(h1e=None, s1e=None, vhf=None, dm=None, cycle=-1, diis=None, **options):
        fock = get_fock(h1e, s1e, vhf, dm, cycle, diis, **options)
        if cycle < 0 and diis is None:
            log.add_fock(fock)
        return fock

    def watched_energy(*args, **options):
        energy = energy_tot(*args, **options)
        if not guess:
            log.energies.append(float(energy))
        guess.clear()
        return energy

    field.get_fock, field.energy_tot = watched_fock, watched_energy


def mean_absolute(one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"]) -> float:
    """Mean absolute difference of two matrices, in their unit."""
    return float(np.abs(one - other).mean())


def check_guesses(guesses: Sequence[str]) -> None:
    """Raise `ConfigError` unless there is at least one guess and all are different standard guesses."""
    if not guesses or len(set(guesses)) < len(guesses) or not set(guesses) <= set(GUESSES):
        raise ConfigError(f"guesses are {list(guesses)}; give one or more of {', '.join(GUESSES)}, each once")
