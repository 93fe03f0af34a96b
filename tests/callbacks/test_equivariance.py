"""The equivariance error: of networks that are equivariant, of one that is not, and what a test logs and writes."""

import csv

import numpy as np
import pytest
import torch
from e3nn.o3 import Irreps
from scipy.spatial.transform import Rotation

from callbacks.equivariance import EquivarianceError
from experiments.settings.configuration import composed, plain
from experiments.training.warning_filter import quiet
from tests import crystals, molecules
from tests.backbones import crystal_networks
from tests.backbones.test_qhnet import small
from tests.callbacks.test_test_report import make_loader, make_module, make_trainer
from tests.molecules import TO_E3NN, exact_representation
from tests.nn.item_first.test_shell_pairs import orbital_rotation
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.graph import collate
from tracegrad.metrics.equivariance import equivariance_errors, orbital_rotations, random_quaternions
from tracegrad.model.network import HamiltonianModel
from tracegrad.numerics.rotations import of_quaternions
from tracegrad.plots.equivariance import equivariance_figure


def quaternions(angle: float, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(random_quaternions(count, angle, np.random.default_rng(1)))


@pytest.mark.parametrize("largest", [10, 90, 180])
def test_rotations_are_uniform_up_to_the_largest_angle(largest):
    """Axes without a direction; angles with the density 1 - cos of the uniform distribution."""
    q = random_quaternions(40_000, largest, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(q, axis=1), 1, rtol=0, atol=1e-12)
    angles = Rotation.from_quat(q[:, [1, 2, 3, 0]]).magnitude()
    limit = np.radians(largest)
    assert 0.98 * limit < angles.max() <= limit + 1e-9
    for part in (0.5, 0.8):
        x = part * limit
        expected = (x - np.sin(x)) / (limit - np.sin(limit))
        assert (angles < x).mean() == pytest.approx(expected, abs=0.01)
    axes = q[:, 1:] / np.linalg.norm(q[:, 1:], axis=1, keepdims=True)
    np.testing.assert_allclose(axes.T @ axes / len(axes), np.eye(3) / 3, rtol=0, atol=0.01)


@pytest.mark.parametrize("basis", [crystals.SPINLESS, crystals.SPINFUL], ids=["real", "spin"])
def test_matrices_of_orbitals_are_those_of_the_irreps(basis):
    q = quaternions(180, 3)
    for actual, rotation in zip(orbital_rotations(basis, q), of_quaternions(q), strict=True):
        expected = orbital_rotation(basis, rotation)
        if basis.spinful:  # its sign is not determined by the rotation
            sign = (actual.flatten() @ expected.conj().flatten()).real.sign()
            expected = expected * sign
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


def test_matrices_of_molecules(basis):
    q = quaternions(180, 1)
    rotation = TO_E3NN @ of_quaternions(q)[0] @ TO_E3NN.T
    irreps = Irreps([(1, (degree, (-1) ** degree)) for degree in basis.union])
    expected = exact_representation(irreps, rotation)
    torch.testing.assert_close(orbital_rotations(basis, q)[0], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("arm", ["none", "tracegrad"])
@pytest.mark.parametrize("spinful", [False, True])
def test_equivariant_networks_have_none_but_rounding(arm, spinful):
    basis = crystals.SPINFUL if spinful else crystals.SPINLESS
    model = crystal_networks.deeph_e3(basis, arm).eval()
    graph = collate([crystals.labelled_graph(crystals.MOS2, basis)])
    errors = equivariance_errors(model, graph, quaternions(180))
    assert errors.shape == (1, 2)
    assert errors.max() < 1e-11


def test_a_network_of_molecules_has_none_but_rounding(basis):
    model = HamiltonianModel(small(basis)).double().eval()
    graph = collate([molecules.labelled_graph(molecules.WATER, basis)])
    assert equivariance_errors(model, graph, quaternions(180)).max() < 1e-11


@pytest.mark.parametrize("spinful", [False, True])
def test_of_two_stages_the_second_has_an_error_that_grows_with_the_angle(spinful):
    """Against the literal definition; the graph keeps its labels."""
    basis = crystals.SPINFUL if spinful else crystals.SPINLESS
    model = crystal_networks.harmose(basis)
    graph = collate([crystals.labelled_graph(crystals.MOS2, basis)])
    labels = graph.h_edge.clone()
    small_angle, large = (equivariance_errors(model, graph, quaternions(a)) for a in (1, 180))
    assert torch.equal(graph.h_edge, labels)
    for errors in (small_angle, large):
        assert errors[0].max() < 1e-11
    assert 0 < small_angle[1].max() < 0.3 * large[1].min()
    q = quaternions(180)
    u, rotation = orbital_rotations(basis, q)[1], of_quaternions(q)[1].numpy()
    h = crystal_networks.blocks_of(model, crystals.MOS2)
    turned = crystal_networks.blocks_of(
        model, crystal_networks.rotated(crystals.MOS2, torch.from_numpy(rotation))
    )
    numbers, (dst, src) = graph.numbers, graph.edge_index
    mask = torch.from_numpy(basis.mask)[numbers]
    exists = mask[dst][:, :, None] * mask[src][:, None, :] > 0
    expected = (u @ h @ u.mH - turned).abs()[exists].mean()
    torch.testing.assert_close(large[1][1], expected, rtol=1e-10, atol=0)


def test_a_test_logs_and_writes_it(tmp_path):
    basis = crystals.SPINLESS
    module = make_module(crystal_networks.harmose(basis).backbone)
    module.test_subsets = ["", "twisted"]
    module.float()  # the callback computes in double precision
    dtype = torch.float32
    graphs = [crystals.labelled_graph(c, basis, i, dtype) for i, c in enumerate(crystals.ALL)]
    callback = EquivarianceError(structures=3, rotations=1, angles=[20, 150])
    with quiet():
        trainer = make_trainer(tmp_path, callbacks=[callback])
        logs = trainer.test(module, [make_loader(graphs), make_loader(graphs[:1])], verbose=False)
    values = {key: value for entry in logs for key, value in entry.items() if "equivariance" in key}
    keys = [f"equivariance_{name}" for name in ("20", "150", "h1_20", "h1_150")]
    assert set(values) == {f"test/{key}" for key in keys}
    assert [column.key for column in callback.columns] == keys
    assert [column.name for column in callback.columns][1::2] == ["up to 150 deg", "H1 up to 150 deg"]
    assert max(values["test/equivariance_h1_20"], values["test/equivariance_h1_150"]) < 1e-8  # meV
    assert min(values["test/equivariance_20"], values["test/equivariance_150"]) > 1
    with (tmp_path / "equivariance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["sample"], row["largest_angle"]) for row in rows] == [
        (str(sample), angle) for sample in (0, 1, 3) for angle in ("20", "150")
    ]
    for angle in ("20", "150"):
        mean = np.mean([float(row["h"]) for row in rows if row["largest_angle"] == angle])
        assert values[f"test/equivariance_{angle}"] == pytest.approx(mean, rel=1e-6)
    assert (tmp_path / "figures" / "equivariance.png").is_file()
    assert next(module.model.parameters()).dtype == torch.float32  # the network itself stays as it was


def test_the_figure_shows_rounding_beside_errors():
    figure = equivariance_figure(
        {"DeepH-E3": {10: 0.0, 90: 1e-13}, "HarmoSE-style": {10: 0.1, 90: 0.4}}, "MM"
    )
    (ax,) = figure.axes
    equivariant, other = ax.get_lines()
    assert list(equivariant.get_ydata()) == [1e-12, 1e-12]
    assert list(other.get_ydata()) == [0.1, 0.4]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["rounding", "DeepH-E3", "HarmoSE-style"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structures": -1}, "callbacks.equivariance.structures is -1; give a whole number >= 0"),
        ({"rotations": 0}, "callbacks.equivariance.rotations is 0; give a whole number >= 1"),
        ({"angles": []}, r"callbacks.equivariance.angles is \[\]; give whole degrees from 1 to 180"),
        ({"angles": [10, 200]}, r"callbacks.equivariance.angles is \[10, 200\]"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        EquivarianceError(**options)


def test_it_is_added_to_the_callbacks_of_a_recipe_and_stands_alone_in_an_evaluation():
    usual, added = (
        plain(composed("train", ["experiment=demo_crystals", *more]))["callbacks"]
        for more in ([], ["callbacks=equivariance"])
    )
    assert added.pop("equivariance")["angles"] == [10, 36, 90, 180]
    assert added == usual
    assert list(composed("evaluate", ["run=x", "callbacks=equivariance"]).callbacks) == ["equivariance"]
