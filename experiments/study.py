"""Train and summarise a registered comparison of arms."""

import json
import math
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.reporting.study_file import Part, Study, read_study
from experiments.settings.configuration import command, plain
from experiments.sweeps.engine import run_sweep
from experiments.sweeps.settings import ABLATE, read_settings
from tracegrad.errors import ConfigError, TrainingError
from tracegrad.reports.arms import arm_name
from tracegrad.reports.metrics_file import read_metrics
from tracegrad.reports.relative import RelativeChange, relative_change
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.reports.results import RunResult, read_result
from tracegrad.system.text_files import write_text

CURVE = "val/h_mae"
SHOWN = 5  # number of missing runs, and of numbers that are not finite, that are printed by name
WIDTH = 100  # least width of the table in characters
Runs = dict[tuple[str, str, int], RunResult]  # by part, arm and seed
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class StudyComparison:
    """Relative change of one metric from one arm to another, over the seeds that both have.

    Attributes:
        part: of the study.
        first, second: the arms.
        metric: log name.
        seeds: that both arms have.
        change: mean over seeds with its confidence interval.
    """

    part: str
    first: str
    second: str
    metric: str
    seeds: tuple[int, ...]
    change: RelativeChange


@dataclass(frozen=True)
class StudySummary:
    """All comparisons, the names of the runs that are missing, and which numbers of the others are not finite."""

    comparisons: list[StudyComparison]
    missing: list[str]
    not_finite: list[str]


@command("study")
def main(config: DictConfig) -> None:
    """Train the missing runs and write results and figures."""
    values = plain(config)
    GlobalHydra.instance().clear()  # the sweeps compose the settings of their runs with Hydra again
    study = read_study(values["study"])
    chosen = _chosen(study, values["parts"])
    runs = Path(values["runs"] or Path("runs") / study.name)
    output = Path(values["output"] or study.file.parent)
    errors, summary = [], None
    for part in chosen if values["train"] else []:
        print(f"{part.name}: {part.title}", flush=True)
        arguments = part.arguments(Path(values["databases"]))
        arguments += [f"runs={runs / part.name}", f"jobs={values['jobs']}"]
        settings = read_settings(ABLATE, arguments)
        try:
            run_sweep(settings, lambda *_: None)
        except TrainingError as error:
            errors.append(f"{part.name}: {error}")
        summary = summarise(study, runs, output)
    summary = summary or summarise(study, runs, output)
    print_comparisons(summary.comparisons, study, Console(width=max(Console().width, WIDTH)))
    if summary.missing:
        print(f"{len(summary.missing)} runs are missing: {_some(summary.missing)}")
    if summary.not_finite:
        print(f"not finite, and left out of the comparisons and figures: {_some(summary.not_finite)}")
    print(f"wrote results.json and figures into {output}")
    if errors:
        raise TrainingError("\n".join(errors))


