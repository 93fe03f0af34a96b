"""Train and summarise a registered comparison of arms."""

import json
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.reporting.study_file import Part, Study, read_study
from experiments.reporting.study_runs import (
    FORMAT,
    Runs,
    groups_to_train,
    keys_of,
    read_recorded,
    read_runs,
    record,
    run_name,
)
from experiments.settings.configuration import command, plain
from experiments.sweeps.engine import run_sweep
from experiments.sweeps.settings import ABLATE, read_settings
from tracegrad.errors import ConfigError, TrainingError
from tracegrad.reports.arms import arm_name
from tracegrad.reports.relative import RelativeChange, relative_change
from tracegrad.system.text_files import write_text

SHOWN = 5  # number of missing runs, and of numbers that are not finite, that are printed by name
WIDTH = 100  # least width of the table in characters


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
    recorded = read_recorded(study, Path(values["recorded"])) if values["recorded"] else {}
    errors, summary = [], None
    for part in chosen if values["train"] else []:
        print(f"{part.name}: {part.title}", flush=True)
        for arms, seeds in groups_to_train(part, recorded):
            arguments = replace(part, arms=arms, seeds=seeds).arguments(Path(values["databases"]))
            arguments += [f"runs={runs / part.name}", f"jobs={values['jobs']}"]
            try:
                run_sweep(read_settings(ABLATE, arguments), lambda *_: None)
            except TrainingError as error:
                errors.append(f"{part.name}: {error}")
        summary = summarise(study, runs, output, recorded)
    summary = summary or summarise(study, runs, output, recorded)
    print_comparisons(summary.comparisons, study, Console(width=max(Console().width, WIDTH)))
    if summary.missing:
        print(f"{len(summary.missing)} runs are missing: {_some(summary.missing)}")
    if summary.not_finite:
        print(f"not finite, and left out of the comparisons and figures: {_some(summary.not_finite)}")
    print(f"wrote results.json and figures into {output}")
    if errors:
        raise TrainingError("\n".join(errors))


def summarise(study: Study, directory: Path, output: Path, recorded: Runs) -> StudySummary:
    """Compare the finished runs, and write ``results.json`` and the figures into ``output``."""
    runs = read_runs(study, directory, recorded)
    comparisons = compare(study, runs)
    summary = StudySummary(
        comparisons,
        missing=[run_name(key) for key in keys_of(study) if key not in runs],
        not_finite=[f"{run_name(key)}: {name}" for key, run in runs.items() for name in run.not_finite],
    )
    content = {
        "format": FORMAT,
        "study": study.name,
        "registered": study.registered,
        "comparisons": [_plain(comparison) for comparison in comparisons],
        "runs": [record(study, key, run) for key, run in runs.items()],
        "missing": summary.missing,
        "not_finite": summary.not_finite,
    }
    write_text(output / "results.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    _draw(study, comparisons, runs, output)
    return summary


def compare(study: Study, runs: Runs) -> list[StudyComparison]:
    """Every comparison of the study, over the seeds for which both arms have a finite number."""
    comparisons = []
    for part in study.parts:
        for (first_part, first), (second_part, second) in part.pairs:
            ones, others = (
                {seed: run for (p, a, seed), run in runs.items() if (p, a) == key}
                for key in ((first_part, first), (second_part, second))
            )
            for name, metric in study.metrics.items():
                pairs = {
                    seed: tuple(metric.error(run.metrics.get(name)) for run in (ones[seed], others[seed]))
                    for seed in sorted(ones.keys() & others.keys())
                }
                known = {seed: pair for seed, pair in pairs.items() if None not in pair}
                if known:
                    change = relative_change(*map(list, zip(*known.values(), strict=True)))  # type: ignore[arg-type]
                    comparisons.append(StudyComparison(part.name, first, second, name, tuple(known), change))
    return comparisons


def _draw(study: Study, comparisons: list[StudyComparison], runs: Runs, output: Path) -> None:
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
            arm: [run.curve for key, run in runs.items() if key[:2] == (part.name, arm) and run.curve]
            for arm in part.arms
        }
        for part in study.parts
        if part.curves and any(key[0] == part.name for key in runs)
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


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} others" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


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
