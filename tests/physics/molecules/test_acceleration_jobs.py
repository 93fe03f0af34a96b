"""Many SCF runs: parallel, stored, with single failures; the choice of the molecules and the measures of a run."""

import csv
import io
import json
import os
import signal
import threading
from math import isnan

import numpy as np
import pytest

from tests.data import databases
from tests.data.conftest import golden, released  # noqa: F401
from tests.physics.molecules import scf_work
from tests.physics.molecules.scf_work import made_up_run
from tracegrad.data.loading.datamodule import database_path
from tracegrad.data.qh9.database import QH9Database
from tracegrad.errors import GenerationError
from tracegrad.physics.molecules import acceleration_store
from tracegrad.physics.molecules.acceleration import ScfRun, ScfSettings, ScfTask
from tracegrad.physics.molecules.acceleration_jobs import (
    PredictedMolecule,
    accelerations,
    chosen_rows,
    solve_all,
)
from tracegrad.physics.molecules.acceleration_results import COLUMNS, Acceleration, label_warning, summary
from tracegrad.physics.molecules.acceleration_store import ScfStore, baseline_folders, run_key
from tracegrad.units import ANGSTROM_PER_BOHR, MEV_PER_HARTREE

SETTINGS = ScfSettings("b3lyp5")
HYDROGEN = np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]])


def task(row: int, start: str = "minao") -> ScfTask:
    return ScfTask(row, *HYDROGEN, np.eye(10) * row, start)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("stable", "stable_accel50"),
        ("dynamic_100k", "dyn100k_accel50"),
        ("dynamic_300k", "dyn300k_accel50"),
    ],
)
def test_the_fifty_molecules_of_the_benchmark(released, golden, file, key):  # noqa: F811
    database = QH9Database(released[file])
    for name in ("ood", "random") if file == "stable" else ("mol", "geometry"):
        test = database.split(name)["test"]
        assert np.array_equal(chosen_rows(database, test, 50), golden[key])
    # If those are not in the test part, others are drawn.
    rest = np.setdiff1d(test, golden[key])
    assert np.array_equal(
        chosen_rows(database, rest, 7), np.random.default_rng(43).choice(rest, 7, replace=False)
    )


def test_molecules_of_other_databases(tmp_path):
    samples = [databases.random_sample([1, 9], seed) for seed in range(12)]
    database = QH9Database(databases.write_stable(tmp_path / "a.db", samples))
    rows = np.array([11, 2, 5, 3, 8])
    drawn = np.random.default_rng(43).choice([2, 3, 5, 8, 11], 3, replace=False)
    assert np.array_equal(chosen_rows(database, rows, 3), drawn)
    assert sorted(chosen_rows(database, rows, 50)) == [2, 3, 5, 8, 11]


def test_runs_are_kept_and_damaged_files_are_not_read(tmp_path):
    first, second = ScfStore([tmp_path / "a"]), ScfStore([tmp_path / "b", tmp_path / "a"])
    run = made_up_run(4, converged=False)
    assert first.load(task(0), SETTINGS) is None
    first.save(task(0), SETTINGS, run)
    found = second.load(task(0), SETTINGS)
    assert found is not None
    for name, value in vars(run).items():
        assert np.array_equal(getattr(found, name), value), name
        assert type(getattr(found, name)) is type(value), name
    (path,) = (tmp_path / "a").iterdir()
    whole = path.read_bytes()
    spoiled = bytearray(whole)
    spoiled[whole.index(run.energies.tobytes())] ^= 1
    for content in (b"", whole[:-30], bytes(spoiled), b"nonsense"):
        path.write_bytes(content)
        assert first.load(task(0), SETTINGS) is None
    with path.open("wb") as file:
        np.savez(file, energy=1.0)
    assert first.load(task(0), SETTINGS) is None
    assert ScfStore([]).load(task(0), SETTINGS) is None
    ScfStore([]).save(task(0), SETTINGS, run)


