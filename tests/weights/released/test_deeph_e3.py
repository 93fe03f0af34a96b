import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path

import e3nn
import numpy as np
import pytest
import torch

from tests import crystals
from tests.oracles import deeph_e3_blocks as oracle_blocks
from tests.oracles import deeph_e3_e3nn as oracle
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.released import load_released_deeph_e3
from tracegrad.weights.released.deeph_e3 import _names

GOLDEN = Path(__file__).parents[2] / "golden"


VERSIONS = {"e3nn035": True, "e3nn060": False}


CASE = pytest.mark.parametrize("case", ["small", "soc"])


VERSION = pytest.mark.parametrize("version", VERSIONS)


NAME = "node_update_blocks.0.lin_pre.weight"


@cache
def golden(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"deeph_e3_{case}.npz", allow_pickle=False) as file:
        return dict(file)


@cache
def meta(case: str) -> dict:
    return json.loads(str(golden(case)["meta_json"]))


@cache
def state(case: str) -> dict[str, torch.Tensor]:
    shapes = meta(case)["parameters"]
    values = torch.tensor(golden(case)["sd"]).split([int(np.prod(shape)) for _, shape in shapes])
    return {name: value.view(shape) for (name, shape), value in zip(shapes, values, strict=True)}


def load(case: str, version: str = "e3nn035", **options) -> HamiltonianModel:
    return load_released_deeph_e3(state(case), meta(case), VERSIONS[version], **options)


def crystals_of(case: str) -> list[tuple[crystals.Crystal, np.ndarray]]:
    """The crystals of a file, each with the positions of its edges in the file."""
    file = golden(case)
    first = file["in/ptr"]
    of_edge = file["in/batch"][file["in/edge_index"][0]]
    numbers = np.array(meta(case)["index_to_Z"])[file["in/x"]]
    found = []
    for g, (a, b) in enumerate(pairwise(first)):
        at = np.flatnonzero(of_edge == g)
        edges = file["in/edge_key"][at] - np.array([0, 0, 0, 1, 1])
        found.append(((numbers[a:b], file["in/pos"][a:b], file["in/lattice"][g], edges), at))
    return found


def batch_of(case: str, basis):
    sets = crystals_of(case)
    assert np.concatenate([at for _, at in sets]).tolist() == list(range(len(golden(case)["in/edge_key"])))
    return collate([crystal_graph(*crystal, basis, dtype=torch.float64) for crystal, _ in sets])


def flat_targets(blocks: torch.Tensor, basis, numbers: list[int], shells: list[list[int]]) -> torch.Tensor:
    """Blocks in the layout of the released code: targets in turn, in OpenMX's order, spin parts uu, ud, du, dd."""
    half = basis.dim // basis.spins
    starts = basis.shell_starts

    def slots(z: int, shell: int) -> list[int]:
        of_element = shells[numbers.index(z)]
        degree = of_element[shell]
        same = [int(s) for s, l_ in zip(starts, basis.union, strict=True) if l_ == degree]
        return [same[of_element[:shell].count(degree)] + m for m in oracle_blocks.OPENMX[degree]]

    columns = []
    for target in oracle_blocks.targets_of(numbers, shells):
        pair, (p, q) = next(iter(target.items()))
        a, b = map(int, pair.split())
        rows, cols = torch.tensor(slots(a, p)), torch.tensor(slots(b, q))
        parts = [
            blocks[:, rows[:, None] + half * i, cols + half * j].flatten(1)
            for i in range(basis.spins)
            for j in range(basis.spins)
        ]
        columns.append(torch.stack(parts, dim=1) if basis.spinful else parts[0])
    return torch.cat(columns, dim=-1)


def flat_of(case: str, blocks: torch.Tensor, basis) -> torch.Tensor:
    return flat_targets(blocks, basis, meta(case)["index_to_Z"], meta(case)["orbital_types"])


