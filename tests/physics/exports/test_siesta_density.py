"""Files of density matrices for SIESTA, record by record, and as sisl reads them."""

from dataclasses import replace

import numpy as np
import pytest

from tests.physics.exports.conftest import structure
from tracegrad.data.crystal_files.siesta.fortran_records import open_records
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos.density_matrix import density_matrix
from tracegrad.physics.dos.kmesh import k_mesh
from tracegrad.physics.exports.siesta_density import to_sisl_density, write_dm

sisl = pytest.importorskip("sisl")
# s and p of S in the structure are s, x, y, z, and in the file s, -y, z, -x.
P = [(0, 1), (2, -1), (3, 1), (1, -1)]


def densities(spins: int):
    up = structure()
    structures = [up, replace(up, hamiltonian=up.hamiltonian + 0.4 * up.overlap)][:spins]
    mesh = k_mesh(up.lattice, periodic_axes(up.edges), [3, 3, 1])
    return density_matrix(structures, mesh, 7.0, width=0.3)


@pytest.mark.parametrize("spins", [1, 2])
def test_records(tmp_path, spins):
    """SIESTA reads: sizes with the numbers of cells, lengths, columns of each orbital, and D of each spin."""
    density = densities(spins)
    assert write_dm(density, tmp_path, "a") == ["a.DM", "a.fdf"]
    with open_records(tmp_path / "a.DM", ".DM file") as records:
        size, parts, *cells = records.ints("sizes", 5).tolist()
        assert (size, parts) == (18, spins)
        lengths = records.ints("lengths", size)
        columns = [records.ints("columns", int(n)) for n in lengths]
        values = [
            [np.frombuffer(records.record("D", 8 * int(n)), "<f8") for n in lengths] for _ in range(parts)
        ]
        records.end()
    assert cells == [3, 3, 1]
    # The cells are counted as SIESTA does it: 0, 1, ..., then the negative ones, the first vector fastest.
    in_order = [(x, y, 0) for y in (0, 1, -1) for x in (0, 1, -1)]
    first = density.structures[0]
    edges = first.edges.tolist()
    for part, entries in zip(values, density.entries, strict=True):
        blocks = replace(first, hamiltonian=entries).blocks("hamiltonian")
        for cell in ((0, 0, 0), (1, 0, 0)):
            block = blocks[edges.index([*cell, 1, 1])]
            for row, (i, sign) in enumerate(P):
                for column, (j, other) in enumerate(P):
                    # The list of an orbital has the others in the cells R: <other, R| D |orbital, 0>.
                    place = 10 + column + size * in_order.index(cell) + 1
                    found = part[10 + row][columns[10 + row] == place]
                    assert found == pytest.approx([sign * other * block[i, j]], abs=1e-14)


@pytest.mark.parametrize("spins", [1, 2])
def test_sisl_reads_the_electrons(tmp_path, spins):
    density = densities(spins)
    matrix = to_sisl_density(density)
    write_dm(density, tmp_path, "a")
    file = sisl.io.siesta.dmSileSiesta(tmp_path / "a.DM")
    read = file.read_density_matrix(geometry=matrix.geometry, overlap=matrix)
    charges = read.mulliken("atom")
    total = charges[0] if spins == 2 else charges  # total and spin, or total
    assert total.sum() == pytest.approx(7.0, abs=1e-8)
    if spins == 2:
        up, down = density.electrons
        assert charges[-1].sum() == pytest.approx(up - down, abs=1e-8)
    text = (tmp_path / "a.fdf").read_text()
    assert "DM.UseSaveDM true" in text
    assert f"Spin {'polarized' if spins == 2 else 'non-polarized'}" in text
