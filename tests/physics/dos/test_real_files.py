"""Counted Fermi levels of real calculations, where they are at hand."""

import gzip
import os
from pathlib import Path

import pytest

from tracegrad.data.crystal_files.deeph import read_structure
from tracegrad.physics.bands.kpath import periodic_axes
from tracegrad.physics.dos.electrons import charges_in_files, electrons_of_atoms
from tracegrad.physics.dos.fermi_level import count_fermi_level
from tracegrad.physics.dos.kmesh import has_time_reversal, k_mesh
from tracegrad.physics.dos.mesh_states import mesh_states
from tracegrad.physics.dos.orbital_groups import orbital_groups
from tracegrad.physics.overlaps.basis_files import read_basis_file

DATA = Path(os.environ.get("TRACEGRAD_REAL_FILES", Path(__file__).parents[4] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="files of OpenMX that may not be passed on")


@pytest.mark.parametrize(
    ("name", "element", "counts", "electrons", "gap"),
    [
        ("openmx_graphene_1x1", "C6.0", (9, 9, 1), 8, 0.0012),
        ("openmx_bismuthene_soc_1x1", "Bi8.0", (18, 18, 1), 30, 0.5015),
    ],
)
def test_openmx(name, element, counts, electrons, gap, tmp_path):
    path = tmp_path / f"{element}.pao"
    path.write_bytes(gzip.decompress((DATA / "dft" / "openmx_basis" / f"{element}.pao.gz").read_bytes()))
    structure = read_structure(DATA / "deeph" / name, overlap=True)
    shells = {int(structure.numbers[0]): read_basis_file(path)}
    counted = electrons_of_atoms(structure.numbers, charges_in_files(shells), name)
    assert counted == electrons
    assert has_time_reversal(structure)
    mesh = k_mesh(structure.lattice, periodic_axes(structure.edges), counts)
    states = mesh_states(structure, mesh, orbital_groups(structure.numbers, structure.basis, "shell"))
    found = count_fermi_level(states.energies, mesh.weights, counted, spins=3 - structure.basis.spins)
    assert found.gap == pytest.approx(gap, abs=2e-3)
    # OpenMX' level lies in the gap, where in it depends on its temperature.
    assert found.valence - 1e-3 < structure.fermi_level < found.conduction + 1e-3
    assert states.ghosts(found.level) == 0
