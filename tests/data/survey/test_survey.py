from dataclasses import replace

import numpy as np
import pytest

from tests.physics.exports.conftest import structure
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.qh9.database import QH9Database
from tracegrad.data.survey.reach import BIN, Reach
from tracegrad.data.survey.survey import chosen_rows, survey_crystals, survey_molecules
from tracegrad.errors import ConfigError


def test_the_smallest_and_the_largest_are_always_read():
    atoms = np.array([5, 4, 9, 3, 5, 5, 12, 5])
    for seed in range(5):
        rows = chosen_rows(atoms, 4, seed)
        assert len(rows) == 4
        assert {3, 6} <= set(rows.tolist())
        assert rows.tolist() == sorted(set(rows.tolist())) == chosen_rows(atoms, 4, seed).tolist()
    assert len({tuple(chosen_rows(atoms, 4, seed)) for seed in range(5)}) > 1
    assert chosen_rows(atoms, 50, 0).tolist() == list(range(8))
    assert chosen_rows(np.array([3]), 50, 0).tolist() == [0]
    with pytest.raises(ConfigError, match="samples=1"):
        chosen_rows(atoms, 1, 0)


def test_reach():
    reach = Reach()
    pairs = np.array([[6, 8], [8, 6], [6, 6]])
    reach.add(pairs, np.array([1.1, 1.2, 2.6]), np.array([3.0, 5.0, 0.5]))
    reach.add(pairs[:1], np.array([4.1]), np.array([0.01]))
    assert reach.longest == 4.1
    assert reach.largest[6, 8][4] == 5.0  # both lie between 1 and 1.25 angstrom
    assert reach.largest[6, 8][16] == 0.01
    assert reach.largest[6, 6].nonzero()[0].tolist() == [10]
    assert [reach.distance_below(limit) for limit in (6.0, 1.0, 0.1, 0.001)] == [0.0, 1.25, 2.75, 4.25]


@pytest.mark.parametrize("spinful", [False, True])
def test_crystals(tmp_path, spinful):
    crystal = structure(spinful=spinful)
    write_structure(crystal, tmp_path / "a")
    # every block again, but one third as large
    assert crystal.hamiltonian is not None
    write_structure(replace(crystal, hamiltonian=crystal.hamiltonian / 3), tmp_path / "b")
    done = []
    survey = survey_crystals(CrystalDatabase(tmp_path), 50, on_progress=lambda *counts: done.append(counts))
    assert done == [(1, 2), (2, 2)]
    assert survey.basis.spinful == spinful
    assert survey.atoms.tolist() == [3, 3]
    assert survey.edges.tolist() == 2 * [len(crystal.edges)]
    assert survey.numbers.tolist() == 2 * [len(crystal.hamiltonian)]
    assert survey.padded[0] == len(crystal.edges) * survey.basis.dim**2 * (2 if spinful else 1)
    literal: dict[tuple[int, int], dict[int, float]] = {}
    for edge, block in zip(crystal.edges, crystal.blocks("hamiltonian"), strict=True):
        r = edge[:3] @ crystal.lattice + crystal.positions[edge[4]] - crystal.positions[edge[3]]
        if np.linalg.norm(r) > 0:
            pair = literal.setdefault(tuple(sorted(crystal.numbers[edge[3:]].tolist())), {})
            place = int(np.linalg.norm(r) / BIN)
            pair[place] = max(pair.get(place, 0.0), float(np.abs(block).max()))
    assert survey.reach.largest.keys() == literal.keys()
    for elements, values in survey.reach.largest.items():
        assert {n: values[n] for n in values.nonzero()[0].tolist()} == literal[elements]


def test_molecules():
    database = QH9Database(database_path("embedded:demo_stable.db"))
    survey = survey_molecules(database, 3, seed=1)
    molecules = [database[row] for row in survey.rows.tolist()]
    assert survey.edges.tolist() == [len(molecule.numbers) ** 2 for molecule in molecules]
    assert survey.numbers.tolist() == [molecule.hamiltonian.size for molecule in molecules]
    largest = 0.0
    for molecule in molecules:
        sizes = [survey.basis.sizes[z] for z in molecule.numbers]
        starts = np.cumsum([0, *sizes])
        for i in range(len(sizes)):
            for j in range(i):
                block = molecule.hamiltonian[starts[i] : starts[i + 1], starts[j] : starts[j + 1]]
                largest = max(largest, float(np.abs(block).max()))
                assert np.linalg.norm(molecule.positions[i] - molecule.positions[j]) <= survey.reach.longest
    assert max(values.max() for values in survey.reach.largest.values()) == largest
