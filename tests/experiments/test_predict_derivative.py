"""dH/dR beside a predicted H: the same numbers as `hamiltonian_derivative`, and files that continue."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

from experiments.predict import predict
from experiments.prediction import derivatives
from experiments.prediction.crystal import read_geometry
from experiments.prediction.derivatives import crystal_work, write_derivatives
from experiments.settings.configuration import composed, plain
from tests import crystals
from tests.backbones.crystal_networks import deeph_e3
from tests.checkpoints import DEEPH_E3, write_run
from tests.physics.overlaps.gaussian_files import GaussianShell, write_pao
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError, TraceGradError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.interface import Blocks, Refine, keep
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.physics.molecules.overlap_derivative import overlap_along, overlap_derivative
from tracegrad.physics.overlaps.structure_overlaps import BasisFileOverlaps

SHELLS = [GaussianShell(0, 0.5), GaussianShell(0, 1.5), GaussianShell(1, 0.6), GaussianShell(1, 1.2)]
HYDROGEN = (np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.1, 0.3, 0.7]]))
exact = partial(np.testing.assert_allclose, rtol=0, atol=1e-10)


def run(*given: str) -> None:
    predict(plain(composed("predict", list(given))))


@pytest.fixture
def hydrogen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Settings of a prediction in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    write("hydrogen.xyz", Atoms(*HYDROGEN))
    write_run(Path("run"))
    return "checkpoint=run", "structure=hydrogen.xyz", "output=out", "derivative=true"


def test_a_molecule(hydrogen: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """The mean of two networks, and the derivatives of S that belong to it."""
    models = [write_run(Path(name), seed=seed) for name, seed in (("run", 0), ("other", 1))]
    run("checkpoint=run,other", *hydrogen[1:])
    with h5py.File("out_derivative.h5") as file:
        found = {name: values[()] for name, values in file.items()}
        assert "hamiltonian_derivative: hartree/angstrom" in file.attrs["units"]
    assert found.keys() == {"numbers", "positions", "atoms", "hamiltonian_derivative", "overlap_derivative"}
    numbers, positions = found["numbers"], found["positions"]
    assert found["atoms"].tolist() == [0, 1]
    expected = [model.hamiltonian_derivative(numbers, positions).numpy() for model in models]
    exact(found["hamiltonian_derivative"], np.mean(expected, axis=0))
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    exact(found["overlap_derivative"], overlap_derivative(build_molecule(numbers, positions)))
    assert not list(Path().glob("*.partial"))
    assert Path("out/hamiltonian.npz").is_file()
    printed = capsys.readouterr().out
    assert "dH/dR: 6 displacements, a file of 9.6 kB" in printed
    assert "wrote out_derivative.h5" in printed


def test_the_same_command_continues(
    hydrogen: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before an interruption is not computed again, and nothing has the name of a whole file before."""
    slopes, count = overlap_along, 0

    def interrupted(*arguments: object) -> np.ndarray:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return slopes(*arguments)

    monkeypatch.setattr("experiments.prediction.molecule.overlap_along", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*hydrogen)
    assert {path.name for path in Path().glob("out*")} == {"out_derivative.h5.partial"}
    with pytest.raises(DataError, match=r"out_derivative.h5.partial: was begun with another network"):
        run(*hydrogen, "derivative_atoms=[2]")
    run(*hydrogen)
    assert "6 displacements, 4 of them done before" in capsys.readouterr().out
    assert count == 5 + 2
    with h5py.File("out_derivative.h5") as file:
        found = file["hamiltonian_derivative"][()]
        geometry = file["numbers"][()], file["positions"][()]
        assert "displacements_done" not in file
    exact(found, write_run(Path("again")).hamiltonian_derivative(*geometry).numpy())

    run(*hydrogen, "overwrite=true")  # the same numbers: they stay
    assert "out_derivative.h5 is complete" in capsys.readouterr().out
    assert count == 7
    shutil.rmtree("out")
    with pytest.raises(DataError, match=r"out_derivative.h5: exists, and is of another network"):
        run(*hydrogen, "derivative_atoms=[2]")
    run(*hydrogen, "derivative_atoms=[2]", "overwrite=true")
    with h5py.File("out_derivative.h5") as file:
        assert file["atoms"][()].tolist() == [1]
        exact(file["hamiltonian_derivative"][0], found[1])


