"""A test with several loaders: logs, tables and figures of molecules and crystals."""

import csv
from functools import partial
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.test_report import TestReport, drawn_sample, shell_names
from experiments.training.warning_filter import quiet
from tests import crystals, molecules
from tracegrad.backbones.qhnet import QHNet
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.model.network import HamiltonianModel, HamiltonianPrediction
from tracegrad.reports.results import read_block_mae
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.module import HamiltonianModule
from tracegrad.training.schedule import WarmupLinear
from tracegrad.units import MEV


def make_module(backbone) -> HamiltonianModule:
    optimizer = partial(torch.optim.AdamW, weight_decay=0.01)
    return HamiltonianModule(
        HamiltonianModel(backbone.double()), HamiltonianLoss, optimizer, WarmupLinear(1e-3, 1e-5, 2, 10)
    )


def make_trainer(directory: Path, **options) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
        **options,
    )


@pytest.fixture(autouse=True)
def _quiet():
    """Without warnings of Lightning that do not apply."""
    with quiet():
        yield


def make_loader(graphs: list, batch_size: int = 3) -> DataLoader:
    return DataLoader(graphs, batch_size, collate_fn=collate)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def crystal_loaders(basis: OrbitalBasis) -> list[DataLoader]:
    samples = [crystals.labelled_graph(c, basis, seed) for seed, c in enumerate(crystals.ALL)]
    return [make_loader(samples), make_loader(samples[:1], 1)]


@pytest.mark.parametrize("basis", [crystals.SPINLESS, crystals.SPINFUL])
def test_every_loader_has_its_own_logs_and_files(basis, tmp_path):
    module = make_module(crystals.SmallBackbone(basis))
    module.test_subsets = ["", "twisted"]
    loaders = crystal_loaders(basis)
    trainer = make_trainer(tmp_path, callbacks=[TestReport(tmp_path)])
    logs = trainer.test(module, loaders, verbose=False)[0]
    names = {
        f"test/{name}{end}" for name in ("h_mae", "h_mae_diag", "h_mae_nondiag") for end in ("", "/twisted")
    }
    assert logs.keys() == names
    for loader, ending in zip(loaders, ("", "twisted"), strict=True):
        metric = HamiltonianMAE(basis)
        for graph in loader:
            metric.update(module.model(graph), graph)
        expected = metric.compute()
        for name in ("h_mae", "h_mae_diag", "h_mae_nondiag"):
            found = logs[f"test/{name}" + (f"/{ending}" if ending else "")]
            assert found == pytest.approx(1000 * float(expected[name]), rel=1e-6)
        blocks = read_block_mae(tmp_path / ("block_mae" + (f"-{ending}" if ending else "") + ".csv"))
        assert blocks.rows == blocks.columns == tuple(shell_names(basis))
        np.testing.assert_allclose(blocks.values, 1000 * expected["h_mae_block"].detach().numpy())

    rows = table(tmp_path / "test_samples.csv")
    assert list(rows[0]) == [
        "row",
        "name",
        "subset",
        "formula",
        "atoms",
        "h_mae",
        "h_mae_diag",
        "h_mae_nondiag",
    ]
    assert [(row["subset"], row["row"], row["name"]) for row in rows] == [
        *(("", str(i), str(i)) for i in range(4)),
        ("twisted", "0", "0"),
    ]
    assert [row["formula"] for row in rows] == ["MoS2", "S", "Mo", "MoS2", "MoS2"]
    assert rows[2]["h_mae_nondiag"] == rows[3]["h_mae_diag"] == "nan"
    mean = np.mean([float(row["h_mae"]) for row in rows[:4]])
    assert logs["test/h_mae"] == pytest.approx(mean, rel=1e-6)
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("elements", "hamiltonian", "block_mae")
    assert figures == {f"{kind}{end}.png" for kind in kinds for end in ("", "-twisted")}

    again = trainer.test(module, loaders, verbose=False)[0]  # counts nothing twice
    assert again == logs


def test_samples_have_the_names_of_the_data_and_figures_can_be_left_out(tmp_path):
    module = make_module(crystals.SmallBackbone(crystals.SPINLESS))
    trainer = make_trainer(tmp_path, callbacks=[TestReport(tmp_path, figure_samples=0)])
    module.sample_name = "cell_{:03d}".format
    trainer.test(module, crystal_loaders(crystals.SPINLESS)[:1], verbose=False)
    assert [row["name"] for row in table(tmp_path / "test_samples.csv")] == [
        f"cell_{i:03d}" for i in range(4)
    ]
    assert not (tmp_path / "figures").exists()


