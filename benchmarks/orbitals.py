"""Task "orbitals": metrics of orbitals by the released procedure, molecule by molecule, and by TraceGrad."""

import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pyscf import dft, gto

from benchmarks.timing import Timing, measure
from tracegrad.data.molecules.database import Molecule
from tracegrad.data.qh9.database import QH9Database
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import cut_blocks
from tracegrad.hamiltonian.graph import collate, molecule_graph
from tracegrad.metrics.functional.eigenpairs import lowest_states
from tracegrad.metrics.orbitals import orbital_errors
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.physics.molecules.cached_molecules import CachedMolecules, prepare_molecules
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.solved import SOLVED, SolvedMolecule

# Noise of the predicted matrix elements (hartree): MAE of about 1.5 meV, as in the paper, and ten times as much.
NOISES = {"1.5 meV": 7e-5, "15 meV": 7e-4}
LARGEST_KEPT = 31 * 2**20  # bytes; glibc keeps freed memory up to about this size after it was used once
PREDICTIONS = 16  # predictions of each molecule: two molecules give a batch of the recipe
SIZES = (
    4  # molecules of different sizes for each molecule of equal size; the number of predictions is the same
)


def chain(rng: np.random.Generator, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """A chain of CH2 and O with random torsions, terminated by hydrogen; it has a gap like molecules of QM9.

    It has at least four atoms. Returns atomic numbers, and positions in angstrom.
    """
    atoms = max(atoms, 4)
    carbons = (atoms - 2) // 4
    heavy = atoms - 2 - 2 * carbons
    order = [6 if k % 2 == 0 and k // 2 < carbons else 8 for k in range(heavy)]
    order += [6] * (carbons - order.count(6))
    order = order[:heavy]
    while True:
        numbers, positions = _with_hydrogen(order, _backbone(rng, len(order)))
        distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1) + 9 * np.eye(len(numbers))
        if distances.min() > 0.9:
            return numbers, positions


def _backbone(rng: np.random.Generator, heavy: int) -> np.ndarray:
    """Positions (angstrom) of the heavy atoms: 1.45 angstrom apart, angles of 111 degrees, staggered torsions."""
    angle = np.deg2rad(111)
    points = [np.array([-1.45 * np.cos(angle), 1.45 * np.sin(angle), 0]), np.zeros(3), np.array([1.45, 0, 0])]
    while len(points) < heavy + 1:
        a, b, c = points[-3:]
        torsion = rng.choice([np.pi, np.pi / 3, -np.pi / 3]) + 0.1 * rng.normal()
        along = (c - b) / 1.45
        normal = np.cross(b - a, along)
        normal /= np.linalg.norm(normal)
        frame = np.stack([along, np.cross(normal, along), normal])
        step = [-np.cos(angle), np.sin(angle) * np.cos(torsion), np.sin(angle) * np.sin(torsion)]
        points.append(c + 1.45 * np.array(step) @ frame)
    return np.array(points[1 : heavy + 1])


def _with_hydrogen(order: list[int], backbone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and positions of the chain with its hydrogens: two on each carbon, and one more at each end."""
    numbers, positions = list(order), list(backbone)
    for k, z in enumerate(order):
        others = [backbone[i] for i in (k - 1, k + 1) if 0 <= i < len(order)]
        away = [(backbone[k] - other) / np.linalg.norm(backbone[k] - other) for other in others]
        if len(away) == 2:
            outward = (away[0] + away[1]) / np.linalg.norm(away[0] + away[1])
            normal = np.cross(away[0], away[1])
            normal /= np.linalg.norm(normal)
            directions = [0.58 * outward + 0.82 * normal, 0.58 * outward - 0.82 * normal] if z == 6 else []
        else:
            first = np.cross(away[0], [0.3, 0.5, 0.8])
            first /= np.linalg.norm(first)
            second = np.cross(away[0], first)
            angles = 2 * np.pi * np.arange(3 if z == 6 else 1) / 3
            directions = [0.33 * away[0] + 0.94 * (np.cos(t) * first + np.sin(t) * second) for t in angles]
        numbers += [1] * len(directions)
        positions += [backbone[k] + (1.09 if z == 6 else 0.97) * d for d in directions]
    return np.array(numbers), np.array(positions)


def fock(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A Fock matrix (hartree) after a few cycles on a coarse grid, which is enough for timing."""
    field = dft.RKS(build_molecule(numbers, positions), xc="b3lyp").density_fit()
    field.grids.level, field.max_cycle, field.chkfile = 0, 3, None
    field.kernel()
    return np.asarray(field.get_fock(dm=field.make_rdm1()))


def released_orbitals(
    h: Float[torch.Tensor, "1 n n"], overlap: Float[torch.Tensor, "1 n n"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Orbital energies and coefficients by S^-1/2 with clamped eigenvalues, as in the released code."""
    values, vectors = torch.linalg.eigh(overlap)
    half = vectors / values.clamp(min=1e-8).sqrt().unsqueeze(-2)
    energies, orbitals = torch.linalg.eigh(half.mT @ h @ half)
    return energies, half @ orbitals


def released_metrics(
    numbers: np.ndarray, positions: np.ndarray, label: np.ndarray, predicted: np.ndarray
) -> tuple[float, float]:
    """MAE of the occupied energies (hartree) and mean cosine of the occupied orbitals of one molecule."""
    molecule = gto.Mole()
    atoms = [[int(z), tuple(x)] for z, x in zip(numbers, positions.tolist(), strict=True)]
    molecule.build(verbose=0, atom=atoms, basis="def2svp", unit="ang")
    overlap = torch.from_numpy(molecule.intor("int1e_ovlp"))[None]
    occupied = int(numbers.sum()) // 2
    (eps, c), (eps_pred, c_pred) = (
        released_orbitals(torch.tensor(h)[None], overlap) for h in (label, predicted)
    )
    cosine = torch.nn.functional.cosine_similarity(c[0, :, :occupied], c_pred[0, :, :occupied], dim=0)
    return float((eps - eps_pred)[0, :occupied].abs().mean()), float(cosine.abs().mean())


@dataclass
class _Case:
    """Labelled molecules with predictions, as dense matrices and as a batch of blocks."""

    molecules: list[Molecule]
    predicted: list[np.ndarray]
    prediction: HamiltonianPrediction
    batch: object


def _case(
    molecules: list[Molecule], noise: float, basis: OrbitalBasis, rng: np.random.Generator, device: str
) -> _Case:
    chosen, predicted, graphs, blocks = [], [], [], []
    for molecule in molecules:
        error = noise * rng.normal(size=molecule.hamiltonian.shape)
        # In single precision, like the output of a network.
        h = (molecule.hamiltonian + (error + error.T) / np.sqrt(2)).astype(np.float32)
        chosen.append(molecule)
        predicted.append(h.astype(np.float64))
        blocks.append(cut_blocks(torch.from_numpy(h), molecule.numbers, basis))
        graphs.append(
            molecule_graph(
                molecule.numbers,
                molecule.positions,
                basis,
                hamiltonian=molecule.hamiltonian,
                sample_id=molecule.row,
            )
        )
    on_site, pairs = (torch.cat(parts).to(device) for parts in zip(*blocks, strict=True))
    return _Case(
        chosen, predicted, HamiltonianPrediction({"self": on_site, "edge": pairs}), collate(graphs).to(device)
    )


def _tracegrad_metrics(
    case: _Case, basis: OrbitalBasis, references: CachedMolecules[SolvedMolecule]
) -> tuple[float, float]:
    values = orbital_errors(case.prediction, case.batch, basis, references).values.mean(0)
    return float(values[0]), float(values[6])


def _released_means(case: _Case) -> tuple[float, float]:
    metrics = [
        released_metrics(m.numbers, m.positions, m.hamiltonian, h)
        for m, h in zip(case.molecules, case.predicted, strict=True)
    ]
    eps, cosine = np.mean(metrics, axis=0)
    return float(eps), float(cosine)


def _diagonalised(h: torch.Tensor, c: torch.Tensor) -> object:
    return torch.linalg.eigh(c.mT @ (h @ c))


def _database(path: Path, rng: np.random.Generator, sizes: list[int]) -> QH9Database:
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE data (id INTEGER PRIMARY KEY, N INTEGER, Z BLOB, pos BLOB, Ham BLOB)"
        )
        for row, atoms in enumerate(sizes):
            numbers, positions = chain(rng, atoms)
            label = fock(numbers, positions)
            blobs = (numbers.astype("<i4"), positions, (label + label.T) / 2)
            values = (row, len(numbers), *(blob.tobytes() for blob in blobs))
            connection.execute("INSERT INTO data VALUES (?, ?, ?, ?, ?)", values)
    connection.close()
    return QH9Database(path)


def orbital_tasks(
    rng: np.random.Generator, molecules: int, atoms: int, repeats: int, device: str
) -> tuple[list[Timing], list[str]]:
    """Time the metrics with an existing cache, the diagonalisation alone, and the building of the cache."""
    basis = OrbitalBasis.def2_svp()
    timings: list[Timing] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = [max(4, atoms - k) for k in range(-2, SIZES * molecules - 2)]
        database = _database(Path(folder) / "chains.db", rng, [atoms] * molecules + sizes)
        rows, path = range(molecules), Path(folder) / "chains.tracegrad-orbitals"

        def build() -> CachedMolecules[SolvedMolecule]:
            path.unlink(missing_ok=True)
            return prepare_molecules(database, SOLVED, rows, [path], processes=1)

        references = build()
        every = prepare_molecules(database, SOLVED, range(len(database)), [path], processes=1)
        # As after a network: once large tensors have been freed, malloc keeps memory instead of returning it.
        torch.ones(LARGEST_KEPT // 8, dtype=torch.float64)
        count = molecules * PREDICTIONS
        same_size = [database[row] for row in rows for _ in range(PREDICTIONS)]
        other_sizes = [
            database[row] for row in range(molecules, len(database)) for _ in range(PREDICTIONS // SIZES)
        ]
        for name, noise in NOISES.items():
            for of, chosen in (("one size", same_size), (f"{len(sizes)} sizes", other_sizes)):
                case = _case(chosen, noise, basis, rng, device)
                ways: dict[str, Callable[[], object]] = {
                    "released, one by one": partial(_released_means, case),
                    "tracegrad, cached references": partial(_tracegrad_metrics, case, basis, every),
                }
                task = f"orbitals of {count} predictions of {of}, error {name}"
                released, tracegrad = measure(task, ways, repeats, device)
                timings += [released, tracegrad]
                apart = max(
                    abs(a - b)
                    for a, b in zip(
                        _released_means(case), _tracegrad_metrics(case, basis, every), strict=True
                    )
                )
                notes.append(
                    f"{task}: {count / released.median:,.1f} and {count / tracegrad.median:,.1f} molecules a second, "
                    f"{released.median / tracegrad.median:.1f} times as many; largest difference of eps_mae "
                    f"(hartree) and psi_cosine {apart:.1e}"
                )
            case = _case(same_size, noise, basis, rng, device)
            solved = [every(m.row) for m in case.molecules]
            energies, c, label, h = (
                torch.from_numpy(np.stack(arrays)).to(device)
                for arrays in (
                    [s.energies for s in solved],
                    [s.orbitals for s in solved],
                    [m.hamiltonian for m in case.molecules],
                    case.predicted,
                )
            )
            count_states = solved[0].occupied + 1
            ways = {
                "torch.linalg.eigh": partial(_diagonalised, h, c),
                "lowest_states": partial(lowest_states, h - label, energies, c, count_states),
            }
            timings += measure(f"diagonalisation of {count} matrices, error {name}", ways, repeats, device)
        every.close()
        building = measure(f"cache of {molecules} molecules", {"one process": build}, repeats, "cpu")
        timings += building
        size = sum(len(references(row).orbitals) ** 2 * 16 for row in rows) / molecules
        notes.append(
            f"building the cache, once: {1e3 * building[0].median / molecules:.1f} ms and about {size / 1e6:.2f} MB "
            f"for a molecule of {atoms} atoms ({references(0).size} orbitals)"
        )
        references.close()
    return timings, notes
