import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.loading.deeph_module import CrystalDataset, DeepHDataModule
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import block_starts, cut_padding
from tracegrad.hamiltonian.graph import HamiltonianGraph

EMBEDDED = "embedded:demo_crystals.h5"
BILAYERS = ["light_bilayer_*", "light_twisted_*"]
CARBON = {"C": "s2p1d1"}


def bilayers(**options) -> DeepHDataModule:
    """Shifted bilayers, with twisted ones as a separate part."""
    defaults = {"include": BILAYERS, "twisted": ["light_twisted_*"], "sizes": [8, 4, 3]}
    module = DeepHDataModule(
        EMBEDDED, OrbitalBasis.openmx(CARBON), **defaults | {"batch_size": 1, "eval_batch_size": 2} | options
    )
    module.setup()
    return module


def names(module: DeepHDataModule, part: str) -> list[str]:
    return [module.sample_name(row) for row in module.parts[part].rows.tolist()]


def test_split_is_the_released_shuffle_without_twisted_structures():
    module = bilayers()
    all_names = CrystalDatabase(database_path(EMBEDDED), include=BILAYERS).names
    order = list(range(16))
    np.random.RandomState(42).shuffle(order)
    shifted = [name for name in all_names if name.startswith("light_bilayer")]
    expected = [shifted[i] for i in order]
    assert names(module, "train") == expected[:8]
    assert names(module, "val") == expected[8:12]
    assert names(module, "test") == expected[12:15]
    assert names(module, "twisted") == [name for name in all_names if name.startswith("light_twisted")]
    assert module.subsets("test") == {"": "test", "twisted": "twisted"}
    assert module.subsets("val") == {"": "val"}
    assert [len(loader.dataset) for loader in module.test_dataloader()] == [3, 2]


@pytest.mark.parametrize(
    ("pattern", "shells", "spinful"),
    [
        ("light_mos2_*", {"Mo": "s3p2d1", "S": "s2p1d1"}, False),
        ("light_bismuthene_*", {"Bi": "s3p2d2"}, True),
    ],
)
def test_two_species_and_spin(tmp_path, pattern, shells, spinful):
    basis = OrbitalBasis.openmx(shells, spinful)
    found = CrystalDatabase(database_path(EMBEDDED), include=pattern).names
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": found[:-1], "val": found[-1:], "test": []}))
    module = DeepHDataModule(EMBEDDED, basis, include=pattern, split_file=str(path))
    with pytest.raises(DataError, match="no structures are left for test"):
        module.setup()
    graph = only_graph(basis, pattern)
    assert graph.h_edge.is_complex() == spinful
    assert graph.h_edge.shape[1:] == (basis.dim, basis.dim)
    torch.testing.assert_close(graph.h_edge[graph.reverse].mH, graph.h_edge, rtol=0, atol=3e-6)


def only_graph(basis: OrbitalBasis, pattern: str) -> HamiltonianGraph:
    """Graph of the first structure whose name matches."""
    database = CrystalDatabase(database_path(EMBEDDED), include=pattern)
    return CrystalDataset(database, np.array([0]), basis, "float64")[0]


def test_a_batch_of_crystals_holds_the_blocks_of_the_files():
    module = bilayers(dtype="float64", eval_batch_size=3)
    batch = next(iter(module.loader("test")))
    basis, numbers, edges = module.basis, batch.numbers.numpy(), batch.edge_index.numpy()
    entries = cut_padding(batch.h_edge.numpy(), edges, numbers, basis)
    starts = block_starts(edges, numbers, basis)
    first = 0
    for row in batch.sample_id.tolist():
        structure = module.database[row]
        last = first + len(structure.edges)
        assert np.array_equal(entries[starts[first] : starts[last]], structure.hamiltonian)
        assert np.array_equal(batch.cells[first:last].numpy(), structure.edges[:, :3])
        vectors = structure.positions[structure.edges[:, 4]] + structure.edges[:, :3] @ structure.lattice
        vectors -= structure.positions[structure.edges[:, 3]]
        np.testing.assert_allclose(batch.vectors[first:last].numpy(), vectors, atol=1e-12)
        first = last
    reverse = batch.reverse
    assert torch.equal(batch.cells[reverse], -batch.cells)
    assert torch.equal(batch.edge_index[:, reverse], batch.edge_index.flip(0))
    torch.testing.assert_close(
        batch.h_edge[reverse].mH, batch.h_edge, rtol=0, atol=2e-6
    )  # as rounded in the file


