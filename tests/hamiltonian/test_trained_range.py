"""The range of a training against loops over atoms, and what is outside of it."""

import math

import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tracegrad.errors import CheckpointError
from tracegrad.hamiltonian.graph import collate
from tracegrad.hamiltonian.trained_range import BIN, REACH, RangeRecorder, TrainedRange


def literal(samples) -> tuple[int, dict, dict]:
    """Largest size, largest distance to the nearest neighbour of each element, and bins of each pair of elements."""
    nearest: dict[int, float] = {}
    bins: dict[tuple[int, int], set[int]] = {}
    for numbers, pairs in samples:
        for i, a in enumerate(numbers):
            lengths = [length for first, _, length in pairs if first == i]
            nearest[a] = max(nearest.get(a, 0.0), min(lengths, default=0.0))
        for i, j, length in pairs:
            if length < REACH:
                key = (min(numbers[i], numbers[j]), max(numbers[i], numbers[j]))
                bins.setdefault(key, set()).add(math.floor(length / BIN))
    return max(len(numbers) for numbers, _ in samples), nearest, bins


def bins_of(intervals) -> set[int]:
    return {k for first, last in intervals for k in range(round(first / BIN), round(last / BIN))}


def assert_same(found: TrainedRange, samples) -> None:
    atoms, nearest, bins = literal(samples)
    assert found.atoms == atoms
    assert found.nearest.keys() == nearest.keys()
    for z, value in nearest.items():
        assert found.nearest[z] == pytest.approx(value, abs=1e-5)
    assert {key: bins_of(intervals) for key, intervals in found.distances.items()} == bins


def pairs_of_molecule(numbers, x) -> list[tuple[int, int, float]]:
    return [
        (i, j, float(np.linalg.norm(x[i] - x[j]))) for i in range(len(x)) for j in range(len(x)) if i != j
    ]


def test_molecules_in_batches_and_of_two_ranks(basis):
    """The last molecule has an atom without neighbours within reach, another one is a single atom."""
    ranks = [RangeRecorder(basis), RangeRecorder(basis)]
    graphs = [molecules.labelled_graph(m, basis) for m in molecules.ALL]
    for k, batch in enumerate((graphs[:3], graphs[3:4], graphs[4:])):
        ranks[k % 2].add(collate(batch))
    expected = [(numbers.tolist(), pairs_of_molecule(numbers, x)) for numbers, x in molecules.ALL]
    assert_same(ranks[0].result(), [expected[k] for k in (0, 1, 2, 4, 5)])
    # What `combine` does between processes.
    ranks[0].record = torch.maximum(ranks[0].record, ranks[1].record)
    assert_same(ranks[0].result(), expected)
    assert RangeRecorder(basis).result() is None


@pytest.mark.parametrize("basis", [crystals.SPINLESS, crystals.SPINFUL], ids=["spinless", "spinful"])
def test_crystals(basis):
    """On-site blocks are no neighbours; images of an atom are."""
    recorder = RangeRecorder(basis)
    recorder.add(collate([crystals.labelled_graph(c, basis, seed) for seed, c in enumerate(crystals.ALL)]))
    samples = []
    for crystal in crystals.ALL:
        graph = crystals.labelled_graph(crystal, basis, 0)
        lengths = graph.vectors.norm(dim=1).tolist()
        pairs = zip(*graph.edge_index.tolist(), lengths, strict=True)
        samples.append((graph.numbers.tolist(), [(i, j, r) for i, j, r in pairs if r > 0]))
    assert_same(recorder.result(), samples)


def test_plain_data_and_a_training_that_goes_on(basis):
    first, second, whole = (RangeRecorder(basis) for _ in range(3))
    graphs = [molecules.labelled_graph(m, basis) for m in molecules.ALL]
    first.add(collate(graphs[:2]))
    plain = first.result().plain()
    assert plain["nearest"].keys() == {"H", "C", "O"}
    assert plain["distances"]["H-O"]
    again = TrainedRange.read(plain, "file")
    assert again.plain() == plain
    second.restore(again)
    second.add(collate(graphs[2:]))
    whole.add(collate(graphs))
    found, expected = second.result(), whole.result()
    assert found.distances == expected.distances
    assert found.atoms == expected.atoms
    assert dict(found.nearest) == pytest.approx(dict(expected.nearest), abs=1e-3)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"atoms": 3},
        {"atoms": 3, "nearest": {"Xx": 1.0}, "distances": {}},
        {"atoms": 3, "nearest": {}, "distances": {"H": [[1, 2]]}},
        {"atoms": 3, "nearest": {}, "distances": {"H-H": [[1]]}},
    ],
)
def test_damaged_plain_data(content):
    with pytest.raises(CheckpointError, match=r"file\.ckpt: the range of the training is damaged"):
        TrainedRange.read(content, "file.ckpt")


WATER_ALONE = TrainedRange(3, {1: 1.0, 8: 1.0}, {(1, 8): ((0.9, 1.05),), (1, 1): ((1.4, 1.7),)})


def lines(numbers, positions, known=WATER_ALONE, *, sizes=True) -> list[str]:
    x = np.array(positions, dtype=np.float64)
    pairs = np.stack(np.nonzero(~np.eye(len(x), dtype=bool)))
    lengths = np.linalg.norm(x[pairs[0]] - x[pairs[1]], axis=1)
    return known.outside(np.array(numbers), pairs, lengths, sizes=sizes)


def test_inside():
    numbers, positions = molecules.WATER
    assert lines(numbers, positions) == []
    # Up to one bin beyond an interval is inside.
    assert lines([8, 1], [[0, 0, 0], [0, 0, 1.05 + 0.99 * BIN]]) == []
    # Farther pairs are not judged, and neighbours are near.
    assert lines([8, 1, 8, 1], [[0, 0, 0], [0, 0, 1], [0, 9, 0], [0, 9, 1]], sizes=False) == []


@pytest.mark.parametrize(
    ("numbers", "positions", "expected"),
    [
        (
            [8, 1],
            [[0, 0, 0], [0, 0, 1.2]],
            ["H-O at 1.20 angstrom (atoms 1 and 2); in training 0.90 to 1.05"],
        ),
        (
            [1, 8],
            [[0, 0, 0], [0, 0, 0.8]],
            ["H-O at 0.80 angstrom (atoms 1 and 2); in training 0.90 to 1.05"],
        ),
        (
            [8, 8],
            [[0, 0, 0], [0, 0, 1.4]],
            ["O-O at 1.40 angstrom; in training no such pair was closer than 4"],
        ),
        ([1, 6], [[0, 0, 0], [0, 0, 1.1]], ["no training structure has C"]),
        (
            [8, 1, 1],
            [[0, 0, 0], [0, 0, 1.3], [0, 0, -1.2]],
            [
                "H-H at 2.50 angstrom (atoms 2 and 3); in training 1.40 to 1.70",
                "H-O at 1.30 angstrom (atoms 1 and 2 and 1 more); in training 0.90 to 1.05",
            ],
        ),
        (
            [8, 1, 8, 1],
            [[0, 0, 0], [0, 0, 1], [0, 9, 0], [0, 9, 1]],
            ["4 atoms; the largest training structure has 3"],
        ),
        (
            [8, 1, 1],
            [[0, 0, 0], [0, 0, 1.0], [0, 7, 0]],
            [
                "atom 3 (H) has no neighbour within 4 angstrom; in training the nearest one was at most 1.00 away"
            ],
        ),
    ],
)
def test_outside(numbers, positions, expected):
    assert lines(numbers, positions) == expected
