import numpy as np
import pytest
from matplotlib import rcParams
from PIL import Image

from tracegrad.errors import DataError, TraceGradError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.plots.ablation import ablation_figure
from tracegrad.plots.block_change import BlockChange, block_change_figure
from tracegrad.plots.block_mae import block_mae_figure, mean_block_mae
from tracegrad.plots.elements import MatrixElements, elements_figure
from tracegrad.plots.hamiltonian import hamiltonian_figure
from tracegrad.plots.learning_curves import RunCurves, learning_curves
from tracegrad.plots.style import ARM_COLOURS, make_figure, save
from tracegrad.reports.metrics_file import read_metrics
from tracegrad.reports.results import BlockMAE, read_block_mae
from tracegrad.units import MEV_PER_HARTREE

BASIS = OrbitalBasis.def2_svp()
WATER = np.array([8, 1, 1])
ARMS = {"none": "QHNet", "trace": "QHNet+Trace", "grad": "QHNet+Grad", "tracegrad": "QHNet+TraceGrad"}


def symmetric(rng, n, scale):
    matrix = rng.standard_normal((n, n)) * scale
    return matrix + matrix.T


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def molecule(rng):
    true = symmetric(rng, 24, 1.0) * np.exp(-3 * rng.random())
    return WATER, true, true + symmetric(rng, 24, 1e-4)


def check_png(figure, tmp_path, minimum):
    """Check that the saved figure is a complete PNG of 200 dpi that is neither blank nor tiny."""
    path = save(figure, tmp_path / "figure.png")
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert round(image.info["dpi"][0]) == 200
        assert image.width >= minimum[0]
        assert image.height >= minimum[1]
        shades = image.convert("L").getextrema()
    assert shades[0] < 50
    assert shades[1] == 255
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]


