"""Networks that are sent to another process find the tables of their operators there."""

import pickle

import pytest
import torch

from tests.on_second_device import small
from tracegrad.ops.coupling.paths import CouplingPaths
from tracegrad.ops.named_table import NamedTable


@pytest.mark.parametrize("network", ["qhnet", "deeph_e3_spinful"])
def test_a_network_brings_its_tables_along(network, monkeypatch):
    model, graph = small(network, "none")
    sent = pickle.dumps(model)
    for table in NamedTable.__subclasses__():
        monkeypatch.setattr(table, "_by_key", {})  # as in another process
    with torch.inference_mode():
        expected, found = (x(graph).blocks["edge"].nan_to_num() for x in (pickle.loads(sent), model))
    assert torch.equal(found, expected)


def test_equal_tables_have_equal_keys():
    first, second, other = (
        CouplingPaths((((0, 1, 1), factor),), (0, 1, 1), shared=False) for factor in (1.0, 1.0, 2.0)
    )
    assert first.key == second.key != other.key
    assert CouplingPaths.named(other.key) is other
