"""Predictions close to solved references, made from their energies and orbitals."""

import numpy as np
import torch


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


def large_problem(seed: int, noise: float, n: int = 90):
    """The same as arguments of `orbital_metrics`."""
    h_pred, difference, _, orbitals = solved_and_predicted(seed, noise, n)
    inverse = torch.linalg.inv(orbitals)
    return h_pred, h_pred - difference, inverse.mT @ inverse
