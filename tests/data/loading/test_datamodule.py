import pickle
import shutil

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from tests.data import databases
from tracegrad.data.loading.datamodule import MoleculeDataset, QH9DataModule, database_path
from tracegrad.data.qh9.database import QH9Database
from tracegrad.data.splits import PARTS, split_hash
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import assemble_matrix
from tracegrad.hamiltonian.graph import collate

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes"),  # on one core
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
]


def demo(basis: OrbitalBasis, **options) -> QH9DataModule:
    """The embedded molecules, divided by size."""
    defaults = {"split": "ood", "thresholds": (6, 8), "batch_size": 4, "eval_batch_size": 5}
    module = QH9DataModule("embedded:demo_stable.db", basis, **defaults | options)
    module.setup()
    return module


def order(loader: DataLoader) -> list[list[int]]:
    return [batch.sample_id.tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def assert_same_batches(loader: DataLoader, other: DataLoader) -> None:
    for left, right in zip(loader, other, strict=True):
        assert left.keys() == right.keys()
        for key in left.keys():  # noqa: SIM118
            assert torch.equal(torch.as_tensor(left[key]), torch.as_tensor(right[key])), key


@pytest.mark.parametrize("name", ["demo_stable.db", "demo_dynamic.db"])
def test_batches_hold_the_hamiltonians_of_the_database(basis, name):
    database = QH9Database(database_path(f"embedded:{name}"))
    rows = np.random.default_rng(0).permutation(len(database))[:40]
    loader = DataLoader(MoleculeDataset(database, rows, basis, torch.float64), 7, collate_fn=collate)
    found = []
    for batch in loader:
        edges = batch.ptr[batch.batch[batch.edge_index[1]]]  # first atom of each edge's molecule
        for graph in range(batch.num_graphs):
            atoms = batch.batch == graph
            pairs = edges == batch.ptr[graph]
            row = int(batch.sample_id[graph])
            molecule = database[row]
            matrix = assemble_matrix(batch.h_self[atoms], batch.h_edge[pairs], molecule.numbers, basis)
            assert np.array_equal(matrix.numpy(), molecule.hamiltonian)
            assert np.array_equal(batch.numbers[atoms].numpy(), molecule.numbers)
            assert np.array_equal(batch.positions[atoms].numpy(), molecule.positions)
            found.append(row)
    assert found == rows.tolist()


def test_float32_is_the_rounded_float64(basis):
    single, double = (demo(basis, dtype=dtype).parts["val"][2] for dtype in ("float32", "float64"))
    for key in ("positions", "h_self", "h_edge"):
        assert single[key].dtype == torch.float32
        assert torch.equal(single[key], double[key].float())


@pytest.mark.parametrize("part", PARTS)
def test_any_number_of_workers_gives_the_same_batches(basis, part):
    loaders = [getattr(demo(basis, num_workers=n), f"{part}_dataloader")() for n in (0, 2)]
    assert_same_batches(*loaders)


def test_spawned_workers_give_the_same_batches(basis):
    module = demo(basis)
    dataset = module.parts["train"]
    _ = dataset[0]  # opens a connection in this process
    options = {"batch_size": 6, "collate_fn": collate}
    spawned = DataLoader(dataset, num_workers=2, multiprocessing_context="spawn", **options)
    assert_same_batches(spawned, DataLoader(dataset, **options))


def test_errors_in_workers_keep_their_type_and_message(basis, tmp_path, samples):
    path = databases.write_stable(tmp_path / "QH9.db", samples)
    databases.alter(path, "UPDATE data SET Ham = NULL WHERE id = 3")
    dataset = MoleculeDataset(QH9Database(path), np.arange(7), basis)
    with pytest.raises(DataError, match=r"QH9\.db: row 3: column Ham is NoneType"):
        list(DataLoader(dataset, 2, num_workers=1, collate_fn=collate))  # torch waits 5 s for each worker


def test_loaders(basis):
    module = demo(basis)
    assert sorted(flat(order(module.train_dataloader()))) == module.split["train"].tolist()
    assert {len(rows) for rows in order(module.train_dataloader())} <= {3, 4}
    for part, loader in (("val", module.val_dataloader()), ("test", module.test_dataloader())):
        assert flat(order(loader)) == module.split[part].tolist()
        assert len(order(loader)[0]) == 5
    assert order(demo(basis, seed=1).train_dataloader()) != order(module.train_dataloader())
    assert order(demo(basis, seed=0).train_dataloader()) == order(module.train_dataloader())


class Recorder(lightning.LightningModule):
    """Records the rows of each epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_rows: dict[int, list[int]] = {}
        self.val_rows: dict[int, list[int]] = {}

    def training_step(self, graph, batch_idx: int) -> torch.Tensor:
        self.train_rows.setdefault(self.current_epoch, []).extend(graph.sample_id.tolist())
        return self.weight**2

    def validation_step(self, graph, batch_idx: int) -> None:
        self.val_rows.setdefault(self.current_epoch, []).extend(graph.sample_id.tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(datamodule: QH9DataModule, epochs: int, callbacks: list, checkpoint: str | None = None) -> Recorder:
    recorder = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        callbacks=callbacks,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
    )
    trainer.fit(
        recorder, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True if checkpoint else None
    )
    return recorder


@pytest.mark.parametrize("workers", [0, 2])
def test_the_trainer_sets_the_epoch(basis, workers):
    datamodule = demo(basis, num_workers=workers)
    recorder = fit(datamodule, 2, [])
    assert sorted(recorder.train_rows) == [0, 1]
    for epoch, rows in recorder.train_rows.items():
        loader = demo(basis).train_dataloader()
        loader.batches.set_epoch(epoch)
        assert rows == flat(order(loader))
        assert recorder.val_rows[epoch] == datamodule.split["val"].tolist()
    assert recorder.train_rows[0] != recorder.train_rows[1]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_a_resumed_run_continues_with_the_order_of_its_epoch(basis, tmp_path):
    straight = fit(demo(basis), 3, [])
    fit(demo(basis), 1, [ModelCheckpoint(tmp_path, save_last=True)])
    saver = ModelCheckpoint(tmp_path, save_last=True)
    continued = fit(demo(basis), 3, [saver], str(tmp_path / "last.ckpt"))
    assert continued.train_rows == {epoch: straight.train_rows[epoch] for epoch in (1, 2)}


def test_train_size_takes_evenly_spaced_rows(basis):
    whole, part = demo(basis), demo(basis, train_size=5)
    rows = whole.split["train"].tolist()
    assert part.split["train"].tolist() == [rows[round(i * (len(rows) - 1) / 4 - 0.49)] for i in range(5)]
    for size in range(1, len(rows) + 1):
        taken = demo(basis, train_size=size).split["train"].tolist()
        assert len(set(taken)) == size
        assert taken == sorted(taken)
        assert set(taken) <= set(rows)
    for name in ("val", "test"):
        assert np.array_equal(part.split[name], whole.split[name])
    assert part.fingerprint()["split_hash"] != whole.fingerprint()["split_hash"]


def test_fingerprint(basis, tmp_path, released):
    found = demo(basis, label="molecules", functional="b3lyp5").fingerprint()
    module = demo(basis)
    assert found | {"bytes": 0, "head_sha256": ""} == {
        "database": "demo_stable.db",
        "label": "molecules",
        "flavour": "stable",
        "release": "custom",
        "bytes": 0,
        "head_sha256": "",
        "split": "ood",
        "split_hash": split_hash(module.split),
        "counts": {part: len(module.split[part]) for part in PARTS},
        "functional": "b3lyp5",
        "basis": "def2-SVP",
        "units": {"hamiltonian": "hartree", "positions": "angstrom"},
        "differences": [],
    }
    assert (
        found
        == QH9DataModule(
            "embedded:demo_stable.db",
            basis,
            split="ood",
            thresholds=[6, 8],
            label="molecules",
            functional="b3lyp5",
        ).fingerprint()
    )
    # Not given: read from the provenance file beside the database.
    assert demo(basis).fingerprint()["functional"] == "b3lyp5"

    copy = shutil.copy(database_path("embedded:demo_stable.db"), tmp_path / "demo_stable.db")
    databases.alter(copy, "UPDATE data SET N = N")  # a write: the header of the file counts it
    databases.alter(copy, "CREATE TABLE other (id INTEGER)")
    other = QH9DataModule(str(copy), basis, split="ood", thresholds=(6, 8)).fingerprint()
    assert other["head_sha256"] != found["head_sha256"]
    assert other["functional"] == "unknown"

    # The functional of a released file is known, whatever the configuration says.
    module = QH9DataModule(
        str(released["dynamic_100k"]), basis, database="dynamic_100k", split="mol", functional="pbe"
    )
    assert module.fingerprint()["functional"] == "b3lyp"
    assert module.fingerprint()["counts"] == {"train": 79_900, "val": 9_900, "test": 10_100}


def test_fingerprint_names_the_index_file_that_made_the_split(basis, tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, train=[4, 2], val=[0], test=[1])
    found = demo(basis, index_file=str(path)).fingerprint()  # the name of a split is set too
    assert found["split"] == str(path)
    assert found["counts"] == {"train": 2, "val": 1, "test": 1}


def test_settings_of_the_types_of_hydra(basis):
    lists = OmegaConf.create({"thresholds": [6, 8]})
    assert split_hash(demo(basis, thresholds=lists.thresholds).split) == split_hash(demo(basis).split)


def test_datasets_are_pickled_with_their_basis(basis):
    dataset = demo(basis).parts["val"]
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == len(dataset)
    assert torch.equal(copy[1].h_edge, dataset[1].h_edge)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "data.batch_size is 0; at least 1"),
        ({"eval_batch_size": -2}, ConfigError, "data.eval_batch_size is -2"),
        ({"num_workers": -1}, ConfigError, "data.num_workers is -1; 0 or more"),
        ({"dtype": "float16"}, ConfigError, r"data.dtype is 'float16'; choose one of \['float32'"),
        ({"database": "QS"}, ConfigError, r"data.database is 'QS'; choose one of \['stable'"),
        ({"train_size": -1}, ConfigError, "data.train_size is -1; give a number of samples"),
        ({"train_size": 10_000}, DataError, r"demo_stable\.db: data.train_size is 10000, but the train part"),
        ({"database": "stable"}, DataError, r"asks for stable \(130,831 rows\).*43 rows.*to custom"),
        ({"thresholds": None}, DataError, "set data.thresholds"),
        ({"split": "mol"}, DataError, "no split 'mol' for a stable database"),
    ],
)
def test_bad_settings(basis, options, error, message):
    with pytest.raises(error, match=message):
        demo(basis, **options)


def test_the_wrong_release_is_refused(basis, released):
    module = QH9DataModule(
        str(released["dynamic_300k"]), basis, database="dynamic_100k", label="QD", split="mol"
    )
    with pytest.raises(DataError, match=r"300k\.db: the configuration asks for dynamic_100k.*299,800 rows"):
        module.setup()


def test_missing_files(basis):
    for path in ("embedded:demo_nothing.db", "~/no/such/file.db"):
        with pytest.raises(DataError, match=r"no such database; give the path") as caught:
            QH9DataModule(path, basis, split="mol").setup()
        assert "~" not in str(caught.value)


def test_elements_outside_the_basis_name_row_and_setting():
    module = demo(OrbitalBasis.def2_svp((1, 6)))
    rows = [row for row in range(43) if set(module.parts["train"].database[row].numbers) - {1, 6}]
    dataset = MoleculeDataset(module.parts["train"].database, np.array(rows[:1]), module.basis)
    with pytest.raises(BasisError, match=rf"demo_stable\.db: row {rows[0]}: atomic numbers.*basis elements"):
        _ = dataset[0]


@pytest.mark.parametrize(
    "other",
    [OrbitalBasis.openmx({"H": "s2p1", "C": "s3p2d1"}), OrbitalBasis({1: (0, 1), 6: (0, 0, 1)})],
    ids=["another order", "other shells"],
)
def test_another_basis_than_that_of_the_files_is_refused(other):
    message = (
        rf"holds molecules in def2-SVP and PySCF's order, and the basis is {other.name} in .*basis=def2_svp"
    )
    with pytest.raises(BasisError, match=message):
        demo(other)


def test_a_part_must_have_a_sample_for_each_process(basis):
    module = demo(basis)

    class Trainer:
        global_rank, world_size = 0, 1000

    module.trainer = Trainer()
    for part in PARTS:
        with pytest.raises(DataError, match=rf"the {part} part has \d+ samples for 1000 processes"):
            module.loader(part)
        assert flat(order(module.loader(part, share=False))) == module.split[part].tolist()
    with pytest.raises(DataError, match=r"batch has \d samples for 1000 processes.*data\.batch_size"):
        module.train_dataloader()


def test_loader_of_a_few_samples_spread_over_a_part(basis):
    module = demo(basis)
    rows = module.split["train"].tolist()
    assert flat(order(module.loader("train", max_samples=2))) == [rows[0], rows[-1]]
    assert flat(order(module.loader("train", max_samples=3)))[1] == rows[(len(rows) - 1) // 2]
    for most in (0, len(rows), 1000):
        assert flat(order(module.loader("train", max_samples=most))) == rows


def test_ranks_share_the_samples(basis):
    whole = demo(basis)
    batches = []
    for rank in range(3):
        module = demo(basis)
        module.trainer = type("Trainer", (), {"global_rank": rank, "world_size": 3})()
        batches += order(module.val_dataloader())
    assert sorted(flat(batches)) == whole.split["val"].tolist()


def test_ranks_divide_each_training_batch_by_pairs_of_atoms(basis):
    alone = order(demo(basis, batch_size=8).train_dataloader())
    shares, pairs = [], []
    for rank in range(2):
        module = demo(basis, batch_size=8)
        module.trainer = type("Trainer", (), {"global_rank": rank, "world_size": 2})()
        batches = list(module.train_dataloader())
        shares.append([batch.sample_id.tolist() for batch in batches])
        pairs.append([len(batch.numbers) + batch.num_edges for batch in batches])
    for i, batch in enumerate(alone):
        assert sorted(shares[0][i] + shares[1][i]) == sorted(batch)
        of_each = [len(module.parts["train"].database[row].numbers) ** 2 for row in batch]
        assert pairs[0][i] + pairs[1][i] == sum(of_each)
        assert abs(pairs[0][i] - pairs[1][i]) <= max(of_each)
