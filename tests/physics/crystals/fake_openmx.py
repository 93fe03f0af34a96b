"""A program that behaves like OpenMX, and structures with the matrices that it writes."""

from pathlib import Path

import numpy as np
from ase.neighborlist import neighbor_list

from tests.data.crystals.scfout import daggers, scfout
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.hamiltonian.blocks import block_starts
from tracegrad.physics.crystals.openmx import Openmx
from tracegrad.physics.crystals.structures import CrystalStructure

CELLS = {"crystal": "MG", "supercell": [2, 1]}
SMALL = {"bases": {"C": "C5.0-s1p1"}, "k_spacing": 1.0, "max_iter": 40}

# The file NAME in the folder `modes` determines what the program does in the folder NAME.
SCRIPT = """#!/bin/sh
name=$(basename "$PWD")
echo "$* threads $OMP_NUM_THREADS" >> {home}/calls/$name
mode=$(cat {home}/modes/$name 2>/dev/null || echo good)
test -f "$1" || exit 9
echo "Welcome to OpenMX"
cycles=12
case $mode in
  fail) echo "Segmentation fault"; exit 3 ;;
  silent) echo "no PAO"; exit 0 ;;
  hang) echo $$ > {home}/hanging; exec sleep 60 ;;
  unconverged) cycles=40 ;;
  together) while [ $(ls {home}/calls | wc -l) -lt 2 ]; do sleep 0.02; done ;;
esac
cp {home}/scfout/$name openmx.scfout
test $mode = truncated && head -c 300 {home}/scfout/$name > openmx.scfout
cat > openmx.out <<END
  This calculation was performed by OpenMX Ver. 3.9.9
                  SCF history at MD= 1
   SCF=   1  NormRD=  1.000000000000  Uele= -3.523169099731
   SCF=  $cycles  NormRD=  0.000000001917  Uele= -3.889316014533
END
"""


class FakeOpenmx:
    """The program in a folder like an installation, with empty files for bases and pseudopotentials."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("work", "DFT_DATA19/PAO", "DFT_DATA19/VPS", "calls", "modes", "scfout"):
            (home / name).mkdir(parents=True)
        for name in ("PAO/C5.0.pao", "PAO/Bi8.0.pao", "VPS/C_PBE19.vps", "VPS/Bi_PBE19.vps"):
            (home / "DFT_DATA19" / name).touch()
        self.path = home / "work" / "openmx"
        self.path.write_text(SCRIPT.format(home=home))
        self.path.chmod(0o755)

    def knows(self, entry: CrystalStructure, engine: Openmx, spin_orbit: bool = False) -> Structure:
        """Let the program write random matrices for a structure, and return them."""
        structure = calculated(entry, engine, spin_orbit)
        text = engine.input_text(entry.atoms, spin_orbit)
        (self.home / "scfout" / entry.name).write_bytes(scfout(structure, text=text))
        return structure

    def will(self, mode: str, name: str) -> None:
        (self.home / "modes" / name).write_text(mode)

    def calls(self, name: str) -> int:
        path = self.home / "calls" / name
        return len(path.read_text().splitlines()) if path.exists() else 0


def calculated(entry: CrystalStructure, engine: Openmx, spin_orbit: bool) -> Structure:
    """Random hermitian matrices between atoms less than 1.6 angstrom apart, or 3.2 of bismuth."""
    atoms = entry.atoms.copy()
    atoms.wrap()
    i, j, cells = neighbor_list("ijS", atoms, 1.6 if 6 in atoms.numbers else 3.2)
    on_site = np.arange(len(atoms))
    zeros = np.zeros((len(atoms), 3), dtype=np.int64)
    edges = np.concatenate(
        [np.column_stack([cells, i, j]), np.column_stack([zeros, on_site, on_site])]
    ).astype(np.int64)
    edges = edges[edge_order(edges)]
    random = np.random.default_rng(len(atoms))
    values = {
        "name": entry.name,
        "numbers": atoms.numbers.astype(np.int64),
        "positions": atoms.positions,
        "lattice": atoms.cell.array,
        "shells": engine.shells(atoms),
        "spinful": spin_orbit,
        "fermi_level": -4.0,
        "edges": edges,
    }
    structure = Structure(**values)
    for matrix in ("hamiltonian", "overlap"):
        basis = structure.basis_of(matrix)
        entries = random.normal(size=block_starts(edges[:, 3:].T, structure.numbers, basis)[-1])
        if basis.spinful:
            entries = entries + 1j * random.normal(size=len(entries))
        values[matrix] = (entries + daggers(entries, structure, matrix)) / 2
    return Structure(**values)
