"""The whole network on crystals."""

from functools import partial

import numpy as np
import pytest
import torch

from tests import crystals
from tracegrad.errors import BasisError, DataError
from tracegrad.hamiltonian.graph import collate, crystal_graph
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.invariant.tracegrad import TraceGrad
from tracegrad.training.loss import HamiltonianLoss


def make_crystal_model(basis, **options) -> HamiltonianModel:
    tracegrad = partial(TraceGrad, trace=True, grad=True, channels=6, hidden=5, **options)
    return HamiltonianModel(crystals.SmallBackbone(basis), tracegrad).double()


@pytest.mark.parametrize("crystal_basis", [crystals.SPINLESS, crystals.SPINFUL])
def test_blocks_of_a_crystal_have_the_order_of_the_edges_and_of_the_files(crystal_basis):
    model = make_crystal_model(crystal_basis)
    numbers, positions, lattice, edges = crystals.MOS2
    with torch.inference_mode():
        graph = collate([crystal_graph(*crystals.MOS2, crystal_basis, dtype=torch.float64)])
        predicted = model(graph).blocks["edge"]
    found = model.hamiltonian(*map(torch.tensor, crystals.MOS2))
    assert len(found) == len(edges)
    for (*_, i, j), block, padded in zip(edges, found, predicted.numpy(), strict=True):
        rows, columns = (crystal_basis.slots[numbers[atom]].tolist() for atom in (i, j))
        expected = np.full(tuple(crystal_basis.sizes[numbers[[i, j]]]), np.nan, padded.dtype)
        for u, row in enumerate(rows):
            for v, column in enumerate(columns):
                if row >= 0 and column >= 0:
                    expected[row, column] = padded[u, v]
        assert np.array_equal(block, expected)
        assert np.iscomplexobj(block) == crystal_basis.spinful

    shuffled = np.random.default_rng(1).permutation(len(edges))
    again = model.hamiltonian(numbers, positions, lattice, edges[shuffled])
    for block, e in zip(again, shuffled, strict=True):
        np.testing.assert_allclose(block, found[e], rtol=0, atol=1e-13)


@pytest.mark.parametrize("crystal_basis", [crystals.SPINLESS, crystals.SPINFUL])
@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_equals_its_crystals(crystal_basis, size):
    model = make_crystal_model(crystal_basis)
    graphs = [crystals.labelled_graph(c, crystal_basis, seed) for seed, c in enumerate(crystals.ALL)]
    loss = HamiltonianLoss(crystal_basis, model.trace_labels, h=["mse"], trace_weight=0.3)
    whole = model(collate(graphs))
    parts = [collate(graphs[i : i + size]) for i in range(0, len(graphs), size)]
    predictions = [model(part) for part in parts]
    for name in ("blocks", "traces"):
        found = torch.cat([getattr(prediction, name)["edge"] for prediction in predictions])
        torch.testing.assert_close(found, getattr(whole, name)["edge"], rtol=0, atol=1e-12)
    terms = [loss(prediction, part) for prediction, part in zip(predictions, parts, strict=True)]
    found = torch.cat([term.per_sample["h"] for term in terms])
    torch.testing.assert_close(found, loss(whole, collate(graphs)).per_sample["h"], rtol=1e-12, atol=0)
    loss_t = torch.stack([term.shares["t"] for term in terms]).mean()
    torch.testing.assert_close(loss_t, loss(whole, collate(graphs)).shares["t"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("spin_trace", ["sum", "singlet_triplet", "per_spin_block"])
def test_every_parameter_of_a_spinful_model_is_trained(spin_trace):
    model = make_crystal_model(crystals.SPINFUL, spin_trace=spin_trace)
    graph = collate([crystals.labelled_graph(c, crystals.SPINFUL) for c in crystals.ALL])
    HamiltonianLoss(model.basis, model.trace_labels)(model(graph), graph).total.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def changed(**arguments) -> dict:
    return dict(zip(("numbers", "positions", "lattice", "edges"), crystals.MOS2, strict=True)) | arguments


FLAT = np.array([[3.0, 0, 0], [0, 3.0, 0], [3.0, 3.0, 0]])


EDGES = crystals.MOS2[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (changed(lattice=None), "SmallBackbone is a network of crystals: give lattice and edges, too"),
        (changed(edges=None), "SmallBackbone is a network of crystals: give lattice and edges, too"),
        (changed(numbers=[42.5, 16, 16]), "crystal: atomic number 42.5 is not whole"),
        (changed(numbers=[]), "at least one atom and edges .* not 0 atoms"),
        (changed(numbers=[[42, 16, 16]]), r"the atomic numbers have shape \(1, 3\); \(3,\) is needed"),
        (changed(positions=np.zeros((2, 3))), r"the positions have shape \(2, 3\); \(3, 3\) is needed"),
        (changed(positions=np.full((3, 3), np.inf)), "one of the positions is not a finite number"),
        (changed(positions=[["a", "b", "c"]]), "crystal: the positions must be numbers"),
        (changed(lattice=np.eye(2)), r"the lattice vectors have shape \(2, 2\); \(3, 3\) is needed"),
        (changed(lattice=np.full((3, 3), np.nan)), "one of the lattice vectors is not a finite number"),
        (changed(lattice=FLAT), "the lattice vectors span no volume"),
        (changed(lattice=np.zeros((3, 3))), "the lattice vectors span no volume"),
        (changed(edges=EDGES + 0.5), "crystal: entry of the edges .*5 is not whole"),
        (changed(edges=EDGES[:, :4]), r"edges of shape \(35, 4\)"),
        (changed(edges=EDGES[:0]), r"edges of shape \(0, 5\)"),
        (changed(edges=[]), r"edges of shape \(0,\)"),
        (
            changed(edges=[[0, 0, 0, 1, 3]]),
            r"= \[0, 0, 0, 1, 3\] names an atom that does not exist; .* 0 to 2",
        ),
        (changed(edges=[[0, 0, 0, -1, 1]]), r"= \[0, 0, 0, -1, 1\] names an atom that does not exist"),
        (changed(edges=[[0, 0, 0, 1, 1]] * 2), r"= \[0, 0, 0, 1, 1\] .* occurs twice"),
        (changed(edges=[[1, 0, 0, 0, 1]]), r"\[1, 0, 0, 0, 1\] .* has no partner \[-1, 0, 0, 1, 0\]"),
        (
            changed(positions=np.zeros((3, 3)), edges=[[0, 0, 0, 0, 1], [0, 0, 0, 1, 0]]),
            r"atoms 0 and 1 in cell \[0, 0, 0\] are 0.000 angstrom apart",
        ),
        (
            changed(lattice=0.02 * np.eye(3), edges=[[1, 0, 0, 2, 2], [-1, 0, 0, 2, 2]]),
            r"atoms 2 and 2 in cell \[-?1, 0, 0\] are 0.020 angstrom apart",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_crystals_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        make_crystal_model(crystals.SPINLESS).hamiltonian(**arguments)


def test_unknown_elements_of_crystals_are_named():
    with pytest.raises(BasisError, match=r"crystal: atomic numbers \[6\] have no entry in S s1p1, Mo s2p1d1"):
        make_crystal_model(crystals.SPINLESS).hamiltonian(**changed(numbers=np.array([42, 16, 6])))


@pytest.mark.usefixtures("unchecked")
def test_lists_of_a_crystal_are_accepted():
    model = make_crystal_model(crystals.SPINFUL)
    found = model.hamiltonian(*(array.tolist() for array in crystals.MOS2))
    for block, expected in zip(found, model.hamiltonian(*crystals.MOS2), strict=True):
        assert np.array_equal(block, expected)
