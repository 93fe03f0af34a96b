"""Small molecules and random labels for tests."""

import numpy as np
import torch
from e3nn import o3

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import orbital_rows
from tracegrad.hamiltonian.graph import HamiltonianGraph, molecule_graph

WATER = (
    np.array([8, 1, 1]),
    np.array([[0.02, -0.01, 0.12], [0.0, 0.76, -0.48], [0.03, -0.75, -0.47]]),
)
METHANOL = (
    np.array([6, 8, 1, 1, 1, 1]),
    np.array(
        [
            [-0.66, -0.02, 0.0],
            [0.73, 0.12, 0.04],
            [-1.05, 0.98, 0.02],
            [-1.02, -0.54, 0.9],
            [-1.01, -0.55, -0.88],
            [1.1, -0.76, -0.03],
        ]
    ),
)
CYANIDE = (np.array([1, 6, 7]), np.array([[0.0, 0.1, -1.06], [0.02, 0.0, 0.01], [0.0, -0.03, 1.16]]))
FLUORIDE = (np.array([9, 1]), np.array([[0.0, 0.0, 0.0], [0.5, 0.6, 0.5]]))
ATOM = (np.array([7]), np.array([[0.3, 0.2, 0.1]]))
# The last atom is farther from the others than the cutoff of QHNet.
FAR = (np.array([8, 1, 6]), np.array([[0.0, 0.0, 0.0], [0.6, 0.5, 0.5], [16.0, 3.0, -2.0]]))
ALL = (WATER, METHANOL, CYANIDE, FLUORIDE, ATOM, FAR)

# e3nn's (y, z, x) of a vector (x, y, z): the order in which its degree-1 components stand.
TO_E3NN = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)


def random_hamiltonian(numbers: np.ndarray, basis: OrbitalBasis, seed: int = 0) -> np.ndarray:
    """A symmetric matrix of the right size."""
    n = int(basis.sizes[numbers].sum())
    matrix = np.random.default_rng(seed).normal(size=(n, n))
    return matrix + matrix.T


def labelled_graph(
    molecule: tuple[np.ndarray, np.ndarray],
    basis: OrbitalBasis,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> HamiltonianGraph:
    """Graph with random symmetric labels."""
    numbers, positions = molecule
    hamiltonian = random_hamiltonian(numbers, basis, seed)
    return molecule_graph(numbers, positions, basis, hamiltonian=hamiltonian, sample_id=seed, dtype=dtype)


def random_rotation(seed: int) -> torch.Tensor:
    """A rotation matrix for vectors (x, y, z), float64."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(4, dtype=torch.float64, generator=generator)
    w, x, y, z = (q / q.norm()).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def wigner_d(degree: int, rotation: torch.Tensor) -> torch.Tensor:
    """Wigner matrix of standard real harmonics (m = -l .. l) for a rotation of (x, y, z)."""
    return exact_representation(o3.Irreps([(1, (degree, 1))]), TO_E3NN @ rotation @ TO_E3NN.T)


def exact_representation(irreps: o3.Irreps, matrix: torch.Tensor) -> torch.Tensor:
    """``irreps.D_from_matrix`` in double precision: e3nn takes its generators in the default dtype."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return irreps.D_from_matrix(matrix)
    finally:
        torch.set_default_dtype(previous)


def union_rotation(basis: OrbitalBasis, rotation: torch.Tensor) -> torch.Tensor:
    """Block-diagonal Wigner matrix of all union shells."""
    return torch.block_diag(*[wigner_d(degree, rotation) for degree in basis.union])


def dense_rotation(numbers: np.ndarray, basis: OrbitalBasis, rotation: torch.Tensor) -> torch.Tensor:
    """The matrix U with H(R x) = U H(x) U^T for dense matrices in the orbital order of the basis."""
    union = union_rotation(basis, rotation)
    rows, total = orbital_rows(numbers, basis)
    result = torch.zeros(total, total, dtype=torch.float64)
    for slots in torch.from_numpy(rows):
        present = (slots < total).nonzero().flatten()
        result[slots[present][:, None], slots[present][None]] = union[present][:, present]
    return result
