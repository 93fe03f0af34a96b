"""One network for both spins of collinear calculations: symmetries, and what tells the spins apart."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests import crystals
from tests.backbones.crystal_networks import deeph2, deeph_e3, harmose, rotated
from tests.molecules import random_rotation
from tests.nn.item_first.test_shell_pairs import orbital_rotation
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import SPINS, OrbitalBasis
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel

BASIS = crystals.COLLINEAR
MAKERS = {"deeph_e3": deeph_e3, "harmose": harmose, "deeph2": deeph2}
Maker = Callable[..., HamiltonianModel]
NETWORKS = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


def graph_of(*samples: tuple[crystals.Crystal, str]):
    return collate([crystal_graph(*one, BASIS, spin=spin, dtype=torch.float64) for one, spin in samples])


def blocks_of(model: HamiltonianModel, *samples: tuple[crystals.Crystal, str]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(graph_of(*samples)).blocks["edge"]


@NETWORKS
@pytest.mark.parametrize("arm", ["none", "tracegrad"])
def test_the_spins_differ_and_samples_of_a_batch_do_not_mix(make: Maker, arm: str):
    model = make(BASIS, arm)
    up, down = (blocks_of(model, (crystals.MOS2, spin)) for spin in SPINS)
    assert (up - down).abs().max() > 1e-2
    assert not up.is_complex()
    together = blocks_of(model, (crystals.MOS2, "down"), (crystals.CHAIN, "up"), (crystals.MOS2, "up"))
    torch.testing.assert_close(together[: len(down)], down, rtol=0, atol=1e-12)
    torch.testing.assert_close(together[-len(up) :], up, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [MAKERS["deeph_e3"], MAKERS["deeph2"]], ids=["deeph_e3", "deeph2"])
@pytest.mark.parametrize("arm", ["none", "tracegrad"])
def test_blocks_of_each_spin_turn_with_the_crystal(make: Maker, arm: str):
    model, rotation = make(BASIS, arm), random_rotation(1)
    u = orbital_rotation(BASIS, rotation)
    for spin in SPINS:
        turned = blocks_of(model, (rotated(crystals.MOS2, rotation), spin))
        assert (turned - u @ blocks_of(model, (crystals.MOS2, spin)) @ u.T).abs().max() < 1e-10


@NETWORKS
def test_without_a_difference_of_the_embeddings_there_is_none_of_h(make: Maker):
    """The spin enters nowhere else."""
    model = make(BASIS, "tracegrad")
    count = len(BASIS.elements)
    for parameter in model.parameters():
        if len(parameter) == 2 * count and parameter.ndim == 2:
            parameter.data[count:] = parameter.data[:count]
    up, down = (blocks_of(model, (crystals.MOS2, spin)) for spin in SPINS)
    assert torch.equal(up, down)


@NETWORKS
def test_one_step_for_each_spin_changes_its_embedding_only(make: Maker):
    model = make(BASIS)
    blocks = model(graph_of((crystals.MOS2, "up"))).blocks["edge"]
    blocks.square().sum().backward()
    count = len(BASIS.elements)
    embeddings = [p for p in model.parameters() if p.ndim == 2 and len(p) == 2 * count and p.grad is not None]
    assert any(p.grad[:count].abs().max() > 0 for p in embeddings)
    named = [p for name, p in model.named_parameters() if "embedding" in name or "species" in name]
    assert all(p.grad[count:].abs().max() == 0 for p in named)


@pytest.mark.slow
def test_two_hamiltonians_of_one_geometry_are_learnt():
    """A spinless network could only learn their mean."""
    model = MAKERS["deeph_e3"](BASIS, "none").train()
    graph = graph_of((crystals.CHAIN, "up"), (crystals.CHAIN, "down"))
    half = len(crystals.CHAIN[3])
    labels = torch.zeros(2 * half, BASIS.dim, BASIS.dim, dtype=torch.float64)
    places = torch.from_numpy(BASIS.mask[16])
    diagonal = torch.diag(places.double())
    labels[:half], labels[half:] = -0.5 * diagonal, 0.5 * diagonal
    inside = places[:, None] & places
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        error = (model(graph).blocks["edge"] - labels)[:, inside].square().mean()
        error.backward()
        optimizer.step()
    of_mean = labels[:, inside].square().mean()
    assert error < 0.2 * of_mean


def test_hamiltonian_needs_the_spin():
    model = MAKERS["deeph_e3"](BASIS).eval()
    up, down = (model.hamiltonian(*crystals.MOS2, spin=spin) for spin in SPINS)
    assert max(np.abs(a - b).max() for a, b in zip(up, down, strict=True)) > 1e-3
    with pytest.raises(DataError, match="predicts H of two spins; give spin='up' or 'down'"):
        model.hamiltonian(*crystals.MOS2)
    with pytest.raises(DataError, match="predicts one H; leave it out"):
        MAKERS["deeph_e3"](crystals.SPINLESS).hamiltonian(*crystals.MOS2, spin="up")
    with pytest.raises(DataError, match="has two spins; give up or down"):
        crystal_graph(*crystals.MOS2, BASIS)
    with pytest.raises(DataError, match="has no spin to choose"):
        crystal_graph(*crystals.MOS2, crystals.SPINFUL, spin="up")


def test_what_excludes_both_spins():
    with pytest.raises(BasisError, match="spinful and collinear exclude each other"):
        OrbitalBasis.openmx(crystals.SHELLS, spinful=True, collinear=True)
    with pytest.raises(ConfigError, match=r"does not tell the spins of basis\.collinear=true apart"):
        HamiltonianModel(crystals.SmallBackbone(BASIS))
    with pytest.raises(ConfigError, match="needs a spinful basis"):
        DeepHE3(BASIS, time_reversal=True)
