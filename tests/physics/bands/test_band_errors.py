"""Predicted Hamiltonians: where they come from, and the errors of their bands."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from tests.data.crystals.scfout import small_structure
from tests.physics.bands.toys import flat, graphene, points_of, positive, supercell, tight_binding
from tracegrad.data.crystal_files.deeph import write_structure
from tracegrad.data.crystals.structure import Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.physics.bands.band_errors import band_errors, with_hamiltonian
from tracegrad.physics.bands.bands import PredictedBands, band_structure


def disturbed(structure: Structure, size: float) -> Structure:
    other = small_structure(structure.spinful, seed=7)
    return replace(structure, hamiltonian=structure.hamiltonian + size * other.hamiltonian)


def errors_of(structure, predicted, window=(-30.0, 30.0), **settings):
    bands, prediction = band_structure(
        structure, points_of([0, 0, 0], [0.2, 0.1, 0]), predicted=predicted, **settings
    )
    return bands, prediction, band_errors(bands, prediction, window)


@pytest.mark.parametrize("spinful", [False, True])
def test_a_shift_by_the_overlap_is_a_shift_of_all_bands(spinful):
    structure = positive(small_structure(spinful))
    overlap = structure.overlap
    if spinful:
        blocks = [np.kron(np.eye(2), block).ravel() for block in structure.blocks("overlap")]
        overlap = np.concatenate(blocks)
    predicted = replace(structure, hamiltonian=structure.hamiltonian + 0.013 * overlap)
    bands, prediction, errors = errors_of(structure, predicted)
    assert errors.states == bands.energies.size
    assert np.abs(prediction.first_order - 0.013).max() < 1e-12
    for one in (errors.eigenvalues, errors.first_order):
        assert (one.mean, one.mae, one.max) == pytest.approx((13, 13, 13), abs=1e-8)
        assert (one.aligned_mae, one.aligned_max) == pytest.approx((0, 0), abs=1e-8)
    assert not errors.aligned_extra.any()


@pytest.mark.parametrize("spinful", [False, True])
def test_first_order_shifts_are_the_slope_of_the_energies(spinful):
    structure = positive(small_structure(spinful))
    bands, prediction, errors = errors_of(structure, disturbed(structure, 1e-5))
    differences = prediction.bands.energies - bands.energies
    assert np.abs(differences).max() > 1e-5
    assert np.abs(differences - prediction.first_order).max() < 1e-8
    assert errors.eigenvalues.mae == pytest.approx(1000 * np.abs(differences).mean(), rel=1e-12)
    assert errors.eigenvalues.max == pytest.approx(1000 * np.abs(differences).max(), rel=1e-12)
    aligned = 1000 * (differences - differences.mean())
    assert errors.eigenvalues.aligned_mae == pytest.approx(np.abs(aligned).mean(), rel=1e-9)
    assert errors.eigenvalues.aligned_max == pytest.approx(np.abs(aligned).max(), rel=1e-9)
    first_order = 1000 * prediction.first_order
    assert errors.first_order.mae == pytest.approx(np.abs(first_order).mean(), rel=1e-12)


def test_first_order_shifts_of_degenerate_states():
    """H' couples two uncoupled chains; the first-order shifts are those of the even and the odd state."""
    pairs = {(1, 0, 0, 0, 0): -1.0, (1, 0, 0, 1, 1): -1.0, (0, 0, 0, 0, 1): 0.0}
    positions = [[0.1, 5, 5], [0.1, 7, 5]]
    structure, coupled = (
        tight_binding(np.diag([2, 12, 12]), positions, {**pairs, (0, 0, 0, 0, 1): hopping})
        for hopping in (0.0, 0.25)
    )
    bands, prediction, _ = errors_of(structure, coupled)
    assert np.abs(prediction.first_order - [-0.25, 0.25]).max() < 1e-12
    assert np.abs(prediction.bands.energies - bands.energies - [-0.25, 0.25]).max() < 1e-12


def test_states_in_the_window_and_ghost_bands():
    bands = flat([[-3, -1, 1, 3], [-3, -1.5, 1.5, 3]])
    bands = replace(bands, total=4)
    predicted = replace(bands, energies=bands.energies + np.array([0.5, 0.1, 0.3, -1.5]))
    shifts = np.broadcast_to([7.0, 0.2, 0.4, 7.0], (2, 4))
    errors = band_errors(bands, PredictedBands(predicted, shifts), (-2.0, 2.0))
    assert errors.states == 4
    assert (errors.eigenvalues.mean, errors.eigenvalues.mae, errors.eigenvalues.max) == pytest.approx(
        (200, 200, 300)
    )
    assert (errors.eigenvalues.aligned_mae, errors.eigenvalues.aligned_max) == pytest.approx((100, 100))
    assert (errors.first_order.mae, errors.first_order.aligned_mae) == pytest.approx((300, 100))
    assert errors.extra.tolist() == [1, 1]
    assert errors.aligned_extra.tolist() == [1, 1]
    assert errors.window == (-2.0, 2.0)