def in_released_layout(backbone, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values of our parameters, such as gradients, by released names and in the released layout."""
    holder = copy.deepcopy(backbone)
    with torch.no_grad():
        for name, parameter in holder.named_parameters():
            parameter.copy_(values[name])
        return {
            name: torch.cat([tensor.reshape(-1) for tensor, _ in pieces]) for name, pieces in _names(holder)
        }


# --- the released network


@CASE
def test_graph_is_that_of_the_released_code(case):
    file = golden(case)
    batch = batch_of(case, load(case).basis)
    assert torch.equal(batch.edge_index, torch.from_numpy(file["in/edge_index"]))
    torch.testing.assert_close(
        batch.vectors, torch.from_numpy(file["in/edge_attr"][:, 1:]), rtol=0, atol=1e-13
    )


@CASE
@VERSION
def test_blocks_are_those_of_the_released_network(case, version):
    model = load(case, version)
    assert next(model.parameters()).dtype == torch.float64
    assert not model.training
    blocks = model(batch_of(case, model.basis)).blocks["edge"]
    expected = torch.from_numpy(golden(case)[f"{version}/H_flat"])
    found = flat_of(case, blocks, model.basis)[golden(case)["edges"]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@CASE
def test_edge_features_are_those_of_the_released_network(case):
    """Input of the expansion: every irrep of every pair of shells."""
    model = load(case)
    seen = []
    expansion = model.backbone.expansion
    expansion.register_forward_pre_hook(lambda module, arguments: seen.append(in_global_frame(*arguments)))
    model(batch_of(case, model.basis))
    by_irrep = {ir: part for part, (_, ir) in zip(seen[0], expansion.irreps, strict=True)}
    order, basis = expansion.channel_order(), model.basis
    numbers, shells = meta(case)["index_to_Z"], meta(case)["orbital_types"]
    columns = []
    for part in range(basis.spins):
        for target in oracle_blocks.targets_of(numbers, shells):
            pair, (p, q) = next(iter(target.items()))
            row, column = (
                union_shell(basis, shells[numbers.index(int(z))], shell)
                for z, shell in zip(pair.split(), (p, q), strict=True)
            )
            columns += [by_irrep[ir][:, :, channel] for ir, channel in order[row, column, part]]
    found = torch.cat(columns, dim=1)[golden(case)["edges"]]
    expected = torch.from_numpy(golden(case)["e3nn035/edge_out"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def in_global_frame(x: list[torch.Tensor], rotations: list[torch.Tensor | None]) -> list[torch.Tensor]:
    return [part if turn is None else turn @ part for part, turn in zip(x, rotations, strict=True)]


def union_shell(basis, shells: list[int], shell: int) -> int:
    degree = shells[shell]
    return basis.union.index(degree) + shells[:shell].count(degree)


@CASE
def test_hamiltonians_are_those_of_the_released_network(case):
    """In OpenMX's order and without padding, crystal by crystal, edges in the order in which they are given."""
    file, model = golden(case), load(case)
    stored = dict(zip(file["edges"].tolist(), file["e3nn035/H_block"], strict=True))
    compared = 0
    for crystal, at in crystals_of(case):
        for order in (np.arange(len(at)), np.random.default_rng(1).permutation(len(at))):
            numbers, positions, lattice, edges = crystal
            blocks = model.hamiltonian(numbers, positions, lattice, edges[order])
            assert isinstance(blocks, list)
            assert len(blocks) == len(at)
            for block, edge, (i, j) in zip(blocks, at[order], edges[order, 3:], strict=True):
                shape = tuple(int(model.basis.sizes[numbers[atom]]) for atom in (i, j))
                assert block.shape == shape
                assert block.dtype == (np.complex128 if model.basis.spinful else np.float64)
                if edge in stored:
                    expected = stored[edge][: shape[0], : shape[1]]
                    np.testing.assert_allclose(block, expected, rtol=0, atol=1e-12)
                    compared += 1
    assert compared == 2 * len(stored)
    assert model.basis.unit == "eV"


@CASE
@VERSION
def test_loss_and_every_gradient_are_those_of_the_released_network(case, version):
    file, model = golden(case), load(case, version)
    label = torch.from_numpy(file["loss/label"])
    mask = torch.from_numpy(np.unpackbits(file["loss/mask"])[: label.numel()].astype(bool)).view(label.shape)
    blocks = model(batch_of(case, model.basis)).blocks["edge"]
    difference = flat_of(case, blocks, model.basis) - label
    loss = difference[mask].abs().square().mean()
    assert float(loss.detach()) == pytest.approx(float(file[f"{version}/loss"]), rel=1e-12)
    loss.backward()
    gradients = {name: p.grad for name, p in model.backbone.named_parameters()}
    released = in_released_layout(model.backbone, gradients)
    stored = json.loads(str(file[f"{version}/gradnorm_json"]))
    assert released.keys() == {
        name for name, _ in meta(case)["parameters"] if not name.startswith("lin_node")
    }
    for name, norm in stored.items():
        assert float(released[name].norm()) == pytest.approx(norm, rel=1e-9), name
    total = sum(float(gradient.square().sum()) for gradient in released.values()) ** 0.5
    assert total == pytest.approx(float(file[f"{version}/grad_norm_total"]), rel=1e-11)


def test_every_released_number_is_used_once():
    model = load("soc")
    values = {name: parameter.data for name, parameter in model.backbone.named_parameters()}
    released = in_released_layout(model.backbone, values)
    for name, tensor in state("soc").items():
        if not name.startswith("lin_node"):
            assert torch.equal(released[name], tensor.reshape(-1)), name
    count = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert count == sum(tensor.numel() for tensor in released.values())


# --- networks of other sizes: the plain form is the oracle

SOC_SHELLS = {"index_to_Z": [16, 42], "orbital_types": [[0, 1], [0, 0, 1, 2]], "spinful": True}


SHELLS = {**SOC_SHELLS, "spinful": False}


ONE = {"index_to_Z": [16], "orbital_types": [[0, 0, 1, 1, 2]], "spinful": False}


THREE = {"index_to_Z": [6, 16, 42], "orbital_types": [[0, 1], [0, 0, 1], [0, 1, 2]], "spinful": False}


F_SHELLS = {"index_to_Z": [16, 42], "orbital_types": [[0, 1], [0, 3]], "spinful": False}


MID = "6x0e+4x1o+3x2e+2x3o+2x4e"


# dataset_info, arguments of `default_irreps`, arguments that replace its results, e3nn 0.3.5
NETWORKS = {
    "degree 5 with spin": (SOC_SHELLS, {"irreps_mid": MID + "+2x5o", "lmax": 5, "num_block": 2}, {}, True),
    "degree 5 today": (SHELLS, {"irreps_mid": MID + "+2x5o", "lmax": 5, "num_block": 2}, {}, False),
    "one block": (SHELLS, {"num_block": 1}, {}, True),
    "three blocks with spin": (SOC_SHELLS, {"num_block": 3}, {}, False),
    "edges unlike nodes": (SOC_SHELLS, {}, {"irreps_mid_edge": "5x0e+2x1o+4x2e+1x3o"}, True),
    "more harmonics": (SHELLS, {"irreps_mid": "16x0e+8x1o+6x2e", "lmax": 4, "num_block": 2}, {}, True),
    "fewer harmonics": (SHELLS, {"lmax": 3, "num_block": 2}, {}, True),
    "as many scalars as embedded": (SHELLS, {"irreps_embed": "6x0e", "num_block": 2}, {}, True),
    "one element": (ONE, {"num_block": 2}, {}, True),
    "three elements": (THREE, {"num_block": 2, "r_max": 5.5}, {}, True),
    "f shells": (F_SHELLS, {"num_block": 2}, {}, True),
    "f shells with spin": ({**F_SHELLS, "spinful": True}, {"num_block": 2}, {}, False),
}


@contextmanager
def quick_double() -> Iterator[None]:
    """e3nn stores its tables in the default dtype; its optimisation of networks is slow."""
    dtype, defaults = torch.get_default_dtype(), e3nn.get_optimization_defaults()
    torch.set_default_dtype(torch.float64)
    e3nn.set_optimization_defaults(jit_script_fx=False, optimize_einsums=False)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        e3nn.set_optimization_defaults(**defaults)


def plain_network(info: dict, options: dict, replaced: dict, legacy: bool) -> oracle.PlainDeepHE3:
    options = {"irreps_mid": MID, "irreps_embed": "5x0e", **options}
    arguments = oracle_blocks.default_irreps(
        info["index_to_Z"], info["orbital_types"], info["spinful"], **options
    )
    with quick_double():
        net = oracle.PlainDeepHE3(**{**arguments, **replaced}, legacy=legacy)
    for name, parameter in net.named_parameters():
        if (
            name.endswith("bias") or ".norm." in name
        ):  # they start at zeros and ones, which would hide mistakes
            parameter.data += 0.3 * torch.randn_like(parameter)
    return net


def crystal_of(info: dict) -> list[crystals.Crystal]:
    if 42 not in info["index_to_Z"]:
        return [crystals.CHAIN]
    if info["spinful"]:  # pseudoscalars of the chain vanish, where the plain form has no gradient
        return [crystals.MOS2, crystals.MOS2]
    if 6 in info["index_to_Z"]:
        numbers, *rest = crystals.MOS2
        return [(np.where(np.arange(3) == 1, 6, numbers), *rest), crystals.CHAIN]
    return [crystals.MOS2, crystals.CHAIN]


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_of_any_size_agree_with_the_plain_form(network):
    info, options, replaced, legacy = NETWORKS[network]
    numbers, shells = info["index_to_Z"], info["orbital_types"]
    net = plain_network(info, options, replaced, legacy)
    weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
    model = load_released_deeph_e3(weights, info, legacy, r_max=options.get("r_max", 7.2))
    graph = collate([crystal_graph(*c, model.basis, dtype=torch.float64) for c in crystal_of(info)])
    found = flat_targets(model(graph).blocks["edge"], model.basis, numbers, shells)

    species = torch.tensor([numbers.index(z) for z in graph.numbers.tolist()])
    attributes = torch.cat([graph.vectors.norm(dim=1, keepdim=True), graph.vectors], dim=1)
    out = net(species, graph.edge_index, attributes, graph.batch)[1]
    degrees = oracle_blocks.degrees_of(oracle_blocks.targets_of(numbers, shells), numbers, shells)
    expected = oracle_blocks.blocks_from_irreps(out, degrees, info["spinful"], legacy)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * max(scale, 1) * 10)
    assert scale > 0.1

    direction = torch.randn_like(found)
    for y in (found, expected):
        (y * direction).sum().abs().square().backward()
    gradients = {name: p.grad for name, p in model.backbone.named_parameters()}
    theirs = dict(net.named_parameters())
    for name, gradient in in_released_layout(model.backbone, gradients).items():
        wanted = theirs[name].grad.flatten()
        atol = 1e-10 * float(wanted.abs().max()) + 1e-9
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=atol, msg=name)


