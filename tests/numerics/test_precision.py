import pytest
import torch
from e3nn import o3
from torch.utils._python_dispatch import TorchDispatchMode

from tests import molecules
from tests.model.test_network import make_model
from tests.molecules import dense_rotation, random_rotation
from tracegrad.hamiltonian.blocks import assemble_matrix
from tracegrad.hamiltonian.graph import collate, molecule_graph
from tracegrad.nn.component_first.expansion import BlockExpansion
from tracegrad.nn.component_first.features import spherical_harmonics
from tracegrad.nn.component_first.linear import EquivariantLinear
from tracegrad.nn.component_first.tensor_product import ChannelwiseProduct, FilterProduct
from tracegrad.nn.invariant.gram import FullInvariants, LowRankInvariants
from tracegrad.numerics import precision
from tracegrad.ops import native
from tracegrad.ops.norm_gate import channel_norms
from tracegrad.ops.pair_invariants import pair_invariants
from tracegrad.training.loss import HamiltonianLoss

LOW = torch.bfloat16
IRREPS = o3.Irreps("4x0e+4x1e+4x2e")


def autocast():
    return torch.autocast("cpu", LOW)


def cases():
    x, y = torch.randn(9, 5, 4), torch.randn(9, 5, 4)
    product, filtered, expansion = ChannelwiseProduct(2), FilterProduct(2, 2), BlockExpansion(2, 4, (0, 1))
    parts = list(x.split([1, 3, 5]))
    yield EquivariantLinear(2, 4, 6), (x,)
    yield product, (x, y, [(torch.randn(5, product.n_paths, 4), None)])
    edges = torch.tensor([[0, 1, 4, 2, 2], [1, 0, 3, 4, 1]])
    yield filtered, (x, torch.randn(9, 5), [(torch.randn(5, filtered.n_paths, 4), None)], edges)
    yield (
        expansion,
        (x, torch.randn(5, expansion.n_weights), torch.randn(5, expansion.n_bias), torch.arange(5)),
    )
    for invariants in (FullInvariants(IRREPS, 6), LowRankInvariants(IRREPS, 6)):
        yield (lambda f, g, module=invariants: module(f)[0]), (parts, None)
        yield (
            lambda f, g, module=invariants: torch.cat(module.pull_back(f, module(f)[1], g)),
            (parts, torch.randn(5, invariants(parts)[0].shape[1])),
        )
    yield (lambda v: spherical_harmonics(v, 2)), (torch.randn(5, 3),)
    yield (lambda a: channel_norms(a)), (x,)
    yield pair_invariants, (x, *edges, edges[0])


@pytest.mark.parametrize("case", range(11))
def test_equivariant_operators_ignore_autocast(case):
    operator, arguments = list(cases())[case]
    expected = operator(*arguments)
    with autocast():
        actual = operator(*arguments)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


def test_low_precision_weights_are_taken_as_float32():
    product = ChannelwiseProduct(2)
    x, weights = torch.randn(9, 5, 4), torch.randn(5, product.n_paths, 4).to(LOW)
    with autocast():
        actual = product(x, x, [(weights, None)])
    assert torch.equal(actual, product(x, x, [(weights.float(), None)]))


def equivariance_error(model, low: bool) -> float:
    """|H(R x) - U H(x) U^T| / |H|, the mean over rotations."""
    numbers, positions = molecules.METHANOL

    def matrix(positions) -> torch.Tensor:
        graph = molecule_graph(numbers, positions, model.basis)
        with torch.autocast("cpu", LOW, enabled=low), torch.inference_mode():
            prediction = model(graph)
        on_site, pairs = (prediction.blocks[site].double() for site in ("self", "edge"))
        return assemble_matrix(on_site, pairs, numbers, model.basis)

    reference, errors = matrix(positions), []
    for seed in range(4):
        rotation = random_rotation(seed)
        u = dense_rotation(numbers, model.basis, rotation)
        rotated = matrix(positions @ rotation.numpy().T)
        errors.append(float((rotated - u @ reference @ u.T).norm() / reference.norm()))
    return sum(errors) / len(errors)


SIZES = {"lmax": 4, "channels": 16, "bottleneck": 8, "layers": 3, "pair_layers": 2, "radial": 16}


def test_mixed_precision_keeps_most_of_the_equivariance(basis, monkeypatch):
    """The remaining error comes from the invariants: rounding to bfloat16 amplifies their float32 differences."""
    for arm, bound in (("none", 1e-3), ("tracegrad", 2e-3)):
        model = make_model(basis, arm, SIZES, channels=64, hidden=64).float()
        full, low = (equivariance_error(model, low) for low in (False, True))
        with monkeypatch.context() as patch:
            patch.setattr(precision, "_device_type", lambda values: None)
            patch.setenv(native.SWITCH, "0")  # plain forms, which autocast reaches
            unprotected = equivariance_error(model, True)
        print(arm, full, low, unprotected)
        assert full < 1e-6
        assert low < bound
        assert unprotected > 2 * low


class Low(TorchDispatchMode):
    """Collects the operations with bfloat16 results, and the shapes of the results."""

    def __init__(self):
        super().__init__()
        self.results: list[tuple[str, torch.Size]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == LOW:
            self.results.append((function.overloadpacket.__name__, result.shape))
        return result


def test_networks_on_invariants_do_run_in_low_precision_and_features_do_not(basis):
    model = make_model(basis, sizes=SIZES).float()
    graph = collate([molecules.labelled_graph(molecules.METHANOL, basis, dtype=torch.float32)])
    with autocast(), Low() as low:
        prediction = model(graph)
        total = HamiltonianLoss(basis)(prediction, graph).total
    assert {"mm", "addmm"} <= {name for name, _ in low.results}
    components = (SIZES["lmax"] + 1) ** 2
    assert not [
        entry for entry in low.results if len(entry[1]) == 3 and entry[1][0] in (components, 3, 5, 7, 9)
    ]
    assert {blocks.dtype for blocks in prediction.blocks.values()} == {total.dtype} == {torch.float32}
    total.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_trace_labels_stay_exact_under_autocast(basis):
    model = make_model(basis).float()
    graph = collate([molecules.labelled_graph(molecules.WATER, basis, dtype=torch.float32)])
    prediction = model(graph)
    loss = HamiltonianLoss(basis)
    with autocast():
        low = loss(prediction, graph)
    assert torch.equal(low.shares["t"], loss(prediction, graph).shares["t"])
