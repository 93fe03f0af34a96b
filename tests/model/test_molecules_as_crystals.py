"""A network of crystals gives a molecule the H of the crystal that consists of it, in an empty and large cell."""

from functools import partial

import numpy as np
import pytest
import torch
from pyscf import gto

from callbacks.block_health import block_states
from tests import molecules
from tests.backbones.crystal_networks import BOTH_ARMS, deeph_e3
from tests.crystals import SmallBackbone
from tests.molecules import random_hamiltonian, random_rotation
from tests.nn.item_first.test_shell_pairs import orbital_rotation
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.backbones.qhnet import QHNet
from tracegrad.errors import BasisError, ConfigError, DataError
from tracegrad.hamiltonian.basis import DEF2_SVP, OrbitalBasis, shells_name
from tracegrad.hamiltonian.blocks import cut_blocks
from tracegrad.hamiltonian.graph import collate, crystal_graph, molecule_graph
from tracegrad.metrics.hamiltonian import HamiltonianMAE
from tracegrad.model.network import HamiltonianModel
from tracegrad.nn.interface import keep
from tracegrad.training.loss import HamiltonianLoss

CELL = np.diag([90.0, 80.0, 70.0])  # angstrom
# The same shells in the order of a program for crystals
CRYSTALS = OrbitalBasis.openmx({z: shells_name(DEF2_SVP[z]) for z in OrbitalBasis.def2_svp().elements})
exactly = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


def make_model(basis: OrbitalBasis, arm: str = "tracegrad", **options) -> HamiltonianModel:
    torch.manual_seed(0)
    return deeph_e3(basis, arm, **options)


def all_pairs(atoms: int) -> np.ndarray:
    """All pairs of atoms in the cell R = 0, those of an atom with itself too, in an order without a system."""
    edges = np.array([(0, 0, 0, i, j) for i in range(atoms) for j in range(atoms)])
    return np.random.default_rng(0).permutation(edges)


def in_empty_cell(
    molecule: tuple[np.ndarray, np.ndarray], basis: OrbitalBasis, dense: np.ndarray | None = None
):
    """The graph of the crystal; with labels, if the matrix of the molecule is passed."""
    numbers, positions = molecule
    graph = crystal_graph(numbers, positions, CELL, all_pairs(len(numbers)), basis, dtype=torch.float64)
    if dense is not None:
        own, pairs = cut_blocks(torch.from_numpy(dense), numbers, basis)
        graph.h_edge = torch.stack([block_of(own, pairs, *edge) for edge in graph.edge_index.T.tolist()])
    return graph


def block_of(own: torch.Tensor, pairs: torch.Tensor, i: int, j: int) -> torch.Tensor:
    """The block of the rows of atom i and the columns of atom j."""
    return own[i] if i == j else pairs[j * (len(own) - 1) + i - (i > j)]


@BOTH_ARMS
def test_blocks_and_traces_are_those_of_the_crystal(basis, arm):
    model = make_model(basis, arm)
    for sample in (molecules.METHANOL, molecules.ATOM):
        found = model(collate([molecules.labelled_graph(sample, basis)]))
        graph = collate([in_empty_cell(sample, basis)])
        kept = []

        def refine(site, k, f, kept=kept):
            o, z = model.tracegrad.refine(site, k, f, need_z=True)
            kept.append(z)
            return o

        expected = {"blocks": model.backbone(graph, refine)["edge"]}
        if arm == "tracegrad":
            expected["traces"] = model.tracegrad.decode({"edge": kept})["edge"]
        for name, values in expected.items():
            of = getattr(found, name)
            assert set(of) == {"self", "edge"}
            for edge, value in zip(graph.edge_index.T.tolist(), values, strict=True):
                exactly(block_of(of["self"], of["edge"], *edge), value)


def test_users_get_the_h_of_the_crystal_in_the_order_of_pyscf(basis):
    """By the whole path of crystals: edges, blocks of the file and its order of orbitals."""
    model, other = make_model(basis), make_model(CRYSTALS)
    numbers, positions = molecules.METHANOL
    found = model.hamiltonian(numbers, positions)
    assert torch.equal(found, found.T)

    edges = all_pairs(len(numbers))
    blocks = other.hamiltonian(numbers, positions, CELL, edges)
    starts = np.cumsum(basis.sizes[numbers]) - basis.sizes[numbers]
    expected = np.full(found.shape, np.nan)
    for (_, _, _, i, j), block in zip(edges, blocks, strict=True):
        a, b = numbers[i], numbers[j]
        for s in range(basis.dim):
            for t in range(basis.dim):
                if basis.mask[a, s] and basis.mask[b, t]:
                    row, column = starts[i] + basis.slots[a, s], starts[j] + basis.slots[b, t]
                    expected[row, column] = block[CRYSTALS.slots[a, s], CRYSTALS.slots[b, t]]
    exactly(found, torch.from_numpy(expected + expected.T) / 2)
    assert np.abs(expected - expected.T).max() > 0.1


@BOTH_ARMS
def test_loss_and_metrics_are_those_of_the_crystal(basis, arm):
    model = make_model(basis, arm)
    samples = (molecules.WATER, molecules.CYANIDE)
    dense = [random_hamiltonian(numbers, basis, seed) for seed, (numbers, _) in enumerate(samples)]
    graph = collate([molecules.labelled_graph(sample, basis, seed) for seed, sample in enumerate(samples)])
    crystal = collate([in_empty_cell(sample, basis, h) for sample, h in zip(samples, dense, strict=True)])
    prediction = model(graph)

    loss = HamiltonianLoss(basis, model.trace_labels)
    found = loss(prediction, graph).logs
    model.views_crystals = False  # as for data of crystals
    of_crystal = model(crystal)
    expected = loss(of_crystal, crystal).logs
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=0)

    metrics = HamiltonianMAE(basis), HamiltonianMAE(basis)
    metrics[0].update(prediction, graph)
    metrics[1].update(of_crystal, crystal)
    for one, other in zip(*(metric.compute().values() for metric in metrics), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0, equal_nan=True)