# --- forms of a checkpoint


def hamiltonian_of(model: HamiltonianModel) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([block.ravel() for block in model.hamiltonian(*crystals.MOS2)]))


def test_forms_of_a_checkpoint_are_equal(tmp_path):
    weights, info = state("small"), meta("small")
    expected = hamiltonian_of(load("small"))
    path = tmp_path / "best_model.pkl"
    torch.save({"state_dict": weights, "epoch": 3, "val_loss": 0.1}, path)
    arrays = {key: value.numpy() for key, value in weights.items()}
    parallel = {f"module.{key}": value for key, value in weights.items()}
    constants = {
        **weights,
        "basis.offset": torch.ones(3),
        "edge_update_blocks.0.conv.tp.tp._w3j": torch.ones(2),
    }
    masks = {**weights, "lin_edge.output_mask": torch.ones(5), "sh.weight": torch.ones(0)}
    for form in (path, str(path), {"state_dict": weights}, arrays, parallel, constants, masks):
        assert torch.equal(hamiltonian_of(load_released_deeph_e3(form, info)), expected)


def test_float32_weights_stay_float32():
    weights = {key: value.float() for key, value in state("small").items()}
    model = load_released_deeph_e3(weights, meta("small"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    found = hamiltonian_of(model)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), hamiltonian_of(load("small")), rtol=0, atol=1e-4)


def test_weights_are_copied():
    weights = {key: value.clone() for key, value in state("small").items()}
    model = load_released_deeph_e3(weights, meta("small"))
    before = hamiltonian_of(model)
    for value in weights.values():
        value.zero_()
    assert torch.equal(hamiltonian_of(model), before)


def test_the_range_of_the_radial_functions_is_an_argument():
    default, given, other = (hamiltonian_of(load("small", **o)) for o in ({}, {"r_max": 7.2}, {"r_max": 6.0}))
    assert torch.equal(default, given)
    assert (default - other).abs().max() > 1e-2


def test_symmetries_can_be_imposed_on_released_weights():
    model = load("soc", hermitian=True, time_reversal=True)
    assert model.backbone.hermitian
    assert model.backbone.time_reversal
    blocks = model(batch_of("soc", model.basis)).blocks["edge"]
    graph = batch_of("soc", model.basis)
    assert torch.equal(blocks, blocks[graph.reverse].mH)
