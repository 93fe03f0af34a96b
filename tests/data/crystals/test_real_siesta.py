"""Runs of several versions of SIESTA: blocks and bands against those of sisl, and against printed eigenvalues."""

import shutil

import numpy as np
import pytest

from tests.data.crystals.real_runs import FILES, bands, references, standard_blocks
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.siesta.reader import SiestaReader
from tracegrad.errors import DataError

RUNS = FILES / "siesta"
pytestmark = [
    pytest.mark.skipif(not RUNS.is_dir(), reason="needs files of real runs"),
    pytest.mark.slow,
]
AT_GAMMA = ["C2_noncollinear", "H2O_gamma_folded"]


@pytest.mark.parametrize(
    ("name", "spin"),
    [
        ("Bi_hexagonal_soc", None),
        ("Pt2_soc", None),
        ("graphene_electrode", None),
        ("Si_hsx2_intel", None),
        ("SrTiO3_polarized", "up"),
        ("SrTiO3_polarized", "down"),
        *((name, None) for name in AT_GAMMA),
    ],
)
def test_blocks_and_bands(name, spin, monkeypatch):
    folder = RUNS / name
    if name in AT_GAMMA:  # at Gamma the sums over images have the right eigenvalues
        with pytest.raises(DataError, match=r"a run at Gamma only.*orbitals reach an image"):
            CrystalDatabase(folder, overlap=True)[0]
        monkeypatch.setattr("tracegrad.data.crystal_files.siesta.reader.check_images", lambda *_: None)
        structure = SiestaReader(folder).read(name, ["hamiltonian", "overlap"])
    else:
        structure = CrystalDatabase(folder, overlap=True, reader=lambda path: SiestaReader(path, spin))[0]
    reader = SiestaReader(folder, spin)
    overlaps, blocks = (standard_blocks(structure, matrix) for matrix in ("overlap", "hamiltonian"))
    channel = int(spin == "down")
    for edge, expected in references(folder / "reference_blocks.npz").items():
        if edge not in blocks:
            assert not any(np.any(block) for block in expected.values())
            continue
        np.testing.assert_allclose(overlaps[edge], expected["S"], rtol=0, atol=1e-12)
        block, shifted = blocks[edge], structure.fermi_level * expected["S"]
        if not structure.spinful:
            np.testing.assert_allclose(block, expected[str(channel)] + shifted, rtol=0, atol=1e-9)
            continue
        uu, dd, ud = (expected[str(n)] for n in range(3))
        ud = ud + 1j * expected["3"]
        du = ud.conj()
        if "4" in expected:
            uu, dd = uu + 1j * expected["4"], dd + 1j * expected["5"]
            du = expected["6"] + 1j * expected["7"]
        parts = [[uu + shifted, ud], [du, dd + shifted]]
        for s, t in np.ndindex(2, 2):
            np.testing.assert_allclose(block[s, :, t], parts[s][t], rtol=0, atol=1e-9)

    with np.load(folder / "reference_bands.npz") as file:
        found = bands(structure, file["kpoints"]) - structure.fermi_level
        np.testing.assert_allclose(found, file["eigenvalues_minus_fermi_eV"][channel], rtol=0, atol=1e-7)
        assert structure.fermi_level == pytest.approx(float(file["fermi_eV"]), abs=1e-8)
    printed = reader.reference_bands(next(iter(reader.places)))
    # The k in .KP have six digits behind the point.
    np.testing.assert_allclose(
        bands(structure, printed.k[:8]), printed.energies[channel, :8], rtol=0, atol=2e-4
    )


def test_versions(tmp_path):
    folder = RUNS / "Si_hsx0_ancient"
    with pytest.raises(DataError, match=r"0\.HSX\.gz: version 0 of the file"):
        CrystalDatabase(folder / "si_pdos_kgrid.0.HSX.gz", overlap=True)[0]
    structure = CrystalDatabase(folder / "si_pdos_kgrid.1.HSX.gz", overlap=True)[0]
    with np.load(folder / "reference_bands.npz") as file:
        found = bands(structure, file["kpoints"]) - structure.fermi_level
        np.testing.assert_allclose(found, file["eigenvalues_minus_fermi_eV"][0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["Pt2_soc", "graphene_electrode"])
def test_tshs_equals_hsx(name, tmp_path):
    folder = shutil.copytree(RUNS / name, tmp_path / name)
    structure = CrystalDatabase(folder, overlap=True)[0]
    next(folder.glob("*.HSX")).unlink()
    other = CrystalDatabase(folder, overlap=True)[0]
    assert other.fermi_level == structure.fermi_level
    for array in ("numbers", "positions", "lattice", "edges", "hamiltonian", "overlap"):
        np.testing.assert_array_equal(getattr(other, array), getattr(structure, array))
