import shutil

import numpy as np
import pytest

from tests.data.databases import alter, random_sample, write_released_stable, write_stable
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.fetch import verify
from tracegrad.data.fetch.verify import Expectation, verify_crystals, verify_molecules
from tracegrad.data.published import PartNumbers, PublishedDatabase
from tracegrad.errors import ConfigError, DataError

EXPECTED = Expectation.from_config({"samples": 3, "elements": ["O", "H"], "atoms": [2, 3]})


def test_the_released_file_is_as_in_the_table_and_another_one_is_not(tmp_path):
    sizes = {(3, 20): 104_001, (21, 22): 17_495, (23, 29): 9_335}
    atoms = [n for (low, high), rows in sizes.items() for n in [low] * (rows - 1) + [high]]
    path = write_released_stable(tmp_path / "QH9Stable.db", atoms)
    alter(path, "UPDATE data SET Z = ?", np.array([1, 6, 7, 8, 9], "<i4").tobytes())
    verification = verify_molecules(path, "QS", "stable")
    assert verification.differences == ()
    assert str(verification) == "130,831 samples of 3 to 29 atoms (H, C, N, O, F), as in Table 5"
    alter(path, "UPDATE data SET Z = ?", np.array([1, 6], "<i4").tobytes())
    alter(path, "UPDATE data SET N = 30 WHERE N = 29")
    assert verify_molecules(path, "QS", "stable").differences == (
        "QS: elements H, C; Table 5 has H, C, N, O, F",
        "QS: test samples of 23 to 30 atoms; Table 5 has 23 to 29",
    )


@pytest.fixture
def tiny(tmp_path):
    samples = [random_sample(numbers, 0) for numbers in ([8, 1, 1], [8, 1], [1, 1, 8])]
    return write_stable(tmp_path / "QH9Stable.db", samples)


def test_a_tiny_file_is_not_the_released_one(tiny):
    assert verify_molecules(tiny, "QS", "stable").differences == (
        "QS: 3 rows (no release, stable); it should be stable, of 130,831 rows",
    )


def test_other_expectations(tiny):
    assert verify_molecules(tiny, "QS", "stable", EXPECTED).differences == ()
    wrong = Expectation.from_config({"samples": 4, "elements": ["O", "C"], "atoms": [2, 5]})
    assert verify_molecules(tiny, "QS", "stable", wrong).differences == (
        "samples: 3, expected 4",
        "elements: ['H', 'O'], expected ['C', 'O']",
        "atoms: [2, 3], expected [2, 5]",
    )


@pytest.mark.parametrize("values", [{}, 3, {"samples": 1, "elements": ["Xx"], "atoms": [1, 2]}])
def test_expectations_that_are_not_understood(values):
    with pytest.raises(ConfigError, match=r"is not understood; give \{samples: 5"):
        Expectation.from_config(values)


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """Three shifted bilayers of 8 atoms and a twisted one of 28, of the embedded demo."""
    folder = tmp_path_factory.mktemp("crystals") / "BG"
    embedded = CrystalDatabase("tracegrad/data/embedded/demo_crystals.h5")
    for index, name in ((0, "shift/a"), (len(embedded) - 1, "twisted/t")):
        write_structure(embedded[index], folder / name)
    for name in ("b", "c"):
        shutil.copytree(folder / "shift" / "a", folder / "shift" / name)
    return folder


def table(parts, elements=(6,)):
    plain = {part: PartNumbers(1, 8, 8) for part in ("train", "val", "test")}
    return {"BG": PublishedDatabase(elements, plain | parts)}


def test_structures_and_twisted_ones(layers, monkeypatch):
    monkeypatch.setattr(verify, "PUBLISHED", table({"twisted": PartNumbers(1, 28, 28)}))
    monkeypatch.setattr("tracegrad.data.published.PUBLISHED", verify.PUBLISHED)
    verification = verify_crystals(layers, "BG")
    assert (verification.differences, verification.twisted) == ((), ("twisted/*",))
    assert verification.numbers == {"samples": 4, "elements": ["C"], "atoms": [8, 28]}
    monkeypatch.setattr(verify, "PUBLISHED", table({"twisted": PartNumbers(2, 28, 84)}, (6, 7)))
    monkeypatch.setattr("tracegrad.data.published.PUBLISHED", verify.PUBLISHED)
    assert verify_crystals(layers, "BG").differences == (
        "BG: elements C; Table 4 has C, N",
        "BG: 1 twisted samples; Table 4 has 2",
        "BG: twisted samples of 28 to 28 atoms; Table 4 has 28 to 84",
    )


def test_few_structures_are_not_the_published_ones(layers):
    assert verify_crystals(layers, "BG").differences == (
        "BG: 0 structures of 64 atoms; Table 4 has 300 (180 + 60 + 60)",
        "BG: 4 twisted samples; Table 4 has 9",
        "BG: twisted samples of 8 to 28 atoms; Table 4 has 28 to 1084",
    )


def test_a_structure_that_cannot_be_opened_is_named(layers, tmp_path):
    copy = shutil.copytree(layers, tmp_path / "BG")
    (copy / "shift" / "b" / "hamiltonians.h5").unlink()
    with pytest.raises(DataError, match="shift/b"):
        verify_crystals(copy, "BG")


@pytest.mark.parametrize(
    ("apart", "others", "patterns"),
    [
        (["t/1", "t/2"], ["a/1"], ["t/*"]),
        (["t/1", "t/2"], ["t/3"], ["t/1", "t/2"]),
        (["t/1", "u"], ["a"], ["t/*", "u"]),
        ([], ["a"], []),
    ],
)
def test_patterns_of_twisted_structures(apart, others, patterns):
    assert verify._patterns(apart, others) == patterns
