from functools import partial

import numpy as np
import pytest
import torch

from tests import crystals, molecules
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.blocks import complete_edges
from tracegrad.hamiltonian.graph import collate
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.training.loss_terms import TraceTerm

BATCH = (molecules.WATER, molecules.CYANIDE, molecules.ATOM, molecules.METHANOL)
MEASURES = {"mse": np.square, "mae": np.abs}


@pytest.fixture
def graph(basis):
    return collate([molecules.labelled_graph(m, basis, seed=i) for i, m in enumerate(BATCH)])


def random_prediction(graph, basis, sites=("edge",)) -> HamiltonianPrediction:
    """Numbers everywhere, in padding too: the masks have to remove them."""
    dim, shells = basis.dim, len(basis.union)
    sizes = {"edge": graph.edge_index.shape[1], "self": graph.num_nodes}

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    traces = {site: draw(sizes[site], shells**2) for site in sites}
    return HamiltonianPrediction({site: draw(sizes[site], dim, dim) for site in ("self", "edge")}, traces)


def molecule_slices(basis):
    """Per molecule: atomic numbers, first atom, first edge."""
    atom = edge = 0
    for numbers, _ in BATCH:
        yield numbers, atom, edge
        atom, edge = atom + len(numbers), edge + len(numbers) * (len(numbers) - 1)


def literal_loss_h(prediction, graph, basis, measure) -> float:
    on_site, pairs = (prediction.blocks[site].detach().numpy() for site in ("self", "edge"))
    h_self, h_edge = graph.h_self.numpy(), graph.h_edge.numpy()
    values = []
    for numbers, atom, edge in molecule_slices(basis):
        errors = []
        for a, z in enumerate(numbers):
            for i in np.flatnonzero(basis.mask[z]):
                for j in np.flatnonzero(basis.mask[z]):
                    errors.append(measure(on_site[atom + a, i, j] - h_self[atom + a, i, j]))
        for e, (dst, src) in enumerate(complete_edges(len(numbers))[0].T.tolist()):
            for i in np.flatnonzero(basis.mask[numbers[dst]]):
                for j in np.flatnonzero(basis.mask[numbers[src]]):
                    errors.append(measure(pairs[edge + e, i, j] - h_edge[edge + e, i, j]))
        assert len(errors) == basis.sizes[numbers].sum() ** 2
        values.append(np.mean(errors))
    return float(np.mean(values))


def literal_loss_t(prediction, graph, basis, measure, scaled: bool) -> float:
    bounds = [*basis.shell_starts.tolist(), basis.dim]
    shells = len(basis.union)
    values = []
    for numbers, atom, edge in molecule_slices(basis):
        errors = []
        blocks = []
        if "edge" in prediction.traces:
            for e, (dst, src) in enumerate(complete_edges(len(numbers))[0].T.tolist()):
                blocks.append(("edge", edge + e, numbers[dst], numbers[src], graph.h_edge[edge + e]))
        if "self" in prediction.traces:
            for a, z in enumerate(numbers):
                blocks.append(("self", atom + a, z, z, graph.h_self[atom + a]))
        for site, item, row_z, column_z, block in blocks:
            label = np.zeros((shells, shells))
            present = basis.shell_mask[row_z][:, None] & basis.shell_mask[column_z][None]
            for p in range(shells):
                for q in range(shells):
                    basic = block[bounds[p] : bounds[p + 1], bounds[q] : bounds[q + 1]].numpy()
                    label[p, q] = np.trace(basic @ basic.T)
            if scaled:
                label = (label - label.mean()) / np.sqrt(label.var() + 1e-5)
            predicted = prediction.traces[site][item].detach().numpy().reshape(shells, shells)
            errors += [measure(predicted[p, q] - label[p, q]) for p, q in np.argwhere(present)]
        if errors:
            values.append(np.mean(errors))
    return float(np.mean(values))


