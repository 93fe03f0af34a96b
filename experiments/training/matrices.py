"""The matrices beside H that a network or its loss needs: overlaps, and the H0 that the network corrects."""

import itertools
from collections.abc import Callable

from experiments.training.rank import process_rank
from tracegrad.data.crystals.structure import Structure
from tracegrad.data.loading.datamodule import MoleculeDataModule, MoleculeDataset
from tracegrad.data.loading.deeph_module import DeepHDataModule
from tracegrad.data.loading.hamiltonian_module import HamiltonianDataModule
from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.errors import ConfigError
from tracegrad.extras import require
from tracegrad.hamiltonian.h0 import MINAO
from tracegrad.system.progress import ProgressDisplay
from tracegrad.training.module import HamiltonianModule


def provide_matrices(datamodule: HamiltonianDataModule, module: HamiltonianModule) -> None:
    """Let the graphs of the data carry what network and loss need.

    H0 of all molecules is computed once and kept in a cache beside the database; that of crystals is read.

    Raises:
        ConfigError: an H0 with another functional than that of the data, or data that cannot give the matrices.
        DataError: a structure of crystals has no H0.
    """
    h0, overlap = module.model.h0, module.loss.needs_overlap
    if h0 is None and not overlap:
        return
    datamodule.setup("test")
    if isinstance(datamodule, DeepHDataModule):
        if h0 is not None:
            datamodule.provide_h0()
        if overlap:
            datamodule.provide_overlaps(_from_basis_files(datamodule))
    elif isinstance(datamodule, MoleculeDataModule):
        _provide_molecular(datamodule, h0, overlap)
    else:
        raise ConfigError(
            f"{type(datamodule).__name__} gives neither overlaps nor H0; choose another loss, and model.h0=null"
        )


def _from_basis_files(datamodule: DeepHDataModule) -> Callable[[Structure], Structure] | None:
    if datamodule.basis_files is None:
        return None
    from tracegrad.physics.overlaps.structure_overlaps import BasisFileOverlaps

    return BasisFileOverlaps(datamodule.basis_files, datamodule.basis, datamodule.basis.elements)


def _provide_molecular(datamodule: MoleculeDataModule, h0: str | None, overlap: bool) -> None:
    require("pyscf")
    from tracegrad.physics.molecules import row_matrices  # PySCF takes seconds to load
    from tracegrad.physics.molecules.cached_molecules import prepare_molecules
    from tracegrad.physics.molecules.h0 import h0_entries
    from tracegrad.physics.molecules.molecule_cache import molecule_cache_paths

    by_database: dict[MoleculeDatabase, list[MoleculeDataset]] = {}
    for part in datamodule.parts.values():
        assert isinstance(part, MoleculeDataset)
        by_database.setdefault(part.database, []).append(part)
    if overlap:
        for dataset in itertools.chain(*by_database.values()):
            dataset.matrices["s"] = row_matrices.molecular_overlap
    if h0 is None:
        return
    _check_functional(h0, datamodule)
    kind = h0_entries(h0)
    shown = process_rank() == 0
    for database, datasets in by_database.items():
        with ProgressDisplay("molecules", shown=shown) as progress:
            triangles = prepare_molecules(
                database,
                kind,
                [int(row) for dataset in datasets for row in dataset.rows],
                molecule_cache_paths(database.path, kind, datamodule.h0_cache),
                report=progress.report if shown else lambda line: None,
                on_progress=progress.bar("computing H0"),
            )
        for dataset in datasets:
            dataset.matrices["h0"] = row_matrices.SymmetricMatrices(triangles)


def _check_functional(h0: str, datamodule: MoleculeDataModule) -> None:
    of_h0, of_data = h0.removeprefix(MINAO), datamodule.functional
    if h0.startswith(MINAO) and of_data is not None and of_h0 != of_data:
        raise ConfigError(
            f"model.h0={h0} is a Fock matrix of {of_h0}, and the data are of {of_data}; set model.h0={MINAO}{of_data}"
        )