def test_molecules(basis, tmp_path):
    backbone = QHNet(basis, lmax=1, channels=2, bottleneck=2, layers=2, pair_layers=1, radial=3)
    module = make_module(backbone)
    graphs = [molecules.labelled_graph(m, basis, seed) for seed, m in enumerate(molecules.ALL)]
    trainer = make_trainer(tmp_path, callbacks=[TestReport(tmp_path, figure_samples=4)])
    logs = trainer.test(module, make_loader(graphs), verbose=False)[0]
    rows = table(tmp_path / "test_samples.csv")
    for row, molecule in zip(rows, molecules.ALL, strict=True):
        expected = molecules.random_hamiltonian(molecule[0], basis, int(row["row"]))
        error = np.abs(module.model.hamiltonian(*molecule).numpy() - expected).mean()
        assert float(row["h_mae"]) == pytest.approx(MEV["hartree"] * error, rel=1e-10)
    mean = np.mean([float(row["h_mae"]) for row in rows])
    assert logs["test/h_mae"] == pytest.approx(mean, rel=1e-6)
    assert (tmp_path / "figures" / "hamiltonian.png").is_file()


def test_elements_of_molecules_are_told_apart_by_atoms(basis):
    graphs = [molecules.labelled_graph(m, basis, seed) for seed, m in enumerate(molecules.ALL)]
    batch = collate(graphs)
    prediction = HamiltonianPrediction({"self": 2 * batch.h_self, "edge": 2 * batch.h_edge})
    for k, (numbers, _) in enumerate(molecules.ALL):
        drawn = drawn_sample(prediction, batch, basis, k, 1.5)
        dense = molecules.random_hamiltonian(numbers, basis, k)
        atom = np.repeat(np.arange(len(numbers)), basis.sizes[numbers])
        same = atom[:, None] == atom[None]
        assert np.array_equal(drawn.dense, [dense, 2 * dense])
        for found, expected in ((drawn.on_site, dense[same]), (drawn.off_site, dense[~same])):
            assert np.array_equal(np.sort(found[0]), np.sort(expected))
            assert np.array_equal(2 * found[0], found[1])
        assert drawn.error == 1.5
        assert not drawn.periodic


@pytest.mark.parametrize("basis", [crystals.SPINLESS, crystals.SPINFUL])
def test_dense_matrix_of_a_crystal_is_that_of_the_cell(basis):
    batch = collate([crystals.labelled_graph(c, basis, seed) for seed, c in enumerate(crystals.ALL)])
    prediction = HamiltonianPrediction({"edge": 1j * batch.h_edge if basis.spinful else -batch.h_edge})
    for k, (numbers, _, _, edges) in enumerate(crystals.ALL):
        drawn = drawn_sample(prediction, batch, basis, k, 0.0)
        entries = crystals.random_entries(crystals.ALL[k], basis, k)
        start = basis.sizes[numbers].cumsum() - basis.sizes[numbers]
        n = basis.sizes[numbers].sum()
        expected = np.full((n, n), np.nan, entries.dtype)
        at, on_site, pairs = 0, [], []
        for *cell, i, j in edges.tolist():
            rows, columns = basis.sizes[numbers[[i, j]]]
            block = entries[at : at + rows * columns].reshape(rows, columns)
            at += rows * columns
            (pairs if any(cell) or i != j else on_site).append(block.ravel())
            if not any(cell):
                expected[start[i] : start[i] + rows, start[j] : start[j] + columns] = block
        np.testing.assert_array_equal(drawn.dense[0], expected)
        np.testing.assert_array_equal(drawn.dense[1], (1j if basis.spinful else -1) * expected)
        for found, parts in ((drawn.on_site, on_site), (drawn.off_site, pairs)):
            assert np.array_equal(np.sort(found[0]), np.sort(np.concatenate([[], *parts])))
        assert drawn.periodic


def test_of_large_cells_there_is_no_dense_matrix(monkeypatch):
    monkeypatch.setattr("callbacks.test_report.LARGEST_CELL", 2)
    batch = collate([crystals.labelled_graph(crystals.MOS2, crystals.SPINLESS)])
    assert (
        drawn_sample(HamiltonianPrediction({"edge": batch.h_edge}), batch, crystals.SPINLESS, 0, 0.0).dense
        is None
    )


def test_names_of_shells(basis):
    assert shell_names(basis) == ["1s", "2s", "3s", "1p", "2p", "1d"]
    spatial = ["1s", "2s", "1p", "1d"]
    assert shell_names(crystals.SPINFUL) == [name + spin for spin in "+-" for name in spatial]


def test_the_schedule_and_the_validation_losses(tmp_path):
    basis = crystals.SPINFUL
    module = make_module(crystals.SmallBackbone(basis))
    graphs = [crystals.labelled_graph(c, basis, seed) for seed, c in enumerate(crystals.ALL)]
    trainer = make_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(module, make_loader(graphs, 2), make_loader(graphs, 3))
    terms = module.loss(module.model(collate(graphs)), collate(graphs))
    # Without traces both are means over samples, however the samples are batched.
    for name in ("val/loss", "val/loss_h"):
        assert float(trainer.callback_metrics[name]) == pytest.approx(
            float(terms.shares["h"].detach()), rel=1e-6
        )
    assert "val/h_mae_nondiag" in trainer.callback_metrics
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3)  # after two steps of warm-up
