"""Orbital metrics in fit and test: logs, table, figures, cadence, crystals."""

import csv
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from callbacks.orbital_metrics import OrbitalMetrics
from experiments.training.warning_filter import quiet
from tests import crystals
from tests.callbacks.test_test_report import crystal_loaders, make_module, make_trainer
from tracegrad.backbones.qhnet import QHNet
from tracegrad.data.loading.datamodule import QH9DataModule
from tracegrad.errors import ConfigError
from tracegrad.metrics.columns import ORBITALS
from tracegrad.metrics.functional import orbital_metrics
from tracegrad.metrics.functional.orbitals import NAMES
from tracegrad.physics.molecules.dft import build_molecule
from tracegrad.units import MEV_PER_HARTREE


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with quiet():
        yield


def make_data(basis, **options) -> QH9DataModule:
    data = QH9DataModule(
        "embedded:demo_dynamic.db",
        basis,
        split="geometry",
        fractions=[0.9, 0.04, 0.06],
        train_size=10,
        dtype="float64",
        **options,
    )
    data.setup()
    return data


def make_molecules(basis):
    return make_module(QHNet(basis, lmax=1, channels=2, bottleneck=2, layers=2, pair_layers=1, radial=3))


def expected_values(module, data: QH9DataModule, part: str) -> dict[int, dict[str, float]]:
    """Metrics of every molecule of a part, computed one by one with the overlap from PySCF."""
    energies = {column.key for column in ORBITALS if column.unit == "meV"}
    found = {}
    dataset = data.parts[part]
    for row in dataset.rows.tolist():
        molecule = dataset.database[row]
        overlap = build_molecule(molecule.numbers, molecule.positions).intor("int1e_ovlp")
        values = orbital_metrics(
            module.model.hamiltonian(molecule.numbers, molecule.positions).clone(),
            torch.tensor(molecule.hamiltonian),
            torch.from_numpy(overlap),
            int(molecule.numbers.sum()) // 2,
        )
        found[row] = {
            name: float(value) * (MEV_PER_HARTREE if name in energies else 1)
            for name, value in values.items()
        }
    return found


def test_a_test_logs_means_over_all_molecules_and_writes_its_files(basis, tmp_path):
    module, data = make_molecules(basis), make_data(basis, eval_batch_size=7)
    trainer = make_trainer(tmp_path, callbacks=[OrbitalMetrics(tmp_path)])
    logs = trainer.test(module, data, verbose=False)[0]
    expected = expected_values(module, data, "test")
    assert {f"test/{name}" for name in NAMES} <= logs.keys()
    for name in NAMES:
        mean = np.mean([values[name] for values in expected.values()])
        assert logs[f"test/{name}"] == pytest.approx(mean, rel=1e-6)
    with (tmp_path / "orbitals.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == sorted(expected)
    assert rows[0].keys() == {"row", "name", "formula", "atoms", *NAMES}
    for row in rows:
        for name in NAMES:
            assert float(row[name]) == pytest.approx(expected[int(row["row"])][name], rel=1e-6)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"eps.png", "levels.png"}
    again = trainer.test(module, data, verbose=False)[0]  # counts nothing twice
    assert again == pytest.approx(logs, rel=1e-12)


def test_figures_can_be_left_out_and_a_prediction_that_is_nan_shows(basis, tmp_path):
    module, data = make_molecules(basis), make_data(basis, eval_batch_size=50)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    callback = OrbitalMetrics(tmp_path, figure_molecules=0, cache=None)
    logs = make_trainer(tmp_path, callbacks=[callback]).test(module, data, verbose=False)[0]
    assert np.isnan(logs["test/eps_mae"])
    assert np.isnan(logs["test/psi_cosine"])
    assert not (tmp_path / "figures").exists()
    assert not (tmp_path / "cache").exists()
    with (tmp_path / "orbitals.csv").open(newline="") as file:
        assert {row["eps_mae"] for row in csv.DictReader(file)} == {"nan"}
    drawing = OrbitalMetrics(tmp_path)
    make_trainer(tmp_path, callbacks=[drawing]).test(module, data, verbose=False)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"eps.png"}


