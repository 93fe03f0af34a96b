from functools import partial

import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tests.molecules import dense_rotation, random_rotation
from tracegrad.backbones.qhnet import QHNet
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.blocks import assemble_matrix, cut_blocks
from tracegrad.hamiltonian.graph import collate, molecule_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.training.loss import HamiltonianLoss

ARMS = {
    "none": {"trace": False, "grad": False},
    "trace": {"trace": True, "grad": False},
    "grad": {"trace": False, "grad": True},
    "tracegrad": {"trace": True, "grad": True},
}


SIZES = {"lmax": 2, "channels": 4, "bottleneck": 3, "layers": 3, "pair_layers": 2, "radial": 5}


def make_model(basis, arm: str = "tracegrad", sizes=SIZES, **options) -> HamiltonianModel:
    tracegrad = partial(TraceGrad, **ARMS[arm], **{"channels": 12, "hidden": 10, **options})
    model = HamiltonianModel(QHNet(basis, **sizes), tracegrad).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    for layer in model.backbone.pair_layers:
        # Degrees above 0 start at 1e-6 of the scalars, which would hide mistakes.
        layer.linear.weight.data *= 30
    return model


def train_a_little(model: HamiltonianModel, steps: int = 3) -> None:
    graph = collate([molecules.labelled_graph(m, model.basis) for m in molecules.ALL[:3]])
    loss = HamiltonianLoss(model.basis)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(graph), graph).total.backward()
        optimizer.step()


OPTIONS = [
    {},
    {"apply_to": "edge_and_self"},
    {"residual": "relative"},
    {"apply_to": "edge_and_self", "residual": "relative", "w": "full", "encoder_final": False},
]


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("arm", "options"),
    [("none", {}), ("trace", {}), ("grad", {}), *(("tracegrad", options) for options in OPTIONS)],
)
def test_hamiltonian_is_equivariant(basis, arm, options, trained):
    model = make_model(basis, arm, **options)
    if trained:
        train_a_little(model)
    numbers, positions = molecules.METHANOL
    reference = model.hamiltonian(numbers, positions)
    size = float(reference.abs().max())
    for seed in range(2):
        rotation = random_rotation(seed)
        rotated = model.hamiltonian(numbers, positions @ rotation.numpy().T + np.array([0.3, -2.0, 5.0]))
        u = dense_rotation(numbers, basis, rotation)
        assert (rotated - reference).abs().max() > 1e-3 * size
        torch.testing.assert_close(rotated, u @ reference @ u.T, rtol=0, atol=1e-10 * max(size, 1))


def test_full_degrees_are_equivariant_too(basis):
    model = make_model(basis, sizes={**SIZES, "lmax": 4, "layers": 2, "pair_layers": 1})
    numbers, positions = molecules.CYANIDE
    rotation = random_rotation(5)
    u = dense_rotation(numbers, basis, rotation)
    found = model.hamiltonian(numbers, positions @ rotation.numpy().T)
    expected = u @ model.hamiltonian(numbers, positions) @ u.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_traces_are_invariant(basis, options):
    model = make_model(basis, **options)
    numbers, positions = molecules.METHANOL
    rotation = random_rotation(1).numpy()
    first, second = (
        model(molecule_graph(numbers, p, basis, dtype=torch.float64)).traces
        for p in (positions, positions @ rotation.T)
    )
    assert first.keys() == second.keys()
    for site in first:
        torch.testing.assert_close(first[site], second[site], rtol=0, atol=1e-11)