@pytest.mark.parametrize("sites", [("edge",), ("edge", "self")])
@pytest.mark.parametrize("scale_labels", ["none", "layer_norm"])
@pytest.mark.parametrize("t", ["mae", "mse"])
def test_equals_the_literal_loops(graph, basis, t, scale_labels, sites):
    prediction = random_prediction(graph, basis, sites)
    terms = HamiltonianLoss(basis, t=t, scale_labels=scale_labels, trace_weight=0.3)(prediction, graph)
    loss_h = sum(literal_loss_h(prediction, graph, basis, m) for m in MEASURES.values())
    loss_t = literal_loss_t(prediction, graph, basis, MEASURES[t], scale_labels == "layer_norm")
    assert float(terms.shares["h"].detach()) == pytest.approx(loss_h, rel=1e-12)
    assert float(terms.shares["t"].detach()) == pytest.approx(loss_t, rel=1e-12)
    assert float(terms.weights["t"]) == pytest.approx(0.3 * loss_h / loss_t, rel=1e-12)
    assert float(terms.total.detach()) == pytest.approx(1.3 * loss_h, rel=1e-12)
    assert float(terms.per_sample["h"].mean()) == pytest.approx(loss_h, rel=1e-12)
    assert not terms.per_sample["h"].requires_grad


@pytest.mark.parametrize("name", MEASURES)
def test_single_measures_equal_the_literal_loops(graph, basis, name):
    prediction = random_prediction(graph, basis, ())
    terms = HamiltonianLoss(basis, h=[name])(prediction, graph)
    expected = literal_loss_h(prediction, graph, basis, MEASURES[name])
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-12)
    assert terms.shares.keys() == terms.weights.keys() == {"h"}
    assert terms.logs.keys() == {"loss", "loss_h"}


