"""Timed tasks of the data path of crystals: folders in DeepH's format against their cache."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.timing import Timing, measure
from tracegrad.basis import OrbitalBasis
from tracegrad.blocks import cut_padding
from tracegrad.data.cache import build_cache, open_cache
from tracegrad.data.cached_crystals import CrystalCache
from tracegrad.data.crystals import CrystalDatabase
from tracegrad.data.deeph import write_structure
from tracegrad.data.deeph_module import CrystalDataset
from tracegrad.data.structure import Structure, edge_order
from tracegrad.graph import HamiltonianGraph


def structure_of(name: str, graph: HamiltonianGraph, basis: OrbitalBasis) -> Structure:
    """The labelled graph of a layer as a structure; vectors and cells of the edges tell the lattice in the plane."""
    numbers, positions = graph.numbers.numpy(), graph.positions.double().numpy()
    edges = np.concatenate([graph.cells.numpy(), graph.edge_index.numpy().T], axis=1)
    order = edge_order(edges)
    edges = edges[order]
    translations = graph.vectors.double().numpy()[order] + positions[edges[:, 3]] - positions[edges[:, 4]]
    lattice = np.linalg.lstsq(edges[:, :3], translations, rcond=None)[0]
    lattice[2] = [0, 0, 20]
    blocks = graph.h_edge.double().numpy()[order]
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


def crystal_data_task(
    graphs: Sequence[HamiltonianGraph], basis: OrbitalBasis, repeats: int
) -> tuple[list[Timing], list[str]]:
    """Reading, opening and building, in one process, with all files in the memory of the system."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "structures"
        for n, graph in enumerate(graphs):
            structure = structure_of(f"{n:03}", graph, basis)
            write_structure(structure, folder / structure.name)
        database = CrystalDatabase(folder)
        rows = np.arange(len(database))
        path = Path(name) / "graphs.cache"

        def build() -> CrystalCache:
            path.unlink(missing_ok=True)
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
        size = path.stat().st_size
    note = f"cache of {len(rows)} structures of {atoms} atoms: {size / 1e6:.2f} MB"
    return timings, [note]
