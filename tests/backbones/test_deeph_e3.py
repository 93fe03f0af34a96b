import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from tests import crystals
from tests.model.test_network import ARMS
from tests.molecules import random_rotation
from tests.nn.item_first.test_shell_pairs import PAULI, orbital_rotation
from tests.oracles.autograd_tracegrad import autograd_block, to_irreps
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.nn.radial import GaussianBasis
from tracegrad.training.loss import HamiltonianLoss

SPINLESS, SPINFUL = crystals.SPINLESS, crystals.SPINFUL
SIZES = {"irreps": "6x0e+4x1o+3x2e+2x3o", "embed": 5, "blocks": 2, "lmax": 3, "radial": 7}
BASES = pytest.mark.parametrize("basis", [SPINLESS, SPINFUL], ids=["spinless", "spinful"])
VARIANTS = [
    (SPINLESS, {}),
    (SPINLESS, {"hermitian": True, "legacy_e3nn": True}),
    (SPINFUL, {"blocks": 3}),
    (SPINFUL, {"hermitian": True}),
    (SPINFUL, {"time_reversal": True, "legacy_e3nn": True}),
    (SPINFUL, {"hermitian": True, "time_reversal": True}),
]
VARIANT = pytest.mark.parametrize(
    ("basis", "options"), VARIANTS, ids=[" ".join([str(b.spinful), *o]) for b, o in VARIANTS]
)
BOTH_ARMS = pytest.mark.parametrize("arm", ["none", "tracegrad"])


def make_model(basis: OrbitalBasis, arm: str = "none", **options) -> HamiltonianModel:
    tracegrad = partial(TraceGrad, **ARMS[arm], channels=8, hidden=8, w="full")
    model = HamiltonianModel(DeepHE3(basis, **{**SIZES, **options}), tracegrad).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they start at zero, which would hide mistakes
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def graph_of(*samples: crystals.Crystal, basis: OrbitalBasis, dtype: torch.dtype = torch.float64):
    return collate([crystal_graph(*sample, basis, dtype=dtype) for sample in samples])


def blocks_of(model: HamiltonianModel, *samples: crystals.Crystal) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    with torch.inference_mode():
        return model(graph_of(*samples, basis=model.basis, dtype=dtype)).blocks["edge"]


def rotated(sample: crystals.Crystal, rotation: torch.Tensor) -> crystals.Crystal:
    numbers, positions, lattice, edges = sample
    return numbers, positions @ rotation.numpy().T, lattice @ rotation.numpy().T, edges


# --- symmetries


@BOTH_ARMS
@VARIANT
def test_blocks_are_equivariant(basis, options, arm):
    model = make_model(basis, arm, **options)
    samples = (crystals.MOS2, crystals.CHAIN)
    reference = blocks_of(model, *samples)
    for seed in range(4):
        rotation = random_rotation(seed) * (-1) ** seed  # with and without inversion
        actual = blocks_of(model, *(rotated(sample, rotation) for sample in samples))
        u = orbital_rotation(basis, rotation)
        torch.testing.assert_close(actual, u @ reference @ u.mH, rtol=0, atol=1e-9)
        assert (actual - reference).abs().max() > 0.1


@BASES
@BOTH_ARMS
def test_mirrors_are_symmetries_too(basis, arm):
    model = make_model(basis, arm)
    for axis in torch.eye(3, dtype=torch.float64):
        mirror = torch.eye(3, dtype=torch.float64) - 2 * torch.outer(axis, axis)
        u = orbital_rotation(basis, mirror)
        actual = blocks_of(model, rotated(crystals.MOS2, mirror))
        torch.testing.assert_close(actual, u @ blocks_of(model, crystals.MOS2) @ u.mH, rtol=0, atol=1e-9)


@BASES
def test_default_degrees_are_equivariant(basis):
    model = make_model(basis, irreps="4x0e+2x1o+2x2e+2x3o+2x4e+1x5o", lmax=5, blocks=2)
    rotation = -random_rotation(5)
    u = orbital_rotation(basis, rotation)
    actual = blocks_of(model, rotated(crystals.MOS2, rotation))
    torch.testing.assert_close(actual, u @ blocks_of(model, crystals.MOS2) @ u.mH, rtol=0, atol=1e-9)


