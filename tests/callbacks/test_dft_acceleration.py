"""DFT acceleration at the end of a test: logs, table and figure agree with SCF runs of each molecule."""

import csv
import os
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from callbacks.dft_acceleration import DFTAcceleration, _of_all_ranks
from experiments.training.warning_filter import quiet
from tests import crystals
from tests.callbacks.test_test_report import crystal_loaders, make_trainer
from tests.model.test_network import make_model
from tracegrad.backbones.qhnet import QHNet
from tracegrad.data.loading.datamodule import MoleculeDataset, database_path
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.model.network import HamiltonianModel, HamiltonianPrediction
from tracegrad.physics.molecules.acceleration import ScfSettings, ScfTask, mean_absolute, solve
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.module import HamiltonianModule
from tracegrad.training.schedule import WarmupLinear
from tracegrad.units import MEV

DATABASE = "embedded:demo_dynamic.db"
ROWS = [3, 103, 210, 211]  # water, HCN, NH3
FACTOR = 1.001


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


def make_module(backbone, **record) -> HamiltonianModule:
    return HamiltonianModule(
        HamiltonianModel(backbone.double()),
        HamiltonianLoss,
        partial(torch.optim.AdamW, weight_decay=0.01),
        WarmupLinear(1e-3, 1e-5, 2, 10),
        {"data": {"functional": "b3lyp", **record}},
    )


@pytest.fixture
def module(basis, monkeypatch) -> HamiltonianModule:
    """Predicts the labels times `FACTOR`: another matrix with the correct density."""
    module = make_module(QHNet(basis, lmax=1, channels=2, bottleneck=2, layers=1, pair_layers=1, radial=3))
    blocks = {"self": "h_self", "edge": "h_edge"}

    def predict(graph, *, traces=True):
        return HamiltonianPrediction({site: FACTOR * graph[label] for site, label in blocks.items()})

    monkeypatch.setattr(module.model, "forward", predict)
    return module


@pytest.fixture
def dataset(basis: OrbitalBasis) -> MoleculeDataset:
    return MoleculeDataset(QH9Database(database_path(DATABASE)), np.array(ROWS), basis, torch.float64)