def test_windows_shrink_to_what_was_computed():
    bands = flat([[-1.0, -0.2, 0.8], [-0.9, -0.1, 1.0]], first=5)
    predicted = replace(bands, first=4, energies=bands.energies[:, [0, 0, 1]] + [[-3.0, 0, 0]])
    predicted = replace(predicted, energies=predicted.energies)
    errors = band_errors(bands, PredictedBands(predicted, np.zeros((2, 3))), (-2.0, 2.0))
    assert errors.window == (-0.9, -0.2)
    assert errors.states == 2  # one at the lower and one at the upper end
    assert errors.eigenvalues.max == 0


@pytest.mark.parametrize(
    ("window", "message"),
    [((2.0, -2.0), "window is"), ((0.0, 0.0), "window is"), ((0.1, 0.2), "none of the bands 1 to 2 is")],
)
def test_bad_windows(window, message):
    bands = replace(flat([[-1, 1]]), total=2)
    with pytest.raises(ConfigError, match=message):
        band_errors(bands, PredictedBands(bands, np.zeros((1, 2))), window)


def test_some_bands_are_the_same_as_those_of_all():
    structure = supercell(graphene(on_site=0.1), (6, 6))
    predicted = replace(structure, hamiltonian=1.01 * structure.hamiltonian)
    points = points_of([0.05, 0, 0], [0.1, 0.03, 0], [0.2, 0.1, 0])
    everything, whole = band_structure(structure, points, predicted=predicted)
    some, part = band_structure(structure, points, predicted=predicted, bands=16)
    assert 10 < some.energies.shape[1] <= 22
    for few, every in ((some, everything), (part.bands, whole.bands)):
        columns = slice(few.first, few.first + few.energies.shape[1])
        assert np.abs(few.energies - every.energies[:, columns]).max() < 1e-9
        assert few.total == 72
    columns = slice(some.first, some.first + some.energies.shape[1])
    assert np.abs(part.first_order - whole.first_order[:, columns]).max() < 1e-9
    found, expected = (
        band_errors(bands, prediction, (-1.2, 1.2))
        for bands, prediction in ((some, part), (everything, whole))
    )
    assert found.states == expected.states
    assert found.eigenvalues.mae == pytest.approx(expected.eigenvalues.mae, rel=1e-6)


def test_predicted_hamiltonians(tmp_path):
    structure = small_structure()
    predicted = disturbed(structure, 0.1)
    write_structure(replace(predicted, overlap=None), tmp_path / "p")
    for source in (tmp_path / "p", tmp_path / "p" / "hamiltonians.h5"):
        found = with_hamiltonian(structure, source)
        assert np.array_equal(found.hamiltonian, predicted.hamiltonian)
        assert found.overlap is structure.overlap
    with pytest.raises(DataError, match="none: no such folder"):
        with_hamiltonian(structure, tmp_path / "none")
    (tmp_path / "text").write_text("no HDF5")
    with pytest.raises(DataError, match="text: not a readable HDF5 file"):
        with_hamiltonian(structure, tmp_path / "text")
    with h5py.File(tmp_path / "p" / "hamiltonians.h5", "a") as file:
        file["[0, 0, 0, 1, 2]"][0, 0] += 1.0
    with pytest.raises(DataError, match=r"hamiltonians\.h5: the hamiltonian is not hermitian"):
        with_hamiltonian(structure, tmp_path / "p" / "hamiltonians.h5")
    with h5py.File(tmp_path / "p" / "hamiltonians.h5", "a") as file:
        del file["[1, 0, 0, 1, 2]"]
    with pytest.raises(DataError, match=r"hamiltonians\.h5: other pairs of atoms in its blocks than"):
        with_hamiltonian(structure, tmp_path / "p" / "hamiltonians.h5")


def test_predictions_of_other_structures(tmp_path):
    structure = small_structure()
    turned = structure.numbers[[1, 0, 2]]
    shells = {16: (0, 1), 42: (0, 0, 0, 1, 1)}
    others = {
        "other atoms": replace(structure, **zeros(turned)),
        "the lattice differ by": replace(structure, lattice=structure.lattice * 1.01),
        "the positions differ by": replace(structure, positions=structure.positions + 0.01),
        "isspinful is True, but False": small_structure(spinful=True),
        "shells is": replace(structure, **zeros(structure.numbers, shells)),
        "other pairs": chosen(structure, (structure.edges[:, :2] == 0).all(1)),
    }
    for n, (message, other) in enumerate(others.items()):
        write_structure(replace(other, overlap=None), tmp_path / str(n))
        with pytest.raises(DataError, match=rf"{tmp_path}/{n}: .*{message}"):
            with_hamiltonian(structure, tmp_path / str(n))


def zeros(numbers, shells=None) -> dict[str, object]:
    """Atoms and shells of another structure with a Hamiltonian of zeros."""
    parts = {"numbers": numbers, "shells": shells or small_structure().shells}
    structure = replace(small_structure(), **parts)
    rows, columns = structure.basis.sizes[numbers[structure.edges[:, 3:].T]]
    return {**parts, "hamiltonian": np.zeros(int((rows * columns).sum()))}


def chosen(structure, kept) -> Structure:
    """The structure with some of its blocks."""
    blocks = [
        block.ravel() for block, keep in zip(structure.blocks("hamiltonian"), kept, strict=True) if keep
    ]
    return replace(structure, edges=structure.edges[kept], hamiltonian=np.concatenate(blocks))
