from itertools import pairwise, product

import pytest
import torch

from tests import crystals, molecules
from tests.molecules import random_rotation, union_rotation
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.graph import collate
from tracegrad.hamiltonian.reduction import site_edges
from tracegrad.hamiltonian.traces import BlockTraces, squared_modulus

QH9 = OrbitalBasis.def2_svp()
PAULI = torch.tensor([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128)


def spin_rotation(seed: int) -> torch.Tensor:
    """D_1/2 of `random_rotation`: cos(t / 2) - i sin(t / 2) n . sigma."""
    q = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    w, *xyz = (q / q.norm()).tolist()
    return w * torch.eye(2, dtype=torch.complex128) - 1j * sum(
        a * sigma for a, sigma in zip(xyz, PAULI, strict=True)
    )


def joint_rotation(spinless: OrbitalBasis, seed: int) -> torch.Tensor:
    """Rotation of spin and orbitals, spin outermost."""
    return torch.kron(
        spin_rotation(seed), union_rotation(spinless, random_rotation(seed)).to(torch.complex128)
    )


def random_blocks(items: int, basis: OrbitalBasis) -> torch.Tensor:
    dtype = torch.complex128 if basis.spinful else torch.float64
    return torch.randn(items, basis.dim, basis.dim, dtype=dtype)


def test_theorem_1_traces_are_invariant_under_rotation():
    traces = BlockTraces(QH9)
    blocks = random_blocks(6, QH9)
    for seed in range(5):
        d = union_rotation(QH9, random_rotation(seed))
        torch.testing.assert_close(traces(d @ blocks @ d.T), traces(blocks), rtol=0, atol=1e-12)
    mixed = torch.linalg.qr(torch.randn(QH9.dim, QH9.dim, dtype=torch.float64)).Q
    assert (traces(mixed @ blocks @ mixed.T) - traces(blocks)).abs().max() > 0.1


def test_the_joint_rotation_leaves_spin_orbit_coupling_unchanged():
    """L . S of a p shell is invariant only if spin and orbitals are rotated together."""
    levi_civita = torch.zeros(3, 3, 3, dtype=torch.complex128)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        levi_civita[i, j, k], levi_civita[i, k, j] = 1, -1
    order = [1, 2, 0]  # the union shell is y, z, x
    momenta = (-1j * levi_civita)[:, order][:, :, order]
    coupling = sum(torch.kron(s, m) for s, m in zip(PAULI, momenta, strict=True))
    assert torch.linalg.eigvalsh(coupling).round().tolist() == [-2, -2, 1, 1, 1, 1]
    for seed in range(3):
        u = joint_rotation(OrbitalBasis({1: (1,)}), seed)
        torch.testing.assert_close(u @ coupling @ u.mH, coupling, rtol=0, atol=1e-13)


@pytest.mark.parametrize("spin", ["sum", "singlet_triplet"])
def test_theorem_1_traces_of_spinful_blocks_are_invariant_under_joint_rotation(spin):
    traces = BlockTraces(crystals.SPINFUL, spin)
    blocks = random_blocks(6, crystals.SPINFUL)
    for seed in range(5):
        u = joint_rotation(crystals.SPINLESS, seed)
        rotated = u @ blocks @ u.mH
        assert (rotated - blocks).abs().max() > 0.5
        torch.testing.assert_close(traces(rotated), traces(blocks), rtol=1e-12, atol=1e-12)


def test_traces_of_single_spin_blocks_are_not_invariant():
    traces = BlockTraces(crystals.SPINFUL, "per_spin_block")
    blocks = random_blocks(6, crystals.SPINFUL)
    u = joint_rotation(crystals.SPINLESS, 0)
    assert (traces(u @ blocks @ u.mH) - traces(blocks)).abs().max() > 1
    # They would be if the orbitals turned alone.
    d = union_rotation(crystals.SPINFUL, random_rotation(0)).to(torch.complex128)
    torch.testing.assert_close(traces(d @ blocks @ d.mH), traces(blocks), rtol=1e-12, atol=1e-12)


def basic_blocks(block: torch.Tensor, basis: OrbitalBasis):
    """(p, q, H^{lp x lq}) over the union shells."""
    bounds = [*basis.shell_starts.tolist(), basis.dim]
    for (p, (a, b)), (q, (c, d)) in product(enumerate(pairwise(bounds)), repeat=2):
        yield p, q, block[a:b, c:d]


def trace(basic: torch.Tensor) -> float:
    return float(torch.trace(basic @ basic.mH).real)


@pytest.mark.parametrize("basis", [QH9, crystals.SPINLESS])
def test_traces_are_tr_h_h_dagger_of_each_basic_block(basis):
    blocks = random_blocks(3, basis)
    labels = BlockTraces(basis)(blocks).view(3, len(basis.union), len(basis.union))
    for item in range(3):
        for p, q, basic in basic_blocks(blocks[item], basis):
            assert float(labels[item, p, q]) == pytest.approx(trace(basic), rel=1e-13)


def test_traces_of_spinful_blocks_equal_the_literal_formulas():
    basis = crystals.SPINFUL
    blocks = random_blocks(3, basis)
    shells = len(basis.union)
    n = shells // 2
    single = BlockTraces(basis, "per_spin_block")(blocks).view(3, shells, shells)
    total = BlockTraces(basis)(blocks).view(3, n, n)
    singlet, triplet = BlockTraces(basis, "singlet_triplet")(blocks).view(3, 2, n, n).unbind(1)
    for item in range(3):
        found = {(p, q): basic for p, q, basic in basic_blocks(blocks[item], basis)}
        for (p, q), basic in found.items():
            assert float(single[item, p, q]) == pytest.approx(trace(basic), rel=1e-13)
        for p, q in product(range(n), repeat=2):
            uu, ud, du, dd = (found[p + a, q + b] for a in (0, n) for b in (0, n))
            assert float(total[item, p, q]) == pytest.approx(sum(map(trace, (uu, ud, du, dd))), rel=1e-13)
            assert float(singlet[item, p, q]) == pytest.approx(trace((uu + dd) / 2**0.5), rel=1e-13)
            expected = trace((uu - dd) / 2**0.5) + trace(ud) + trace(du)
            assert float(triplet[item, p, q]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("spin", ["sum", "singlet_triplet", "per_spin_block"])
@pytest.mark.parametrize("basis", [QH9, crystals.SPINLESS, crystals.SPINFUL])
def test_the_mask_is_true_where_labels_are_not_zero(basis, spin):
    """Labels are padded with zeros: a label that exists is above 0 for random blocks, all others are 0."""
    if basis is QH9:
        graph = collate([molecules.labelled_graph(m, basis) for m in molecules.ALL])
    else:
        graph = collate([crystals.labelled_graph(c, basis) for c in crystals.ALL])
    traces = BlockTraces(basis, spin)
    for site in ("self", "edge") if basis is QH9 else ("edge",):
        mask = traces.mask(graph.numbers, site_edges(graph, site))
        assert mask.shape == (len(graph[f"h_{site}"]), traces.count)
        assert torch.equal(traces(graph[f"h_{site}"]) > 0, mask)
        assert not mask.all()


def test_squared_modulus():
    x = torch.tensor([3 + 4j, -1j], dtype=torch.complex128, requires_grad=True)
    squared_modulus(x).sum().backward()
    assert squared_modulus(x).tolist() == [25, 1]
    assert torch.equal(x.grad, 2 * x.detach())
    assert squared_modulus(torch.tensor([-3.0])).tolist() == [9]


@pytest.mark.usefixtures("unchecked")
def test_unknown_label_names_are_refused():
    with pytest.raises(ConfigError, match=r"tracegrad\.spin_trace is 'trace'; choose one of \['sum'"):
        BlockTraces(crystals.SPINFUL, "trace")


def test_counts_of_the_paper():
    """Basic blocks of a pair of atoms: 36 for QH9, 25 for graphene, 196 for s3p2d2 with spin."""
    bismuth = OrbitalBasis.openmx({"Bi": "s3p2d2"}, spinful=True)
    counts = [
        BlockTraces(b, "per_spin_block").count for b in (QH9, OrbitalBasis.openmx({"C": "s2p2d1"}), bismuth)
    ]
    assert counts == [36, 25, 196]
    assert [BlockTraces(bismuth, spin).count for spin in ("sum", "singlet_triplet")] == [49, 98]
