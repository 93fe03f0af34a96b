"""The form of the DeepH-2-style network: limits that are known in closed form, options, training steps."""

import math

import pytest
import torch
from torch import nn

from tests import crystals
from tests.backbones.crystal_networks import DEEPH2, blocks_of, deeph2, graph_of, rotated, turning_error
from tests.backbones.test_position_gradients import Energy, directions
from tests.model.test_network import ARMS
from tests.molecules import random_rotation
from tracegrad.backbones import deeph2_blocks
from tracegrad.backbones.deeph2 import DeepH2
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.hamiltonian.reduction import is_on_site
from tracegrad.nn.item_first.edge_frame import EdgeFrame
from tracegrad.nn.item_first.edge_softmax import edge_softmax
from tracegrad.training.loss import HamiltonianLoss

SPINLESS, SPINFUL = crystals.SPINLESS, crystals.SPINFUL
OF_H = DEEPH2["irreps"].removesuffix("+2x5o")  # the degrees that H has without spin


# --- limits


def test_without_blocks_h_has_the_form_of_slater_and_koster():
    """In the frame of the bond m couples to m alike for +m and -m, and to -m with opposite signs."""
    model = deeph2(SPINLESS, irreps=OF_H)
    model.backbone.node_updates = model.backbone.edge_updates = nn.ModuleList()
    graph = graph_of(crystals.MOS2, basis=SPINLESS)
    off_site = ~is_on_site(graph, "edge")
    frame = EdgeFrame(graph.vectors[off_site])
    parts = [frame.rotation(degree, (-1) ** degree) for degree in SPINLESS.union]
    turns = torch.stack([torch.block_diag(*of_edge) for of_edge in zip(*parts, strict=True)])
    with torch.inference_mode():
        blocks = turns.mT @ model.backbone(graph)["edge"][off_site] @ turns
    m = torch.cat([torch.arange(-degree, degree + 1) for degree in SPINLESS.union])
    # Position of -m in the shell of each m; a shell of degree l starts where m = -l.
    minus = torch.arange(len(m)) - 2 * m
    coupled = m[:, None].abs() == m.abs()
    assert blocks[:, ~coupled].abs().max() < 1e-13
    same, opposite = m[:, None] == m, (m[:, None] == -m) & (m != 0)
    mirrored = blocks[:, minus][:, :, minus]
    torch.testing.assert_close(mirrored[:, same], blocks[:, same], rtol=0, atol=1e-12)
    torch.testing.assert_close(mirrored[:, opposite], -blocks[:, opposite], rtol=0, atol=1e-12)
    assert min(float(blocks[:, kind].abs().max()) for kind in (same, opposite)) > 1e-2
    # Bonds of the same length between the same elements have the same block.
    dst, src = graph.edge_index[:, off_site]
    keys = torch.stack([graph.numbers[dst], graph.numbers[src], (1e6 * frame._vectors.norm(dim=1)).round()])
    pairs = (keys[:, :, None] == keys[:, None]).all(0).nonzero()
    assert len(pairs) > 2 * len(blocks)
    torch.testing.assert_close(blocks[pairs[:, 0]], blocks[pairs[:, 1]], rtol=0, atol=1e-5)


def test_scalars_alone_are_an_invariant_network():
    basis = OrbitalBasis.openmx({"Mo": "s2", "S": "s1"})
    model = deeph2(basis, "tracegrad", irreps="6x0e")
    reference = blocks_of(model, crystals.MOS2)
    for sign in (1, -1):
        turned = blocks_of(model, rotated(crystals.MOS2, sign * random_rotation(0)))
        torch.testing.assert_close(turned, reference, rtol=0, atol=1e-12)


def seen_weights(model, monkeypatch, *samples: crystals.Crystal):
    """Attention weights of all layers, and the graph."""
    found = []

    def record(*arguments):
        found.append(edge_softmax(*arguments))
        return found[-1]

    monkeypatch.setattr(deeph2_blocks, "edge_softmax", record)
    blocks_of(model, *samples)
    return torch.stack(found), graph_of(*samples, basis=model.basis)


def test_attention_weights_sum_to_one_over_the_neighbours(monkeypatch):
    weights, graph = seen_weights(deeph2(SPINLESS), monkeypatch, crystals.MOS2, crystals.ALONE)
    assert weights.shape == (2, graph.num_edges, 2)
    assert (weights[:, is_on_site(graph, "edge")] == 0).all()
    sums = torch.zeros(2, graph.num_nodes, 2, dtype=torch.float64).index_add(1, graph.edge_index[0], weights)
    expected = torch.tensor([1.0, 1, 1, 0], dtype=torch.float64)[:, None].expand(2, 4, 2)
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-14)
    assert weights[:, ~is_on_site(graph, "edge")].std() > 1e-3


def test_without_logits_attention_is_a_mean(monkeypatch):
    model = deeph2(SPINLESS)
    for update in model.backbone.node_updates:
        nn.init.zeros_(update.attention.logit_vectors)
    weights, graph = seen_weights(model, monkeypatch, crystals.MOS2)
    off_site = ~is_on_site(graph, "edge")
    dst = graph.edge_index[0, off_site]
    expected = 1 / torch.bincount(dst)[dst].double()
    torch.testing.assert_close(weights[:, off_site], expected[:, None].expand(2, -1, 2), rtol=0, atol=1e-14)


# --- the interface


