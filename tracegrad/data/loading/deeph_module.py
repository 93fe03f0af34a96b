"""The LightningDataModule of crystals."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch.utils.data import Dataset

from tracegrad.data.cache.cached_crystals import CrystalCache
from tracegrad.data.cache.lookup import cache_paths, open_cache, prepare_cache
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystals.conversion_checks import check_bands, check_matrices
from tracegrad.data.crystals.reader import ReaderType
from tracegrad.data.crystals.spins import BOTH, named_spin
from tracegrad.data.crystals.structure import Structure
from tracegrad.data.loading.first_look import compare_radii, doubtful_units, opposite_moments
from tracegrad.data.loading.hamiltonian_module import (
    DTYPES,
    HamiltonianDataModule,
    PartSummary,
    database_path,
    evenly_spaced,
)
from tracegrad.data.splits import PARTS, TWISTED, Split, name_file_split, shuffled_split
from tracegrad.elements import SYMBOLS
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import SPINS, OrbitalBasis, shells_name
from tracegrad.hamiltonian.blocks import pad_blocks
from tracegrad.hamiltonian.graph import HamiltonianGraph, crystal_graph
from tracegrad.system.progress import ProgressDisplay

_STRUCTURES_CHECKED = 3  # structures whose radii and units are checked before a training


class CrystalDataset(Dataset[HamiltonianGraph]):
    """Some structures of a database as labelled graphs.

    Args:
        database: the database; it can be read in worker processes.
        rows: positions in the database.
        basis: orbital basis of the structures.
        dtype: float32 or float64.
        in_memory: each process keeps every graph that it has read.
        cache: cache of the database, which is read in place of it; None: no cache.

    Attributes:
        overlaps: returns a structure with its overlaps by row, for graphs that carry overlap and Fermi level; None:
            for others.
    """

    def __init__(
        self,
        database: CrystalDatabase,
        rows: Int64[np.ndarray, " rows"],
        basis: OrbitalBasis,
        dtype: str = "float32",
        *,
        in_memory: bool = False,
        cache: CrystalCache | None = None,
    ):
        self.database, self.rows, self.basis, self.cache = database, rows, basis, cache
        self.dtype, self.in_memory = DTYPES[dtype], in_memory
        self.overlaps: Callable[[int], Structure] | None = None
        self._kept: dict[int, HamiltonianGraph] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def costs(self) -> Float[np.ndarray, " rows"]:
        """Cost of each structure: its number of atoms; in one material the number of pairs is proportional to it."""
        return self.database.atom_counts[self.rows].astype(np.float64)

    def __getitem__(self, index: int) -> HamiltonianGraph:
        row = int(self.rows[index])
        if row in self._kept:
            return self._kept[row]
        graph = self._read(row)
        if self.overlaps is not None:
            self._add_overlap(graph, self.overlaps(row))
        if self.in_memory:
            self._kept[row] = graph
        return graph

    def _read(self, row: int) -> HamiltonianGraph:
        if self.cache is not None:
            return self.cache.graph(row, self.basis, spin=self._spin(row), dtype=self.dtype)
        structure = self.database[row]
        return crystal_graph(
            structure.numbers,
            structure.positions,
            structure.lattice,
            structure.edges,
            self.basis,
            entries=structure.hamiltonian,
            h0=structure.h0,
            spin=self._spin(row),
            sample_id=row,
            dtype=self.dtype,
        )

    def _spin(self, row: int) -> str | None:
        return self.database.spin_of(row) if self.basis.collinear else None

    def _add_overlap(self, graph: HamiltonianGraph, structure: Structure) -> None:
        """Add ``s_edge``, unit matrices in spin, and ``fermi_level`` (NaN: unknown)."""
        if structure.overlap is None:
            raise DataError(
                f"{self.database.path}: {structure.name} has no overlaps, which the loss needs; complete the data, "
                "or choose another loss"
            )
        basis = structure.basis_of("overlap")
        blocks = pad_blocks(structure.overlap, graph.edge_index.numpy(), structure.numbers, basis)
        spatial = torch.from_numpy(blocks).to(self.dtype)
        spins = structure.basis.spins
        whole = spatial.new_zeros(len(spatial), spins, basis.dim, spins, basis.dim)
        for spin in range(spins):
            whole[:, spin, :, spin] = spatial
        graph.s_edge = whole.flatten(3).flatten(1, 2)
        level = structure.fermi_level
        graph.fermi_level = torch.tensor([float("nan") if level is None else level], dtype=torch.float64)


class DeepHDataModule(HamiltonianDataModule):
    """A database of crystals and one of its splits, with twisted structures as a separate test set.

    Args:
        path: folder of structures, packed .h5 file, or ``embedded:NAME``.
        basis: orbital basis of the structures.
        label: name of the data in tables.
        table: database of the paper (MG, MM, BG, BB, BT, BS) whose numbers in Table 4 are compared with the data.
        include: patterns of the names of the structures to use.
        twisted: patterns of the names of twisted structures, which are only tested.
        sizes: numbers of structures of train, val and test, or fractions of those that are not twisted.
        split_seed: seed of the shuffle; 42 is the released one.
        split_file: JSON file with lists of names train, val, test and optionally twisted, in place of ``sizes``.
        train_size: number of training structures to use, evenly spaced (0: all).
        in_memory: each process keeps the graphs that it has read.
        cache: path of the cache of the database, "auto" (see `cache_paths`), or None for no cache.
        reader: class of the format, see `CrystalReader`; None: the one that fits the database.
        basis_files: folder from whose basis files overlaps are computed, for losses that need them; None: they are
            read from the database.
        spin: of collinear spin-polarised calculations "up", "down" or, for a collinear basis, "both", see
            `CrystalDatabase`. Both spins of a structure belong to the same part of the split; numbers of structures
            count them once.
        dtype: float32 or float64.
        **loaders: see `HamiltonianDataModule`.
    """

    def __init__(
        self,
        path: str,
        basis: OrbitalBasis,
        *,
        label: str = "",
        table: str | None = None,
        include: str | Sequence[str] = "*",
        twisted: Sequence[str] = (),
        sizes: Sequence[int | float] | None = None,
        split_seed: int = 42,
        split_file: str | None = None,
        train_size: int = 0,
        in_memory: bool = False,
        cache: str | None = None,
        reader: ReaderType | None = None,
        basis_files: str | None = None,
        spin: str | None = None,
        dtype: str = "float32",
        **loaders: Any,
    ):
        super().__init__(table=table, train_size=train_size, dtype=dtype, **loaders)
        if (sizes is None) == (split_file is None):
            raise ConfigError("data.sizes or data.split_file is needed, and only one of them")
        self.path, self.basis = database_path(path), basis
        self.label = label or self.path.stem
        self.include = [include] if isinstance(include, str) else list(include)
        self.twisted = list(twisted)
        self.sizes, self.split_seed, self.split_file = sizes, split_seed, split_file
        self.in_memory, self.cache, self.reader, self.spin = in_memory, cache, reader, spin
        self.basis_files = basis_files
        self._h0 = False  # whether the graphs carry H0
        self._opened: CrystalCache | None = None
        self._wrong_radii: str | None = None

    def prepare_data(self) -> None:
        """Build the cache if it is configured and not valid; Lightning calls this on one process of each node."""
        if self.cache is None:
            return
        with ProgressDisplay("structures") as progress:
            prepare_cache(
                self._database(h0=self._h0),
                self._cache_paths(self.cache),
                self.dtype,
                report=progress.report,
                on_progress=progress.bar("reading"),
            )

    def setup(self, stage: str | None = None) -> None:
        """Open the database, compare it with the basis, and split it; use its cache if that is valid.

        A warning is printed if the radii of the basis contradict the pairs of the data; a training is then refused.
        """
        if self.split is None:
            self._open()
        if stage == "fit" and self._wrong_radii is not None:
            raise BasisError(self._wrong_radii)
        if self.cache is not None and self._opened is None:
            self._opened = open_cache(self.database, self._cache_paths(self.cache), self.dtype)
            for part in self.parts.values():
                assert isinstance(part, CrystalDataset)
                part.cache = self._opened

    def _database(self, *, overlap: bool = False, h0: bool = False) -> CrystalDatabase:
        """The database with these matrices beside H."""
        return CrystalDatabase(
            self.path, include=self.include, overlap=overlap, h0=h0, reader=self.reader, spin=self.spin
        )

    def _cache_paths(self, setting: str) -> list[Path]:
        return cache_paths(self.path, setting, self.include, self.spin, h0=self._h0)

    def _open(self) -> None:
        database = self._database()
        self._check_basis(database)
        database.check_files()  # before a training, not at its end
        chosen = self._split(database.calculations)
        empty = [part for part in PARTS if not len(chosen[part])]
        if empty:
            raise DataError(f"{self.path}: no structures are left for {', '.join(empty)}; change data.sizes")
        chosen["train"] = self.limit_training(chosen["train"], str(self.path), "structures")
        self.database = database
        self.split = {part: database.rows_of(numbers) for part, numbers in chosen.items()}
        of_parts = dict(self.split)
        if self.basis.collinear:
            for part, rows in self.split.items():
                of_parts |= {f"{part}_{spin}": rows[k :: len(SPINS)] for k, spin in enumerate(SPINS)}
        self.parts = {
            part: CrystalDataset(database, rows, self.basis, self.dtype, in_memory=self.in_memory)
            for part, rows in of_parts.items()
        }
        self.compare_with_table()
        self._check_first_structures()

    def _check_first_structures(self) -> None:
        """Compare some structures with the radii of the basis and check their units."""
        rows = self.parts["train"].rows  # type: ignore[attr-defined]
        structures = [
            self.database[row] for row in rows[evenly_spaced(len(rows), min(len(rows), _STRUCTURES_CHECKED))]
        ]
        line, sure = compare_radii(structures, self.basis)
        for text in filter(None, (line, doubtful_units(structures[0]), self._wrong_matrices(int(rows[0])))):
            self.remark(f"{self.path}: {text}")
        self._check_spins(structures[0], int(rows[0]))
        self._wrong_radii = f"{self.path}: {line}" if sure else None

    def _check_spins(self, first: Structure, row: int) -> None:
        """Remark on spins that are not used, or that the network cannot tell apart in the structure of a row."""
        text = None
        if self.basis.collinear:
            text = opposite_moments(first, self.database[row + 1])
        elif not self.basis.spinful and {"_up", "_down"} <= {
            name.removeprefix(named_spin(name)[0]) for name in self.database.names
        }:
            text = (
                "structures are called NAME_up and NAME_down, which are one and the same to a network without spin; "
                "set data.spin=both basis.collinear=true if they are the two spins of NAME, or take one (include)"
            )
        if text is not None:
            self.remark(f"{self.path}: {text}")

    def provide_h0(self) -> None:
        """From now on the graphs carry H0 of the data; its cache is another one.

        Raises:
            DataError: a structure has no H0.
        """
        self._h0, self._opened = True, None
        self.database = self._database(h0=True)
        self.database.check_files()
        for part in self.parts.values():
            assert isinstance(part, CrystalDataset)
            part.database, part.cache = self.database, None
        rows = self.parts["train"].rows  # type: ignore[attr-defined]
        first = self.database[int(rows[0])]
        assert first.hamiltonian is not None
        assert first.h0 is not None
        whole, rest = (float(np.abs(one).mean()) for one in (first.hamiltonian, first.hamiltonian - first.h0))
        if rest > whole:
            raise DataError(
                f"{self.path}: {first.name}: H - H0 is larger than H, {rest:.3g} and {whole:.3g} eV on average; "
                "correct H0 (unit, order of the orbitals, structure), or set model.h0=null"
            )

    def provide_overlaps(self, add: Callable[[Structure], Structure] | None = None) -> None:
        """From now on the graphs carry overlap and Fermi level, read from the database itself, not from its cache.

        Args:
            add: adds the overlaps to a structure; None: they are read.
        """
        database = self._database(overlap=add is None)
        for part in self.parts.values():
            assert isinstance(part, CrystalDataset)
            part.overlaps = partial(_with_overlaps, database, add)

    def _wrong_matrices(self, row: int) -> str | None:
        """What the checks of converted matrices find wrong in a structure, if it has an overlap."""
        try:
            with_overlap = self._database(overlap=True)
            structure = with_overlap[row]
        except DataError:  # without S; H has been read before
            return None
        name = structure.name
        bands = with_overlap.reader.reference_bands(name)
        findings = [
            *check_matrices(structure),
            None if bands is None else check_bands(structure, bands, self.database.spin_of(row)),
        ]
        wrong = [one.text for one in findings if one is not None and not one.passed]
        return f"{name}: {'; '.join(wrong)}" if wrong else None

    def summary(self) -> PartSummary:
        assert self.split is not None
        counts = self.database.atom_counts
        return PartSummary(self.database.elements, {part: counts[rows] for part, rows in self.split.items()})

    def subsets(self, part: str) -> dict[str, str]:
        """Each spin of a collinear basis is a set, too, and the twisted structures are a second test set."""
        of_spins = {spin: f"{part}_{spin}" for spin in SPINS} if self.basis.collinear else {}
        twisted = {TWISTED: TWISTED} if part == "test" and TWISTED in self.parts else {}
        return {"": part, **of_spins, **twisted}

    def sample_name(self, row: int) -> str:
        """Name of a structure."""
        return self.database.names[row]

    @property
    def split_name(self) -> str:
        return str(self.split_file or f"shuffle {self.split_seed}")

    def identity(self) -> dict[str, Any]:
        return {"include": self.include, **self.database.identity()}

    def _split(self, names: list[str]) -> Split:
        """Positions of names of structures, where both spins of one are a single name, in each part."""
        if self.split_file is not None:
            return name_file_split(self.split_file, names)
        assert self.sizes is not None
        if not self.twisted:
            return shuffled_split(len(names), list(self.sizes), self.split_seed)
        twisted = np.array(
            [i for i, name in enumerate(names) if any(fnmatchcase(name, p) for p in self.twisted)],
            dtype=np.int64,
        )
        if not len(twisted):
            raise DataError(
                f"{self.path}: no name fits data.twisted={self.twisted}; give patterns of names, or []"
            )
        rest = np.setdiff1d(np.arange(len(names)), twisted)
        split = shuffled_split(rest.tolist(), list(self.sizes), self.split_seed)
        return split | {TWISTED: twisted}

    def _check_basis(self, database: CrystalDatabase) -> None:
        """Raise `BasisError` unless the files and the basis agree in spin and in the shells of every element."""
        if not self.basis.periodic:
            raise BasisError(
                f"{self.path}: holds crystals, and {self.basis.name} in the order of {self.basis.convention} is a "
                f"basis of molecules; choose basis=openmx 'basis.shells=[{_named_shells(database.shells)}]'"
            )
        both = database.spin == BOTH
        if both and database.spinful:
            raise BasisError(
                f"{self.path}: the Hamiltonians are spinful, with both spins in one matrix; leave data.spin out, and "
                "set basis.spinful=true basis.collinear=false"
            )
        if both and not self.basis.collinear:
            raise BasisError(f"{self.path}: data.spin=both needs basis.collinear=true")
        if self.basis.collinear and not both:
            only = "" if database.spin is None else f", but data.spin={database.spin} reads one of them"
            raise BasisError(
                f"{self.path}: basis.collinear=true is for the Hamiltonians of both spins{only}; set "
                "data.spin=both, or basis.collinear=false"
            )
        if database.spinful != self.basis.spinful:
            kind = "spinful" if database.spinful else "without spin"
            raise BasisError(
                f"{self.path}: the Hamiltonians are {kind}; set basis.spinful={str(database.spinful).lower()}"
            )
        for number, degrees in database.shells.items():
            of_basis = self.basis.shells.get(number)
            if of_basis != degrees:
                symbol = SYMBOLS[number]
                raise BasisError(
                    f"{self.path}: {symbol} has shells {shells_name(degrees)}, but the basis has "
                    f"{shells_name(of_basis) if of_basis else 'none'} for it; choose basis=openmx "
                    f"'basis.shells=[{_named_shells(database.shells)}]' (with radii, such as C6.0-s2p2d1, to predict "
                    "bare cells later)"
                )


def _with_overlaps(
    database: CrystalDatabase, add: Callable[[Structure], Structure] | None, row: int
) -> Structure:
    return database[row] if add is None else add(database[row])


def _named_shells(shells: Mapping[int, Sequence[int]]) -> str:
    return ",".join(f"{SYMBOLS[z]}-{shells_name(degrees)}" for z, degrees in shells.items())
