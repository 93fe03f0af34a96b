"""The plain form of DeepH-E3 gives what the released network gave under e3nn 0.3.5 and under e3nn 0.6.0."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.oracles import deeph_e3_blocks as oracle_blocks
from tests.oracles import deeph_e3_e3nn as oracle

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = {"e3nn035": True, "e3nn060": False}
case = pytest.mark.parametrize("case", ["small", "soc"])
version = pytest.mark.parametrize("version", VERSIONS)


@cache
def golden(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"deeph_e3_{case}.npz", allow_pickle=False) as file:
        return dict(file)


def meta(case: str) -> dict:
    return json.loads(str(golden(case)["meta_json"]))


def state(case: str) -> dict[str, torch.Tensor]:
    """Released names -> parameters; the file holds them end to end."""
    shapes = meta(case)["parameters"]
    values = torch.tensor(golden(case)["sd"]).split([int(np.prod(shape)) for _, shape in shapes])
    return {name: value.view(shape) for (name, shape), value in zip(shapes, values, strict=True)}


def inputs(case: str) -> list[torch.Tensor]:
    return [torch.tensor(golden(case)[f"in/{key}"]) for key in ("x", "edge_index", "edge_attr", "batch")]


def relative(actual: torch.Tensor, expected: np.ndarray) -> float:
    return float((actual.detach() - torch.tensor(expected)).abs().max() / np.abs(expected).max())


@cache
def run(case: str, version: str) -> tuple[oracle.PlainDeepHE3, torch.Tensor, torch.Tensor]:
    net = oracle.released(meta(case)["net_args"], state(case), VERSIONS[version])
    return net, *net(*inputs(case))


def hamiltonian(case: str, version: str) -> torch.Tensor:
    return oracle_blocks.blocks_from_irreps(
        run(case, version)[2], meta(case)["js"], meta(case)["spinful"], VERSIONS[version]
    )


@case
def test_parameters_have_the_released_names_and_order(case):
    net = run(case, "e3nn060")[0]

    assert [[name, list(p.shape)] for name, p in net.named_parameters()] == meta(case)["parameters"]


@case
@version
def test_net_output(case, version):
    _, node_out, edge_out = run(case, version)
    file = golden(case)

    assert relative(edge_out[file["edges"]], file[f"{version}/edge_out"]) < 1e-12
    if f"{version}/node_out" in file:
        assert relative(node_out, file[f"{version}/node_out"]) < 1e-12


@case
@version
def test_hamiltonian_in_the_order_of_openmx(case, version):
    file, about = golden(case), meta(case)
    actual = hamiltonian(case, version)[file["edges"]]

    assert relative(actual, file[f"{version}/H_flat"]) < 1e-12
    if f"{version}/H_block" in file:
        species, edge_index, *_ = inputs(case)
        blocks = oracle_blocks.atom_blocks(
            actual.detach(),
            about["target_blocks"],
            about["index_to_Z"],
            about["orbital_types"],
            species,
            edge_index[:, file["edges"]],
        )
        expected = torch.tensor(file[f"{version}/H_block"])
        torch.testing.assert_close(blocks, expected, rtol=0, atol=1e-12, equal_nan=True)


@case
@version
def test_loss_and_gradients(case, version):
    file = golden(case)
    net = run(case, version)[0]
    label = torch.tensor(file["loss/label"])
    mask = torch.tensor(np.unpackbits(file["loss/mask"])[: label.numel()].astype(bool)).view(label.shape)

    loss = (hamiltonian(case, version) - label)[mask].abs().square().mean()
    parameters = {n: p for n, p in net.named_parameters() if not n.startswith("lin_node")}
    actual = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    grads = dict(zip(parameters, actual, strict=True))

    assert loss.item() == pytest.approx(float(file[f"{version}/loss"]), rel=1e-12)
    total = sum(grad.square().sum().item() for grad in grads.values()) ** 0.5
    assert total == pytest.approx(float(file[f"{version}/grad_norm_total"]), rel=1e-12)
    for name, expected in json.loads(str(file[f"{version}/gradnorm_json"])).items():
        assert grads[name].norm().item() == pytest.approx(expected, rel=1e-9), name


@case
def test_versions_of_e3nn_differ(case):
    """Else the flag would not be tested."""
    assert relative(run(case, "e3nn060")[2], run(case, "e3nn035")[2].detach().numpy()) > 1e-3


@case
def test_targets_and_irreps_follow_from_the_shells(case):
    about = meta(case)
    numbers, shells, expected = about["index_to_Z"], about["orbital_types"], about["net_args"]
    targets = oracle_blocks.targets_of(numbers, shells)

    assert targets == about["target_blocks"]
    assert oracle_blocks.degrees_of(targets, numbers, shells) == about["js"]
    built = oracle_blocks.default_irreps(
        numbers,
        shells,
        about["spinful"],
        irreps_embed=expected["irreps_embed_node"],
        irreps_mid=expected["irreps_mid_node"],
        num_block=expected["num_block"],
    )
    assert built == {key: expected[key] for key in built}


def test_graphene_has_the_released_size():
    args = oracle_blocks.default_irreps([6], [[0, 0, 1, 1, 2]], spinful=False)
    net = oracle.PlainDeepHE3(**args)

    assert sum(p.numel() for p in net.parameters()) == 627_981
    assert args["irreps_post_edge"] == "9x0e+12x1o+5x1e+4x2o+9x2e+4x3o+1x3e+1x4e"
    assert len(oracle_blocks.targets_of([6], [[0, 0, 1, 1, 2]])) == 25


def test_unreachable_irreps_are_refused():
    with pytest.raises(ValueError, match="raise the degrees of irreps_mid"):
        oracle_blocks.default_irreps([6], [[0, 1, 2, 3]], spinful=True, irreps_mid="4x0e", lmax=2)