@BASES
@BOTH_ARMS
def test_place_origin_and_order_do_not_matter(basis, arm):
    model = make_model(basis, arm)
    numbers, positions, lattice, edges = crystals.MOS2
    reference = model.hamiltonian(numbers, positions, lattice, edges)

    moved = model.hamiltonian(numbers, positions + np.array([0.3, -2.0, 5.0]), lattice, edges)
    for a, b in zip(moved, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)

    # Atoms represented by images in other cells: the same crystal.
    shifts = np.array([[1, 0, 0], [0, -2, 1], [0, 0, 0]])
    relabelled = edges.copy()
    relabelled[:, :3] += shifts[edges[:, 3]] - shifts[edges[:, 4]]
    other = model.hamiltonian(numbers, positions + shifts @ lattice, lattice, relabelled)
    for a, b in zip(other, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)

    order, edge_order = np.array([2, 0, 1]), np.random.default_rng(2).permutation(len(edges))
    permuted = edges[edge_order].copy()
    permuted[:, 3:] = np.argsort(order)[permuted[:, 3:]]
    mixed = model.hamiltonian(numbers[order], positions[order], lattice, permuted)
    for a, edge in zip(mixed, edge_order, strict=True):
        np.testing.assert_allclose(a, reference[edge], rtol=0, atol=1e-12)


