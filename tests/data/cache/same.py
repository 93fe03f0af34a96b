"""Graphs of a database with and without its cache."""

from pathlib import Path

import numpy as np
import torch

from tracegrad.data.cache.cached_crystals import CrystalCache
from tracegrad.data.cache.lookup import build_cache
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.loading.deeph_module import CrystalDataset
from tracegrad.hamiltonian.graph import HamiltonianGraph

EMBEDDED = database_path("embedded:demo_crystals.h5")


def assert_same_graph(found: HamiltonianGraph, expected: HamiltonianGraph) -> None:
    """Same fields in the same order with the same bits."""
    assert list(found.keys()) == list(expected.keys())
    for key in expected.keys():  # noqa: SIM118 - a graph iterates over its items
        a, b = found[key], expected[key]
        assert a == b if isinstance(b, int) else (a.dtype == b.dtype and torch.equal(a, b)), key


def graphs(database: CrystalDatabase, cache: CrystalCache | None = None, dtype: str = "float64") -> list:
    dataset = CrystalDataset(database, np.arange(len(database)), database.basis, dtype, cache=cache)
    return [dataset[row] for row in range(len(dataset))]


def assert_same_graphs(database: CrystalDatabase, cache: CrystalCache | None, dtype: str = "float64") -> None:
    assert cache is not None
    for found, expected in zip(graphs(database, cache, dtype), graphs(database, None, dtype), strict=True):
        assert_same_graph(found, expected)


def rebuilt(folder: Path, path: Path, dtype: str = "float64", include: str = "*") -> list[str]:
    """Lines of the report and counts of a build, whose result is compared with the folders."""
    said: list[str] = []
    database = CrystalDatabase(folder, include=include)
    cache = build_cache(
        database,
        path,
        dtype,
        report=said.append,
        on_progress=lambda done, total: said.append(f"{done}/{total}"),
    )
    assert_same_graphs(database, cache, "float32")
    return said
