"""Batches that are sent as parcels arrive unchanged."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.molecules import random_hamiltonian
from tracegrad.data.loading.parcel import Parcel, collate_for_transport
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate, molecule_graph

BASIS = OrbitalBasis.def2_svp()


def graphs() -> list[HamiltonianGraph]:
    molecules = [np.array([8, 1, 1]), np.array([6, 1, 1, 1, 1]), np.array([1, 1])]
    return [
        molecule_graph(
            z,
            np.random.default_rng(k).normal(size=(len(z), 3)),
            BASIS,
            hamiltonian=random_hamiltonian(z, BASIS, k),
            sample_id=k,
        )
        for k, z in enumerate(molecules)
    ]


def assert_same(found, expected) -> None:
    assert type(found) is type(expected)
    assert found.num_graphs == expected.num_graphs
    assert found.keys() == expected.keys()
    for name in expected.keys():  # noqa: SIM118 - of a graph
        if isinstance(expected[name], torch.Tensor):
            assert torch.equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype
        else:
            assert found[name] == expected[name]
    assert torch.equal(found[1].h_edge, expected[1].h_edge)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_loader_processes(workers):
    loader = DataLoader(graphs(), batch_size=3, num_workers=workers, collate_fn=collate_for_transport)
    (found,) = list(loader)
    assert_same(found, collate(graphs()))
    found.h_edge += 1  # nothing of it is read-only or shared with another field
    assert torch.equal(found.positions, collate(graphs()).positions)


def test_tensors_of_any_layout_arrive_unchanged():
    content = {
        "complex": torch.randn(3, 2, dtype=torch.complex64).T,
        "empty": torch.zeros(0, 3, dtype=torch.int64),
        "number": torch.tensor(2.5, dtype=torch.float64),
        "flags": [torch.tensor([True, False, True]), "text"],
    }
    found = ForkingPickler.loads(ForkingPickler.dumps(Parcel(content)))
    assert found["flags"][1] == "text"
    for name in ("complex", "empty", "number"):
        assert torch.equal(found[name], content[name])
        assert found[name].dtype == content[name].dtype
    assert torch.equal(found["flags"][0], content["flags"][0])
    assert found["number"].untyped_storage().data_ptr() == found["complex"].untyped_storage().data_ptr()
