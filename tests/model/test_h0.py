"""Networks that add their prediction to an H0."""

from functools import partial

import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tests.model.test_network import SIZES
from tracegrad.backbones.qhnet import QHNet
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.graph import collate, crystal_graph, molecule_graph
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.model.estimate import estimate_cost
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.physics.molecules.h0 import molecule_h0
from tracegrad.training.loss import HamiltonianLoss

BATCH = (molecules.WATER, molecules.METHANOL)


def models(basis) -> tuple[HamiltonianModel, HamiltonianModel]:
    """Two networks with the same weights, without H0 and with it."""
    tracegrad = partial(TraceGrad, trace=True, grad=True, channels=12, hidden=10)
    plain, corrects = (
        HamiltonianModel(QHNet(basis, **SIZES), tracegrad, h0=h0).double() for h0 in (None, "core")
    )
    corrects.load_state_dict(plain.state_dict())
    return plain, corrects


def batch(basis, subtract: bool):
    """Labelled graphs with H0, or with H - H0 as label."""
    graphs = []
    for seed, (numbers, positions) in enumerate(BATCH):
        h = molecules.random_hamiltonian(numbers, basis, seed)
        h0 = molecules.random_hamiltonian(numbers, basis, seed + 10)
        matrices = {} if subtract else {"h0": h0}
        label = h - h0 if subtract else h
        graphs.append(
            molecule_graph(
                numbers,
                positions,
                basis,
                hamiltonian=label,
                matrices=matrices,
                sample_id=seed,
                dtype=torch.float64,
            )
        )
    return collate(graphs)


def test_training_on_h_with_h0_is_training_on_the_difference(basis):
    """Loss, traces and gradients are those of a network without H0 whose labels are H - H0."""
    plain, corrects = models(basis)
    values, gradients = [], []
    for model, subtract in ((plain, True), (corrects, False)):
        graph = batch(basis, subtract)
        terms = HamiltonianLoss(basis, model.trace_labels)(model(graph), graph)
        terms.total.backward()
        values.append(torch.stack([terms.logs[name] for name in ("loss", "loss_h", "loss_t", "mu")]))
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*values, rtol=1e-11, atol=0)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-8, atol=1e-11)


def test_a_prediction_is_the_whole_hamiltonian(basis):
    plain, corrects = models(basis)
    numbers, positions = molecules.WATER
    h0 = torch.tensor(molecule_h0("core", numbers, positions))
    expected = plain.hamiltonian(numbers, positions) + h0
    torch.testing.assert_close(corrects.hamiltonian(numbers, positions), expected, rtol=0, atol=1e-11)


def test_a_graph_without_h0_is_refused(basis):
    _, corrects = models(basis)
    graph = collate([molecules.labelled_graph(molecules.WATER, basis)])
    with pytest.raises(DataError, match="predicts H - H0 with H0 = core, and the graph has no H0"):
        corrects(graph)


def test_names_and_crystals(basis):
    with pytest.raises(ConfigError, match=r"model\.h0 is 'sad'; choose core, sap"):
        HamiltonianModel(QHNet(basis, **SIZES), h0="sad")
    with pytest.raises(ConfigError, match=r"H0 is computed for molecules; for crystals set model\.h0=data"):
        HamiltonianModel(crystals.SmallBackbone(crystals.SPINLESS), h0="core")
    with pytest.raises(ConfigError, match=r"model\.h0=data reads H0 of crystals"):
        HamiltonianModel(QHNet(basis, **SIZES), h0="data")


def of_crystals(basis) -> tuple[HamiltonianModel, HamiltonianModel]:
    """As `models`, of crystals with H0 of the data."""
    tracegrad = partial(TraceGrad, trace=True, grad=True, channels=12, hidden=10)
    plain, corrects = (
        HamiltonianModel(crystals.SmallBackbone(basis), tracegrad, h0=h0).double() for h0 in (None, "data")
    )
    corrects.load_state_dict(plain.state_dict())
    return plain, corrects


@crystals.BASES
def test_crystals_train_on_the_difference(basis):
    plain, corrects = of_crystals(basis)
    values = []
    for model, subtract in ((plain, True), (corrects, False)):
        graphs = []
        for seed, sample in enumerate((crystals.MOS2, crystals.CHAIN)):
            h, h0 = (crystals.random_entries(sample, basis, seed + more) for more in (0, 10))
            labels = {"entries": h - h0} if subtract else {"entries": h, "h0": h0}
            graphs.append(crystal_graph(*sample, basis, **labels, dtype=torch.float64))
        graph = collate(graphs)
        terms = HamiltonianLoss(basis, model.trace_labels)(model(graph), graph)
        values.append(torch.stack([terms.logs[name] for name in ("loss", "loss_h", "loss_t", "mu")]))
    torch.testing.assert_close(*values, rtol=1e-11, atol=0)


@crystals.BASES
def test_a_prediction_of_a_crystal_needs_h0(basis):
    plain, corrects = of_crystals(basis)
    sample = crystals.MOS2
    numbers, edges = sample[0], sample[3]
    shapes = basis.sizes[numbers[edges[:, 3:]]]
    rng = np.random.default_rng(0)
    h0 = [rng.normal(size=shape) + (1j if basis.spinful else 0) for shape in shapes]
    rest = plain.hamiltonian(*sample)
    for whole, one, start in zip(corrects.hamiltonian(*sample, h0=h0), rest, h0, strict=True):
        np.testing.assert_allclose(whole, one + start, rtol=0, atol=1e-12)
    both = HamiltonianEnsemble([plain, corrects]).hamiltonian(*sample, h0=h0)
    np.testing.assert_allclose(both[3], rest[3] + h0[3] / 2, rtol=0, atol=1e-12)
    assert estimate_cost(corrects, _structure(sample, basis)).seconds > 0
    for model, given, message in (
        (corrects, None, "give h0=, its blocks for the edges"),
        (plain, h0, "takes none from the data"),
        (corrects, h0[:-1], f"h0 has {len(h0) - 1} blocks; one for each of {len(h0)} edges"),
        (corrects, [*h0[:2], h0[2][:1], *h0[3:]], "block 2 of h0 is"),
        (corrects, [h0[0] * np.nan, *h0[1:]], "block 0 of h0 is"),
    ):
        with pytest.raises(DataError, match=message):
            model.hamiltonian(*sample, h0=given)
    with pytest.raises(DataError, match="whose derivative is not known"):
        corrects.hamiltonian_derivative(*sample)
    graph = collate([crystals.labelled_graph(sample, basis)])
    with pytest.raises(DataError, match=r"make it with crystal_graph\(\.\.\., h0=\.\.\.\)"):
        corrects(graph)


def _structure(sample: crystals.Crystal, basis) -> Structure:
    numbers, positions, lattice, edges = sample
    shells = {int(z): basis.shells[int(z)] for z in numbers}
    return Structure("one", numbers, positions, lattice, shells, basis.spinful, None, edges)
