"""The lean TraceGrad block in whole networks: equivariance, one small block, and the way through a file."""

from functools import partial

import pytest
import torch

from tests import crystals, molecules
from tests.backbones.crystal_networks import DEEPH2, DEEPH_E3, HARMOSE, blocks_of, rotated
from tests.model.test_network import ARMS, SIZES
from tests.molecules import dense_rotation, random_rotation
from tests.nn.item_first.test_shell_pairs import orbital_rotation
from tracegrad.backbones.deeph2 import DeepH2
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.backbones.harmose import HarmoSE
from tracegrad.backbones.qhnet import QHNet
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.interface import Backbone
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.weights.model_file import read_model_file, write_model_file

LEAN = partial(TraceGrad, **ARMS["tracegrad"], lean=True, channels=1024)


def network(backbone: Backbone) -> HamiltonianModel:
    model = HamiltonianModel(backbone, LEAN).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "transformer" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def crystal_networks(basis) -> dict[str, HamiltonianModel]:
    """Of HarmoSE, whose correction is 0 before the training, this is the first stage."""
    kinds = {"DeepH-E3": (DeepHE3, DEEPH_E3), "DeepH-2": (DeepH2, DEEPH2), "HarmoSE": (HarmoSE, HARMOSE)}
    return {name: network(kind(basis, **sizes)) for name, (kind, sizes) in kinds.items()}


def test_molecules(basis, tmp_path) -> None:
    model = network(QHNet(basis, **SIZES))
    numbers, positions = molecules.METHANOL
    rotation = random_rotation(1)
    expected, u = model.hamiltonian(numbers, positions), dense_rotation(numbers, basis, rotation)
    turned = model.hamiltonian(numbers, positions @ rotation.numpy().T)
    assert (turned - expected).abs().max() > 1e-3
    torch.testing.assert_close(turned, u @ expected @ u.T, rtol=0, atol=1e-10)
    write_model_file(tmp_path / "lean.safetensors", model.state_dict(), {"model": {}})
    other = network(QHNet(basis, **SIZES))
    assert not torch.equal(other.hamiltonian(numbers, positions), expected)
    other.load_state_dict(read_model_file(tmp_path / "lean.safetensors")[1])
    assert torch.equal(other.hamiltonian(numbers, positions), expected)


@pytest.mark.parametrize("spinful", [False, True])
def test_crystals(spinful) -> None:
    basis = crystals.SPINFUL if spinful else crystals.SPINLESS
    rotation = random_rotation(3)  # mirrors are no symmetry of the DeepH-2-style network
    u = orbital_rotation(basis, rotation)
    for name, model in crystal_networks(basis).items():
        if spinful and name == "HarmoSE":
            continue
        expected = blocks_of(model, crystals.MOS2)
        turned = blocks_of(model, rotated(crystals.MOS2, rotation))
        assert (turned - expected).abs().max() > 1e-2, name
        torch.testing.assert_close(turned, u @ expected @ u.mH, rtol=0, atol=1e-9, msg=name)
        assert {len(blocks) for blocks in model.tracegrad.blocks.values()} == {1}, name