@crystals.BASES
def test_refinement_is_called_once_per_feature_and_used(basis):
    model = deeph2(basis, blocks=3).backbone
    graph, calls = graph_of(crystals.MOS2, basis=basis), []

    def doubled(number: int):
        def refine(site, k, feature):
            irreps = model.feature_irreps[site][k]
            shapes = [(ir.dim, graph.num_edges, mul) for mul, ir in irreps]
            assert [tuple(part.shape) for part in feature] == shapes
            calls.append((site, k))
            return [part * 2 for part in feature] if k == number else feature

        return refine

    plain = model(graph, doubled(-1))["edge"]
    assert calls == [("edge", 0), ("edge", 1), ("edge", 2)]
    assert torch.equal(plain, model(graph)["edge"])
    for k in range(3):
        assert (model(graph, doubled(k))["edge"] - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("basis", "arm", "activation"),
    [
        *((SPINLESS, arm, "gate") for arm in ARMS),
        (SPINLESS, "none", "s2"),
        (SPINFUL, "none", "gate"),
        (SPINFUL, "tracegrad", "s2"),
    ],
)
def test_a_step_of_training_uses_every_parameter_and_lowers_the_loss(basis, arm, activation):
    """Several GPUs need that; without spin the networks here have a degree that H lacks."""
    model = deeph2(basis, arm, activation=activation, grid=[11, 11])
    graph = collate([crystals.labelled_graph(crystals.MOS2, basis, seed) for seed in range(2)])
    loss = HamiltonianLoss(basis, model.trace_labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = loss(model(graph), graph).total
    before.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.numel() == 0 or parameter.grad.abs().max() > 0, name
    optimizer.step()
    assert loss(model(graph), graph).total < before


@pytest.mark.parametrize("sample", crystals.ALL, ids=["MoS2", "chain", "alone", "bonds"])
def test_gradients_are_finite_where_features_vanish(sample):
    model = deeph2(SPINLESS, "grad")
    graph = collate([crystals.labelled_graph(sample, SPINLESS)])
    HamiltonianLoss(SPINLESS, model.trace_labels)(model(graph), graph).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("edge_chunk", "recompute"), [(7, False), (None, True), (11, True)])
@crystals.BASES
def test_chunks_and_recomputing_change_nothing(basis, edge_chunk, recompute):
    model = deeph2(basis, "tracegrad")
    graph = collate([crystals.labelled_graph(c, basis, i) for i, c in enumerate(crystals.ALL)])
    loss = HamiltonianLoss(basis, model.trace_labels)

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        total = loss(model(graph), graph).total
        total.backward()
        return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = gradients()
    model.backbone.edge_chunk, model.backbone.recompute = edge_chunk, recompute
    for actual, value in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=0, atol=1e-11 * float(value.abs().max()))


def test_derivatives_with_respect_to_positions():
    energy = Energy(deeph2(SPINLESS, "tracegrad"), crystals.MOS2)
    gradients = energy.gradients()
    for direction in directions(energy):
        expected = energy.difference(direction)
        found = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-7)


@pytest.mark.parametrize("arm", ["none", "tracegrad"])
def test_mixed_precision_keeps_most_of_the_equivariance(arm):
    """The remaining error comes from the invariants: rounding to bfloat16 amplifies their float32 differences."""
    model = deeph2(SPINFUL, arm).float()
    for low, bound in ((False, 5e-5), (True, 1e-2)):
        assert turning_error(model, random_rotation(0), low=low) < bound


def test_a_grid_is_part_of_the_estimated_memory():
    """Values of six channels at all points, before and after silu."""
    assert DeepH2(SPINLESS, **DEEPH2).grid_numbers == 0
    assert DeepH2(SPINLESS, **DEEPH2, activation="s2", grid=[11, 12]).grid_numbers == 2 * 132 * 6


# --- options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"blocks": 0}, "model.backbone.blocks is 0; give a whole number >= 1"),
        ({"heads": True}, "model.backbone.heads is True"),
        ({"heads": 4}, "model.backbone.heads is 4, which does not divide .* set model.backbone.value"),
        ({"value": 0}, "model.backbone.value is 0"),
        ({"radial": 1}, "model.backbone.radial is 1; give a whole number >= 2"),
        ({"edge_chunk": 0}, "model.backbone.edge_chunk is 0"),
        ({"cutoff": math.inf}, "model.backbone.cutoff is inf; give a finite number > 0"),
        ({"neighbours": 0}, "model.backbone.neighbours is 0"),
        ({"mmax": 6}, "model.backbone.mmax is 6; the highest degree of the irreps is 5"),
        ({"activation": "relu"}, "model.backbone.activation is 'relu'; choose one of gate, s2"),
        ({"activation": "s2", "grid": [18]}, r"model.backbone.grid is \[18\]; give the numbers"),
        ({"activation": "s2", "grid": [8, 18]}, "degree 5 needs at least 11"),
        ({"irreps": "4x0e+3x1e"}, "model.backbone.irreps is '4x0e.3x1e'; .* with the parities 0e, 1o"),
        ({"irreps": "4x0e+4x2e"}, "model.backbone.irreps is '4x0e.4x2e'; .* each degree once, from 0 on"),
        ({"irreps": "4x0e+4x1o+2x2e"}, "this basis needs degrees up to 4: add 8x3o.8x4e"),
        ({"time_reversal": True}, "time_reversal=true needs a spinful basis"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_options_are_named(option, message):
    with pytest.raises(ConfigError, match=message):
        DeepH2(SPINLESS, **{**DEEPH2, **option})


def test_spin_orbit_coupling_needs_one_degree_more():
    basis = OrbitalBasis.openmx({"Mo": "s1p1", "S": "s1"}, spinful=True)
    with pytest.raises(ConfigError, match="needs degrees up to 3: add 8x3o"):
        DeepH2(basis, **{**DEEPH2, "irreps": "4x0e+4x1o+2x2e"})
