from importlib import import_module

import pytest

from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.weights.construct import construct
from tracegrad.weights.renamed import MODULES, with_new_names


@pytest.mark.parametrize("module", MODULES.values())
def test_every_new_place_exists(module):
    assert import_module(module).__name__ == module


def test_settings_of_an_earlier_version_have_the_present_names():
    old = {
        "model": {
            "_target_": "tracegrad.model.HamiltonianModel",
            "backbone": {"_target_": "tracegrad.backbones.qhnet.QHNet", "lmax": 4},
            "tracegrad": {"_target_": "tracegrad.nn.tracegrad.TraceGrad", "_partial_": True},
        },
        "callbacks": [
            {"_target_": "callbacks.seeding.SeedSteps", "note": "tracegrad.model.HamiltonianModel"}
        ],
        "basis": {"_target_": "tracegrad.basis.OrbitalBasis.openmx", "shells": ["C6.0-s2p2d1"]},
    }
    new = with_new_names(old)
    assert new["model"]["_target_"] == "tracegrad.model.network.HamiltonianModel"
    assert new["model"]["backbone"] == old["model"]["backbone"]
    assert new["model"]["tracegrad"]["_target_"] == "tracegrad.nn.invariant.tracegrad.TraceGrad"
    assert new["callbacks"] == old["callbacks"]
    assert new["basis"]["_target_"] == "tracegrad.hamiltonian.basis.OrbitalBasis.openmx"
    assert with_new_names(new) == new


def test_a_basis_with_its_earlier_name_is_built():
    settings = {"_target_": "tracegrad.basis.OrbitalBasis.def2_svp", "elements": [1, 8]}
    assert construct(settings, "settings").elements == OrbitalBasis.def2_svp([1, 8]).elements