def test_refused(hydrogen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("[]", "[0]", "[1,1]", "[3]", "2", "[1.5]"):
        with pytest.raises(
            ConfigError, match=r"derivative_atoms is .*; give a list of different atoms from 1 to 2"
        ):
            run(*hydrogen, f"derivative_atoms={wrong}")
    Path("out_derivative.h5.partial").write_bytes(b"no HDF5")
    with pytest.raises(TraceGradError, match=r"out_derivative.h5.partial: cannot be opened .* delete it"):
        run(*hydrogen)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(derivatives.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(
        ConfigError, match=r"a file of 9.6 kB, but .* has 1.0 kB left; .*derivative_atoms=\[1,2\]"
    ):
        run(*hydrogen)
    assert not Path("out").exists()


@pytest.fixture
def graphene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    cell = [[2.46, 0, 0], [-1.23, 2.13, 0], [0, 0, 15]]
    write("cell.xyz", Atoms("C2", [[0.1, 0, 7], [0.05, 1.4, 7.2]], cell=cell, pbc=True), format="extxyz")
    write_pao(tmp_path, "C", [*SHELLS, GaussianShell(2, 0.8)], cutoff=6.0, points=400)
    return "checkpoint=run", "structure=cell.xyz", "output=out", "derivative=true", "bands=false"


@pytest.mark.slow
def test_a_crystal(graphene: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Entries of the blocks of the edges, hermitian as H is, with those of S where there are basis files."""
    model = write_run(Path("run"), DEEPH_E3)
    run(*graphene, "derivative_atoms=[2]", "basis_files=.", "edge_chunk=64")
    printed = capsys.readouterr().out
    assert "dH/dR: 3 displacements, " in printed
    assert "MB, a file of " in printed
    with h5py.File("out_derivative.h5") as file:
        found = {name: values[()] for name, values in file.items()}
    structure = read_geometry(Path("cell.xyz"), model.basis)
    assert np.array_equal(found["atom_pairs"], structure.edges)
    model.backbone.hermitian = True
    geometry = (structure.numbers, structure.positions, structure.lattice, structure.edges)
    expected = model.hamiltonian_derivative(*geometry)
    starts = found["chunk_boundaries"]
    for n, (block, shape) in enumerate(zip(expected, found["chunk_shapes"], strict=True)):
        part = found["hamiltonian_derivative"][..., starts[n] : starts[n + 1]]
        exact(part.reshape(1, 3, *shape), block[1:])
    overlaps = BasisFileOverlaps(".", model.basis, [6]).overlaps
    x, cell, u = (torch.tensor(a) for a in (structure.positions, structure.lattice, [[0, 0, 0], [0, 1.0, 0]]))
    of_s = overlaps.entries_along(
        structure.numbers, x, cell, structure.edges, structure.basis_of("overlap"), u
    )
    exact(found["overlap_derivative"][0, 1], of_s.numpy())
    assert found["overlap_chunk_boundaries"][-1] == len(of_s)


class OneSided(crystals.SmallBackbone):
    """A network whose H(R, i, j) is not the adjoint of H(-R, j, i)."""

    def forward(self, graph: HamiltonianGraph, refine: Refine = keep) -> Blocks:
        return {"edge": super().forward(graph, refine)["edge"] * (1 + graph.vectors[:, 2, None, None])}


@pytest.mark.parametrize("network", [deeph_e3, lambda basis: HamiltonianModel(OneSided(basis)).double()])
def test_spin_both_blocks_of_a_pair_and_too_little_memory(
    network: Callable[[OrbitalBasis], HamiltonianModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complex entries, and those of a hermitian H where the network leaves this to the command."""
    numbers, positions, lattice, edges = crystals.MOS2
    model = network(crystals.SPINFUL)
    shells = {z: crystals.SPINFUL.shells[z] for z in (16, 42)}
    structure = Structure("mos2", numbers, positions, lattice, shells, True, None, edges)
    work = crystal_work(HamiltonianEnsemble([model]), structure, None, None)
    values = {"checkpoint": "x", "overwrite": False}
    write_derivatives(work, tmp_path / "out", [2], values)
    with h5py.File(tmp_path / "out_derivative.h5") as file:
        found = file["hamiltonian_derivative"][0, 2]
        assert "overlap_derivative" not in file
    assert found.dtype == np.complex128
    along = np.zeros((1, 3, 3))
    along[0, 2, 2] = 1.0
    blocks = [block[0] for block in model.hamiltonian_derivative(*crystals.MOS2, along=along)]
    index = {tuple(edge): n for n, edge in enumerate(edges.tolist())}
    adjoint = [blocks[index[-x, -y, -z, j, i]].conj().T for x, y, z, i, j in edges.tolist()]
    differences = [np.abs(a - b).max() for a, b in zip(blocks, adjoint, strict=True)]
    if isinstance(model.backbone, OneSided):
        assert max(differences) > 1e-3
        blocks = [(a + b) / 2 for a, b in zip(blocks, adjoint, strict=True)]
    exact(found, np.concatenate([block.ravel() for block in blocks]))
    monkeypatch.setattr(derivatives, "available_memory", lambda: 1000)
    with pytest.raises(
        ConfigError, match=r"dH/dR takes about .* of memory, and 1.0 kB are free; .* edge_chunk"
    ):
        write_derivatives(work, tmp_path / "other", [2], values)
