"""Predicted Hamiltonians of molecules: files with matrices, orbitals and levels, and the SCF for comparison."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

from experiments.predict import predict
from experiments.prediction.molecule import predict_molecule
from experiments.settings.configuration import composed, plain
from tests import forked
from tests.checkpoints import DEEPH_E3, QHNET, write_checkpoint, write_run
from tests.model.test_network import make_model
from tests.molecules import METHANOL, WATER
from tracegrad.errors import CheckpointError, ConfigError, DataError, TraceGradError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.trained_range import TrainedRange
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.model.network import HamiltonianModel
from tracegrad.physics.molecules.dft import build_molecule, fock_label
from tracegrad.units import MEV

EV = MEV["hartree"] / MEV["eV"]
HYDROGEN = (np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.1, 0.75]]))


class Nearly(HamiltonianModel):
    """A network with an error of 1e-4 hartree: H is the converged Fock matrix with noise."""

    def hamiltonian(self, numbers, positions, lattice=None, edges=None) -> torch.Tensor:
        fock = fock_label(numbers, positions, "b3lyp").hamiltonian
        return torch.from_numpy(fock + 1e-4 * np.ones_like(fock))


class Constant(HamiltonianModel):
    """5 hartree on the diagonal, as no molecule has."""

    def hamiltonian(self, numbers, positions, lattice=None, edges=None) -> torch.Tensor:
        return 5 * torch.eye(int(self.basis.sizes[numbers].sum()), dtype=torch.float64)


def network_of(basis: OrbitalBasis, kind: type[HamiltonianModel]) -> HamiltonianEnsemble:
    model = make_model(basis)
    model.__class__ = kind
    return HamiltonianEnsemble([model])


@pytest.fixture(scope="module")
def nearly(basis: OrbitalBasis) -> HamiltonianEnsemble:
    return network_of(basis, Nearly)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "run"
    write_run(directory)
    return directory


def settings(*given: str) -> dict:
    return plain(composed("predict", ["checkpoint=x", "structure=x", *given]))


def run(*given: str) -> None:
    predict(plain(composed("predict", list(given))))


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_a_prediction(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("water.xyz", Atoms(*WATER))
    given = (f"checkpoint={trained}", "structure=water.xyz")
    run(*given)
    output = tmp_path / "predicted" / "water"
    assert {path.name for path in output.iterdir()} == (
        {"hamiltonian.npz", "orbitals.csv", "summary.json", "levels.png"}
    )
    printed = capsys.readouterr().out
    assert "water.xyz: H2O, 3 atoms, 24 orbitals, 10 electrons\npredicted by QHNet in " in printed

    with np.load(output / "hamiltonian.npz", allow_pickle=False) as file:
        found = dict(file)
    model = write_run(tmp_path / "again")
    np.testing.assert_allclose(
        found["hamiltonian"], model.hamiltonian(*WATER), atol=1e-7
    )  # digits of the .xyz
    np.testing.assert_allclose(found["overlap"], build_molecule(*WATER).intor("int1e_ovlp"), atol=1e-7)
    h, s, c, energies = (found[key] for key in ("hamiltonian", "overlap", "coefficients", "orbital_energies"))
    np.testing.assert_allclose(h @ c, s @ c * energies, atol=1e-10)
    np.testing.assert_allclose(found["positions"], WATER[1], atol=1e-7)
    assert found["numbers"].tolist() == [8, 1, 1]
    assert int(found["electrons"]) == 10
    assert list(found["orbitals"][[0, 3, 14]]) == ["0 O 1s", "0 O 2px", "1 H 1s"]
    assert "hartree; positions: angstrom" in str(found["units"])
    assert "PySCF's def2-svp" in str(found["orbital_order"])

    rows = read_table(output / "orbitals.csv")
    assert [row["label"] for row in rows[3:7]] == ["HOMO-1", "HOMO", "LUMO", "LUMO+1"]
    assert [row["occupation"] for row in rows[3:7]] == ["2", "2", "0", "0"]
    np.testing.assert_allclose([float(row["energy_hartree"]) for row in rows], energies, atol=1e-8)
    np.testing.assert_allclose([float(row["energy_ev"]) for row in rows], energies * EV, atol=1e-5)
    summary = json.loads((output / "summary.json").read_text())["predicted"]
    assert summary["homo_hartree"] == pytest.approx(energies[4])
    assert summary["gap_ev"] == pytest.approx((energies[5] - energies[4]) * EV)
    assert f"HOMO{energies[4]:>12.5f}{energies[4] * EV:>10.3f}" in printed
    assert "DFT" not in printed

    with pytest.raises(DataError, match=r"predicted/water: exists and holds .* overwrite=true"):
        run(*given)
    with pytest.raises(CheckpointError, match="nowhere"):  # overwriting would not help
        run("checkpoint=nowhere", "structure=water.xyz")
    with pytest.raises(DataError, match=r"there\.xyz: no such file"):
        run(f"checkpoint={trained}", "structure=there.xyz", "output=predicted/water")
    run(*given, "overwrite=true")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: exists and is not a folder"):
        run(*given, "output=file")


def test_the_scf_beside_a_good_prediction(
    nearly: HamiltonianEnsemble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "water.xyz", Atoms(*WATER))
    predict_molecule(nearly, tmp_path / "water.xyz", tmp_path / "out", settings("reference=true"))
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["reference"]
    minao, guess = found["scf"]["minao"], found["scf"]["prediction"]
    label = fock_label(*WATER, "b3lyp")
    assert minao["cycles"] == label.cycles
    assert guess["cycles"] < minao["cycles"]
    assert minao["converged"]
    assert guess["converged"]
    assert guess["energy_hartree"] == pytest.approx(label.energy, abs=1e-8)
    assert found["h_mae_mev"] == pytest.approx(1e-4 * MEV["hartree"], rel=1e-3)
    assert min(minao["seconds"], guess["seconds"], guess["prediction_seconds"]) > 0
    printed = capsys.readouterr().out
    assert f"SCF from prediction{guess['cycles']:>4} cycles (counted from 1)" in printed
    assert f"{found['gap_ev']:.3f}" in printed
    rows = read_table(tmp_path / "out" / "orbitals.csv")
    assert float(rows[4]["dft_ev"]) == pytest.approx(found["homo_ev"], abs=1e-4)
    assert "warning" not in printed


def test_density_of_states_beside_the_levels(
    nearly: HamiltonianEnsemble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has DFT and the prediction; at the HOMO's upper side lie all electrons, and shares add up."""
    write(tmp_path / "hydrogen.xyz", Atoms(*HYDROGEN))
    given = settings("reference=true", "dos=true", "dos_width=0.3", "dos_shares=loewdin")
    predict_molecule(nearly, tmp_path / "hydrogen.xyz", tmp_path / "out", given)
    assert "electrons (loewdin): H s 1." in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sum(summary["dos"]["electrons"].values()) == pytest.approx(2)
    assert summary["dos"] | {"electrons": 0} == {"width_ev": 0.3, "shares": "loewdin", "electrons": 0}
    rows = [
        {name: float(value) for name, value in row.items()}
        for row in read_table(tmp_path / "out" / "dos.csv")
    ]
    for kind, prefix in (("reference", ""), ("predicted", "predicted_")):
        homo, lumo = (summary[kind][f"{name}_ev"] for name in ("homo", "lumo"))
        middle = min(rows, key=lambda row: abs(row["energy_eV"] - (homo + lumo) / 2))
        assert middle[f"{prefix}states_below"] == pytest.approx(2)
        near = min(rows, key=lambda row: abs(row["energy_eV"] - homo))
        height = 2 * np.exp(-(((near["energy_eV"] - homo) / 0.3) ** 2) / 2) / (0.3 * (2 * np.pi) ** 0.5)
        assert near[f"{prefix}states_per_eV"] == pytest.approx(height, rel=1e-4)
        parts = near[f"{prefix}H_s_per_eV"] + near[f"{prefix}H_p_per_eV"]
        assert parts == pytest.approx(height, rel=1e-4)
    assert near["energy_eV"] - near["energy_minus_homo_eV"] == pytest.approx(summary["reference"]["homo_ev"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dos_width=0", "dos_width=0 is not understood; give a number above 0"),
        ("dos_shares=becke", "dos_shares=becke is not one of mulliken, loewdin"),
        ("dos_groups=atom", "dos_groups=atom is not one of element, shell"),
        ("'dos_groups={a: [3]}'", "dos_groups: a has the atom 3, but there are atoms 1 to 2"),
        ("dos_method=polynomial", "dos_method=polynomial is for large crystals"),
    ],
)
def test_densities_that_cannot_be_made(
    nearly: HamiltonianEnsemble, tmp_path: Path, setting: str, message: str
) -> None:
    write(tmp_path / "hydrogen.xyz", Atoms(*HYDROGEN))
    with pytest.raises(ConfigError, match=message):
        predict_molecule(
            nearly, tmp_path / "hydrogen.xyz", tmp_path / "out", settings("dos=true", setting.strip("'"))
        )
    assert not (tmp_path / "out").exists()