def test_split_file_takes_the_place_of_the_shuffle(tmp_path):
    shifted = bilayers().database.names[:6]
    parts = {"train": shifted[:3], "val": shifted[3:4], "test": shifted[4:6]}
    path = tmp_path / "split.json"
    path.write_text(json.dumps(parts))
    module = bilayers(sizes=None, split_file=str(path))
    assert {part: names(module, part) for part in parts} == parts
    assert module.subsets("test") == {"": "test"}
    assert module.fingerprint()["split_hash"] != bilayers().fingerprint()["split_hash"]


def test_kept_graphs_are_those_of_the_file_and_modules_can_be_sent_to_workers():
    module = bilayers(in_memory=True)
    dataset = module.parts["train"]
    assert dataset[0] is dataset[0]
    again = pickle.loads(pickle.dumps(dataset))  # as a DataLoader sends it to its workers
    assert torch.equal(again[1].h_edge, dataset[1].h_edge)
    fresh = bilayers().parts["train"]
    assert fresh[0] is not fresh[0]


def test_folders_and_packed_file_are_the_same_data(tmp_path):
    packed = bilayers()
    for row in range(4):
        structure = packed.database[row]
        write_structure(structure, tmp_path / structure.name)
    module = DeepHDataModule(str(tmp_path), packed.basis, sizes=[2, 1, 1])
    module.setup()
    structure = module.parts["train"][0]
    other = packed.database.names.index(module.sample_name(int(structure.sample_id)))
    expected = packed.database[other]
    assert structure.num_edges == len(expected.edges)
    entries = cut_padding(
        structure.h_edge.numpy(), structure.edge_index.numpy(), structure.numbers.numpy(), module.basis
    )
    np.testing.assert_allclose(entries, expected.hamiltonian, atol=1e-5)  # float32


def test_differences_from_table_4_are_warned_of_and_recorded():
    with pytest.warns(
        UserWarning, match="not BG as the paper counts it: BG: 8 train samples; Table 4 has 180"
    ):
        module = bilayers(table="BG")
    assert len(module.differences) == 8
    assert "BG: twisted samples of 28 to 28 atoms; Table 4 has 28 to 1084" in module.differences
    assert module.fingerprint()["differences"] == module.differences
    assert bilayers().fingerprint()["differences"] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": None}, ConfigError, "data.sizes or data.split_file"),
        ({"split_file": "x.json"}, ConfigError, "only one of them"),
        ({"table": "XX"}, ConfigError, "data.table is 'XX'"),
        ({"twisted": ["no_such_*"]}, DataError, "no name fits"),
        ({"sizes": [20, 4, 4]}, DataError, "28 structures, but there are 16"),
        ({"sizes": [10, 0, 4]}, DataError, "no structures are left for val"),
        ({"train_size": 9}, DataError, "data.train_size is 9"),
        ({"include": "light_mos2_*"}, BasisError, "S has shells s2p1d1, but the basis has none"),
        ({"include": "light_bismuthene_*", "twisted": []}, BasisError, "basis.spinful=true"),
        ({"include": "*"}, DataError, "leave one kind out"),
        ({"dtype": "half"}, ConfigError, "data.dtype"),
    ],
)
def test_wrong_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        bilayers(**options)


def test_a_basis_of_molecules_is_refused():
    message = r"holds crystals, and def2-SVP in the order of pyscf is a basis of molecules.*basis.shells=\[C-s2p1d1\]"
    module = DeepHDataModule(EMBEDDED, OrbitalBasis.def2_svp(), include=BILAYERS, sizes=[8, 4, 3])
    with pytest.raises(BasisError, match=message):
        module.setup()


def test_the_error_of_wrong_shells_has_the_right_ones():
    with pytest.raises(
        BasisError, match=r"C has shells s2p1d1, but the basis has s2p2d1.*basis.shells=\[C-s2p1d1\]"
    ):
        DeepHDataModule(
            EMBEDDED, OrbitalBasis.openmx({"C": "s2p2d1"}), include=BILAYERS, sizes=[4, 1, 1]
        ).setup()