def make_loader(dataset) -> DataLoader:
    return DataLoader(dataset, 3, collate_fn=collate)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_logs_table_and_figure_are_those_of_single_runs(module, dataset, tmp_path):
    callback = DFTAcceleration(tmp_path / "run", molecules=2, jobs=2, cache=str(tmp_path / "cache"))
    trainer = make_trainer(tmp_path, callbacks=[callback])
    logs = trainer.test(module, make_loader(dataset), verbose=False)[0]
    chosen = sorted(np.random.default_rng(43).choice(ROWS, 2, replace=False).tolist())
    rows = read(tmp_path / "run" / "acceleration.csv")
    assert [(int(row["row"]), row["guess"]) for row in rows] == [
        (row, guess) for row in chosen for guess in ("minao", "1e")
    ]
    achieved: dict[str, list[float]] = {"minao": [], "1e": []}
    levels: dict[str, list[float]] = {"minao": [], "1e": []}
    for row in rows:
        m = dataset.database[int(row["row"])]
        predicted = FACTOR * m.hamiltonian
        data, settings = (0, m.numbers, m.positions, m.hamiltonian), ScfSettings("b3lyp")
        start = solve(ScfTask(*data, "prediction", predicted), settings)
        guess = solve(ScfTask(*data, row["guess"]), settings)
        hit = next(k for k, e in enumerate(guess.errors) if e < mean_absolute(predicted, m.hamiltonian))
        assert (int(row["cycles_prediction"]), int(row["cycles_guess"])) == (start.cycles, guess.cycles)
        assert int(row["first_hit"]) == hit
        achieved[row["guess"]].append(start.cycles / guess.cycles)
        levels[row["guess"]].append(hit / guess.cycles)
        assert float(row["achieved_ratio"]) == achieved[row["guess"]][-1]
        assert row["same_state"] == row["converged_guess"] == row["converged_prediction"] == "1"
    for guess in ("minao", "1e"):
        for name, values in (("achieved_ratio", achieved[guess]), ("error_level_ratio", levels[guess])):
            assert logs[f"test/{name}_{guess}"] == pytest.approx(np.mean(values), rel=1e-6)
            assert logs[f"test/{name}_{guess}_std"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
        saved = np.mean([float(row["seconds_saved"]) for row in rows if row["guess"] == guess])
        assert logs[f"test/scf_seconds_saved_{guess}"] == pytest.approx(saved, rel=1e-5)
        assert logs[f"test/scf_level_not_reached_{guess}"] == 0
    # The first density is already the correct one.
    assert logs["test/achieved_ratio_minao"] < 0.5
    assert 0 <= logs["test/scf_energy_error_1"] < 0.01
    assert 0 <= logs["test/scf_energy_error_2"] < 0.01
    assert (logs["test/scf_same_state"], logs["test/scf_not_converged"], logs["test/scf_molecules"]) == (
        1,
        0,
        2,
    )
    assert (tmp_path / "run" / "figures" / "scf.png").is_file()
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert len(list((tmp_path / "run" / "scf").iterdir())) == 2

    # A second test reads all runs from the disk: no time is measured again.
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    again = trainer.test(module, make_loader(dataset), verbose=False)[0]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == times
    same = [name for name in logs if "seconds" not in name]
    # Two molecules have no rank correlation: nan.
    np.testing.assert_equal({name: again[name] for name in same}, {name: logs[name] for name in same})


def test_the_mean_of_several_networks(module, dataset, tmp_path, basis):
    """Further networks that predict 1.001 and 1.002 of the first one's H."""

    class Known(HamiltonianModel):
        def hamiltonian(self, numbers, positions, lattice=None, edges=None):
            label = next(
                dataset.database[row]
                for row in ROWS
                if np.array_equal(dataset.database[row].positions, positions)
            )
            return torch.from_numpy(self.factor * FACTOR * label.hamiltonian)

    members = []
    for factor in (1.001, 1.002):
        model = make_model(basis, "none")
        model.__class__, model.factor = Known, factor
        members.append(model)
    callback = DFTAcceleration(
        tmp_path, molecules=1, guesses=["minao"], jobs=1, cache=None, forces=False, members=members
    )
    logs = make_trainer(tmp_path, callbacks=[callback]).test(module, make_loader(dataset), verbose=False)[0]
    (result,) = callback.results
    label = dataset.database[result.row].hamiltonian
    # Sample standard deviation of 1, 1.001 and 1.002.
    expected = 1e-3 * FACTOR * np.abs(label).mean()
    assert result.spread == pytest.approx(expected, rel=1e-9)
    assert result.level == pytest.approx(mean_absolute(1.001 * FACTOR * label, label), rel=1e-9)
    assert logs["test/ensemble_spread"] == pytest.approx(expected * MEV["hartree"], rel=1e-6)
    assert float(read(tmp_path / "acceleration.csv")[0]["ensemble_spread"]) == pytest.approx(
        expected * MEV["hartree"], rel=1e-9
    )


def test_another_functional_is_noticed_and_a_level_never_reached_is_counted(
    module, dataset, tmp_path, capsys
):
    callback = DFTAcceleration(
        tmp_path, molecules=1, guesses=["minao"], functional="b3lyp5", jobs=1, cache=None
    )
    module.model.forward = lambda graph, traces=True: HamiltonianPrediction(
        {"self": graph.h_self, "edge": graph.h_edge}
    )
    trainer = make_trainer(tmp_path, callbacks=[callback])
    logs = trainer.test(module, make_loader(Subset(dataset, [0])), verbose=False)[0]
    assert logs["test/scf_level_not_reached_minao"] == 1
    assert logs["test/error_level_ratio_minao"] == 1
    assert "1 of 1 molecules differ from the labels" in capsys.readouterr().out
    assert read(tmp_path / "acceleration.csv")[0]["first_hit"] == ""
    assert len(list((tmp_path / "scf").iterdir())) == 2  # without a cache guesses are kept there, too


def test_a_molecule_without_scf_is_named_and_left_out(module, dataset, tmp_path, capsys):
    callback = DFTAcceleration(
        tmp_path, molecules=1, guesses=["minao"], jobs=1, cache=str(tmp_path / "cache")
    )
    module.model.forward = lambda graph, traces=True: HamiltonianPrediction(
        {"self": torch.nan * graph.h_self, "edge": graph.h_edge}
    )
    trainer = make_trainer(tmp_path, callbacks=[callback])
    logs = trainer.test(module, make_loader(Subset(dataset, [0])), verbose=False)[0]
    assert logs["test/scf_molecules"] == 0
    assert np.isnan(logs["test/achieved_ratio_minao"])
    assert "left out row 3 (3), SCF from prediction: the Hamiltonian" in capsys.readouterr().out
    assert read(tmp_path / "acceleration.csv") == []


def test_the_first_prediction_is_not_timed_with_what_it_loads(module, dataset, tmp_path, monkeypatch):
    predict, calls = module.model.forward, []

    def slow_at_first(graph, *, traces=True):
        calls.append(graph.num_graphs)
        if len(calls) == 1:
            time.sleep(1.0)
        return predict(graph, traces=traces)

    monkeypatch.setattr(module.model, "forward", slow_at_first)
    callback = DFTAcceleration(tmp_path, molecules=1, guesses=["minao"], jobs=1, cache=None)
    trainer = make_trainer(tmp_path, callbacks=[callback])
    logs = trainer.test(module, make_loader(Subset(dataset, [0])), verbose=False)[0]
    assert calls == [1, 1, 1]  # loads, is timed, and is what the SCF starts from
    (result,) = callback.results
    assert result.seconds_predicting < 0.9
    wall = logs["test/scf_wall_seconds_saved_minao"]
    assert wall == pytest.approx(result.wall_seconds_saved("minao"), rel=1e-6)


def _rank(rank: int, store: str, ends: bool) -> None:
    """One of two ranks; the second fails or ends without a message. Writes the error that it sees into a file."""
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)

    def work():
        if rank and ends:
            os._exit(0)
        if rank:
            raise MemoryError("no room")
        return [], ["row 3"]

    try:
        _of_all_ranks(SimpleNamespace(world_size=2), work)
    except Exception as error:
        Path(f"{store}.{rank}").write_text(f"{type(error).__name__}: {error}")
    os._exit(0)


