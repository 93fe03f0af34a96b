"""Data modules of MD17 and nablaDFT: their published splits, files that do not fit, and what identifies them."""

import numpy as np
import pytest
import torch
from torch.utils.data import random_split

from tests.data.molecules import files
from tests.data.molecules.conftest import drug_path, drugs, water_path, waters  # noqa: F401
from tracegrad.data.loading.md17_module import MD17DataModule
from tracegrad.data.loading.nabladft_module import NablaDFTDataModule
from tracegrad.data.molecules.nabladft import ELEMENTS
from tracegrad.data.splits import counted_split, torch_split
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import assemble_matrix

BASIS = OrbitalBasis.def2_svp(ELEMENTS)


def test_split_of_the_released_qhnet():
    """The first of a random order are train, the next val, all others test; 4,999 rows as in the file of water."""
    order = np.random.RandomState(42).permutation(4999)
    split = counted_split(4999, [500, 500], 42)
    for part, rows in {"train": order[:500], "val": order[500:1000], "test": order[1000:]}.items():
        assert np.array_equal(split[part], rows)
    assert {part: len(rows) for part, rows in counted_split(10, [0.65, 2], 0).items()} == {
        "train": 6,
        "val": 2,
        "test": 2,
    }


@pytest.mark.parametrize("fractions", [[0.9, 0.1], [0.8, 0.1, 0.1]])
@pytest.mark.parametrize("rows", [10, 1239])
def test_split_of_nabladft(rows, fractions):
    parts = random_split(range(rows), fractions, generator=torch.Generator().manual_seed(23))
    split = torch_split(rows, fractions, 23)
    assert [list(part.indices) for part in parts] == [part.tolist() for part in split.values()]
    assert list(split) == ["train", "val", "test"][: len(fractions)]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda: counted_split(9, [5, 5], 0), "are 10 rows, but there are 9"),
        (lambda: counted_split(9, [5], 0), r"give two numbers of rows, or fractions .* \(data.sizes\)"),
        (lambda: counted_split(9, [5, -1], 0), "give two numbers of rows"),
        (lambda: counted_split(9, [5, 1], -1), "the split seed is -1"),
        (lambda: torch_split(9, [0.9, 0.2], 0), r"do not sum to 1 \(data.fractions\)"),
        (lambda: torch_split(9, [1.0], 0), "give two or three numbers"),
        (lambda: torch_split(9, [1.1, -0.1], 0), "give two or three numbers"),
    ],
)
def test_impossible_splits(split, message):
    with pytest.raises(DataError, match=message):
        split()


def test_md17(water_path, waters):  # noqa: F811
    module = MD17DataModule(
        str(water_path), BASIS, molecule="water", sizes=[6, 2], label="MD17 water", dtype="float64"
    )
    fingerprint = module.fingerprint()
    assert fingerprint["counts"] == {"train": 6, "val": 2, "test": 2}
    assert (fingerprint["label"], fingerprint["functional"]) == ("MD17 water", "pbe")
    assert fingerprint["split"] == "geometries"
    assert fingerprint["units"] == {"hamiltonian": "hartree", "positions": "angstrom"}
    for dataset in module.parts.values():
        for graph in (dataset[i] for i in range(len(dataset))):
            numbers, _, hamiltonian, *_ = waters[int(graph.sample_id)]
            assert np.array_equal(assemble_matrix(graph.h_self, graph.h_edge, numbers, BASIS), hamiltonian)
    with pytest.raises(DataError, match=r"asks for uracil .*open the right file"):
        MD17DataModule(str(water_path), BASIS, molecule="uracil").setup()
    with pytest.raises(ConfigError, match=r"data.molecule is 'aspirin'; choose one of water, ethanol"):
        MD17DataModule(str(water_path), BASIS, molecule="aspirin")
    with pytest.raises(DataError, match="leaves test empty; change the sizes"):
        MD17DataModule(str(water_path), BASIS, sizes=[8, 2]).setup()
    with pytest.raises(BasisError, match="choose basis=def2_svp"):
        MD17DataModule(str(water_path), OrbitalBasis.openmx(["O-s2p2d1", "H-s2p1"])).setup()


def test_an_index_file(water_path, tmp_path):  # noqa: F811
    parts = {"train": np.array([3, 1]), "val": np.array([0]), "test": np.array([9, 4])}
    np.savez(tmp_path / "split.npz", **parts)
    module = MD17DataModule(str(water_path), BASIS, index_file=str(tmp_path / "split.npz"))
    module.setup()
    assert {part: dataset.rows.tolist() for part, dataset in module.parts.items()} == {
        part: rows.tolist() for part, rows in parts.items()
    }


def test_nabladft_with_a_file_for_the_test(drug_path, drugs, tmp_path):  # noqa: F811
    test = files.write_nabladft(tmp_path / "test.db", drugs[3:5])
    module = NablaDFTDataModule(str(drug_path), BASIS, test_path=str(test), fractions=[0.8, 0.2])
    fingerprint = module.fingerprint()
    assert fingerprint["counts"] == {"train": 5, "val": 1, "test": 2}
    assert (fingerprint["functional"], fingerprint["split"]) == ("wb97x-d", "test")
    assert fingerprint["test_database"]["name"] == "test.db"
    summary = module.summary()
    assert summary.elements == (1, 6, 7, 8, 9, 16, 17, 35)
    assert summary.atoms["test"].tolist() == [2, 5]
    for row in range(2):
        graph = module.parts["test"][row]
        assert graph.numbers.tolist() == drugs[3 + row][0].tolist()
        assert graph.h_self.shape[1:] == (32, 32)
    other = files.write_nabladft(tmp_path / "other.db", drugs[:2])
    changed = NablaDFTDataModule(str(drug_path), BASIS, test_path=str(other), fractions=[0.8, 0.2])
    assert changed.fingerprint() != fingerprint


def test_nabladft_of_one_file(drug_path):  # noqa: F811
    module = NablaDFTDataModule(str(drug_path), BASIS, fractions=[0.5, 0.2, 0.3])
    assert module.fingerprint()["counts"] == {"train": 4, "val": 1, "test": 1}
    assert sorted(np.concatenate([dataset.rows for dataset in module.parts.values()])) == list(range(6))
    with pytest.raises(ConfigError, match=r"with data.test_path, or three .* without"):
        NablaDFTDataModule(str(drug_path), BASIS, fractions=[0.9, 0.1])
    with pytest.raises(ConfigError, match=r"give two numbers \(train, val\)"):
        NablaDFTDataModule(str(drug_path), BASIS, test_path="t.db", fractions=[0.8, 0.1, 0.1])
    with pytest.raises(ConfigError, match=r"data.split_seed is -1"):
        NablaDFTDataModule(str(drug_path), BASIS, fractions=[0.8, 0.1, 0.1], split_seed=-1)


def test_elements_that_the_basis_lacks(drug_path):  # noqa: F811
    module = NablaDFTDataModule(str(drug_path), OrbitalBasis.def2_svp(), fractions=[0.5, 0.2, 0.3])
    module.setup()
    dataset = next(part for part in module.parts.values() if 0 in part.rows)
    with pytest.raises(BasisError, match=r"row 0: atomic numbers \[35\] .*add them to the basis elements"):
        dataset[dataset.rows.tolist().index(0)]
