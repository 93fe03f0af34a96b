"""The points of a sweep: settings, and a directory that follows from them alone."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

from experiments.settings.arguments import quoted

ARM = "tracegrad"
LONGEST = 180  # bytes of the name of a directory; file systems take 255
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
KEYWORDS = {"null", "true", "false", "inf", "nan"}


@dataclass(frozen=True)
class Seeds:
    """Which seeds every combination of values is run with.

    ``repetitions`` > 0: so many runs with the same seed, as in the paper; else one run for each seed.
    """

    values: tuple[int, ...]
    repetitions: int = 0


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: for people, such as "grad seed 0".
        directory: of the run.
        values: what tells it from points with the same seed, by key.
        seed: of the run.
        overrides: all arguments of its training.
        result: file in ``directory`` that says that it is finished; None if it leaves none.
        repetition: of runs with equal seeds.
        length: how long the run is to be, see `run_length`; empty where none has run there before.
    """

    name: str
    directory: Path
    values: Mapping[str, Any]
    seed: int
    overrides: tuple[str, ...] = field(repr=False)
    result: str | None = None
    repetition: int | None = None
    length: Mapping[str, Any] = field(default_factory=dict, repr=False)


def make_points(
    runs: Path,
    fixed: Sequence[str],
    grid: Mapping[str, Sequence[Any]],
    seeds: Seeds,
    *,
    group: str,
    result: str | None,
) -> list[Point]:
    """All points of a grid, seeds slow, so that the first seeds of all are there first.

    Args:
        runs: directory of all runs.
        fixed: arguments of every run.
        grid: values of each key that varies.
        seeds: of every combination.
        group: of the runs in W&B, unless ``fixed`` names one.
        result: file that a finished run leaves.
    """
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    repetitions = range(seeds.repetitions) if seeds.repetitions else (None,)
    if not any(override.startswith("logger.wandb.group=") for override in fixed):
        fixed = [*fixed, f"logger.wandb.group={literal(group)}"]
    points = []
    for seed, repetition, values in product(seeds.values, repetitions, combinations):
        ending = "" if repetition is None else f"_rep{repetition}"
        directory = runs / (folder(values) + f"_seed{seed}{ending}")
        overrides = [*fixed, *(f"{key}={literal(value)}" for key, value in values.items())]
        overrides.append(f"seed={seed}")
        if repetition is not None:
            overrides.append(f"repetition={repetition}")
        overrides.append(f"run_dir={quoted(directory)}")
        title = f"{label(values)} seed {seed}" + ("" if repetition is None else f" repetition {repetition}")
        points.append(Point(title, directory, values, seed, tuple(overrides), result, repetition))
    return points


def first_point(fixed: Sequence[str], grid: Mapping[str, Sequence[Any]]) -> list[str]:
    """The arguments of a run with the first value of each key of a grid."""
    return [*fixed, *(f"{key}={literal(values[0])}" for key, values in grid.items())]


def label(values: Mapping[str, Any]) -> str:
    """Values for people: ``key=value`` by key; an arm is known by its value alone."""
    return " ".join(f"{_key(key)}{plain_text(value)}" for key, value in sorted(values.items()))


def folder(values: Mapping[str, Any]) -> str:
    """Values as the name of a directory: the same for the same values, whatever characters they hold."""
    name = ",".join(
        f"{_key(key)}{quote(plain_text(value), safe='+')}" for key, value in sorted(values.items())
    )
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}~{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return name


def literal(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and value.lower() not in KEYWORDS else quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(entry)}" for key, entry in value.items()) + "}"
    return plain_text(value)


def plain_text(value: Any) -> str:
    """A value as OmegaConf writes it into a text."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else literal(value) if _nested(value) else str(value)


def _nested(value: Any) -> bool:
    return isinstance(value, list | tuple | Mapping)


def _key(key: str) -> str:
    return "" if key == ARM else f"{key}="
