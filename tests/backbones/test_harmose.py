from functools import partial
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import nn

from tests import crystals
from tests.backbones.crystal_networks import (
    BOTH_ARMS,
    DEEPH_E3,
    HARMOSE,
    blocks_of,
    by_images,
    graph_of,
    harmose,
    in_another_cell,
    reordered,
    rotated,
)
from tests.model.test_network import ARMS
from tests.molecules import random_rotation
from tests.nn.item_first.test_shell_pairs import orbital_rotation
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.backbones.harmose import HarmoSE
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.estimate import estimate_cost
from tracegrad.model.network import HamiltonianModel
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.loss_terms import FirstStageTerm

SPINLESS, SPINFUL = crystals.SPINLESS, crystals.SPINFUL
SAMPLES = (crystals.MOS2, crystals.CHAIN)
AVERAGES = {"hermitian": True, "time_reversal": True}


def first_stage_of(model: HamiltonianModel) -> HamiltonianModel:
    """The first stage as a network of its own, with the same TraceGrad."""
    alone = HamiltonianModel(model.backbone.first)
    alone.tracegrad = model.tracegrad
    return alone


# --- the limit of no correction


@BOTH_ARMS
@pytest.mark.parametrize(
    ("basis", "options"),
    [(SPINLESS, {}), (SPINFUL, {}), (SPINFUL, AVERAGES)],
    ids=["real", "spin", "averages"],
)
def test_a_fresh_network_is_its_first_stage_bit_for_bit(basis, options, arm):
    model = harmose(basis, arm, fresh=True, augmentation="uniform", **options)
    expected = blocks_of(first_stage_of(model), *SAMPLES)
    assert torch.equal(blocks_of(model, *SAMPLES), expected)
    assert torch.equal(blocks_of(model.train(), *SAMPLES), expected)  # with any rotations


@crystals.BASES
def test_the_first_stage_alone_is_deeph_e3(basis):
    model = HamiltonianModel(HarmoSE(basis, **HARMOSE, stage="first")).double()
    alone = HamiltonianModel(DeepHE3(basis, **DEEPH_E3)).double()
    alone.backbone.load_state_dict(model.backbone.first.state_dict())
    assert torch.equal(blocks_of(model, *SAMPLES), blocks_of(alone, *SAMPLES))
    assert {name.partition(".")[0] for name in model.backbone.state_dict()} == {"first"}
    assert model(graph_of(crystals.MOS2, basis=basis)).earlier == []