@pytest.mark.parametrize("arm", ARMS)
def test_atoms_may_come_in_any_order(basis, arm):
    model = make_model(basis, arm)
    numbers, positions = molecules.METHANOL
    order = np.array([3, 0, 5, 1, 4, 2])
    on_site, pairs = cut_blocks(model.hamiltonian(numbers, positions), numbers, basis)
    other, other_pairs = cut_blocks(
        model.hamiltonian(numbers[order], positions[order]), numbers[order], basis
    )
    torch.testing.assert_close(other, on_site[order], rtol=0, atol=1e-12)

    graphs = [
        molecule_graph(n, p, basis) for n, p in ((numbers, positions), (numbers[order], positions[order]))
    ]
    first, second = (
        {edge: e for e, edge in enumerate(zip(*graph.edge_index.tolist(), strict=True))} for graph in graphs
    )
    for (dst, src), e in second.items():
        expected = pairs[first[int(order[dst]), int(order[src])]]
        torch.testing.assert_close(other_pairs[e], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("arm", ARMS)
def test_hamiltonian_is_exactly_symmetric(basis, arm):
    matrix = make_model(basis, arm).float().hamiltonian(*molecules.METHANOL)
    assert torch.equal(matrix, matrix.T)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("apply_to", ["edge", "edge_and_self"])
def test_a_batch_equals_its_molecules(basis, arm, apply_to):
    model = make_model(basis, arm, apply_to=apply_to)
    graphs = [molecules.labelled_graph(m, basis) for m in molecules.ALL]
    batch = model(collate(graphs))
    atom, edge = 0, 0
    for graph in graphs:
        single = model(collate([graph]))
        atoms, edges = graph.num_nodes, graph.edge_index.shape[1]
        pieces = [
            (batch.blocks["self"][atom : atom + atoms], single.blocks["self"]),
            (batch.blocks["edge"][edge : edge + edges], single.blocks["edge"]),
        ]
        if "edge" in batch.traces:
            pieces.append((batch.traces["edge"][edge : edge + edges], single.traces["edge"]))
        if "self" in batch.traces:
            pieces.append((batch.traces["self"][atom : atom + atoms], single.traces["self"]))
        for found, expected in pieces:
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        atom, edge = atom + atoms, edge + edges


# Every two of these options in every combination.
PAIRWISE = (
    (True, True, "edge", "full"),
    (False, False, "edge_and_self", "full"),
    (True, False, "edge", "low_rank"),
    (False, True, "edge_and_self", "low_rank"),
    (True, True, "edge_and_self", "projected"),
    (False, False, "edge", "projected"),
)
CASES = [
    (arm, options)
    for arm in ARMS
    for options in (
        [{}]
        if arm == "none"
        else [
            {"last_v": last_v, "encoder_final": final, "apply_to": apply_to, "w": w}
            for last_v, final, apply_to, w in PAIRWISE
        ]
    )
]


@pytest.mark.parametrize(("arm", "options"), CASES)
def test_every_parameter_is_trained(basis, arm, options):
    sizes = {"lmax": 2, "channels": 2, "bottleneck": 2, "layers": 2, "pair_layers": 2, "radial": 3}
    model = make_model(basis, arm, sizes, **options)
    assert (arm == "none") == (not list(model.tracegrad.parameters()))
    graph = collate([molecules.labelled_graph(m, basis) for m in (molecules.WATER, molecules.FLUORIDE)])
    HamiltonianLoss(basis)(model(graph), graph).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("molecule", [molecules.ATOM, molecules.FAR])
def test_single_and_distant_atoms_give_finite_values_and_gradients(basis, arm, molecule):
    model = make_model(basis, arm, apply_to="edge_and_self").float()
    graph = collate([molecules.labelled_graph(molecule, basis, dtype=torch.float32)])
    prediction = model(graph)
    terms = HamiltonianLoss(basis)(prediction, graph)
    assert terms.total.isfinite()
    terms.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert model.hamiltonian(*molecule).isfinite().all()


def test_training_goes_on_after_an_evaluation_in_inference_mode(basis):
    model = make_model(basis).float()
    model.hamiltonian(*molecules.FLUORIDE)  # the first use of float32 tables
    graph = molecules.labelled_graph(molecules.FLUORIDE, basis, dtype=torch.float32)
    model(graph).blocks["edge"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"encoder_final": False}, {"w": "full"}, {"last_v": False}])
@pytest.mark.parametrize("arm", ["grad", "tracegrad"])
def test_gradients_refine_the_features_in_evaluation_and_at_initialisation(basis, arm, options):
    tracegrad = partial(TraceGrad, **ARMS[arm], channels=12, hidden=10, **options)
    model = HamiltonianModel(QHNet(basis, **SIZES), tracegrad).double().eval()
    graph = molecules.labelled_graph(molecules.WATER, basis)
    refined = []

    def refine(site, k, f):
        o, _ = model.tracegrad.refine(site, k, f, need_z=False)
        if site == "edge":
            pairs = zip(o, f, strict=True)
            refined.append(all((a - b).abs().max() > 1e-4 * b.abs().max() for a, b in pairs))
        return o

    with torch.inference_mode():
        model.backbone(graph, refine)
    assert refined == [True, options.get("last_v", True)]