def summarise(study: Study, runs: Path, output: Path) -> StudySummary:
    """Compare the finished runs, and write ``results.json`` and the figures into ``output``."""
    results, missing = _results(study, runs)
    comparisons = compare(study, results)
    curves = {key: _curve(result) for key, result in results.items()}
    summary = StudySummary(comparisons, missing, _not_finite(study, results, curves))
    content = {
        "format": 1,
        "study": study.name,
        "registered": study.registered,
        "comparisons": [_plain(comparison) for comparison in comparisons],
        "runs": [
            {
                "part": part,
                "arm": arm,
                "seed": seed,
                "step": result.step,
                "parameters": result.parameters,
                "metrics": {name: _finite(result.metrics.get(name)) for name in study.metrics},
                "trivial": _finite(result.trivial.get("test/h_mae")),
                "validation": [(step, _finite(value)) for step, value in curves[part, arm, seed]],
            }
            for (part, arm, seed), result in results.items()
        ],
        "missing": missing,
        "not_finite": summary.not_finite,
    }
    write_text(output / "results.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    _draw(study, comparisons, curves, output)
    return summary


def compare(study: Study, results: Runs) -> list[StudyComparison]:
    """Every comparison of the study, over the seeds for which both arms have a finite number."""
    comparisons = []
    for part in study.parts:
        for (first_part, first), (second_part, second) in part.pairs:
            ones, others = (
                {seed: result for (p, a, seed), result in results.items() if (p, a) == key}
                for key in ((first_part, first), (second_part, second))
            )
            for name, metric in study.metrics.items():
                pairs = {
                    seed: tuple(
                        metric.error(_finite(run.metrics.get(name))) for run in (ones[seed], others[seed])
                    )
                    for seed in sorted(ones.keys() & others.keys())
                }
                known = {seed: pair for seed, pair in pairs.items() if None not in pair}
                if known:
                    change = relative_change(*map(list, zip(*known.values(), strict=True)))  # type: ignore[arg-type]
                    comparisons.append(StudyComparison(part.name, first, second, name, tuple(known), change))
    return comparisons


def _draw(
    study: Study, comparisons: list[StudyComparison], curves: dict[tuple[str, str, int], Curve], output: Path
) -> None:
    # Here: matplotlib takes seconds to import.
    from tracegrad.plots.changes import ChangeRow, changes_figure
    from tracegrad.plots.mean_curves import mean_curves_figure
    from tracegrad.plots.style import save

    titles = {part.name: part.title for part in study.parts}
    rows = [
        ChangeRow(titles[c.part], study.metrics[c.metric].label, c.first, c.change)
        for c in comparisons
        if study.metrics[c.metric].drawn
    ]
    if rows:
        save(changes_figure(rows), output / "changes.png")
    drawn = {
        part.title: {
            arm: [curves[key] for key in curves if key[:2] == (part.name, arm) and curves[key]]
            for arm in part.arms
        }
        for part in study.parts
        if part.curves and any(key[0] == part.name for key in curves)
    }
    if drawn:
        save(mean_curves_figure(drawn), output / "curves.png")


def print_comparisons(comparisons: list[StudyComparison], study: Study, console: Console) -> None:
    """Print the comparisons of each part, with a section for each pair of arms."""
    titles = {part.name: part.title for part in study.parts}
    for part, of_part in groupby(comparisons, key=lambda c: c.part):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title=titles[part], title_justify="left")
        for name in ("", "seeds", "change (%)", "95 % interval", "detectable", ""):
            table.add_column(name, no_wrap=True)
        for (first, second), of_arms in groupby(of_part, key=lambda c: (c.first, c.second)):
            table.add_row(f"{arm_name(first)} - {arm_name(second)}")
            for c in of_arms:
                low, high, detectable = (c.change.low, c.change.high, c.change.detectable)
                table.add_row(
                    f"  {study.metrics[c.metric].label}",
                    str(len(c.seeds)),
                    f"{100 * c.change.mean:+.1f}",
                    "" if low is None or high is None else f"[{100 * low:+.1f}, {100 * high:+.1f}]",
                    "" if detectable is None else f"-{100 * detectable:.0f}",
                    c.change.finding,
                )
            table.add_section()
        console.print(table)


def _results(study: Study, runs: Path) -> tuple[Runs, list[str]]:
    results: Runs = {}
    missing = []
    for part in study.parts:
        for arm in part.arms:
            for seed in part.seeds:
                path = runs / part.name / f"{arm}_seed{seed}" / RESULTS
                if path.is_file():
                    results[part.name, arm, seed] = read_result(path)
                else:
                    missing.append(f"{part.name}/{arm}_seed{seed}")
    return results, missing


def _not_finite(study: Study, results: Runs, curves: dict[tuple[str, str, int], Curve]) -> list[str]:
    """The numbers of tests and validations that are not finite, such as "water/none_seed3: test/h_mae"."""
    lines = []
    for key, result in results.items():
        part, arm, seed = key
        names = [name for name in study.metrics if not math.isfinite(result.metrics.get(name, 0.0))]
        names += [f"{CURVE} at step {step}" for step, value in curves[key] if not math.isfinite(value)][:1]
        lines += [f"{part}/{arm}_seed{seed}: {name}" for name in names]
    return lines


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} others" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _curve(result: RunResult) -> Curve:
    """Pairs of step and validation MAE (meV)."""
    steps, values = read_metrics(result.directory / "metrics.csv").get(CURVE, ([], []))
    return [(int(step), round(float(value), 4)) for step, value in zip(steps, values, strict=True)]


def _chosen(study: Study, names: Any) -> list[Part]:
    if names is None:
        return list(study.parts)
    listed = [names] if isinstance(names, str) else list(names)
    known = {part.name: part for part in study.parts}
    unknown = sorted(set(listed) - known.keys())
    if unknown:
        raise ConfigError(
            f"parts={listed}: {study.file} has no part {unknown[0]!r}; it has {', '.join(known)}"
        )
    return [known[name] for name in listed]


def _plain(comparison: StudyComparison) -> dict[str, Any]:
    values = asdict(comparison)
    return values | values.pop("change") | {"finding": comparison.change.finding}


if __name__ == "__main__":
    main()
