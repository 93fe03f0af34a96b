"""Folders whose H and S have different blocks."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.crystals.scfout import small_structure
from tracegrad.data.crystal_files.deeph import read_structure

PAIR = ("[1, 0, 0, 1, 2]", "[-1, 0, 0, 2, 1]")


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("lacking", ["hamiltonian", "overlap"])
def test_the_missing_blocks_are_zero(
    tmp_path: Path, pristine: dict[bool, Path], spinful: bool, lacking: str
) -> None:
    folder = tmp_path / "00"
    shutil.copytree(pristine[spinful], folder)
    with h5py.File(folder / f"{lacking}s.h5", "a") as file:
        for key in PAIR:
            del file[key]
    found, expected = read_structure(folder, overlap=True), small_structure(spinful)
    assert np.array_equal(found.edges, expected.edges)
    for matrix in ("hamiltonian", "overlap"):
        for edge, block, whole in zip(
            expected.edges.tolist(), found.blocks(matrix), expected.blocks(matrix), strict=True
        ):
            gone = matrix == lacking and edge in ([1, 0, 0, 0, 1], [-1, 0, 0, 1, 0])
            np.testing.assert_array_equal(block, 0 * whole if gone else whole)