def test_prediction_without_traces_is_the_same(basis):
    model = make_model(basis, last_v=False)
    graph = molecules.labelled_graph(molecules.WATER, basis)
    full, fast = model(graph), model(graph, traces=False)
    assert fast.traces == {}
    assert full.blocks.keys() == fast.blocks.keys() == {"self", "edge"}
    for site, blocks in full.blocks.items():
        assert torch.equal(blocks, fast.blocks[site])


@pytest.mark.parametrize("form", ["full", "low_rank", "projected"])
def test_state_dict_is_plain_data(basis, tmp_path, form):
    model = make_model(basis, w=form)
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    other = make_model(basis, w=form)
    other.load_state_dict(torch.load(path, weights_only=True))
    assert torch.equal(model.hamiltonian(*molecules.WATER), other.hamiltonian(*molecules.WATER))
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


def test_tables_keep_their_precision_through_float32(basis):
    model = make_model(basis)
    for parameter in model.parameters():
        parameter.data = parameter.data.float().double()
    before = model.hamiltonian(*molecules.WATER)
    model.float()
    model.hamiltonian(*molecules.WATER)
    assert torch.equal(model.double().hamiltonian(*molecules.WATER), before)


def test_hamiltonian_is_the_assembled_prediction(basis):
    model = make_model(basis)
    numbers, positions = molecules.METHANOL
    graph = molecule_graph(numbers, positions, basis, dtype=torch.float64)
    prediction = model(graph)
    expected = assemble_matrix(prediction.blocks["self"], prediction.blocks["edge"], numbers, basis)
    found = model.hamiltonian(torch.tensor(numbers), torch.tensor(positions))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("numbers", "positions", "message"),
    [
        ([8, 1], [[0.0, 0, 0]], "shape"),
        ([], np.zeros((0, 3)), "shape"),
        ([8, 1], [[0.0, 0, 0], [np.nan, 0, 0]], "not a finite number"),
        ([[8, 1]], np.zeros((2, 3)), "shape"),
        (["8", "1"], np.zeros((2, 3)), "molecule: the atomic numbers must be numbers, not str"),
        ([8.5, 1.0], np.zeros((2, 3)), "molecule: atomic number 8.5 is not whole"),
        ([8.0, np.inf], np.zeros((2, 3)), "atomic number inf is not whole"),
        ([True, False], np.zeros((2, 3)), "must be numbers, not bool"),
        ([8, None], np.zeros((2, 3)), "must be numbers, not object"),
        ([8, [1, 1]], np.zeros((2, 3)), "the atomic numbers do not make an array"),
        ([8, 1], [["0", "0", "0"], ["0", "0", "1"]], "the positions must be numbers, not str"),
        ([8, 1], [[0, 0, 0], [0, 1]], "the positions do not make an array"),
        ([8, 1], [[0.0, 0, 0], [0.01, 0, 0]], "atoms 0 and 1 are 0.010 angstrom apart"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_molecules_are_refused(basis, numbers, positions, message):
    with pytest.raises(DataError, match=message):
        make_model(basis).hamiltonian(numbers, positions)


@pytest.mark.usefixtures("unchecked")
def test_lists_and_integral_floats_are_accepted(basis):
    model = make_model(basis)
    numbers, positions = molecules.WATER
    expected = model.hamiltonian(numbers, positions)
    whole = [float(number) for number in numbers]
    assert torch.equal(model.hamiltonian(whole, positions.tolist()), expected)
    assert torch.equal(model.hamiltonian(torch.tensor(whole), torch.tensor(positions)), expected)


def test_unknown_elements_are_named(basis):
    with pytest.raises(BasisError, match=r"molecule: atomic numbers \[15\] have no entry in def2-SVP"):
        make_model(basis).hamiltonian(np.array([15]), np.zeros((1, 3)))


@pytest.mark.usefixtures("unchecked")
def test_a_lattice_for_a_molecule_is_refused(basis):
    edges = crystals.MOS2[3]
    for extra in ({"lattice": np.eye(3)}, {"edges": edges}, {"lattice": np.eye(3), "edges": edges}):
        with pytest.raises(
            DataError, match="QHNet is a network of molecules: give neither lattice nor edges"
        ):
            make_model(basis).hamiltonian(*molecules.WATER, **extra)


def test_a_torch_that_cannot_compile_the_networks_is_named(basis, monkeypatch):
    model = HamiltonianModel(QHNet(basis, **SIZES), compile=True)
    monkeypatch.setattr(torch, "__version__", "2.8.0+cu128")
    with pytest.raises(ConfigError, match="cannot compile the network into one graph"):
        model.compile_as_configured()
