"""The points of a sweep: settings, and a directory whose name follows from them."""

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
class SweepPoint:
    """One run of a sweep.

    Attributes:
        name: for people, such as "grad seed 0".
        directory: of the run.
        values: of the keys of the grid.
        seed: ``seed``, with equal seeds also ``repetition``.
        overrides: all arguments of its training.
        result: file in ``directory`` that says that the run is finished; None: the run leaves none.
        length: how long the run is to be, see `length_of`; empty where none has run there before.
    """

    name: str
    directory: Path
    values: Mapping[str, Any]
    seed: Mapping[str, int]
    overrides: tuple[str, ...] = field(repr=False)
    result: str | None = None
    length: Mapping[str, Any] = field(default_factory=dict, repr=False)


def make_points(
    runs: Path,
    fixed: Sequence[str],
    grid: Mapping[str, Sequence[Any]],
    seeds: Sequence[Mapping[str, int]],
    *,
    group: str,
    result: str | None,
) -> list[SweepPoint]:
    """All points of a grid: every combination of values with the first seed, then with the second, and so on.

    Args:
        seeds: of every combination, see `SweepPoint.seed`.
        group: of the runs in W&B, unless ``fixed`` names one.
        result: file that a finished run leaves.
    """
    if not any(override.startswith("logger.wandb.group=") for override in fixed):
        fixed = [*fixed, f"logger.wandb.group={literal(group)}"]
    points = []
    for seed, combination in product(seeds, product(*grid.values())):
        values = dict(zip(grid, combination, strict=True))
        repetition = f"_rep{seed['repetition']}" if "repetition" in seed else ""
        directory = runs / f"{folder(values)}_seed{seed['seed']}{repetition}"
        overrides = [
            *fixed,
            *(f"{key}={literal(value)}" for key, value in {**values, **seed}.items()),
            f"run_dir={quoted(directory)}",
        ]
        name = " ".join([label(values), *(f"{key} {number}" for key, number in seed.items())])
        points.append(SweepPoint(name, directory, values, seed, tuple(overrides), result))
    return points


def first_point(fixed: Sequence[str], grid: Mapping[str, Sequence[Any]]) -> list[str]:
    """The arguments of a run with the first value of each key of a grid."""
    return [*fixed, *(f"{key}={literal(values[0])}" for key, values in grid.items())]


def label(values: Mapping[str, Any]) -> str:
    """Values for people: ``key=value`` in the order of the keys; of an arm only its name."""
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
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def plain_text(value: Any) -> str:
    """A value as OmegaConf writes it into a text."""
    return value if isinstance(value, str) else literal(value)


def _key(key: str) -> str:
    return "" if key == ARM else f"{key}="
