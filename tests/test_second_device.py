"""Everything that a run does works on a second device, with the numbers of the CPU and few waits for the device."""

import json

import pytest
from torch.utils import backend_registration

from tests import forked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch has no devices in Python",
    ),
]
# Largest number of waits of the host in a training step without the check that the loss is finite.
WAITS = {"qhnet": 1, "deeph_e3": 0, "deeph_e3_molecules": 0, "deeph_e3_spinful": 0, "deeph2": 0, "harmose": 0}
# All networks share the block of TraceGrad, so that each of its other arms runs with one of them.
CASES = [
    *((network, "tracegrad") for network in WAITS),
    *(("qhnet", "trace"), ("deeph_e3", "grad"), ("deeph_e3_spinful", "none")),
]


@pytest.mark.parametrize(("network", "arm"), CASES)
def test_a_run_works_on_a_second_device(network, arm):
    """Training step with optimizer, validation with all metrics, H for users, start density, edges in chunks."""
    result = forked.run("tests.on_second_device", network, arm)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert {"step", "optimized", "validation", "hamiltonian"} < found.keys()
    for name in ("step", "optimized"):
        assert sum(found[name]["waits"].values()) <= WAITS[network], found[name]["waits"]


def test_a_mistake_with_devices_is_found():
    """A tensor of the host in an operation on the device raises, as on a GPU; a wait is counted with its line."""
    result = forked.run("tests.second_device_mistakes")
    assert result.returncode == 0, result.stderr
