"""Predicted Hamiltonians of crystals, from structure folders and from geometry files with a cell."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from e3nn.o3 import Irreps

from experiments.predict import predict
from experiments.prediction import bands
from experiments.prediction.crystal import predict_crystal
from experiments.settings.configuration import composed, plain
from tests.experiments.test_train_crystals import run as train
from tests.physics.overlaps.gaussian_files import GaussianShell, write_pao
from tracegrad import load_model
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import read_structure, write_structure
from tracegrad.data.crystals.structure import Structure, check_structure
from tracegrad.data.loading.datamodule import database_path
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.model.estimate import estimate_cost
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.interface import Backbone, keep


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "tracegrad_seed0"
    train(directory, "trainer.max_steps=2", "test=false")
    return directory


@pytest.fixture(scope="module")
def bilayer() -> Structure:
    return CrystalDatabase(database_path("embedded:demo_crystals.h5"), include="light_bilayer_*")[3]


def run(*settings: str) -> None:
    predict(plain(composed("predict", list(settings))))


def test_a_folder(
    trained: Path, bilayer: Structure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_structure(bilayer, tmp_path / "given")
    output = tmp_path / "predicted"
    run(f"checkpoint={trained}", f"structure={tmp_path / 'given'}", f"output={output}", "edge_chunk=100")
    printed = capsys.readouterr().out
    assert "8 atoms, 458 blocks, without spin" in printed
    assert re.search(r"estimate: (less than|about) \d+ s", printed)
    assert "no bands without overlaps" in printed
    found = read_structure(output)
    assert np.array_equal(found.edges, bilayer.edges)
    model = load_model(trained)
    model.backbone.hermitian = True
    geometry = (bilayer.numbers, bilayer.positions, bilayer.lattice, bilayer.edges)
    for block, expected in zip(found.blocks("hamiltonian"), model.hamiltonian(*geometry), strict=True):
        np.testing.assert_allclose(block, expected, atol=1e-4)  # float32, in chunks
    with pytest.raises(DataError, match=r"exists and holds .* overwrite=true"):
        run(f"checkpoint={trained}", f"structure={tmp_path / 'given'}", f"output={output}")
    run(f"checkpoint={trained}", f"structure={tmp_path / 'given'}", f"output={output}", "overwrite=true")


def test_a_file_with_a_cell_and_a_checkpoint_file(trained: Path, bilayer: Structure, tmp_path: Path) -> None:
    """The edges follow from the radii of the orbitals, and the blocks have the usual order."""
    atoms = Atoms(bilayer.numbers, positions=bilayer.positions, cell=bilayer.lattice, pbc=True)
    write(tmp_path / "given.xyz", atoms, format="extxyz")
    checkpoint = trained / "checkpoints" / "last.ckpt"
    run(f"checkpoint={checkpoint}", f"structure={tmp_path / 'given.xyz'}", f"output={tmp_path / 'predicted'}")
    assert np.array_equal(read_structure(tmp_path / "predicted").edges, bilayer.edges)


def test_bands_of_a_bare_cell(
    trained: Path, bilayer: Structure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Overlaps come from basis files; S is written with H, and the bands need a Fermi level."""
    atoms = Atoms(bilayer.numbers, positions=bilayer.positions, cell=bilayer.lattice, pbc=True)
    write(tmp_path / "given.xyz", atoms, format="extxyz")
    shells = [GaussianShell(0, 0.5), GaussianShell(0, 1.5), GaussianShell(1, 0.6), GaussianShell(2, 0.8)]
    write_pao(tmp_path, "C", shells, cutoff=5.0, points=400)
    output = tmp_path / "predicted"
    settings = (f"checkpoint={trained}", f"structure={tmp_path / 'given.xyz'}", f"output={output}")
    run(*settings, f"basis_files={tmp_path}", "processes=1")
    printed = capsys.readouterr().out
    assert re.search(rf"overlaps from {tmp_path} in \d+\.\d s", printed)
    assert "no bands without a Fermi level" in printed
    found = read_structure(output, overlap=True)
    check_structure(found, "predicted")
    on_site = found.blocks("overlap")[0]
    np.testing.assert_allclose(on_site.diagonal(), 1, atol=1e-4)  # the tails beyond the cutoff are missing
    run(*settings, f"basis_files={tmp_path}", "processes=1", "fermi_level=-3.0", "overwrite=true")
    summary = json.loads((tmp_path / "predicted_bands" / "bands.json").read_text())
    assert summary["fermi_level_eV"] == -3.0
    assert summary["smallest_eigenvalue_of_S"] > 1e-5
    again = (f"checkpoint={trained}", f"structure={output}", f"output={tmp_path / 'again'}")
    with pytest.raises(BasisError, match=r"has overlaps, those of its DFT calculation; leave out"):
        run(*again, f"basis_files={tmp_path}")
    with pytest.raises(BasisError, match=r"nowhere: cannot be read"):
        run(*settings, f"basis_files={tmp_path / 'nowhere'}", "overwrite=true")