def test_a_key_holds_all_that_fixes_a_run(monkeypatch):
    base = task(1)
    moved = HYDROGEN[1] + 1e-12
    variants = [
        (base, SETTINGS),
        (base, ScfSettings("b3lyp")),
        (base, ScfSettings("b3lyp5", max_cycle=49)),
        (task(1, "1e"), SETTINGS),
        (task(2), SETTINGS),
        (ScfTask(1, HYDROGEN[0], moved, base.reference, "minao"), SETTINGS),
        (ScfTask(1, np.array([1, 9]), HYDROGEN[1], base.reference, "minao"), SETTINGS),
        (ScfTask(1, *HYDROGEN, base.reference, "prediction", np.eye(10)), SETTINGS),
        (ScfTask(1, *HYDROGEN, base.reference, "prediction", 2 * np.eye(10)), SETTINGS),
    ]
    keys = [run_key(task, settings) for task, settings in variants]
    assert (
        run_key(ScfTask(77, *HYDROGEN, base.reference, "minao"), SETTINGS) == keys[0]
    )  # the row does not enter the key
    monkeypatch.setattr(acceleration_store.importlib.metadata, "version", lambda name: "0.1")
    keys.append(run_key(base, SETTINGS))
    monkeypatch.setattr(acceleration_store, "machine", lambda gpu: "another one")
    keys.append(run_key(base, SETTINGS))
    assert len(set(keys)) == len(keys)


def test_where_baselines_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside, home = baseline_folders(tmp_path / "mine.db", "auto")
    assert beside.parent == tmp_path
    assert home.parent == tmp_path / "cache" / "tracegrad"
    assert baseline_folders(tmp_path / "mine.db", str(tmp_path / "x")) == [tmp_path / "x"]
    assert baseline_folders(tmp_path / "mine.db", None) == []
    embedded = baseline_folders(database_path("embedded:demo_dynamic.db"), "auto")
    assert [place.parent for place in embedded] == [tmp_path / "cache" / "tracegrad"]


@pytest.mark.slow
def test_real_runs_in_parallel_are_computed_once(tmp_path):
    store = ScfStore([tmp_path])
    tasks = [(task(0, start), store) for start in ("minao", "1e")]
    steps: list[tuple[int, int]] = []
    first = solve_all(tasks, SETTINGS, processes=2, on_progress=lambda *step: steps.append(step))
    assert steps == [(0, 2), (1, 2), (2, 2)]
    assert all(run.converged for run in first)
    assert first[0].energy == pytest.approx(first[1].energy, abs=1e-8)
    next(tmp_path.iterdir()).write_bytes(b"damaged")
    again = solve_all(tasks, SETTINGS, processes=2)
    kept = [np.array_equal(first[i].seconds, again[i].seconds) for i in range(2)]
    assert sorted(kept) == [False, True]  # the damaged one was computed again
    np.testing.assert_allclose(again[0].errors, first[0].errors, atol=1e-12)


@pytest.mark.slow
def test_a_task_that_fails_or_kills_its_process_does_not_stop_the_others(tmp_path):
    rows = [4, scf_work.KILLED, scf_work.FAILED, 5, 6]
    store = ScfStore([tmp_path])
    found = solve_all([(task(row), store) for row in rows], SETTINGS, processes=2, work=scf_work.unreliable)
    assert [run.cycles if isinstance(run, ScfRun) else run for run in found] == [
        4,
        "its process died (killed by SIGKILL)",
        "no such molecule",
        5,
        6,
    ]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written_costs_no_results(tmp_path):
    store = ScfStore([tmp_path / "a"])
    (tmp_path / "a").write_text("a file stands here")
    lines: list[str] = []
    tasks = [(task(row), store) for row in (4, 5)]
    found = solve_all(tasks, SETTINGS, processes=1, work=scf_work.unreliable, report=lines.append)
    assert [run.cycles for run in found] == [4, 5]
    assert len(lines) == 1
    assert "SCF runs are not saved" in lines[0]


@pytest.mark.slow
def test_a_signal_ends_the_work_and_finished_runs_are_kept(tmp_path):
    store = ScfStore([tmp_path])
    tasks = [(task(row), store) for row in (4, scf_work.SLOW)]

    def interrupt(done: int, total: int) -> None:
        if done == 1:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(GenerationError, match=r"stopped by SIGINT after 1 of 2 SCF runs; .* go on"):
        solve_all(tasks, SETTINGS, processes=1, work=scf_work.unreliable, on_progress=interrupt)
    assert store.load(task(4), SETTINGS) is not None


def molecule(row: int) -> PredictedMolecule:
    return PredictedMolecule(
        row, f"m{row}", "H2", *HYDROGEN, np.zeros((10, 10)), np.full((10, 10), 0.02), 0.25
    )


