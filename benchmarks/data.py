"""Task "data": read rows of a QH9 database, structure folders and their cache, in one process."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.crystals import GRAPHENE, CrystalSizes, crystal_of
from benchmarks.molecules import Sizes, random_matrix, random_molecule
from benchmarks.timing import Timing, measure
from tracegrad.data.cache.cached_crystals import CrystalCache
from tracegrad.data.cache.lookup import build_cache, open_cache
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.data.loading.deeph_module import CrystalDataset
from tracegrad.data.molecules.molecule_checks import CORE_LEVELS
from tracegrad.data.qh9.database import QH9Database
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import cut_padding
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate, molecule_graph

STRUCTURES = 3


def write_molecules(path: Path, rng: np.random.Generator, rows: int, atoms: int, basis: OrbitalBasis) -> None:
    """Write a database in QH9's schema with random molecules and random matrices with realistic 1s levels."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE data (id INTEGER PRIMARY KEY, N INTEGER, Z BLOB, pos BLOB, Ham BLOB)"
        )
        for row in range(rows):
            numbers, positions = random_molecule(rng, atoms)
            matrix, sizes = random_matrix(rng, numbers, basis), basis.sizes[numbers]
            first = np.cumsum(sizes) - sizes
            matrix[first, first] = CORE_LEVELS[numbers]
            blobs = (numbers.astype("<i4"), positions, matrix)
            values = (row, atoms, *(blob.tobytes() for blob in blobs))
            connection.execute("INSERT INTO data VALUES (?, ?, ?, ?, ?)", values)
    connection.close()


def molecule_data_task(
    sizes: Sizes, rng: np.random.Generator, atoms: int, repeats: int
) -> tuple[list[Timing], list[str]]:
    """Time the way from rows of a SQLite file to graphs and batches."""
    basis = OrbitalBasis.def2_svp()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stable.db"
        write_molecules(path, rng, sizes.rows, atoms, basis)
        database = QH9Database(path)

        def read() -> list[HamiltonianGraph]:
            samples = (database[row] for row in range(len(database)))
            return [
                molecule_graph(s.numbers, s.positions, basis, hamiltonian=s.hamiltonian, sample_id=s.row)
                for s in samples
            ]

        graphs = read()

        def batches() -> None:
            for start in range(0, len(graphs), sizes.batch):
                collate(graphs[start : start + sizes.batch])

        timings = measure(f"SQLite to graph, {len(graphs)} rows", {"one process": read}, repeats, "cpu")
        task = f"collation in batches of {sizes.batch}, {len(graphs)} rows"
        timings += measure(task, {"one process": batches}, repeats, "cpu")
    rates = [f"{len(graphs) / t.median:,.0f} molecules of {atoms} atoms a second: {t.task}" for t in timings]
    return timings, rates


def structure_of(name: str, graph: HamiltonianGraph, basis: OrbitalBasis) -> Structure:
    """The labelled graph of one layer as a structure; the lattice follows from vectors and cells of the edges."""
    numbers, positions = graph.numbers.numpy(), graph.positions.double().numpy()
    edges = np.concatenate([graph.cells.numpy(), graph.edge_index.numpy().T], axis=1)
    order = edge_order(edges)
    edges = edges[order]
    translations = graph.vectors.double().numpy()[order] + positions[edges[:, 3]] - positions[edges[:, 4]]
    lattice = np.linalg.lstsq(edges[:, :3], translations, rcond=None)[0]
    lattice[2] = [0, 0, 20]
    blocks = graph.h_edge.double().numpy()[order]
    on_site = (edges[:, :3] == 0).all(1) & (edges[:, 3] == edges[:, 4])
    blocks[on_site] -= 10 * np.eye(blocks.shape[-1])  # levels near 0 would cause a warning about the unit
    return Structure(
        name=name,
        numbers=numbers,
        positions=positions,
        lattice=lattice,
        shells={number: basis.shells[number] for number in sorted(set(numbers.tolist()))},
        spinful=basis.spinful,
        fermi_level=0.0,
        edges=edges,
        hamiltonian=cut_padding(blocks, edges[:, 3:].T, numbers, basis),
    )


def write_crystals(folder: Path, graphs: Sequence[HamiltonianGraph], basis: OrbitalBasis) -> None:
    """Write a database of structure folders."""
    for n, graph in enumerate(graphs):
        structure = structure_of(f"{n:03}", graph, basis)
        write_structure(structure, folder / structure.name)


def crystal_data_task(
    sizes: CrystalSizes, rng: np.random.Generator, repeats: int
) -> tuple[list[Timing], list[str]]:
    """Time reading, opening and building; the files are in the file cache of the system."""
    basis = sizes.basis
    graphs = [crystal_of(GRAPHENE, sizes, rng) for _ in range(STRUCTURES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "structures"
        write_crystals(folder, graphs, basis)
        database = CrystalDatabase(folder)
        rows = np.arange(len(database))
        path = Path(name) / "graphs.cache"

        def build() -> CrystalCache:
            shutil.rmtree(path, ignore_errors=True)
            return build_cache(database, path, "float32", processes=1)

        cache = build()
        folders = CrystalDataset(database, rows, basis)
        cached = CrystalDataset(database, rows, basis, cache=cache)
        atoms = int(graphs[0].num_nodes or 0)
        both: dict[str, Callable[[], object]] = {
            "folder": lambda: folders[0],
            "cache": lambda: cached[0],
        }
        timings = measure(f"one structure of {atoms} atoms to a graph", both, repeats, "cpu")
        opening: dict[str, Callable[[], object]] = {
            "folder": lambda: CrystalDatabase(folder).shells,
            "cache": lambda: open_cache(database, [path], "float32"),
        }
        timings += measure(f"opening {len(rows)} structures", opening, repeats, "cpu")
        once: dict[str, Callable[[], object]] = {
            "reading the folders": lambda: [database[int(row)] for row in rows],
            "building the cache": build,
        }
        timings += measure(f"{len(rows)} structures of {atoms} atoms", once, repeats, "cpu")
    note = f"cache of {len(rows)} structures of {atoms} atoms: {cache.size / 1e6:.2f} MB"
    return timings, [note]


def data_tasks(
    sizes: Sizes, crystal_sizes: CrystalSizes, rng: np.random.Generator, atoms: int, repeats: int
) -> tuple[list[Timing], list[str]]:
    """Timings and notes for molecules and crystals."""
    molecules, rates = molecule_data_task(sizes, rng, atoms, repeats)
    crystals, notes = crystal_data_task(crystal_sizes, rng, repeats)
    return molecules + crystals, rates + notes