@BASES
@BOTH_ARMS
def test_another_cell_of_the_same_lattice_gives_the_same_blocks(basis, arm):
    """Lattice vectors b = M a with det M = 1, cells R' = R M^-1."""
    model = make_model(basis, arm)
    numbers, positions, lattice, edges = crystals.MOS2
    change = np.array([[1, 1, 0], [0, 1, 0], [2, 0, 1]])
    relabelled = edges.copy()
    relabelled[:, :3] = edges[:, :3] @ np.rint(np.linalg.inv(change)).astype(int)
    reference = model.hamiltonian(numbers, positions, lattice, edges)
    actual = model.hamiltonian(numbers, positions, change @ lattice, relabelled)
    for a, b in zip(actual, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@BASES
@BOTH_ARMS
def test_a_batch_equals_its_crystals(basis, arm):
    model = make_model(basis, arm)
    graphs = [crystals.labelled_graph(sample, basis) for sample in crystals.ALL]
    batch = model(collate(graphs))
    start = 0
    for graph in graphs:
        single, edges = model(collate([graph])), graph.edge_index.shape[1]
        at = slice(start, start + edges)
        torch.testing.assert_close(batch.blocks["edge"][at], single.blocks["edge"], rtol=0, atol=1e-11)
        for site, traces in single.traces.items():
            torch.testing.assert_close(batch.traces[site][at], traces, rtol=0, atol=1e-11)
        start += edges
    assert start == len(batch.blocks["edge"])


@BASES
def test_images_of_an_atom_have_a_direction(basis):
    model = make_model(basis)
    edges = crystals.CHAIN[3].tolist()
    blocks = dict(zip((edge[0] for edge in edges), model.hamiltonian(*crystals.CHAIN), strict=True))
    assert set(blocks) == {-1, 0, 1}
    assert np.abs(blocks[1] - blocks[-1]).max() > 0.1


@BASES
@BOTH_ARMS
def test_hermitian_blocks_are_exactly_hermitian(basis, arm):
    numbers, positions, lattice, edges = crystals.MOS2
    model, released = (make_model(basis, arm, hermitian=h).float() for h in (True, False))
    released.load_state_dict(model.state_dict())
    reverse = crystal_graph(*crystals.MOS2, basis).reverse.numpy()
    blocks, plain = (m.hamiltonian(numbers, positions, lattice, edges) for m in (model, released))
    for e, back in enumerate(reverse):
        assert np.array_equal(blocks[e], blocks[back].conj().T)
        mean = (plain[e] + plain[back].conj().T) / 2
        np.testing.assert_allclose(blocks[e], mean, rtol=0, atol=1e-5)
    assert max(np.abs(plain[e] - plain[back].conj().T).max() for e, back in enumerate(reverse)) > 0.1


@pytest.mark.parametrize("hermitian", [False, True])
@BOTH_ARMS
def test_time_reversal_is_exact(arm, hermitian):
    model, released = (
        make_model(SPINFUL, arm, hermitian=hermitian, time_reversal=t).float() for t in (True, False)
    )
    released.load_state_dict(model.state_dict())
    samples = (crystals.MOS2, crystals.CHAIN)
    blocks, plain = blocks_of(model, *samples), blocks_of(released, *samples)
    reversal = torch.kron(PAULI[1], torch.eye(SPINFUL.dim // 2)).to(blocks.dtype)
    assert torch.equal(reversal @ blocks.conj() @ reversal, blocks)
    torch.testing.assert_close(blocks, (plain + reversal @ plain.conj() @ reversal) / 2, rtol=0, atol=1e-5)
    assert (reversal @ plain.conj() @ reversal - plain).abs().max() > 0.1
    if hermitian:
        assert torch.equal(blocks, blocks[graph_of(*samples, basis=SPINFUL).reverse].mH)


# --- the form of the network


def test_full_size_has_the_parameters_of_the_released_network_that_are_used():
    count = sum(p.numel() for p in DeepHE3(OrbitalBasis.openmx({"C": "s2p2d1"})).parameters())
    unused = 64 + 1  # of the last linear map of the nodes
    assert count == 627_981 - unused


def test_pseudoscalars_need_axial_vectors_among_the_last_nodes():
    last = make_model(SPINFUL).backbone.node_updates[-1].irreps
    assert str(last) == "6x0e+4x1o+3x2e+2x3o+4x1e"
    assert str(make_model(SPINLESS).backbone.node_updates[-1].irreps) == SIZES["irreps"]
    backbone = make_model(SPINFUL, last_node_irreps="5x0e+4x1o+3x2e+2x3o+2x1e").backbone
    assert str(backbone.node_updates[-1].irreps) == "5x0e+4x1o+3x2e+2x3o+2x1e"


def test_nodes_may_have_other_irreps_than_edges():
    model = make_model(SPINFUL, node_irreps="5x0e+3x1o+2x1e+2x2e+1x3o")
    rotation = -random_rotation(2)
    u = orbital_rotation(SPINFUL, rotation)
    actual = blocks_of(model, rotated(crystals.MOS2, rotation))
    torch.testing.assert_close(actual, u @ blocks_of(model, crystals.MOS2) @ u.mH, rtol=0, atol=1e-9)


@BASES
def test_refinement_is_called_once_per_feature_and_used(basis):
    model = make_model(basis, blocks=3).backbone
    graph = graph_of(crystals.MOS2, basis=basis)
    edges, calls = graph.edge_index.shape[1], []
    assert set(model.feature_irreps) == {"edge"}
    assert model.periodic

    def doubled(number: int):
        def refine(site, k, feature):
            irreps = model.feature_irreps[site][k]
            assert [tuple(part.shape) for part in feature] == [(ir.dim, edges, mul) for mul, ir in irreps]
            calls.append((site, k))
            return [part * 2 for part in feature] if k == number else feature

        return refine

    plain = model(graph, doubled(-1))["edge"]
    assert calls == [("edge", 0), ("edge", 1), ("edge", 2)]
    assert torch.equal(plain, model(graph)["edge"])
    for k in range(3):
        assert (model(graph, doubled(k))["edge"] - plain).abs().max() > 1e-3


def test_elements_far_apart_in_the_table_and_of_one_kind():
    """The rows of the embedding are elements of the basis, not atomic numbers."""
    model = make_model(SPINLESS).backbone
    graph = graph_of(crystals.MOS2, basis=SPINLESS)
    kinds = model.kinds(graph)
    assert kinds.tolist() == [1, 0, 0]
    embedded = one_hot(kinds, 2).double() @ model.embedding / math.sqrt(2)
    seen = []
    model.node_updates[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model(graph)
    torch.testing.assert_close(seen[0][0][:, 0], embedded, rtol=0, atol=1e-13)


def test_gaussians_against_their_formula():
    radial = GaussianBasis(5, 6.0)
    r = torch.tensor([0.0, 0.4, 3.0, 7.9], dtype=torch.float64)
    expected = [[math.exp(-((x - 1.5 * k) ** 2) / (2 * 1.5**2)) for k in range(5)] for x in r.tolist()]
    torch.testing.assert_close(radial(r), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("arm", ARMS)
@BASES
def test_every_parameter_is_used(basis, arm):
    model = make_model(basis, arm)
    graph = collate([crystals.labelled_graph(s, basis, seed) for seed, s in enumerate((crystals.MOS2,) * 2)])
    HamiltonianLoss(basis)(model(graph), graph).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.numel() == 0 or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("sample", crystals.ALL, ids=["MoS2", "chain", "alone", "bonds"])
@BASES
def test_gradients_are_finite_where_features_vanish(basis, sample):
    """The pseudoscalars of an isolated atom are zero, and so is their deviation in the norm."""
    model = make_model(basis)
    graph = collate([crystals.labelled_graph(sample, basis)])
    HamiltonianLoss(basis)(model(graph), graph).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


# --- with TraceGrad


def features_of(model: HamiltonianModel, graph) -> list[list[torch.Tensor]]:
    """f of each block as TraceGrad gets it."""
    seen = []

    def refine(site, k, f):
        seen.append([part.detach() for part in f])
        return model.tracegrad.refine(site, k, f, need_z=True)[0]

    model.backbone(graph, refine)
    return seen


@pytest.mark.parametrize("spinful", [False, True])
def test_v_is_the_gradient_of_z_also_in_inference_mode(spinful):
    basis = OrbitalBasis.openmx({"Mo": "s1p1", "S": "s1"}, spinful=spinful)
    model = make_model(basis, "tracegrad")
    graph = graph_of(crystals.MOS2, crystals.CHAIN, basis=basis)
    features = features_of(model, graph)
    assert len(features) == SIZES["blocks"]
    for k, f in enumerate(features):
        irreps = model.backbone.feature_irreps["edge"][k]
        block = model.tracegrad.blocks["edge"][k]
        with torch.inference_mode():
            z, v = block([part.clone() for part in f])
        expected_z, expected_v = autograd_block(block, irreps, [part.clone() for part in f])
        torch.testing.assert_close(z.clone(), expected_z.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(to_irreps(v).clone(), to_irreps(expected_v).detach(), rtol=1e-9, atol=1e-9)
        assert to_irreps(v).abs().mean() > 1e-4
    # What TraceGrad adds reaches H.
    plain = HamiltonianModel(model.backbone)
    assert (blocks_of(model, crystals.MOS2) - blocks_of(plain, crystals.MOS2)).abs().max() > 1e-3


@BASES
def test_traces_are_invariant(basis):
    model = make_model(basis, "tracegrad")
    reference = model(graph_of(crystals.MOS2, basis=basis)).traces
    for seed in range(3):
        sample = rotated(crystals.MOS2, random_rotation(seed) * (-1) ** seed)
        traces = model(graph_of(sample, basis=basis)).traces
        assert traces.keys() == {"edge"}
        torch.testing.assert_close(traces["edge"], reference["edge"], rtol=0, atol=1e-10)
    assert reference["edge"].std() > 1e-3


# --- precision


@pytest.mark.parametrize(("arm", "bound"), [("none", 2e-3), ("tracegrad", 4e-3)])
def test_mixed_precision_keeps_most_of_the_equivariance(arm, bound):
    """The remaining error comes from the invariants: rounding to bfloat16 amplifies their float32 differences."""
    sizes = {"irreps": "16x0e+8x1o+6x2e+4x3o+2x4e", "embed": 16, "lmax": 4, "radial": 32, "blocks": 2}
    model = make_model(SPINFUL, arm, **sizes).float()

    def blocks(sample: crystals.Crystal, low: bool) -> torch.Tensor:
        graph = collate([crystal_graph(*sample, SPINFUL)])
        with torch.autocast("cpu", torch.bfloat16, enabled=low), torch.inference_mode():
            of_edges = model(graph).blocks["edge"]
        assert of_edges.dtype == torch.complex64
        return of_edges.to(torch.complex128)

    def error(low: bool) -> float:
        reference, errors = blocks(crystals.MOS2, low), []
        for seed in range(3):
            rotation = random_rotation(seed)
            u = orbital_rotation(SPINFUL, rotation)
            difference = blocks(rotated(crystals.MOS2, rotation), low) - u @ reference @ u.mH
            errors.append(float(difference.norm() / reference.norm()))
        return sum(errors) / len(errors)

    assert error(False) < 5e-5
    assert error(True) < bound


# --- arguments


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"embed": 1}, "model.backbone.embed is 1; give a whole number >= 2"),
        ({"embed": 2.5}, "model.backbone.embed is 2.5"),
        ({"blocks": 0}, "model.backbone.blocks is 0; give a whole number >= 1"),
        ({"blocks": True}, "model.backbone.blocks is True"),
        ({"lmax": -1}, "model.backbone.lmax is -1; give a whole number >= 0"),
        ({"radial": 1}, "model.backbone.radial is 1; give a whole number >= 2"),
        ({"cutoff": 0.0}, "model.backbone.cutoff is 0.0; give a distance > 0"),
        ({"cutoff": math.inf}, "model.backbone.cutoff is inf"),
        ({"cutoff": math.nan}, "model.backbone.cutoff is nan"),
        ({"cutoff": "7"}, "model.backbone.cutoff is '7'"),
        ({"irreps": ""}, "model.backbone.irreps is ''; name each irrep once"),
        ({"irreps": "4x0e+3x0e"}, "model.backbone.irreps is '4x0e.3x0e'; name each irrep once"),
        ({"irreps": "4x0e+0x1o"}, "model.backbone.irreps is '4x0e.0x1o'; .* with 1 channel or more"),
        ({"irreps": "64 scalars"}, "model.backbone.irreps is '64 scalars'; irreps are written like"),
        ({"irreps": 64}, "model.backbone.irreps is 64; irreps are written like"),
        ({"node_irreps": "4x0e+x"}, "model.backbone.node_irreps is '4x0e.x'"),
        ({"last_node_irreps": "4x1e+3x1e"}, "model.backbone.last_node_irreps is '4x1e.3x1e'; name each"),
        ({"time_reversal": True}, "time_reversal=true needs a spinful basis"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_arguments_are_named(option, message):
    with pytest.raises(ConfigError, match=message):
        DeepHE3(SPINLESS, **{**SIZES, **option})


@pytest.mark.parametrize(
    ("basis", "options", "message"),
    [
        (SPINLESS, {"irreps": "4x0e", "lmax": 1}, "needs .*2e.* which 2 blocks of 4x0e"),
        (SPINFUL, {"blocks": 1}, "needs 0o.* raise the degrees .* or its blocks"),
    ],
)
def test_hamiltonians_out_of_reach_are_named(basis, options, message):
    with pytest.raises(ConfigError, match=message):
        DeepHE3(basis, **{**SIZES, **options})


@BASES
@pytest.mark.parametrize(("edge_chunk", "recompute"), [(7, False), (None, True), (11, True)])
def test_chunks_and_recomputing_change_nothing(basis, edge_chunk, recompute):
    """The same loss and gradients, for graphs of different size and with whole-graph means over all chunks."""
    torch.manual_seed(0)
    make = partial(TraceGrad, trace=True, grad=True, channels=8, hidden=8, w="full")
    model = HamiltonianModel(DeepHE3(basis, **SIZES), make).double()
    graph = collate([crystals.labelled_graph(c, basis, i) for i, c in enumerate(crystals.ALL)])
    loss = HamiltonianLoss(basis, model.trace_labels, h=["mse"])

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        total = loss(model(graph), graph).total
        total.backward()
        return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = gradients()
    model.backbone.edge_chunk, model.backbone.recompute = edge_chunk, recompute
    model.tracegrad.recompute = recompute
    for actual, value in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=0, atol=1e-12 * float(value.abs().max()))


def test_recomputing_stores_less():
    torch.manual_seed(0)
    graph = collate([crystals.labelled_graph(crystals.ALL[0], SPINLESS, 0)])

    def stored(recompute: bool) -> int:
        model = DeepHE3(SPINLESS, **SIZES, recompute=recompute).double()
        numbers = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(graph)
        return numbers

    assert stored(recompute=True) < stored(recompute=False) / 2
