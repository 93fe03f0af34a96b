import json
import re
import sqlite3
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import molecules
from tracegrad.errors import CheckpointError
from tracegrad.hamiltonian.graph import collate, molecule_graph
from tracegrad.training.loss import HamiltonianLoss
from tracegrad.weights.released import load_released_qhnet
from tracegrad.weights.released.qhnet import _qhnet_names

GOLDEN = Path(__file__).parents[2] / "golden" / "qhnet_small.npz"
PYSCF_FROM_E3NN = {5: [0, 1, 4, 2, 3], 14: [0, 1, 2, 5, 3, 4, 8, 6, 7, 9, 10, 11, 12, 13]}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def state(golden) -> dict[str, torch.Tensor]:
    return {key[3:]: torch.from_numpy(value) for key, value in golden.items() if key.startswith("sd/")}


@pytest.fixture(scope="module")
def graph(golden, basis):
    ptr = golden["in/ptr"]
    graphs = [
        molecule_graph(golden["in/atoms"][a:b], golden["in/pos"][a:b], basis, dtype=torch.float64)
        for a, b in pairwise(ptr)
    ]
    batch = collate(graphs)
    batch.h_self = torch.from_numpy(golden["loss/diag_target"])
    batch.h_edge = torch.from_numpy(golden["loss/nondiag_target"])
    return batch


def test_graph_is_that_of_the_released_code(golden, graph):
    assert torch.equal(graph.edge_index, torch.from_numpy(golden["graph/full_edge_index"]))
    assert torch.equal(graph.reverse, torch.from_numpy(golden["graph/transpose_index"]))


def test_blocks_are_those_of_the_released_network(golden, state, graph):
    model = load_released_qhnet(state)
    assert next(model.parameters()).dtype == torch.float64
    assert not model.training
    assert model.backbone.radial.cutoff == json.loads(str(golden["cfg_json"]))["max_radius"]
    prediction = model(graph)
    expected = torch.from_numpy(golden["out/diagonal_blocks"])
    torch.testing.assert_close(prediction.blocks["self"], expected, rtol=0, atol=1e-13)
    expected = torch.from_numpy(golden["out/non_diagonal_blocks"])
    torch.testing.assert_close(prediction.blocks["edge"], expected, rtol=0, atol=1e-13)


def test_dense_matrices_are_those_of_the_released_network(golden, state, basis):
    model = load_released_qhnet(state)
    ptr = golden["in/ptr"]
    for k, (a, b) in enumerate(pairwise(ptr)):
        numbers = golden["in/atoms"][a:b]
        matrix = model.hamiltonian(numbers, golden["in/pos"][a:b])
        order, offset = [], 0
        for size in basis.sizes[numbers]:
            order += [offset + i for i in PYSCF_FROM_E3NN[size]]
            offset += size
        expected = torch.from_numpy(golden[f"out/H_{k}"][np.ix_(order, order)])
        torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-13)


def test_loss_and_every_gradient_are_those_of_the_released_network(golden, state, graph, basis):
    model = load_released_qhnet(state)
    terms = HamiltonianLoss(basis)(model(graph), graph)
    assert float(terms.shares["h"].detach()) == pytest.approx(float(golden["loss/total"]), rel=1e-12)
    for name in ("mse", "mae"):
        part = HamiltonianLoss(basis, h=[name])(model(graph), graph).total
        assert float(part.detach()) == pytest.approx(float(golden[f"loss/{name}"]), rel=1e-12)
    terms.total.backward()
    parameters = dict(model.backbone.named_parameters())
    total = 0.0
    for theirs, ours in _qhnet_names(state):
        norm = float(parameters.pop(ours).grad.norm())
        assert norm == pytest.approx(float(golden[f"gradnorm/{theirs}"]), rel=1e-10), theirs
        total += norm**2
    assert not parameters
    assert total**0.5 == pytest.approx(float(golden["loss/grad_norm_total"]), rel=1e-12)


def test_forms_of_a_checkpoint_are_equal(state, tmp_path):
    expected = load_released_qhnet(state).hamiltonian(*molecules.WATER)
    path = tmp_path / "released.pt"
    torch.save({"state_dict": state, "epoch": 3}, path)
    arrays = {key: value.numpy() for key, value in state.items()}
    parallel = {f"module.{key}": value for key, value in state.items()}
    for form in (path, str(path), {"state_dict": state}, arrays, parallel):
        assert torch.equal(load_released_qhnet(form).hamiltonian(*molecules.WATER), expected)


def test_float32_weights_stay_float32(state):
    model = load_released_qhnet({key: value.float() for key, value in state.items()})
    matrix = model.hamiltonian(*molecules.WATER)
    assert matrix.dtype == torch.float32
    expected = load_released_qhnet(state).hamiltonian(*molecules.WATER)
    torch.testing.assert_close(matrix.double(), expected, rtol=0, atol=1e-5)


def test_unused_and_constant_tensors_are_ignored(state):
    extra = {
        "e3_gnn_layer.0.conv.norm_gate.fc.0.weight": torch.ones(2, 2),
        "e3_gnn_node_pair_layer.1.tp_node_pair_2.weight": torch.ones(3),
        "expand_ij.weights": torch.ones(3),
        "output_ii.output_mask": torch.ones(3),
        "e3_gnn_layer.1.conv.tp_node._compiled_main_left_right._w3j_1_1_2": torch.ones(3),
    }
    found = load_released_qhnet({**state, **extra}).hamiltonian(*molecules.WATER)
    assert torch.equal(found, load_released_qhnet(state).hamiltonian(*molecules.WATER))


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


