"""Runs of a registered study: read from their directories, or from the results of an earlier summary."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.reporting.study_file import Part, Study
from tracegrad.errors import ConfigError
from tracegrad.reports.metrics_file import read_metrics
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.reports.results import read_result

CURVE = "val/h_mae"
FORMAT = 1
Key = tuple[str, str, int]  # part, arm and seed


@dataclass(frozen=True)
class StudyRun:
    """What a study keeps of a run.

    Attributes:
        step: optimisation step of the checkpoint that was tested.
        parameters: of the network.
        metrics: of the test, by log name; without those that are not finite.
        trivial: MAE of H (meV) of the trivial predictor; None if it is not finite.
        curve: pairs of step and validation MAE of H (meV).
        not_finite: names of the numbers that are not finite.
    """

    step: int
    parameters: int
    metrics: Mapping[str, float]
    trivial: float | None
    curve: tuple[tuple[int, float], ...]
    not_finite: tuple[str, ...] = ()


Runs = dict[Key, StudyRun]


def run_name(key: Key) -> str:
    """Name of a run in messages and files, such as "water/none_seed0"."""
    part, arm, seed = key
    return f"{part}/{arm}_seed{seed}"


def keys_of(study: Study) -> list[Key]:
    """All runs of a study, in the order of its file."""
    return [(part.name, arm, seed) for part in study.parts for arm in part.arms for seed in part.seeds]


def read_runs(study: Study, directory: Path, recorded: Runs) -> Runs:
    """The finished runs in ``directory``, and those of ``recorded`` that are not there, in the order of the study."""
    runs = {}
    for key in keys_of(study):
        path = directory / run_name(key) / RESULTS
        if path.is_file():
            runs[key] = _read_run(study, path)
        elif key in recorded:
            runs[key] = recorded[key]
    return runs


def groups_to_train(part: Part, recorded: Runs) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """The arms and seeds of a part that are not recorded, as products: each group is one sweep."""
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for arm in part.arms:
        seeds = tuple(seed for seed in part.seeds if (part.name, arm, seed) not in recorded)
        by_seeds.setdefault(seeds, []).append(arm)
    return ((tuple(arms), seeds) for seeds, arms in by_seeds.items() if seeds)


def read_recorded(study: Study, file: Path) -> Runs:
    """The runs of a ``results.json`` that an earlier summary of the same study wrote.

    Raises:
        ConfigError: the file cannot be read, is of another study, or holds runs that the study does not have.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if (content["format"], content["study"], content["registered"]) != (
            FORMAT,
            study.name,
            study.registered,
        ):
            raise ConfigError(
                f"recorded={file}: results (format {content['format']}) of the study {content['study']} registered "
                f"{content['registered']}; {study.file} is {study.name} registered {study.registered}"
            )
        incomplete = tuple(content["not_finite"])
        runs = {}
        for entry in content["runs"]:
            key = (str(entry["part"]), str(entry["arm"]), int(entry["seed"]))
            runs[key] = _from_record(entry, tuple(_after(run_name(key), incomplete)))
    except OSError as error:
        raise ConfigError(f"recorded={file}: not readable ({error.strerror}); give a results.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"recorded={file}: no results of a study ({type(error).__name__}: {error}); give the results.json that "
            "tracegrad study wrote"
        ) from error
    unknown = runs.keys() - set(keys_of(study))
    if unknown:
        raise ConfigError(
            f"recorded={file}: {study.file} has no run {run_name(min(unknown))}; the results are of another study"
        )
    return runs


def record(study: Study, key: Key, run: StudyRun) -> dict[str, Any]:
    """A run as it stands in ``results.json``; null for what is missing or not finite."""
    part, arm, seed = key
    return {
        "part": part,
        "arm": arm,
        "seed": seed,
        "step": run.step,
        "parameters": run.parameters,
        "metrics": {name: run.metrics.get(name) for name in study.metrics},
        "trivial": run.trivial,
        "validation": [[step, _finite(value)] for step, value in run.curve],
    }


def _read_run(study: Study, path: Path) -> StudyRun:
    result = read_result(path)
    steps, values = read_metrics(path.parent / "metrics.csv").get(CURVE, ([], []))
    curve = [(int(step), round(float(value), 4)) for step, value in zip(steps, values, strict=True)]
    known = {name: result.metrics[name] for name in study.metrics if name in result.metrics}
    not_finite = [name for name, value in known.items() if not math.isfinite(value)]
    not_finite += [f"{CURVE} at step {step}" for step, value in curve if not math.isfinite(value)][:1]
    return StudyRun(
        result.step,
        result.parameters,
        {name: value for name, value in known.items() if math.isfinite(value)},
        _finite(result.trivial.get("test/h_mae")),
        tuple(curve),
        tuple(not_finite),
    )


def _from_record(entry: dict[str, Any], not_finite: tuple[str, ...]) -> StudyRun:
    trivial = entry["trivial"]
    return StudyRun(
        int(entry["step"]),
        int(entry["parameters"]),
        {str(name): float(value) for name, value in entry["metrics"].items() if value is not None},
        None if trivial is None else float(trivial),
        tuple(
            (int(step), math.nan if value is None else float(value)) for step, value in entry["validation"]
        ),
        not_finite,
    )


def _after(name: str, lines: tuple[str, ...]) -> Iterator[str]:
    return (line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: "))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