def test_levels_of_no_molecule_are_pointed_out(
    basis: OrbitalBasis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "h2.xyz", Atoms(*HYDROGEN))
    predict_molecule(network_of(basis, Constant), tmp_path / "h2.xyz", tmp_path / "out", settings())
    printed = capsys.readouterr().out
    assert "warning: neutral molecules have no HOMO at" in printed
    assert "not been trained on molecules like this one" in printed


def test_one_frame_of_several(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    numbers, positions = HYDROGEN
    write("md.xyz", [Atoms(numbers, positions * scale) for scale in (1.0, 1.1, 1.2)])
    with pytest.raises(DataError, match=r"md\.xyz: holds 3 frames; choose one with frame=0 \.\.\. frame=2"):
        run(f"checkpoint={trained}", "structure=md.xyz")
    run(f"checkpoint={trained}", "structure=md.xyz", "frame=1")
    run(f"checkpoint={trained}", "structure=md.xyz", "frame=-1", "output=last")
    for folder, scale in (("predicted/md_1", 1.1), ("last", 1.2)):
        with np.load(tmp_path / folder / "hamiltonian.npz", allow_pickle=False) as file:
            np.testing.assert_allclose(file["positions"], positions * scale, atol=1e-7)
    for frame in (3, -4):
        with pytest.raises(DataError, match=rf"has no frame {frame}; there are frames 0 to 2"):
            run(f"checkpoint={trained}", "structure=md.xyz", f"frame={frame}", "output=other")


H2 = "2\n{}\nH 0 0 0\nH 0 0 0.74\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"given\.xyz: no such file; .* such as a \.xyz"),
        ("", r"given\.xyz: holds no atoms"),
        ("nonsense", r"given\.xyz, line 1: 'nonsense' is no number of atoms"),
        ("2\n\nH 0 0 0\nQq 0 0 1\n", r"given\.xyz, line 4: 'Qq' is no element; write its symbol"),
        (H2.format('Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 pbc="T T T"'), "is periodic"),
        (
            H2.format("Properties=species:S:1:pos:R:3 charge=1"),
            r"line 2: has charge 1 .* neutral closed shells only",
        ),
        (H2.format("Charge=1-"), "line 2: Charge=1- is not understood as a number; write charge=0"),
        (H2.format("multiplicity=3"), "line 2: has multiplicity=3"),
        (H2.format('initial_charges="1 1"'), "line 2: has atomic charges that sum to 2"),
        ("2\n\nH 0 0 0\nS 0 0 1.3\n", r"given\.xyz: atomic numbers \[16\] have no entry"),
        ("1\n\nH 0 0 0\n", r"1 electrons cannot be all paired; .* atom missing\?$"),
        ("1\ncharge=0\nH 0 0 0\n", "1 electrons cannot be all paired; the network .* closed shells only$"),
        ("2\n\nH 0 0 0\nX 0 0 1\n", "line 4: 'X' is no element but a ghost or dummy atom"),
        ("2\n\nH 0 0 0\nH 0 0 0.1\n", r"atoms 0 and 1 are 0\.100 angstrom apart"),
        ("2\n\nH 0 0 0\nH 0 0 nan\n", "not a finite number"),
        (
            "2\n\nH 0 0 0\nCl 0 0 1.3\n",
            r"\[17\] have no entry in def2-SVP of elements H, C, N, O, F; use a network .* with Cl$",
        ),
    ],
)
def test_molecules_that_cannot_be_predicted(
    trained: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "given.xyz"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TraceGradError, match=message):
        run(f"checkpoint={trained}", f"structure={path}", f"output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ("functional=pbe0", ConfigError, "functional is 'pbe0'; choose one of b3lyp, b3lyp5, pbe"),
        ("frame=first", ConfigError, "frame is 'first'; give a whole number"),
        ("basis_files=PAO", ConfigError, "basis_files=PAO is for crystals"),
        ("structure=.", DataError, "is a folder; a network of molecules needs a geometry file"),
        ("device=nowhere", ConfigError, "device=nowhere cannot be used"),
    ],
)
def test_impossible_settings(
    trained: Path, tmp_path: Path, given: str, kind: type[TraceGradError], message: str
) -> None:
    write(tmp_path / "h2.xyz", Atoms(*HYDROGEN))
    structure = () if given.startswith("structure") else (f"structure={tmp_path / 'h2.xyz'}",)
    with pytest.raises(kind, match=message):
        run(f"checkpoint={trained}", *structure, f"output={tmp_path / 'out'}", given)