def cut(key, index):
    return lambda state: {**state, key: state[key][index]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "output_ij.weight"), "tensors are missing: output_ij.weight"),
        (lambda s: without(s, "node_embedding.weight"), "it has no node_embedding.weight"),
        (lambda s: without(s, "output_ii.weight"), "missing"),
        (lambda s: without(s, "e3_gnn_node_layer.0.linear_node_1.weight"), "missing"),
        (lambda s: without(s, "e3_gnn_layer.0.conv.fc_node.layer0.weight"), "missing"),
        (lambda s: {**s, "head.weight": torch.ones(2)}, "no place for head.weight"),
        (lambda s: {**s, "fc_ij.hamiltonian.0.bias": torch.ones(7)}, "fc_ij.hamiltonian.0.bias has shape"),
        (lambda s: {**s, "epoch": 3}, "epoch is int, not a tensor"),
        (lambda s: {}, "it has no node_embedding.weight"),
        (lambda s: {"state_dict": None}, "not NoneType"),
        (lambda s: {**s, "step": np.array(["x"])}, "step is ndarray, not a tensor"),
        (cut("node_embedding.weight", np.s_[:, :5]), "lmax = 50, which should be 1 to 8"),
        (cut("node_embedding.weight", np.s_[:, :12]), r"linear_node_1.weight has shape \[1280\], but 1152"),
        (cut("node_embedding.weight", np.s_[:, :0]), "channels = 0, which should be 1 to 4096"),
        (cut("node_embedding.weight", np.s_[:7]), "species = 7, which should be 10 to 1000"),
        (cut("node_embedding.weight", 0), r"node_embedding.weight has shape \[16\], it should be a matrix"),
        (cut("node_embedding.weight", np.s_[:, :1]), "lmax = 1279, which should be 1 to 8"),
        (cut("output_ii.weight", np.s_[:-1]), r"output_ii.weight has shape \[639\]"),
        (cut("e3_gnn_layer.0.conv.fc_node.layer0.weight", np.s_[:5]), "5 radial functions"),
        (lambda s: {**s, "e3_gnn_layer.9999999999.x": torch.ones(2)}, "no place for e3_gnn_layer.9999999999"),
        (lambda s: {**s, "e3_gnn_layer.x": torch.ones(2)}, "no place for e3_gnn_layer.x"),
        (
            lambda s: {
                k: v for k, v in s.items() if not k.startswith(("e3_gnn_layer.1.", "e3_gnn_layer.0."))
            },
            "tensors are missing: e3_gnn_layer.0.conv",
        ),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("e3_gnn_node_layer.")},
            "tensors are missing: e3_gnn_node_layer.0",
        ),
        (
            lambda s: {
                k: v for k, v in s.items() if k[:14] not in [f"e3_gnn_layer.{i}" for i in (1, 2, 3, 4)]
            },
            "2 pair layers after 1 convolutions",
        ),
        (
            lambda s: {**s, "fc_ij.hamiltonian.0.weight": s["fc_ij.hamiltonian.0.weight"].T},
            r"fc_ij.hamiltonian.0.weight has shape \[32, 16\], \[16, 32\] is needed",
        ),
        (lambda s: {k: v.int() for k, v in s.items()}, "weights are no floating-point numbers"),
        (lambda s: {**s, "distance_expansion.cutoff": torch.zeros(())}, "cutoff is no distance above 0"),
        (
            lambda s: {"state_dict": {f"model.backbone.{k}": v for k, v in s.items()}},
            "TraceGrad itself.*load_m",
        ),
        (lambda s: {"state_dict": {}, "tracegrad": {}}, r"load_model\(run_directory\)"),
    ],
)
def test_other_networks_are_refused(state, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_released_qhnet(change(dict(state)))


def test_any_missing_tensor_is_named(state):
    needed = {theirs for theirs, _ in _qhnet_names(state)}
    for key in needed:
        with pytest.raises(CheckpointError, match=f"(missing: |has no ){re.escape(key)}"):
            load_released_qhnet(without(state, key))


@pytest.mark.usefixtures("unchecked")
def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing\.pt"):
        load_released_qhnet(tmp_path / "missing.pt")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"damaged\.pt: damaged, or not a checkpoint"):
        load_released_qhnet(damaged)
    damaged.write_text("epoch,loss\n1,2\n")
    with sqlite3.connect(tmp_path / "data.db") as db:
        db.execute("CREATE TABLE data (id INTEGER)")
    db.close()
    torch.save({"state_dict": None}, tmp_path / "empty.pt")
    torch.save({"state_dict": {}, "object": Path("x")}, tmp_path / "objects.pt")
    for path in (damaged, tmp_path, *(tmp_path / name for name in ("data.db", "empty.pt", "objects.pt"))):
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: .*$") as caught:
            load_released_qhnet(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < len(str(path)) + 150
    listed = tmp_path / "list.pt"
    torch.save([torch.ones(2)], listed)
    with pytest.raises(CheckpointError, match="not list"):
        load_released_qhnet(listed)
