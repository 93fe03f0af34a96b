"""Both spins of collinear calculations as data of one network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.crystals.aims_files import write_calculation
from tests.data.crystals.orbital_files import mos2
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystals.structure import Structure
from tracegrad.data.loading.deeph_module import DeepHDataModule
from tracegrad.data.loading.first_look import opposite_moments
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import SPINS, OrbitalBasis
from tracegrad.hamiltonian.blocks import pad_blocks

SHELLS = {"Mo": "s2p1d1", "S": "s1p1"}
BASIS = OrbitalBasis.openmx(SHELLS, collinear=True)


def of_spin(structure: Structure, spin: str) -> Structure:
    """H of spin up or down, which are H / 2 -/+ S / 2."""
    sign = 1 if spin == "down" else -1
    return replace(structure, hamiltonian=0.5 * (structure.hamiltonian + sign * structure.overlap))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders NAME_up and NAME_down of five structures."""
    folder = tmp_path_factory.mktemp("pairs")
    for seed in range(5):
        for spin in SPINS:
            write_structure(of_spin(mos2(seed=seed), spin), folder / f"m{seed}_{spin}")
    return folder


def module(path: Path, basis: OrbitalBasis = BASIS, **options) -> DeepHDataModule:
    defaults = {"sizes": [3, 1, 1], "spin": "both", "batch_size": 1, "dtype": "float64"}
    data = DeepHDataModule(str(path), basis, **defaults | options)
    data.prepare_data()
    data.setup()
    return data


def names(data: DeepHDataModule, part: str) -> list[str]:
    return [data.sample_name(row) for row in data.parts[part].rows.tolist()]


@pytest.mark.parametrize("cache", [None, "cache"])
def test_both_spins_of_a_structure_belong_to_one_part(pairs, tmp_path, cache):
    data = module(pairs, cache=cache and str(tmp_path / cache))
    for part, count in (("train", 3), ("val", 1), ("test", 1)):
        found = names(data, part)
        assert len(found) == 2 * count
        assert found[1::2] == [name.replace("_up", "_down") for name in found[::2]]
    assert names(data, "test_up") + names(data, "test_down") == names(data, "test")
    assert data.subsets("test") == {"": "test", "up": "test_up", "down": "test_down"}
    up, down = (data.parts["train"][n] for n in range(2))
    assert (up.spin.tolist(), down.spin.tolist()) == ([0, 0, 0], [1, 1, 1])
    structure = mos2(seed=int(names(data, "train")[0][1]))
    assert torch.equal(up.positions, torch.from_numpy(structure.positions))
    overlap = pad_blocks(
        structure.overlap, up.edge_index.numpy(), structure.numbers, OrbitalBasis.openmx(SHELLS)
    )
    assert np.abs((down.h_edge - up.h_edge).numpy() - overlap).max() < 1e-12
    assert data.identity()["spin"] == "both"


def test_calculations_as_they_are_give_the_same_graphs(pairs, tmp_path):
    for seed in range(3):
        up, down = (of_spin(mos2(seed=seed), spin) for spin in SPINS)
        write_calculation(up, tmp_path / "runs" / f"m{seed}", down=down)
    found, expected = (
        module(path, include=["m0", "m1", "m2"], sizes=[1, 1, 1], cache=None)
        for path in (tmp_path / "runs", pairs)
    )
    assert names(found, "train") == names(expected, "train")
    for one, other in zip(found.parts["test"], expected.parts["test"], strict=True):
        assert torch.equal(one.spin, other.spin)
        assert (one.h_edge - other.h_edge).abs().max() < 1e-7


def test_sizes_and_names_count_structures(pairs, tmp_path):
    data = module(pairs, sizes=None, split_file=str(split_file(tmp_path, ["m3", "m0"], ["m1"], ["m2"])))
    assert names(data, "train") == ["m3_up", "m3_down", "m0_up", "m0_down"]
    assert len(names(module(pairs, train_size=2), "train")) == 4
    data = module(pairs, twisted=["m4"], sizes=[2, 1, 1])
    assert names(data, "twisted") == ["m4_up", "m4_down"]
    assert list(data.subsets("test")) == ["", "up", "down", "twisted"]


def split_file(folder: Path, *parts: list[str]) -> Path:
    path = folder / "split.json"
    lists = dict(zip(("train", "val", "test"), parts, strict=True))
    path.write_text(str(lists).replace("'", '"'))
    return path


def test_what_does_not_belong_together(pairs, tmp_path):
    with pytest.raises(BasisError, match=r"data.spin=both needs basis.collinear=true"):
        module(pairs, OrbitalBasis.openmx(SHELLS))
    with pytest.raises(BasisError, match=r"is for the Hamiltonians of both spins; set data.spin=both"):
        module(pairs, spin=None)
    with pytest.raises(DataError, match=r"m0_up is missing; spin=both needs both spins of each structure"):
        module(pairs, include=["m0_down", "m1", "m2"])
    write_structure(mos2(), tmp_path / "alone")
    with pytest.raises(
        DataError, match=r"alone has no spin in its name; spin=both needs output of a collinear"
    ):
        module(tmp_path / "alone")
    for spin in SPINS:
        write_structure(mos2(spinful=True), tmp_path / "soc" / f"a_{spin}")
    with pytest.raises(BasisError, match=r"the Hamiltonians are spinful, with both spins in one matrix"):
        module(tmp_path / "soc")
    up, down = (of_spin(mos2(), spin) for spin in SPINS)
    write_calculation(up, tmp_path / "run", down=down)
    with pytest.raises(BasisError, match=r"but data.spin=up reads one of them"):
        module(tmp_path / "run", spin="up")
    with pytest.raises(ConfigError, match=r"give up, down or both"):
        CrystalDatabase(tmp_path / "run", spin="sideways")
    with pytest.raises(DataError, match=r"choose one with spin=up or spin=down, or both with spin=both"):
        CrystalDatabase(tmp_path / "run")[0]


def test_remarks(pairs):
    with pytest.warns(UserWarning, match=r"called NAME_up and NAME_down, .* set data.spin=both"):
        module(pairs, OrbitalBasis.openmx(SHELLS), spin=None, sizes=[6, 2, 2], cache=None)
    up, down = (of_spin(mos2(), spin) for spin in SPINS)
    assert opposite_moments(up, down) is None
    levels, starts = up.hamiltonian.copy(), np.cumsum([0] + [b.size for b in up.blocks("hamiltonian")])
    (on_site,) = np.flatnonzero((up.edges == [0, 0, 0, 1, 1]).all(1))
    size = len(up.blocks("hamiltonian")[on_site])
    levels[starts[on_site] : starts[on_site + 1] : size + 1] += 2.0
    text = opposite_moments(replace(up, hamiltonian=levels), down)
    assert text is not None
    assert text.startswith(
        "the levels of S atoms 3 and 2 of mos2 are split by the spin in opposite directions, -"
    )