@pytest.mark.parametrize("ends", [False, True])
def test_no_rank_waits_for_one_that_failed(tmp_path, ends):
    store = tmp_path / "store"
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, str(store), ends)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)  # far more than it needs, also on a busy machine
        alive = process.is_alive()
        process.kill()
        assert not alive
    said = [path.read_text() for path in sorted(tmp_path.glob("store.*"))]
    if ends:
        assert len(said) == 1
    else:
        first = "TraceGradError: DFT acceleration failed on rank 1: MemoryError: no room"
        assert said == [first, "MemoryError: no room"]


def test_nothing_happens_without_molecules_and_for_crystals(module, dataset, tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[DFTAcceleration(tmp_path / "a", molecules=0)])
    logs = trainer.test(module, make_loader(dataset), verbose=False)[0]
    plain = make_module(crystals.SmallBackbone(crystals.SPINLESS), functional="unknown")
    trainer = make_trainer(tmp_path, callbacks=[DFTAcceleration(tmp_path / "a")])
    logs |= trainer.test(plain, crystal_loaders(crystals.SPINLESS)[:1], verbose=False)[0]
    assert logs.keys() == {"test/h_mae", "test/h_mae_diag", "test/h_mae_nondiag"}
    assert not (tmp_path / "a").exists()


def test_mistakes_are_named_before_a_training(module, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    module.record["data"]["functional"] = "unknown"
    with pytest.raises(
        ConfigError, match=r"'unknown', and .* one of b3lyp, b3lyp5, pbe, .*: set data\.functional"
    ):
        DFTAcceleration(tmp_path).setup(trainer, module, "fit")
    DFTAcceleration(tmp_path, functional="b3lyp5").setup(trainer, module, "fit")
    monkeypatch.setitem(sys.modules, "gpu4pyscf", None)
    with pytest.raises(ConfigError, match="gpu4pyscf cannot be used"):
        DFTAcceleration(tmp_path, functional="b3lyp", gpu=True).setup(trainer, module, "fit")
    for arguments, message in (
        ({"molecules": -1}, "molecules is -1"),
        ({"jobs": 0}, "jobs is 0"),
        ({"jobs": 1.5}, "jobs is 1.5"),
        ({"guesses": ["atom"]}, r"guesses are \['atom'\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            DFTAcceleration(tmp_path, **arguments)
    unfit = make_module(module.model.backbone)
    with pytest.raises(ConfigError, match="needs molecules of a database"):
        make_trainer(tmp_path, callbacks=[DFTAcceleration(tmp_path)]).test(
            unfit, DataLoader([1]), verbose=False
        )