def test_molecules_with_a_failed_run_are_left_out_and_named(tmp_path):
    rows = (4, scf_work.FAILED, 5)
    results, failures = accelerations(
        [molecule(row) for row in rows],
        ("minao",),
        SETTINGS,
        ScfStore([tmp_path / "guesses"]),
        ScfStore([tmp_path / "own"]),
        processes=1,
        work=scf_work.unreliable,
    )
    assert [(result.row, result.name) for result in results] == [(4, "m4"), (5, "m5")]
    assert [result.level for result in results] == pytest.approx([0.02, 0.02])
    assert failures == [
        "row 2 (m2), SCF from prediction: no such molecule",
        "row 2 (m2), SCF from minao: no such molecule",
    ]
    # The two molecules without a failure are the same.
    assert len(list((tmp_path / "own").iterdir())) == len(list((tmp_path / "guesses").iterdir())) == 1


def acceleration(prediction, guesses, level=0.02, row=0) -> Acceleration:
    return Acceleration(row, str(row), "H2", HYDROGEN[0], level, 0.25, prediction, guesses)


def test_ratios_are_the_literal_formulas():
    result = acceleration(made_up_run(2), {"minao": made_up_run(4), "1e": made_up_run(8)})
    assert result.achieved_ratio("minao") == 2 / 4
    assert result.achieved_ratio("1e") == 2 / 8
    # Errors are 1, 0.1, 0.01, ...: cycle 2 is the first below 0.02.
    assert result.error_level_ratio("minao") == 2 / 4
    assert result.error_level_ratio("1e") == 2 / 8
    assert result.seconds_saved("minao") == pytest.approx((4 + 1.5) - (2 + 1.5) - 0.25)
    slow = acceleration(made_up_run(2), {"1e": made_up_run(8, wall_seconds=30.0)})
    assert slow.wall_seconds_saved("1e") == pytest.approx(30 - (2 + 2) - 0.25)
    assert result.energy_error(1) == pytest.approx(1.0)
    assert result.energy_error(2) == pytest.approx(0.1)
    assert result.same_state


def test_levels_that_are_never_reached_count_as_one():
    results = [
        acceleration(made_up_run(2), {"minao": made_up_run(4)}, level=1e-9),
        acceleration(made_up_run(3), {"minao": made_up_run(6)}),
    ]
    assert results[0].error_level_ratio("minao") == 1
    found = summary(results, ("minao",))
    assert found["scf_level_not_reached_minao"] == 1
    assert found["error_level_ratio_minao"] == pytest.approx((1 + 2 / 6) / 2)
    assert found["error_level_ratio_minao_std"] == pytest.approx(np.std([1, 2 / 6], ddof=1))
    assert found["achieved_ratio_minao"] == 0.5
    assert found["achieved_ratio_minao_std"] == 0
    assert found["scf_seconds_saved_minao"] == pytest.approx((1.75 + 2.75) / 2)
    assert found["scf_wall_seconds_saved_minao"] == pytest.approx((1.75 + 2.75) / 2)
    assert found["scf_energy_error_1"] == pytest.approx(MEV_PER_HARTREE)
    assert found["scf_energy_error_2"] == pytest.approx(0.1 * MEV_PER_HARTREE)
    assert found["scf_molecules"] == 2
    at_once = acceleration(made_up_run(1), {"minao": made_up_run(0)})
    assert at_once.achieved_ratio("minao") == at_once.error_level_ratio("minao") == 1


def test_same_state_needs_energy_and_density():
    guess = {"minao": made_up_run(4)}
    turned = np.eye(4, 2)[[0, 2, 1, 3]]
    same = acceleration(made_up_run(2, energy=-1 + 1e-8, occupied=np.eye(4, 2)[:, ::-1]), guess)
    assert same.same_state
    for other in (
        made_up_run(2, energy=-1 + 1e-4),
        made_up_run(2, occupied=turned),
        made_up_run(2, converged=False),
    ):
        assert not acceleration(other, guess).same_state
    found = summary([same, acceleration(made_up_run(2, converged=False), guess)], ("minao",))
    assert found["scf_same_state"] == 0.5
    assert found["scf_not_converged"] == 1


def test_energies_are_compared_with_the_lowest_converged_one():
    result = acceleration(made_up_run(2, energy=-1.0), {"minao": made_up_run(4, energy=-1.5)})
    assert result.energy_error(1) == pytest.approx(1.5)
    astray = acceleration(made_up_run(2), {"minao": made_up_run(4, energy=-9.0, converged=False)})
    assert astray.energy_error(1) == pytest.approx(1.0)