@pytest.mark.parametrize("arm", ARMS)
@crystals.BASES
def test_every_parameter_has_a_gradient_from_the_second_step_on(basis, arm):
    model = harmose(basis, arm, fresh=True).train()
    graph = collate([crystals.labelled_graph(s, basis, seed) for seed, s in enumerate((crystals.MOS2,) * 2)])
    loss = HamiltonianLoss(basis, model.trace_labels, h=["mse"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(2):
        optimizer.zero_grad()
        loss(model(graph), graph).total.backward()
        for name, parameter in model.named_parameters():
            if parameter.numel() == 0:
                continue
            last = any(parameter is p for p in model.backbone.transformer.last.parameters())
            flows = step == 1 or last or "transformer" not in name
            assert (parameter.grad.abs().max() > 0) == flows, name
        optimizer.step()


@pytest.mark.parametrize("arm", ARMS)
def test_the_second_stage_leaves_the_first_and_tracegrad_as_they_are(arm):
    model = harmose(SPINLESS, arm, fresh=True, stage="second", augmentation="strong").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = collate([crystals.labelled_graph(crystals.MOS2, SPINLESS)])
    loss = HamiltonianLoss(SPINLESS, model.trace_labels, h=["mse"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        values = loss(model(graph), graph)
        values.total.backward()
        optimizer.step()
        losses.append(values.logs["loss_h"].item())
    # Each step has another rotation, so that the last loss may be higher than the one before.
    assert min(losses) < 0.9 * losses[0]
    for name, value in model.state_dict().items():
        same = not name.startswith(("backbone.transformer", "backbone.rotations"))
        assert torch.equal(value, before[name]) == same, name
    assert all(p.requires_grad == ("transformer" in name) for name, p in model.named_parameters())


# --- symmetries


@crystals.BASES
@BOTH_ARMS
def test_h1_is_equivariant_and_h_is_not(basis, arm):
    model = harmose(basis, arm)
    with torch.inference_mode():
        reference = model(graph_of(*SAMPLES, basis=basis))
    for seed in range(3):
        rotation = random_rotation(seed) * (-1) ** seed
        with torch.inference_mode():
            actual = model(graph_of(*(rotated(s, rotation) for s in SAMPLES), basis=basis))
        u = orbital_rotation(basis, rotation)
        expected = u @ reference.earlier[0]["edge"] @ u.mH
        torch.testing.assert_close(actual.earlier[0]["edge"], expected, rtol=0, atol=1e-10)
        assert (actual.blocks["edge"] - u @ reference.blocks["edge"] @ u.mH).abs().max() > 1e-2


def rotations_of_a_cube() -> list[torch.Tensor]:
    signed = (
        torch.eye(3, dtype=torch.float64)[list(order)] * torch.tensor(signs, dtype=torch.float64)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    )
    return [matrix for matrix in signed if torch.linalg.det(matrix) > 0]


@crystals.BASES
def test_an_average_over_the_rotations_of_a_cube_is_equivariant_under_them(basis):
    """The rotations are those of the training forward pass: D(R) on what the second stage gets, and back on dH."""
    model = harmose(basis, "tracegrad", augmentation="uniform").train()
    cube = rotations_of_a_cube()
    assert len(cube) == 24

    turns = torch.stack(cube)
    model.backbone.rotations.forward = lambda graphs: turns

    @torch.no_grad()
    def average(sample: crystals.Crystal) -> torch.Tensor:
        """Of as many copies of a crystal in one batch, each with its own rotation."""
        blocks = model(graph_of(*[sample] * len(cube), basis=basis), traces=False).blocks["edge"]
        return blocks.unflatten(0, (len(cube), -1)).mean(0)

    reference = average(crystals.CHAIN)
    single = blocks_of(model.eval(), crystals.CHAIN)
    assert (single - reference).abs().max() > 1e-2
    model.train()
    for rotation in (cube[5], cube[13]):
        u = orbital_rotation(basis, rotation)
        actual = average(rotated(crystals.CHAIN, rotation))
        torch.testing.assert_close(actual, u @ reference @ u.mH, rtol=0, atol=1e-10)


@crystals.BASES
def test_a_rotation_in_training_is_a_rotation_of_the_sample(basis):
    """H of the rotated crystal, turned back: as the first stage is equivariant, labels need no rotation."""
    model = harmose(basis, "tracegrad", augmentation="uniform")
    turns = torch.stack([random_rotation(seed) for seed in (1, 2)])
    model.backbone.rotations.forward = lambda graphs: turns
    graph = graph_of(*SAMPLES, basis=basis)
    actual = model.train()(graph, traces=False).blocks["edge"].split([len(s[3]) for s in SAMPLES])
    model.eval()
    for blocks, sample, rotation in zip(actual, SAMPLES, turns, strict=True):
        u = orbital_rotation(basis, rotation)
        expected = u.mH @ blocks_of(model, rotated(sample, rotation)) @ u
        torch.testing.assert_close(blocks, expected, rtol=0, atol=1e-9)


@crystals.BASES
def test_no_rotation_changes_nothing(basis):
    model = harmose(basis, "tracegrad")
    expected = blocks_of(model, *SAMPLES)
    model.backbone.rotations.forward = lambda graphs: torch.eye(3, dtype=torch.float64).expand(graphs, 3, 3)
    torch.testing.assert_close(blocks_of(model.train(), *SAMPLES), expected, rtol=0, atol=1e-11)
    model.backbone.at_progress(0.0)  # rotations have not begun
    assert torch.equal(blocks_of(model, *SAMPLES), expected)


@crystals.BASES
@BOTH_ARMS
def test_place_origin_order_and_cell_do_not_matter(basis, arm):
    model = harmose(basis, arm)
    numbers, positions, lattice, edges = crystals.MOS2
    reference = model.hamiltonian(numbers, positions, lattice, edges)

    def same(blocks: list[np.ndarray], order: np.ndarray | None = None) -> None:
        expected = reference if order is None else [reference[e] for e in order]
        for a, b in zip(blocks, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)

    same(model.hamiltonian(numbers, positions + np.array([0.3, -2.0, 5.0]), lattice, edges))
    same(model.hamiltonian(*by_images(crystals.MOS2)))
    mixed, edge_order = reordered(crystals.MOS2)
    same(model.hamiltonian(*mixed), edge_order)
    same(model.hamiltonian(*in_another_cell(crystals.MOS2)))


@crystals.BASES
def test_a_supercell_has_the_blocks_of_its_cell(basis):
    """In the chain every neighbour is an image of the atom itself, which must not count as an on-site edge."""
    model = harmose(basis, "tracegrad")
    numbers, positions, lattice, edges = crystals.CHAIN
    single = dict(zip(edges[:, 0].tolist(), model.hamiltonian(*crystals.CHAIN), strict=True))
    doubled = np.array(
        [(*((i + shift) // 2, 0, 0), i, (i + shift) % 2) for i in range(2) for shift in edges[:, 0]]
    )
    cell = lattice * np.array([[2], [1], [1]])
    blocks = model.hamiltonian(
        np.repeat(numbers, 2), np.concatenate([positions, positions + lattice[0]]), cell, doubled
    )
    for (cell_x, _, _, i, j), block in zip(doubled.tolist(), blocks, strict=True):
        np.testing.assert_allclose(block, single[2 * cell_x + j - i], rtol=0, atol=1e-10)


@crystals.BASES
def test_a_batch_equals_its_crystals(basis):
    model = harmose(basis, "tracegrad")
    batch = blocks_of(model, *crystals.ALL).split([len(s[3]) for s in crystals.ALL])
    for blocks, sample in zip(batch, crystals.ALL, strict=True):
        torch.testing.assert_close(blocks, blocks_of(model, sample), rtol=0, atol=1e-10)


def test_averages_hold_for_the_corrected_h():
    model, plain = (harmose(SPINFUL, hermitian=h, time_reversal=h) for h in (True, False))
    plain.load_state_dict(model.state_dict())
    graph = graph_of(*SAMPLES, basis=SPINFUL)
    blocks, released = blocks_of(model, *SAMPLES), blocks_of(plain, *SAMPLES)
    torch.testing.assert_close(blocks, blocks[graph.reverse].mH, rtol=0, atol=1e-13)
    expected = model.backbone.first.averaged(released, graph)
    torch.testing.assert_close(blocks, expected, rtol=0, atol=1e-12)
    assert (blocks - released).abs().max() > 1e-2
    plain.backbone.hermitian = True  # as predictions set it
    assert plain.backbone.first.hermitian


# --- memory, precision


def test_the_estimated_memory_has_the_second_stage():
    """Its part grows with the edges and the width."""
    numbers, positions, lattice, edges = crystals.MOS2
    structure = Structure("MoS2", numbers, positions, lattice, {}, False, 0.0, edges, np.zeros(0))

    def size(**options) -> int:
        return estimate_cost(harmose(SPINLESS, **options), structure).bytes

    narrow, wide = size(width=8), size(width=24)
    alone = estimate_cost(first_stage_of(harmose(SPINLESS)), structure).bytes
    assert wide - narrow == len(edges) * 16 * 16 * 8
    inputs = harmose(SPINLESS).backbone.transformer.layers[0].inputs[0][0].in_features
    assert narrow - alone == len(edges) * (3 * inputs + 16 * 8) * 8


@crystals.BASES
@pytest.mark.parametrize(("edge_chunk", "recompute"), [(7, False), (None, True), (11, True)])
def test_chunks_and_recomputing_change_nothing(basis, edge_chunk, recompute):
    model = harmose(basis, "tracegrad").train()
    graph = collate([crystals.labelled_graph(c, basis, i) for i, c in enumerate(crystals.ALL)])
    loss = HamiltonianLoss(basis, model.trace_labels, h=["mse"])

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(2)
        nn.init.zeros_(model.backbone.rotations.mean)
        model.zero_grad()
        total = loss(model(graph), graph).total
        total.backward()
        return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = gradients()
    model.backbone.edge_chunk, model.backbone.recompute = edge_chunk, recompute
    for actual, value in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=0, atol=1e-11 * float(value.abs().max()))


def test_mixed_precision_keeps_the_blocks_in_float32():
    model = harmose(SPINFUL, "tracegrad").float().train()
    graph = collate([crystal_graph(*crystals.MOS2, SPINFUL)])
    with torch.autocast("cpu", torch.bfloat16):
        low = model(graph).blocks["edge"]
    assert low.dtype == torch.complex64
    assert low.isfinite().all()


# --- both stages trained together


def test_the_loss_of_both_stages_adds_their_errors():
    model = harmose(SPINLESS, augmentation="none")
    graph = collate([crystals.labelled_graph(s, SPINLESS, seed) for seed, s in enumerate(SAMPLES)])
    prediction = model(graph)
    both, h = (
        HamiltonianLoss(SPINLESS, h=["mse"], terms=terms)
        for terms in ({"first": partial(FirstStageTerm, measures=["mse"])}, None)
    )
    first = first_stage_of(model)(graph)
    actual = both(prediction, graph)
    torch.testing.assert_close(actual.total, h(prediction, graph).total + h(first, graph).total)
    torch.testing.assert_close(actual.logs["loss_first"], h(first, graph).logs["loss_h"])
    with pytest.raises(ConfigError, match="the network has a single stage"):
        both(first, graph)


# --- arguments


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stage": "third"}, "model.backbone.stage is 'third'; choose from first, second, joint"),
        ({"augmentation": "some"}, "model.backbone.augmentation is 'some'; choose from none, weak"),
        ({"augmentation": "some", "stage": "first"}, "model.backbone.augmentation is 'some'"),
        ({"layers": 0}, "model.backbone.layers is 0; give a whole number >= 1"),
        ({"width": 2.5}, "model.backbone.width is 2.5; give a whole number >= 1"),
        ({"heads": True}, "model.backbone.heads is True; give a whole number >= 1"),
        ({"width": 9}, "model.backbone.width is 9, which 2 heads cannot share"),
        ({"edge_chunk": 0}, "model.backbone.edge_chunk is 0; give a whole number >= 1"),
        ({"irreps": "4x0e", "lmax": 1}, "needs .*2e.* which 2 blocks of 4x0e"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_arguments_are_named(option, message):
    with pytest.raises(ConfigError, match=message):
        HarmoSE(SPINLESS, **{**HARMOSE, **option})