class Watch(lightning.Callback):
    """The logs of each validation agree with the values of its molecules, computed one by one."""

    def __init__(self, data: QH9DataModule):
        self.data = data
        self.logs: list[dict[str, float]] = []
        self.expected: list[dict[int, dict[str, float]]] = []

    def on_validation_end(self, trainer, pl_module):
        self.logs.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.expected.append(expected_values(pl_module, self.data, "val"))
        for name in [name for name in trainer.callback_metrics if "eps_mae" in name]:
            trainer.callback_metrics.pop(name)


def test_validation_at_the_cadence_on_the_molecules_asked_for(basis, tmp_path):
    module, data = make_molecules(basis), make_data(basis, batch_size=5, eval_batch_size=4)
    watch = Watch(data)
    callback = OrbitalMetrics(tmp_path, every_n_validations=2, val_molecules=6)
    trainer = make_trainer(tmp_path, max_epochs=3, num_sanity_val_steps=2, callbacks=[callback, watch])
    trainer.fit(module, data)
    sanity, *validations = watch.logs
    assert "val/eps_mae" not in sanity
    rows = data.parts["val"].rows
    chosen = rows[np.linspace(0, len(rows) - 1, 6).astype(int)].tolist()
    assert len(set(chosen)) == 6 < len(rows)
    for k, logs in enumerate(validations):
        if k == 1:
            continue
        for name in ("eps_mae", "psi_cosine"):
            mean = np.mean([watch.expected[k + 1][row][name] for row in chosen])
            assert logs[f"val/{name}"] == pytest.approx(mean, rel=1e-5), (k, name)
    assert validations[0]["val/psi_overlap"] == validations[1]["val/psi_overlap"]  # not logged anew
    assert validations[1]["val/psi_overlap"] != validations[2]["val/psi_overlap"]
    assert callback.state_dict() == {"validations": 3}


def test_a_rank_without_a_validation_batch_does_its_share_all_the_same(basis, tmp_path, monkeypatch):
    module, data = make_molecules(basis), make_data(basis, eval_batch_size=4)
    callback, logs = OrbitalMetrics(tmp_path, val_molecules=3), []
    for with_batches in (True, False):
        if not with_batches:
            monkeypatch.setattr(callback, "on_validation_batch_start", lambda *arguments: None)
        trainer = make_trainer(tmp_path, callbacks=[callback])
        logs.append(trainer.validate(module, data, verbose=False)[0])
    assert f"val/{NAMES[0]}" in logs[0]
    assert logs[1] == pytest.approx(logs[0], rel=1e-9)


def test_no_validation_molecules(basis, tmp_path):
    module, data = make_molecules(basis), make_data(basis, batch_size=10, eval_batch_size=20)
    trainer = make_trainer(
        tmp_path, max_epochs=1, num_sanity_val_steps=0, callbacks=[OrbitalMetrics(tmp_path, val_molecules=0)]
    )
    trainer.fit(module, data)
    assert "val/h_mae" in trainer.callback_metrics
    assert "val/eps_mae" not in trainer.callback_metrics
    assert not (tmp_path / "cache").exists()


def test_crystals_are_left_out_and_it_is_said_once(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("callbacks.orbital_metrics.rank_zero_info", said.append)
    module = make_module(crystals.SmallBackbone(crystals.SPINLESS))
    loader = crystal_loaders(crystals.SPINLESS)[0]
    trainer = make_trainer(
        tmp_path, max_epochs=1, num_sanity_val_steps=0, callbacks=[OrbitalMetrics(tmp_path)]
    )
    trainer.fit(module, loader, loader)
    logs = trainer.test(module, loader, verbose=False)[0]
    assert "test/h_mae" in logs
    assert "test/eps_mae" not in logs
    assert said == ["orbital metrics are left out: they are defined for molecules, and these are crystals"]
    assert not (tmp_path / "orbitals.csv").exists()


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="every_n_validations is 0"):
        OrbitalMetrics(tmp_path, every_n_validations=0)
    with pytest.raises(ConfigError, match="val_molecules is -1"):
        OrbitalMetrics(tmp_path, val_molecules=-1)