@BOTH_ARMS
def test_rotations_and_mirrors(basis, arm):
    model = make_model(basis, arm)
    numbers, positions = molecules.METHANOL
    reference = model(collate([molecule_graph(numbers, positions, basis, dtype=torch.float64)]))
    for seed, sign in ((0, 1), (1, -1)):
        rotation = sign * random_rotation(seed)
        moved = positions @ rotation.numpy().T + np.array([0.3, -2.0, 5.0])
        found = model(collate([molecule_graph(numbers, moved, basis, dtype=torch.float64)]))
        u = orbital_rotation(basis, rotation)
        for site, blocks in reference.blocks.items():
            torch.testing.assert_close(found.blocks[site], u @ blocks @ u.T, rtol=0, atol=1e-9)
        for site, traces in reference.traces.items():
            torch.testing.assert_close(found.traces[site], traces, rtol=0, atol=1e-9)


def test_atoms_may_come_in_any_order(basis):
    model = make_model(basis)
    numbers, positions = molecules.METHANOL
    order = np.array([3, 0, 5, 1, 4, 2])
    first = model(collate([molecule_graph(numbers, positions, basis, dtype=torch.float64)])).blocks
    second = model(
        collate([molecule_graph(numbers[order], positions[order], basis, dtype=torch.float64)])
    ).blocks
    for i in range(6):
        for j in range(6):
            expected = block_of(first["self"], first["edge"], int(order[i]), int(order[j]))
            exactly(block_of(second["self"], second["edge"], i, j), expected)


@pytest.mark.parametrize("options", [{}, {"edge_chunk": 7}, {"recompute": True, "edge_chunk": 5}])
def test_a_batch_equals_its_molecules(basis, options):
    """Also the molecule of one atom, and atoms beyond the range of the radial functions."""
    model = make_model(basis, **options)
    graphs = [molecules.labelled_graph(sample, basis) for sample in molecules.ALL]
    batch = model(collate(graphs))
    model.backbone.edge_chunk = None
    at = {"self": 0, "edge": 0}
    for graph in graphs:
        single = model(collate([graph]))
        for site, blocks in single.blocks.items():
            part = slice(at[site], at[site] + len(blocks))
            exactly(batch.blocks[site][part], blocks)
            torch.testing.assert_close(batch.traces[site][part], single.traces[site], rtol=0, atol=1e-9)
            at[site] += len(blocks)


def test_positions_have_gradients(basis):
    """H does not change if the whole molecule moves, so that the gradients of the atoms add up to zero."""
    model = make_model(basis)
    graph = collate([molecules.labelled_graph(molecules.WATER, basis)])
    graph.positions.requires_grad_()
    weights = torch.randn(6, basis.dim, basis.dim, dtype=torch.float64)
    (weights * model(graph).blocks["edge"]).sum().backward()
    gradient = graph.positions.grad
    assert gradient.abs().max() > 1e-2
    exactly(gradient.sum(0), torch.zeros(3, dtype=torch.float64))


def test_the_state_of_the_blocks_is_measured(basis):
    states = block_states(make_model(basis), collate([molecules.labelled_graph(molecules.WATER, basis)]))
    assert set(states) == {"edge1", "edge2"}


def test_an_scf_can_start_from_it(basis):
    numbers, positions = molecules.WATER
    atoms = [(int(z), x.tolist()) for z, x in zip(numbers, positions, strict=True)]
    mol = gto.M(atom=atoms, basis="def2-svp", verbose=0)
    density = make_model(basis).initial_density(mol)
    overlap = mol.intor_symmetric("int1e_ovlp")
    np.testing.assert_allclose(density @ overlap @ density, 2 * density, atol=1e-9)
    assert np.trace(density @ overlap) == pytest.approx(10)


def test_every_network_with_the_interface_takes_molecules(basis):
    """The small network does not treat molecules in any way of its own."""
    model = HamiltonianModel(SmallBackbone(basis)).double()
    (blocks,) = model.stages(collate([molecules.labelled_graph(molecules.WATER, basis)]), keep)
    assert [len(blocks[site]) for site in ("self", "edge")] == [3, 6]
    assert model.hamiltonian(*molecules.WATER).shape == (24, 24)


def test_networks_and_data_that_do_not_fit_are_named(basis):
    message = r"QHNet predicts only molecules, and the basis \(.* in the order of openmx\) is one of crystals"
    with pytest.raises(ConfigError, match=message):
        HamiltonianModel(QHNet(CRYSTALS, lmax=1, channels=2, bottleneck=2, layers=1, pair_layers=1))
    model = make_model(basis, "none", blocks=2)
    with pytest.raises(
        DataError, match="this DeepH-E3 is a network of molecules: give neither lattice nor edges"
    ):
        model.hamiltonian(*molecules.WATER, CELL, all_pairs(3))
    with pytest.raises(BasisError, match=r"atomic numbers .16. have no entry in def2-SVP"):
        model.hamiltonian(np.array([16, 1, 1]), molecules.WATER[1])
    with pytest.raises(
        ConfigError, match="the Hamiltonian needs 1e, 2o, 3o, 3e, 4e, which 1 blocks of 4x0e with harm"
    ):
        DeepHE3(basis, "4x0e", blocks=1, lmax=2)