def test_errors_of_the_predicted_density():
    forces = np.arange(6.0).reshape(1, 2, 3)
    reference = made_up_run(4, energy=-1.5, direct_energies=np.array([-1.5]), forces=forces)
    predicted = made_up_run(
        2,
        energy=-1.5,
        direct_energies=np.array([-1.3, -1.45]),
        forces=np.concatenate([forces + 0.2, forces - 0.1]),
    )
    result = acceleration(predicted, {"minao": reference})
    assert result.direct_energy_error(0) == pytest.approx(0.2)
    assert [result.force_error(k) for k in (0, 1)] == pytest.approx([0.2, 0.1])
    without = acceleration(made_up_run(2, energy=-1.5), {"minao": reference})
    assert without.direct_energy_error(0) is without.force_error(0) is None
    astray = made_up_run(4, energy=-9.0, converged=False)
    assert acceleration(predicted, {"minao": astray}).force_error(0) is None
    found = summary([result, without], ("minao",))  # the mean is over those for which it was computed
    assert found["energy_mae"] == pytest.approx(0.2 * MEV_PER_HARTREE)
    per_angstrom = MEV_PER_HARTREE / ANGSTROM_PER_BOHR
    assert found["force_mae"] == pytest.approx(0.2 * per_angstrom)
    assert found["force_mae_1"] == pytest.approx(0.1 * per_angstrom)
    assert isnan(summary([without], ("minao",))["force_mae"])


def test_measures_without_labels_and_their_correlation():
    levels, residuals = [0.03, 0.01, 0.02, 0.05], [3.0, 1.0, 4.0, 9.0]
    results = [
        acceleration(
            made_up_run(
                2,
                residuals=np.array([r, -r]),
                direct_energies=np.array([r**2, 0.0]),
                forces=np.zeros((2, 2, 3)),
            ),
            {"minao": made_up_run(4)},
            level=level,
        )
        for level, r in zip(levels, residuals, strict=True)
    ]
    found = summary(results, ("minao",))
    assert found["scf_residual"] == pytest.approx(np.mean(residuals) * MEV_PER_HARTREE)
    # Ranks 3 1 2 4 and 2 1 3 4: 1 - 6 (1 + 1) / (4 (16 - 1)).
    assert found["scf_residual_correlation"] == pytest.approx(0.8)
    assert found["commutator_norm_correlation"] == pytest.approx(-0.8)
    assert found["scf_residual_energy_correlation"] == pytest.approx(1.0)
    assert isnan(summary(results[:2], ("minao",))["scf_residual_correlation"])


def test_without_molecules_there_are_counts_but_no_means():
    found = summary([], ("minao", "1e"))
    assert found["scf_molecules"] == found["scf_not_converged"] == 0
    assert isnan(found["achieved_ratio_1e"])
    one = summary([acceleration(made_up_run(2), {"minao": made_up_run(4)})], ("minao",))
    assert isnan(one["achieved_ratio_minao_std"])


def test_labels_of_another_functional_are_noticed():
    far = acceleration(made_up_run(2), {"minao": made_up_run(2), "1e": made_up_run(9)})
    near = acceleration(made_up_run(2), {"minao": made_up_run(9)})
    lost = acceleration(made_up_run(2), {"minao": made_up_run(2, converged=False)})
    assert label_warning([near, lost], "b3lyp") is None
    line = label_warning([near, far, far, lost], "b3lyp")
    assert line is not None
    assert "2 of 3 molecules differ from the labels by 1.0e-02 hartree" in line
    assert "b3lyp is not the functional" in line


def test_the_table_has_a_row_for_each_guess():
    result = acceleration(made_up_run(2), {"minao": made_up_run(4), "1e": made_up_run(8)}, level=1e-9, row=3)
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *result.table()])
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [row["guess"] for row in rows] == ["minao", "1e"]
    assert json.loads(rows[1]["achieved_ratio"]) == 0.25
    assert rows[0]["first_hit"] == ""
    assert rows[0]["row"] == "3"
    assert float(rows[0]["h_mae"]) == pytest.approx(1e-9 * MEV_PER_HARTREE)
    assert float(rows[0]["wall_seconds_guess"]) == 6
    assert float(rows[0]["seconds_guess"]) == 5.5
    assert float(rows[0]["label_error"]) == pytest.approx(1e-4 * MEV_PER_HARTREE)
    assert len(result.table()[0]) == len(COLUMNS)