def test_the_command_line(trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "h2.xyz", Atoms(*HYDROGEN))
    settings = (f"checkpoint={trained}", f"structure={tmp_path / 'h2.xyz'}", f"output={tmp_path / 'out'}")
    done = forked.run("experiments.predict", *settings)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "levels.png").stat().st_size > 5000


def test_properties_and_files_of_orbitals(
    nearly: HamiltonianEnsemble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "water.xyz", Atoms(*WATER))
    chosen = settings("properties=true", "molden=true", "cubes=[HOMO,density]", "cube_spacing=0.5")
    predict_molecule(nearly, tmp_path / "water.xyz", tmp_path / "out", chosen)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["properties"]
    label = fock_label(*WATER, "b3lyp")
    assert summary["energy_hartree"] == pytest.approx(label.energy, abs=1e-4)
    assert np.linalg.norm(summary["dipole_debye"]) == pytest.approx(2.0, abs=0.2)
    assert sum(summary["mulliken_charges"]) == pytest.approx(0, abs=1e-8)
    assert 0 < summary["scf_residual_mev"] < 20
    printed = capsys.readouterr().out
    assert "SCF residual" in printed
    assert "spurious" not in printed
    assert (tmp_path / "out" / "orbitals.molden").read_text().startswith("[Molden Format]")
    assert {path.name for path in (tmp_path / "out").glob("*.cube")} == {"HOMO.cube", "density.cube"}


