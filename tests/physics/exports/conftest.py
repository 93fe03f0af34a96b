import numpy as np
import pytest

from tests.crystals import MOS2, SPINFUL, SPINLESS, random_entries
from tracegrad.data.crystals.structure import Structure, edge_order
from tracegrad.hamiltonian.blocks import block_starts


def structure(*, spinful: bool = False, overlap: float = 0.02) -> Structure:
    """A distorted MoS2 with a random H, without time reversal, and a random S close to 1."""
    numbers, positions, lattice, edges = MOS2
    edges = edges[edge_order(edges)]
    sample = (numbers, positions, lattice, edges)
    basis = SPINFUL if spinful else SPINLESS
    s = overlap * random_entries(sample, SPINLESS, seed=1)
    starts = block_starts(edges[:, 3:].T, numbers, SPINLESS)
    for edge in np.flatnonzero((edges[:, :3] == 0).all(1) & (edges[:, 3] == edges[:, 4])):
        size = int(SPINLESS.sizes[numbers[edges[edge, 3]]])
        s[starts[edge] : starts[edge + 1] : size + 1] += 1.0
    return Structure(
        name="MoS2",
        numbers=numbers,
        positions=positions,
        lattice=lattice,
        shells=dict(basis.shells),
        spinful=spinful,
        fermi_level=-0.3,
        edges=edges,
        hamiltonian=random_entries(sample, basis),
        overlap=s,
    )


@pytest.fixture(params=[False, True], ids=["spinless", "spinful"])
def crystal(request: pytest.FixtureRequest) -> Structure:
    return structure(spinful=request.param)