def test_training_batches_are_divided_among_ranks():
    module = bilayers(seed=3)
    module.trainer = Trainer(logger=False, enable_progress_bar=False, barebones=True, accelerator="cpu")
    first = [int(graph.sample_id) for graph in module.train_dataloader()]
    assert sorted(first) == sorted(module.parts["train"].rows.tolist())
    assert first != module.parts["train"].rows.tolist()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Four bilayers as folders."""
    folder = tmp_path_factory.mktemp("crystals") / "bilayers"
    database = CrystalDatabase(database_path(EMBEDDED), include=BILAYERS)
    for row in range(4):
        structure = database[row]
        write_structure(structure, folder / structure.name)
    return folder


def cached(folder: Path, **options) -> DeepHDataModule:
    return DeepHDataModule(
        str(folder), OrbitalBasis.openmx(CARBON), **{"sizes": [2, 1, 1], "cache": "auto"} | options
    )


def test_the_cache_takes_the_place_of_the_folders_once_it_is_built(written, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(written, tmp_path / "bilayers")
    plain, module = cached(folder, cache=None), cached(folder)
    for one in (plain, module):
        one.setup("fit")
    plain.prepare_data()
    assert plain.parts["train"].cache is module.parts["train"].cache is None
    assert [path.name for path in tmp_path.iterdir()] == ["bilayers"]
    module.prepare_data()
    assert capsys.readouterr().out == "building the cache of 4 structures; processes: 1\n"
    module.setup("fit")
    again = cached(folder, in_memory=True, num_workers=1)
    again.prepare_data()
    again.setup()
    assert capsys.readouterr().out == ""
    expected = [next(iter(plain.loader(part))) for part in ("train", "val", "test")]
    monkeypatch.setattr(CrystalDatabase, "__getitem__", None)  # folders are not read any more
    for one in (module, again):
        for part, batch in zip(("train", "val", "test"), expected, strict=True):
            found = next(iter(one.loader(part)))
            assert all(torch.equal(found[key], batch[key]) for key in ("h_edge", "vectors", "reverse"))
    assert again.parts["train"][0] is again.parts["train"][0]
    assert again.fingerprint() == plain.fingerprint()


def test_the_precision_of_the_cache_is_that_of_the_data(written, tmp_path):
    path = tmp_path / "a.cache"
    for dtype in ("float32", "float64"):
        module = cached(written, cache=str(path), dtype=dtype)
        module.prepare_data()
        module.setup()
        graph = module.parts["train"][0]
        row = int(graph.sample_id)
        expected = CrystalDataset(module.database, np.array([row]), module.basis, dtype)[0]
        assert torch.equal(graph.h_edge, expected.h_edge)


def test_the_trainer_builds_the_cache(written, tmp_path):
    class Nothing(LightningModule):
        def training_step(self, batch, index):
            self.seen = self.trainer.datamodule.parts["train"].cache
            return

        def configure_optimizers(self):
            return None

    module, network = cached(written, cache=str(tmp_path / "a.cache"), num_workers=1), Nothing()
    trainer = Trainer(max_steps=1, limit_val_batches=0, barebones=True, accelerator="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(network, module)
    assert network.seen.path == tmp_path / "a.cache"


def test_packed_files_are_read_as_they_are(tmp_path):
    packed = shutil.copy(database_path(EMBEDDED), tmp_path / "a.h5")
    module = DeepHDataModule(
        str(packed), OrbitalBasis.openmx(CARBON), include=BILAYERS, sizes=[4, 1, 1], cache="auto"
    )
    module.prepare_data()
    module.setup()
    assert module.parts["train"].cache is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("name", ["hamiltonians.h5", "lat.dat"])
def test_a_damaged_structure_is_found_at_the_start(tmp_path, name):
    """Even if it is in the test part, which is read at the end of a training."""
    packed = bilayers()
    for row in range(4):
        structure = packed.database[row]
        write_structure(structure, tmp_path / structure.name)
    damaged = tmp_path / packed.database.names[3] / name
    damaged.write_bytes(damaged.read_bytes()[:100] if name.endswith("h5") else b"")
    with pytest.raises(DataError, match=f"shift_2x1_03/{name}"):
        DeepHDataModule(str(tmp_path), packed.basis, sizes=[2, 1, 1]).setup()