def test_density_of_states_of_a_bare_cell(
    trained: Path, bilayer: Structure, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """With valence electrons in the basis files nothing else is needed; time and memory are printed first."""
    atoms = Atoms(bilayer.numbers, positions=bilayer.positions, cell=bilayer.lattice, pbc=True)
    write(tmp_path / "given.xyz", atoms, format="extxyz")
    shells = [GaussianShell(0, 0.5), GaussianShell(0, 1.5), GaussianShell(1, 0.6), GaussianShell(2, 0.8)]
    write_pao(tmp_path, "C", shells, cutoff=5.0, points=400, valence="4.0")
    output = tmp_path / "predicted"
    settings = (
        *(f"checkpoint={trained}", f"structure={tmp_path / 'given.xyz'}", f"output={output}", "processes=1"),
        *(f"basis_files={tmp_path}", "dos=true", "k_mesh=[2,2,1]"),
    )
    run(*settings)
    printed = capsys.readouterr().out
    steps = [
        "estimate: ",
        "forecast, bands on the path: 150 k points of 80 orbitals",
        "forecast, all states on the mesh: 4 k points of 80 orbitals",
        "predicted in ",
        "mesh 2 x 2 x 1 (4 points), 32 electrons: ",
        "bands.png, bands.csv, bands.json, dos.csv",
    ]
    assert sorted(map(printed.index, steps)) == [printed.index(step) for step in steps]
    assert printed.count("forecast, bands") == 1
    summary = json.loads((tmp_path / "predicted_bands" / "bands.json").read_text())
    assert summary["fermi_level_eV"] == pytest.approx(summary["zone"]["counted"]["level"])
    assert sum(summary["zone"]["mulliken_electrons"].values()) == pytest.approx(32, abs=1e-6)
    monkeypatch.setattr(bands, "available_memory", lambda: 1000)
    with pytest.raises(
        ConfigError, match=r"bands on the path: 1 process needs about .* set dos_method=polynomial"
    ):
        run(*settings, f"output={tmp_path / 'other'}")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["two.xyz", "two.traj", "two.cif", "XDATCAR"])
def test_one_frame_of_several(
    trained: Path, bilayer: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    atoms = Atoms(bilayer.numbers, positions=bilayer.positions, cell=bilayer.lattice, pbc=True)
    write(name, [atoms, atoms * (2, 1, 1)])
    with pytest.raises(DataError, match=rf"{name}: holds 2 frames; choose one with frame=0 \.\.\. frame=1"):
        run(f"checkpoint={trained}", f"structure={name}")
    for frame, count in ((0, 8), (-1, 16)):
        run(f"checkpoint={trained}", f"structure={name}", f"frame={frame}", "bands=false")
        assert len(read_structure(tmp_path / "predicted" / f"{Path(name).stem}_{frame}").numbers) == count
    with pytest.raises(DataError, match="has no frame 2; there are frames 0 to 1"):
        run(f"checkpoint={trained}", f"structure={name}", "frame=2")


def test_a_structure_folder_has_no_frames(trained: Path, bilayer: Structure, tmp_path: Path) -> None:
    write_structure(bilayer, tmp_path / "given")
    with pytest.raises(
        ConfigError, match="given: is a structure folder, which holds one structure; leave out frame=0"
    ):
        run(f"checkpoint={trained}", f"structure={tmp_path / 'given'}", f"output={tmp_path / 'x'}", "frame=0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: is not a structure folder"):
        run(f"checkpoint={trained}", f"structure={tmp_path / 'empty'}", f"output={tmp_path / 'x'}")


class Asymmetric(Backbone):
    """A crystal network that has neither chunks of edges nor hermitian blocks."""

    label, periodic = "Asymmetric", True

    def __init__(self, basis: OrbitalBasis) -> None:
        super().__init__()
        self.basis = basis
        self.feature_irreps = {"edge": [Irreps("1x0e")]}
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, graph, refine=keep):
        size = self.basis.dim
        row = torch.arange(size, dtype=torch.float64)
        return {"edge": self.scale * (graph.vectors[:, 2, None, None] + row[:, None] + 2 * row)}


