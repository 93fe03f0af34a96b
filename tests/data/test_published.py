import numpy as np
import pytest

from tracegrad.data.published import PUBLISHED, PartNumbers, differences


def released(database: str) -> dict[str, np.ndarray]:
    """Numbers of atoms of samples that agree with every number of the table."""
    found = {}
    for part, numbers in PUBLISHED[database].parts.items():
        atoms = np.full(numbers.samples, numbers.smallest)
        atoms[-1] = numbers.largest
        found[part] = atoms
    return found


@pytest.mark.parametrize("database", PUBLISHED)
def test_the_published_numbers_do_not_differ(database):
    assert differences(database, PUBLISHED[database].elements, released(database)) == []


def test_tables_of_the_paper():
    assert PUBLISHED["BG"].parts == {
        "train": PartNumbers(180, 64, 64),
        "val": PartNumbers(60, 64, 64),
        "test": PartNumbers(60, 64, 64),
        "twisted": PartNumbers(9, 28, 1084),
    }
    assert PUBLISHED["MM"].elements == (16, 42)
    assert "twisted" not in PUBLISHED["MG"].parts
    assert PUBLISHED["QS"].parts["test"] == PartNumbers(9335, 23, 29)
    assert [len(PUBLISHED[name].parts) for name in ("MG", "MM", "BG", "BB", "BT", "BS", "QS", "QD")] == [
        *(3, 3, 4, 4, 4, 4),
        *(3, 3),
    ]


def test_every_difference_has_a_line():
    atoms = released("BB")
    atoms["train"] = atoms["train"][:-1]
    atoms["val"] = np.full(113, 38)
    atoms["extra"] = np.array([4])
    del atoms["twisted"]
    assert differences("BB", (6, 83), atoms) == [
        "BB: elements C, Bi; Table 4 has Bi",
        "BB: 230 train samples; Table 4 has 231",
        "BB: val samples of 38 to 38 atoms; Table 4 has 36 to 36",
        "BB: 0 twisted samples; Table 4 has 4",
        "BB: 1 extra samples; Table 4 has none",
    ]
    assert differences("QD", (1, 6, 7, 8, 9), released("QD") | {"test": np.full(3, 12)}) == [
        "QD: 3 test samples; Table 5 has 10100",
        "QD: test samples of 12 to 12 atoms; Table 5 has 10 to 19",
    ]