def test_mu_is_a_constant_for_the_gradient(graph, basis):
    prediction = random_prediction(graph, basis)
    terms = HamiltonianLoss(basis, trace_weight=0.2)(prediction, graph)
    inputs = [*prediction.blocks.values(), prediction.traces["edge"]]
    found = torch.autograd.grad(terms.total, inputs, retain_graph=True)
    fixed = terms.shares["h"] + float(terms.weights["t"]) * terms.shares["t"]
    for a, b in zip(found, torch.autograd.grad(fixed, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
    assert not terms.weights["t"].requires_grad


def test_padding_gets_no_gradient(graph, basis):
    prediction = random_prediction(graph, basis, ("edge", "self"))
    HamiltonianLoss(basis)(prediction, graph).total.backward()
    present = torch.from_numpy(basis.mask)[graph.numbers]
    shells = torch.from_numpy(basis.shell_mask)[graph.numbers]
    dst, src = graph.edge_index
    for value, rows, columns in (
        (prediction.blocks["self"], present, present),
        (prediction.blocks["edge"], present[dst], present[src]),
        (prediction.traces["self"], shells, shells),
        (prediction.traces["edge"], shells[dst], shells[src]),
    ):
        mask = rows[:, :, None] & columns[:, None, :]
        assert torch.equal(value.grad != 0, mask.view(value.shape))


def test_fixed_weights_replace_one_and_mu(graph, basis):
    prediction = random_prediction(graph, basis)
    terms = HamiltonianLoss(basis, fixed_weights=[0.8, 0.2])(prediction, graph)
    expected = 0.8 * float(terms.shares["h"].detach()) + 0.2 * float(terms.shares["t"].detach())
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-14)


def test_a_perfect_trace_prediction_stays_finite(graph, basis):
    prediction = random_prediction(graph, basis)
    loss = HamiltonianLoss(basis)
    with torch.no_grad():
        prediction.traces["edge"].copy_(BlockTraces(basis)(graph.h_edge))
    terms = loss(prediction, graph)
    assert float(terms.shares["t"].detach()) == 0
    terms.total.backward()
    assert prediction.traces["edge"].grad.isfinite().all()


def test_single_atoms_are_left_out_of_the_trace_loss(basis):
    graph = collate([molecules.labelled_graph(molecules.ATOM, basis)])
    terms = HamiltonianLoss(basis)(random_prediction(graph, basis), graph)
    assert float(terms.shares["t"].detach()) == 0
    assert terms.total.isfinite()


@pytest.mark.parametrize("options", [{}, {"fixed_weights": [0.8, 0.2]}])
@pytest.mark.parametrize("parts", [([0], [1, 2, 3]), ([2], [0, 1, 3]), ([0, 1], [2], [3])])
def test_shares_of_a_batch_sum_to_its_loss_and_gradient(basis, parts, options):
    """For any division among processes, also if one process has only a single atom, which has no traces."""
    graphs = [molecules.labelled_graph(m, basis, seed=i) for i, m in enumerate(BATCH)]
    whole, loss = collate(graphs), HamiltonianLoss(basis, **options)
    prediction = random_prediction(whole, basis)
    expected = loss(prediction, whole)
    inputs = [prediction.blocks["self"], prediction.blocks["edge"], prediction.traces["edge"]]
    gradients = torch.autograd.grad(expected.total, inputs)
    shares = []
    for part in parts:
        atoms = torch.isin(whole.batch, torch.tensor(part))
        edges = atoms[whole.edge_index[0]]
        own = HamiltonianPrediction(
            {"self": inputs[0][atoms], "edge": inputs[1][edges]}, {"edge": inputs[2][edges]}
        )
        shares.append((own, collate([graphs[i] for i in part])))
    sums: list[torch.Tensor] = []
    for own, graph in shares:
        loss(own, graph, lambda values: sums.append(values) or values)
    terms = [loss(own, graph, lambda _: torch.stack(sums).sum(0)) for own, graph in shares]
    torch.testing.assert_close(
        torch.stack([term.total for term in terms]).sum(), expected.total, rtol=1e-13, atol=0
    )
    for name, value in expected.shares.items():
        found = torch.stack([term.shares[name] for term in terms]).sum()
        torch.testing.assert_close(found, value, rtol=1e-13, atol=0)
    for term in terms:
        for name, value in expected.logs.items():
            torch.testing.assert_close(term.logs[name], value, rtol=1e-13, atol=0)
    found = torch.autograd.grad(torch.stack([term.total for term in terms]).sum(), inputs)
    for a, b in zip(found, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-18)


def crystal_batch(basis):
    return collate([crystals.labelled_graph(c, basis, seed) for seed, c in enumerate(crystals.ALL)])


def random_crystal_prediction(graph, basis, labels: int) -> HamiltonianPrediction:
    """Numbers everywhere, in padding too."""
    dtype = torch.complex128 if basis.spinful else torch.float64
    blocks = torch.randn(graph.h_edge.shape, dtype=dtype, requires_grad=True)
    traces = torch.randn(len(blocks), labels, dtype=torch.float64, requires_grad=True)
    return HamiltonianPrediction({"edge": blocks}, {"edge": traces})


def literal_crystal_losses(prediction, graph, basis, traces, h, t) -> tuple[float, float]:
    """loss_H and loss_T by loops over crystals, edges and elements or labels."""
    numbers, (dst, src) = graph.numbers.numpy(), graph.edge_index.numpy()
    found, true = prediction.blocks["edge"].detach().numpy(), graph.h_edge.numpy()
    found_traces = prediction.traces["edge"].detach().numpy()
    labels = traces(graph.h_edge).numpy()
    losses_h, losses_t = [], []
    for k in range(graph.num_graphs):
        errors_h, errors_t = [], []
        for e in np.flatnonzero(graph.batch.numpy()[dst] == k):
            for i in np.flatnonzero(basis.mask[numbers[dst[e]]]):
                for j in np.flatnonzero(basis.mask[numbers[src[e]]]):
                    difference = found[e, i, j] - true[e, i, j]
                    modulus = np.hypot(difference.real, difference.imag)
                    errors_h.append({"mse": modulus**2, "mae": modulus}[h])
            # A label of a random block is 0 only where there is no basic block.
            errors_t += [MEASURES[t](found_traces[e, c] - labels[e, c]) for c in np.flatnonzero(labels[e])]
        losses_h.append(np.mean(errors_h))
        losses_t.append(np.mean(errors_t))
    return float(np.mean(losses_h)), float(np.mean(losses_t))


@pytest.mark.parametrize(("h", "t"), [("mse", "mae"), ("mae", "mse")])
@pytest.mark.parametrize(
    ("crystal_basis", "spin"),
    [
        (crystals.SPINLESS, "sum"),
        (crystals.SPINFUL, "sum"),
        (crystals.SPINFUL, "singlet_triplet"),
        (crystals.SPINFUL, "per_spin_block"),
    ],
)
def test_crystals_equal_the_literal_loops(crystal_basis, spin, h, t):
    traces = BlockTraces(crystal_basis, spin)
    graph = crystal_batch(crystal_basis)
    prediction = random_crystal_prediction(graph, crystal_basis, traces.count)
    terms = HamiltonianLoss(crystal_basis, traces, h=[h], t=t, trace_weight=0.3)(prediction, graph)
    loss_h, loss_t = literal_crystal_losses(prediction, graph, crystal_basis, traces, h, t)
    assert float(terms.shares["h"].detach()) == pytest.approx(loss_h, rel=1e-12)
    assert float(terms.shares["t"].detach()) == pytest.approx(loss_t, rel=1e-12)
    assert float(terms.total.detach()) == pytest.approx(1.3 * loss_h, rel=1e-12)


@pytest.mark.parametrize("crystal_basis", [crystals.SPINLESS, crystals.SPINFUL])
def test_padding_of_crystals_gets_no_gradient_and_a_perfect_one_is_finite(crystal_basis):
    graph = crystal_batch(crystal_basis)
    loss = HamiltonianLoss(crystal_basis)
    prediction = random_crystal_prediction(graph, crystal_basis, loss.traces.count)
    loss(prediction, graph).total.backward()
    assert torch.equal(prediction.blocks["edge"].grad != 0, graph.h_edge != 0)
    assert torch.equal(prediction.traces["edge"].grad != 0, loss.traces(graph.h_edge) != 0)
    exact = graph.h_edge.clone().requires_grad_()
    terms = loss(HamiltonianPrediction({"edge": exact}), graph)
    terms.total.backward()
    assert float(terms.total.detach()) == 0
    assert not exact.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_of_crystals_are_real_and_keep_the_precision(dtype):
    basis = crystals.SPINFUL
    graph = collate([crystals.labelled_graph(c, basis, dtype=dtype) for c in crystals.ALL])
    assert graph.h_edge.dtype == dtype.to_complex()
    loss = HamiltonianLoss(basis)
    traces = {"edge": torch.zeros(len(graph.h_edge), loss.traces.count, dtype=dtype)}
    terms = loss(HamiltonianPrediction({"edge": torch.zeros_like(graph.h_edge)}, traces), graph)
    assert {
        term.dtype for term in (terms.total, terms.shares["h"], terms.shares["t"], terms.per_sample["h"])
    } == {dtype}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"h": ["rmse"]}, r"unknown error measures \['rmse'\]"),
        ({"h": []}, "loss.h"),
        ({"t": "huber"}, "huber"),
        ({"scale_labels": "batch"}, "loss.scale_labels is 'batch'"),
        ({"fixed_weights": [1.0]}, "needs two numbers"),
        ({"fixed_weights": "12"}, "loss.fixed_weights is 12"),
        ({"fixed_weights": 3}, "loss.fixed_weights is 3"),
        ({"fixed_weights": ["1", 2]}, "loss.fixed_weights is"),
        ({"fixed_weights": [1, -2]}, "loss.fixed_weights is"),
        ({"fixed_weights": [1, np.nan]}, "loss.fixed_weights is"),
        ({"trace_weight": -0.1}, "loss.trace_weight is -0.1; give a finite number >= 0"),
        ({"trace_weight": np.inf}, "loss.trace_weight is inf"),
        ({"trace_weight": "0.2"}, "loss.trace_weight is '0.2'"),
        ({"terms": {"h": TraceTerm}}, "loss.terms.h: no name of a term can be 'h'"),
        ({"terms": {"on.site": TraceTerm}}, "no name of a term can be 'on.site'"),
        ({"terms": {"keys": TraceTerm}}, "no name of a term can be 'keys'"),
        ({"terms": {"x": 3}}, "loss.terms.x is no term of a loss; give _target_"),
        ({"terms": {"x": lambda basis, labels: None}}, "loss.terms.x is no term of a loss"),
        ({"terms": {"x": partial(TraceTerm, weight=-1.0)}}, "TraceTerm is -1.0; give a finite number >= 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_unknown_options_are_named(basis, options, message):
    with pytest.raises(ConfigError, match=message):
        HamiltonianLoss(basis, **options)