def test_a_network_of_another_kind(
    bilayer: Structure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = HamiltonianModel(Asymmetric(bilayer.basis))
    half = HamiltonianModel(Asymmetric(bilayer.basis))
    half.backbone.scale.data /= 2
    write_structure(bilayer, tmp_path / "given")
    values = plain(composed("predict", ["checkpoint=x", "structure=x"]))
    predict_crystal(HamiltonianEnsemble([model]), tmp_path / "given", tmp_path / "out", values)
    assert "estimate: less than 1 s" in capsys.readouterr().out
    assert not (tmp_path / "out_spread.csv").exists()
    found = read_structure(tmp_path / "out")
    geometry = (bilayer.numbers, bilayer.positions, bilayer.lattice, bilayer.edges)
    apart = dict(zip(map(tuple, bilayer.edges.tolist()), model.hamiltonian(*geometry), strict=True))
    for edge, block in zip(found.edges.tolist(), found.blocks("hamiltonian"), strict=True):
        x, y, z, i, j = edge
        expected = (apart[tuple(edge)] + apart[-x, -y, -z, j, i].T) / 2
        np.testing.assert_allclose(block, expected, rtol=0, atol=1e-12)
    # Two networks, of which one predicts half of the other: H is 3/4, and its spread half of |H| / sqrt(2).
    predict_crystal(HamiltonianEnsemble([model, half]), tmp_path / "given", tmp_path / "both", values)
    assert "for each of 2 networks" in capsys.readouterr().out
    with (tmp_path / "both_spread.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    mean = read_structure(tmp_path / "both")
    for row, edge, block, single in zip(
        rows, mean.edges.tolist(), mean.blocks("hamiltonian"), found.blocks("hamiltonian"), strict=True
    ):
        np.testing.assert_allclose(block, 0.75 * single, rtol=0, atol=1e-12)
        x, y, z, i, j = edge
        assert [row[key] for key in ("Rx", "Ry", "Rz", "i", "j")] == [*map(str, (x, y, z, i + 1, j + 1))]
        assert float(row["spread_mev"]) == pytest.approx(1e3 * np.abs(single).mean() / 8**0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"given\.xyz, line 1: 'nothing' is no number of atoms"),
        (Atoms("C2", positions=[[0, 0, 0], [1.4, 0, 0]]), "the cell has 0 vectors"),
        (
            Atoms("Si", cell=[3, 3, 3], pbc=True),
            r"\[14\] have no entry in .* of elements C; use a network that was trained with Si$",
        ),
        (
            Atoms("C2", positions=[[0, 0, 0], [1.42, 0, 0]], cell=[2.46, 4.3, 20]),
            r'given\.xyz: has a cell, but is not periodic \(pbc="F F F"\); write pbc="T T T", or',
        ),
        (
            Atoms("C2", positions=[[0, 0, 0], [1.42, 0, 0]], cell=[2.46, 4.3, 20], pbc=True, magmoms=[1, -1]),
            r"given\.xyz, line 2: has magnetic moments up to 1 \(column initial_magmoms\)",
        ),
        (
            Atoms("C", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True),
            r"given\.xyz: the lattice .* no volume",
        ),
        (
            Atoms("C2", positions=[[0, 0, 0], [0.01, 0, 0]], cell=[5, 5, 5], pbc=True),
            r"given\.xyz: atoms 1 and 2 \(counted from 1\) are 0\.01 angstrom apart",
        ),
    ],
)
def test_structures_that_cannot_be_predicted(trained: Path, tmp_path: Path, content, message) -> None:
    path = tmp_path / "given.xyz"
    if content is None:
        path.write_text("nothing")
    else:
        write(path, content, format="extxyz")
    with pytest.raises(DataError, match=message):
        run(f"checkpoint={trained}", f"structure={path}", f"output={tmp_path / 'predicted'}")
    assert not (tmp_path / "predicted").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("edge_chunk=0", "edge_chunk is 0; give a whole number of at least 1, or null"),
        ("threads=-1", "threads is -1"),
        ("fermi_level=high", "fermi_level is 'high'; give a number \\(eV\\), count, or null"),
        ("device=nowhere", "device=nowhere cannot be used"),
        ("reference=true", "is a DeepH-E3 for crystals; reference is for molecules"),
        ("dos_shares=loewdin", "dos_shares=loewdin is for molecules; of a crystal the shares are mulliken"),
    ],
)
def test_impossible_settings(trained: Path, tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(f"checkpoint={trained}", "structure=x", f"output={tmp_path / 'predicted'}", setting)


def test_the_estimate_grows_with_the_cell_and_with_the_chunk(trained: Path, bilayer: Structure) -> None:
    model = load_model(trained)
    whole = estimate_cost(model, bilayer)
    model.backbone.edge_chunk = 50
    assert 0 < estimate_cost(model, bilayer).bytes < whole.bytes
    assert whole.seconds > 0
    assert " MB" in str(whole)
