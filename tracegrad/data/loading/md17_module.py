"""LightningDataModule of SchNOrb's MD17 Hamiltonians."""

from collections.abc import Mapping, Sequence
from typing import Any

from tracegrad.data.loading.datamodule import MoleculeDataModule
from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.data.molecules.md17 import FUNCTIONAL, MOLECULES, MD17Database
from tracegrad.data.splits import PARTS, Split, counted_split, index_file_split
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis


class MD17DataModule(MoleculeDataModule):
    """A file of SchNOrb's MD17 Hamiltonians and the split of the released QHNet.

    Args:
        path: database file.
        basis: orbital basis.
        molecule: water, ethanol, malondialdehyde or uracil, which is compared with the file; None: any.
        sizes: numbers of rows, or fractions, of train and val; all other rows are tested.
        split_seed: seed of the random order of the rows; 42 as in the released QHNet.
        index_file: an .npz file with the split instead, see `tracegrad.data.splits.index_file_split`.
        label: name of the data in tables; empty: name of the file.
        **loaders: see `HamiltonianDataModule`.
    """

    functional = FUNCTIONAL

    def __init__(
        self,
        path: str,
        basis: OrbitalBasis,
        *,
        molecule: str | None = None,
        sizes: Sequence[int | float] = (0.8, 0.1),
        split_seed: int = 42,
        index_file: str | None = None,
        label: str = "",
        **loaders: Any,
    ):
        super().__init__(path, basis, label=label, **loaders)
        if molecule is not None and molecule not in MOLECULES:
            raise ConfigError(f"data.molecule is {molecule!r}; choose one of {', '.join(MOLECULES)}, or null")
        self.molecule, self.sizes, self.split_seed, self.index_file = molecule, sizes, split_seed, index_file

    def open(self) -> tuple[Mapping[str, MoleculeDatabase], Split]:
        source = MD17Database(self.path)
        if self.molecule is not None:
            source.require_molecule(self.molecule)
        if self.index_file is not None:
            split = index_file_split(self.index_file, len(source))
        else:
            split = counted_split(len(source), self.sizes, self.split_seed)
        return dict.fromkeys(PARTS, source), split

    @property
    def split_name(self) -> str:
        return str(self.index_file or "geometries")