def test_cubes_that_do_not_exist_are_named_before_anything_is_written(
    nearly: HamiltonianEnsemble, tmp_path: Path
) -> None:
    write(tmp_path / "water.xyz", Atoms(*WATER))
    with pytest.raises(ConfigError, match="no orbital is called 'SOMO'"):
        predict_molecule(nearly, tmp_path / "water.xyz", tmp_path / "out", settings("cubes=[SOMO]"))
    assert not (tmp_path / "out").exists()


def test_several_networks(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mean and spread in the files are those of the single predictions, named by a list or with commas."""
    write(tmp_path / "methanol.xyz", Atoms(*METHANOL))
    members = [write_run(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    each = np.stack([member.hamiltonian(*METHANOL).numpy() for member in members])
    both = f"{tmp_path / '1'},{tmp_path / '2'}"
    for k, checkpoint in enumerate((both, f"[{both}]")):
        run(
            f"checkpoint={checkpoint}",
            f"structure={tmp_path / 'methanol.xyz'}",
            f"output={tmp_path / f'out{k}'}",
        )
        with np.load(tmp_path / f"out{k}" / "hamiltonian.npz") as file:
            np.testing.assert_allclose(file["hamiltonian"], each.mean(0), atol=1e-6)  # digits of the .xyz
            np.testing.assert_allclose(file["hamiltonian_spread"], each.std(0, ddof=1), atol=1e-6)
    summary = json.loads((tmp_path / "out0" / "summary.json").read_text())
    assert summary["spread_mev"] == pytest.approx(each.std(0, ddof=1).mean() * MEV["hartree"], rel=1e-5)
    assert summary["outside_training"] == []
    rows = read_table(tmp_path / "out0" / "spread.csv")
    assert len(rows) == 6 * 7 // 2
    assert [rows[1][key] for key in ("i", "j", "atoms")] == ["1", "2", "C1-O2"]
    assert float(rows[1]["distance_angstrom"]) == pytest.approx(
        np.linalg.norm(METHANOL[1][1] - METHANOL[1][0]), abs=1e-4
    )
    block = each.std(0, ddof=1)[:14, 14:28].mean() * MEV["hartree"]
    assert float(rows[1]["spread_mev"]) == pytest.approx(block, rel=1e-4)
    assert f"spread over the networks {summary['spread_mev']:.1f} meV" in capsys.readouterr().out


def test_networks_that_do_not_belong_together(trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "h2.xyz", Atoms(*HYDROGEN))
    structure = f"structure={tmp_path / 'h2.xyz'}"
    with pytest.raises(ConfigError, match="is given twice"):
        run(f"checkpoint=[{trained},{trained}]", structure)
    write_run(tmp_path / "crystals", DEEPH_E3)
    with pytest.raises(ConfigError, match="networks 1 and 2 differ in the order of their orbitals"):
        run(f"checkpoint={trained},{tmp_path / 'crystals'}", structure)
    for name, functional in (("one", "b3lyp"), ("two", "pbe")):
        state = write_run(tmp_path / name).state_dict()
        record = {"format": 1, "config": {"model": QHNET}, "data": {"functional": functional}}
        write_checkpoint(tmp_path / name / "checkpoints" / "best.ckpt", QHNET, state, tracegrad=record)
    with pytest.raises(ConfigError, match=r"trained on Hamiltonians of b3lyp, and .* on those of pbe"):
        run(f"checkpoint={tmp_path / 'one'},{tmp_path / 'two'}", structure)
    with pytest.raises(CheckpointError, match="nowhere: no such file or directory"):
        run(f"checkpoint={trained},nowhere", structure)
    with pytest.raises(ConfigError, match=r"checkpoint is .*; give a run directory or a file, or several"):
        run("checkpoint=[]", structure)


def test_a_structure_outside_of_the_training(
    basis: OrbitalBasis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "water.xyz", Atoms(*WATER))
    network = network_of(basis, Nearly)
    network.members[0].trained_range = TrainedRange(2, {1: 0.8}, {(1, 1): ((0.7, 0.8),)})
    predict_molecule(network, tmp_path / "water.xyz", tmp_path / "out", settings())
    printed = capsys.readouterr().out
    assert "warning: outside of what the network was trained on" in printed
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["outside_training"]
    assert found[:2] == ["no training structure has O", "3 atoms; the largest training structure has 2"]
    assert all(line in printed for line in found)