def texts(figure):
    found = [figure._suptitle.get_text()] if figure._suptitle else []
    for ax in figure.axes:
        found += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel(), *(text.get_text() for text in ax.texts)]
        found += [label.get_text() for label in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    return found


def test_saving_replaces_only_by_whole_files(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "figure.png"
    save(make_figure(1.0, 1.0), path)
    before = path.read_bytes()
    broken = make_figure(1.0, 1.0)
    monkeypatch.setattr(broken, "savefig", lambda draft, **_: (draft.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        save(broken, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_pdf_and_other_suffixes(tmp_path):
    assert save(make_figure(1.0, 1.0), tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(TraceGradError, match=r"a\.jpeg: figures are written as \.png or \.pdf"):
        save(make_figure(1.0, 1.0), tmp_path / "a.jpeg")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceGradError, match=r"file/a\.png: cannot be written"):
        save(make_figure(1.0, 1.0), tmp_path / "file" / "a.png")


def test_figures_leave_the_settings_of_matplotlib_alone(molecule):
    before = dict(rcParams)
    hamiltonian_figure(*molecule, BASIS)
    assert dict(rcParams) == before


def test_hamiltonian(molecule, tmp_path):
    figure = hamiltonian_figure(*molecule, BASIS, "QHNet")
    check_png(figure, tmp_path, (1500, 600))
    _, true, predicted = molecule
    mae = np.abs(predicted - true).mean() * MEV_PER_HARTREE
    assert figure._suptitle.get_text() == f"QHNet, H$_{{2}}$O: MAE {mae:#.3g} meV"
    for ax in figure.axes[:3]:
        assert [label.get_text() for label in ax.get_xticklabels()] == ["O1", "H2", "H3"]
        strong = [lines for lines in ax.collections if lines.get_linewidth()[0] > 0.5]
        assert [segment[0][0] for segment in strong[0].get_segments()] == [14, 19]
        thin = [lines for lines in ax.collections if lines.get_linewidth()[0] < 0.5]
        # O: 3s2p1d, H: 2s1p in the order of the files
        expected = [1, 2, 3, 6, 9, 15, 16, 20, 21]
        assert [segment[0][0] for segment in thin[0].get_segments()] == expected


def test_hamiltonian_of_a_perfect_prediction_and_of_many_atoms(rng, tmp_path):
    numbers = np.array([6] * 9 + [1] * 20)
    true = symmetric(rng, 9 * 14 + 100, 1.0)
    check_png(hamiltonian_figure(numbers, true, true, BASIS), tmp_path, (1500, 600))


def test_hamiltonian_of_another_molecule_is_refused(molecule):
    _, true, predicted = molecule
    with pytest.raises(DataError, match=r"29 orbitals need matrices of shape \(29, 29\)"):
        hamiltonian_figure(np.array([8, 1, 1, 1]), true, predicted, BASIS)


def test_elements(molecule, tmp_path):
    _, true, predicted = molecule
    figure = elements_figure(MatrixElements(true[0], predicted[0], true[1], predicted[1]), "water")
    check_png(figure, tmp_path, (1200, 800))
    assert "predicted (hartree)" in texts(figure)
    assert "true (hartree)" in texts(figure)
    assert "error (meV)" in texts(figure)


def test_the_legend_of_elements_is_right():
    true = np.array([0.0, 1.0, 2.0, 3.0])
    shifted = true + np.array([0.1, -0.1, 0.1, -0.1])
    near = true + 1e-5 * np.array([1, -1, 1, -1])
    found = " ".join(texts(elements_figure(MatrixElements(true, shifted, true, near))))
    assert "MAE 2,721 meV" in found
    assert "R^2 = 0.9920" in found  # 1 - 4 * 0.01 / 5
    assert "MAE 0.272 meV" in found
    assert r"R^2 = 1 - 8.0 \times 10^{-11}" in found


def test_elements_of_atoms_without_pairs(tmp_path):
    one = np.array([1.0, 2.0])
    none = np.empty(0)
    check_png(elements_figure(MatrixElements(one, one, none, none)), tmp_path, (1200, 800))


def test_complex_elements_are_drawn_by_their_real_parts(tmp_path):
    true = np.array([0.0, 1.0, 2.0, 3.0], dtype=complex)
    wrong = true + 1j * np.array([0.1, -0.1, 0.1, -0.1])
    figure = elements_figure(MatrixElements(true, wrong, true, wrong, "eV"))
    check_png(figure, tmp_path, (1200, 800))
    found = texts(figure)
    assert {"real part, true (eV)", "predicted (eV)", "error (meV)"} <= set(found)
    # The imaginary parts are not drawn, but enter MAE and R^2.
    assert "MAE 100 meV" in " ".join(found)
    assert "R^2 = 0.9920" in " ".join(found)


def test_hamiltonian_of_a_crystal_with_spin(rng, tmp_path):
    basis = OrbitalBasis.openmx({"Mo": "s2p1d1", "S": "s1p1"}, spinful=True)
    numbers, n = np.array([42, 16]), 28
    true = symmetric(rng, n, 1.0) + 1j * symmetric(rng, n, 1.0)
    predicted = true + 0.003 + 0.004j
    for matrix in (true, predicted):
        matrix[:20, 20:] = matrix[20:, :20] = np.nan
    figure = hamiltonian_figure(numbers, true, predicted, basis, "cell")
    check_png(figure, tmp_path, (1500, 600))
    assert figure._suptitle.get_text() == "cell, MoS: MAE 5.00 meV"
    assert [ax.get_title() for ax in figure.axes[:2]] == ["true Re $H$", "predicted Re $H$"]
    assert "eV" in [ax.get_xlabel() for ax in figure.axes]
    thin = [lines for lines in figure.axes[0].collections if lines.get_linewidth()[0] < 0.5]
    # Mo: s, s, p, d for spin up, then for spin down; S: s, p twice.
    assert [segment[0][0] for segment in thin[0].get_segments()] == [1, 2, 5, 10, 11, 12, 15, 21, 24, 25]


def block_table(values):
    return BlockMAE(("1s", "1p"), ("1s", "1p"), np.array(values, dtype=float))


def test_block_errors(tmp_path):
    tables = {label: block_table([[1.25, 20], [np.nan, 3]]) for label in ARMS.values()}
    figure = block_mae_figure(tables, "QD")
    check_png(figure, tmp_path, (1500, 400))
    found = texts(figure)
    assert found.count("1.25") == 4
    assert "nan" not in found
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert [image.get_clim() for image in images] == [(0, 20)] * 4


@pytest.mark.parametrize("shells", [4, 5, 7, 14, 26])
def test_block_errors_of_many_shells_stay_readable(rng, tmp_path, shells):
    names = tuple(f"{i + 1}s+" for i in range(shells))
    tables = {label: BlockMAE(names, names, rng.uniform(0.1, 99, (shells, shells))) for label in ARMS}
    figure = block_mae_figure(tables, "BG (nt)")
    width, height = figure.get_size_inches()
    assert width <= 20
    assert height <= 12
    figure.draw_without_rendering()
    ax = figure.axes[0]
    if shells == 26:
        assert not ax.texts  # too small to read
        return
    cell = ax.get_window_extent().width / shells
    assert max(text.get_window_extent().width for text in ax.texts) < cell
    assert min(text.get_fontsize() for text in ax.texts) >= 6
    check_png(figure, tmp_path, (1500, 500))


def test_block_errors_of_many_arms_stay_in_bounds(rng):
    names = tuple(f"{i + 1}s" for i in range(14))
    tables = {str(i): BlockMAE(names, names, rng.uniform(0.1, 99, (14, 14))) for i in range(9)}
    width, height = block_mae_figure(tables, "BG").get_size_inches()
    assert width <= 20
    assert height <= 12


def test_block_errors_are_read_and_averaged(tmp_path):
    path = tmp_path / "block_mae.csv"
    path.write_text("shell,1s,1p\n1s,1.5,2\n1p,,4\n")
    table = read_block_mae(path)
    assert (table.rows, table.columns) == (("1s", "1p"), ("1s", "1p"))
    np.testing.assert_array_equal(table.values, [[1.5, 2], [np.nan, 4]])
    mean = mean_block_mae([block_table([[1, 2], [3, 4]]), block_table([[3, 4], [5, 6]])])
    np.testing.assert_array_equal(mean.values, [[2, 3], [4, 5]])
    with pytest.raises(TraceGradError, match="different shells"):
        mean_block_mae([table, BlockMAE(("1s",), ("1s",), np.ones((1, 1)))])


@pytest.mark.parametrize("text", ["", "shell,1s\n", "shell,1s,1p\n1s,1\n", "shell,1s\n1s,x\n"])
def test_damaged_block_errors_are_named(tmp_path, text):
    path = tmp_path / "block_mae.csv"
    path.write_text(text)
    with pytest.raises(TraceGradError, match=r"block_mae\.csv: not a readable table"):
        read_block_mae(path)


def test_ablation(tmp_path):
    keys = ("test/h_mae", "test/h_mae_diag", "test/h_mae_nondiag")
    values = {arm: dict.fromkeys(keys, (4.0 - i, 5.0 - i)) for i, arm in enumerate(ARMS)}
    names = dict(zip(keys, ("all", "diag", "nondiag"), strict=True))
    figure = ablation_figure(values, ARMS, names, dict.fromkeys(keys, 123.4), "QD")
    check_png(figure, tmp_path, (1500, 600))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [4.5, 3.5, 2.5, 1.5]
    assert all("trivial predictor: 123.4 meV" in ax.get_title() for ax in figure.axes)
    assert "QHNet+TraceGrad" in texts(figure)
    assert "no spread" not in figure._supxlabel.get_text()


def test_ablation_of_one_seed_and_of_a_diverged_run(tmp_path):
    values = {"tracegrad": {"test/h_mae": (1.5,)}, "none": {"test/h_mae": (np.nan,)}}
    figure = ablation_figure(values, ARMS, {"test/h_mae": "MAE"})
    check_png(figure, tmp_path, (800, 600))
    assert figure._supxlabel.get_text() == "one seed an arm: no spread"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["QHNet", "QHNet+TraceGrad"]
    with pytest.raises(TraceGradError, match="at least one arm"):
        ablation_figure({}, ARMS, {"test/h_mae": "MAE"})
    with pytest.raises(TraceGradError, match="one metric"):
        ablation_figure(values, ARMS, {})


@pytest.mark.parametrize(
    ("panels", "shape"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (5, (2, 3)), (6, (2, 3))]
)
def test_ablation_panels(panels, shape):
    metrics = {f"m{i}": f"metric {i}" for i in range(panels)}
    figure = ablation_figure({arm: dict.fromkeys(metrics, (1.0,)) for arm in ARMS}, ARMS, metrics)
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == list(metrics.values())


METRICS = """epoch,step,train/loss,train/loss_h,lr,val/h_mae
0,9,1.0,0.8,1e-3,
0,19,0.5,0.4,5e-4,
0,19,,,,30.0
1,29,9.0,9.0,2e-4,
0,29,0.25,0.2,2e-4,
0,39,,,,20.0
"""


def test_metrics_are_read_from_sparse_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    curves = read_metrics(path)
    assert set(curves) == {"train/loss", "train/loss_h", "lr", "val/h_mae"}
    np.testing.assert_array_equal(curves["train/loss"], [[9, 19, 29], [1.0, 0.5, 0.25]])
    np.testing.assert_array_equal(curves["val/h_mae"], [[19, 39], [30, 20]])


@pytest.mark.parametrize("text", ["", "epoch,loss\n0,1\n", "step,loss\n0,x\n", "step,loss\n,1\n"])
def test_damaged_metrics_are_named(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(TraceGradError, match=r"metrics\.csv: "):
        read_metrics(path)


def run(rng, arm, seed, steps=600, level=1.0):
    step = np.arange(0.0, steps, 2)
    loss = level * np.exp(-step / 300 + 0.2 * rng.standard_normal(len(step)))
    curves = {"train/loss": (step, loss), "train/loss_h": (step, loss), "lr": (step, 1e-3 - 1e-6 * step)}
    if "trace" in arm:
        curves["train/loss_t"] = (step, loss * 30)
    for i, name in enumerate(("val/h_mae", "val/h_mae_diag", "val/h_mae_nondiag")):
        curves[name] = (step[::20], 100 * (i + 1) * loss[::20])
    return RunCurves(curves, arm, ARMS[arm], seed)


def test_learning_curves_of_one_run(rng, tmp_path):
    figure = learning_curves([run(rng, "tracegrad", 0)], "one run")
    check_png(figure, tmp_path, (1200, 700))
    assert [line.get_label() for line in figure.axes[0].lines] == ["total", "H part", "trace part"]
    assert all(ax.get_yscale() == "log" for ax in figure.axes[:2])
    assert figure.axes[2].get_ylabel() == "learning rate"


def test_learning_curves_of_several_runs(rng, tmp_path):
    figure = learning_curves([run(rng, arm, seed) for arm in ARMS for seed in (0, 1)])
    check_png(figure, tmp_path, (1500, 700))
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() > 1]
    assert [line.get_color() for line in thick] == [ARM_COLOURS[arm] for arm in ARMS]
    assert len(figure.axes[0].lines) == len(figure.axes[0].collections) == 4  # means and bands
    assert len(figure.axes[3].lines) == 1  # the same schedule is drawn once


def test_the_line_of_an_arm_is_the_mean_of_its_seeds():
    steps = np.array([0.0, 10, 20])
    runs = [
        RunCurves({"val/h_mae": (steps, np.array(values))}, "none") for values in ([1.0, 4, 4], [4.0, 1, 9])
    ]
    ax = learning_curves(runs).axes[1]
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), [2, 2, 6])
    # exp of the sample standard deviation of the logarithms: |log a - log b| / sqrt(2)
    factors = np.exp(np.log([4, 4, 9 / 4]) / np.sqrt(2))
    (path,) = ax.collections[0].get_paths()
    for step, middle, factor in zip(steps, [2, 2, 6], factors, strict=True):
        heights = path.vertices[path.vertices[:, 0] == step, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [middle / factor, middle * factor])


@pytest.mark.parametrize("shells", [2, 14])
def test_block_changes(rng, tmp_path, shells):
    names = tuple(f"{i}s" for i in range(shells))
    before = rng.uniform(1, 2, (shells, shells))
    before[0, 1] = np.nan
    after = 0.7 * before
    after[1, 0] = 2 * before[1, 0]
    change = BlockChange(
        "MG", "DeepH-E3", BlockMAE(names, names, before), "+TraceGrad", BlockMAE(names, names, after)
    )
    figure = block_change_figure([change, change])
    check_png(figure, tmp_path, (1200, 700))
    found = texts(figure)
    blocks = shells**2 - 1
    assert found.count("-30") == 2 * (blocks - 1)
    assert found.count("+100") == 2
    assert found.count(f"change, 1 of {blocks} blocks worse") == 2
    assert "MG: DeepH-E3" in found
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert images[0].get_clim() == images[1].get_clim() == (0, np.nanmax([before, after]))
    other = BlockChange(
        "MG", "a", block_table([[1, 2], [3, 4]]), "b", BlockMAE(("1s",), ("1s",), np.ones((1, 1)))
    )
    with pytest.raises(TraceGradError, match="different shells"):
        block_change_figure([other])


def test_learning_curves_without_a_validation_or_with_nan(tmp_path):
    steps = np.array([0.0, 1.0, 2.0])
    curves = {"train/loss": (steps, np.array([1.0, np.nan, 0.5]))}
    check_png(learning_curves([RunCurves(curves)]), tmp_path, (1200, 700))
    with pytest.raises(TraceGradError, match="at least one run"):
        learning_curves([])


def test_learning_curves_of_runs_that_diverged_at_once(tmp_path):
    steps = np.array([0.0, 1.0, 2.0])
    curves = {"train/loss_h": (steps, steps + 1.0), "val/h_mae": (steps, np.full(3, np.nan))}
    for count in (1, 2):
        figure = learning_curves([RunCurves(curves, "grad", "QHNet+Grad", seed) for seed in range(count)])
        check_png(figure, tmp_path, (1200, 700))
        assert "no finite value" in texts(figure)
