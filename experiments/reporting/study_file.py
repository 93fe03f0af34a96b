"""File of a registered study: data, arms, seeds and metrics to compare, fixed before the runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.settings.arguments import quoted
from tracegrad.errors import ConfigError
from tracegrad.reports.arms import ARM_LABELS, BASELINE

STUDIES = Path(__file__).parents[2] / "studies"
FILE = "study.yaml"
PLACE = "{databases}"
Side = tuple[str, str]  # part and arm


@dataclass(frozen=True)
class Metric:
    """A metric of the tests.

    Attributes:
        label: name in tables and figures.
        complement: whether it is a similarity s, whose error is 1 - s.
        drawn: whether it is in the figure.
    """

    label: str
    complement: bool = False
    drawn: bool = True

    def error(self, value: float | None) -> float | None:
        """The error, which a better network makes smaller, for a value of the metric."""
        return 1 - value if value is not None and self.complement else value


@dataclass(frozen=True)
class Part:
    """One database with its arms and seeds.

    Attributes:
        name: also the name of the directory of its runs.
        title: name in tables and figures.
        arms, seeds: of the runs.
        settings: arguments of every run, in which "{databases}" stands for the folder of the databases.
        pairs: comparisons of (part, arm) with (part, arm).
        curves: whether learning curves are drawn.
    """

    name: str
    title: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    pairs: tuple[tuple[Side, Side], ...]
    curves: bool = False

    def arguments(self, data: Path) -> list[str]:
        """Arguments of `experiments.ablate` for this part, without the directory of the runs."""
        settings = []
        for setting in self.settings:
            key, equals, value = setting.partition("=")
            if PLACE in value:
                value = quoted(value.replace(PLACE, str(data)))
            settings.append(key + equals + value)
        return [
            *settings,
            f"arms={','.join(self.arms)}",
            f"seeds=[{','.join(map(str, self.seeds))}]",
        ]


@dataclass(frozen=True)
class Study:
    """Content of a ``study.yaml``."""

    name: str
    file: Path
    registered: str
    metrics: Mapping[str, Metric]
    parts: tuple[Part, ...]


def read_study(name: str) -> Study:
    """Read a study.

    Args:
        name: of a folder in ``studies/``, or path of a .yaml file.

    Raises:
        ConfigError: there is no such study, or the file is not a valid study.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else STUDIES / name / FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        names = ", ".join(sorted(path.parent.name for path in STUDIES.glob(f"*/{FILE}")))
        advice = f"there are {names}" if names else "give the path of a study.yaml"  # a wheel has no studies
        raise ConfigError(f"study={name}: there is no {file}; {advice}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: not readable ({error})") from error
    try:
        metrics = {key: Metric(**entry) for key, entry in content["metrics"].items()}
        parts = tuple(_part(name, entry) for name, entry in content["parts"].items())
        study = Study(file.parent.name, file, str(content["registered"]), metrics, parts)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{file}: {type(error).__name__}: {error}; a study has registered, metrics (label, complement, drawn), "
            "and parts (title, arms, seeds, settings, compare, curves)"
        ) from error
    _check(study)
    return study


def _part(name: str, entry: dict[str, Any]) -> Part:
    unknown = entry.keys() - {"title", "arms", "seeds", "settings", "compare", "curves"}
    if unknown:
        raise ValueError(f"part {name} has the unknown key {sorted(unknown)[0]!r}")
    arms, seeds = tuple(map(str, entry["arms"])), tuple(map(int, entry["seeds"]))
    default = [[arm, BASELINE] for arm in arms if arm != BASELINE] if BASELINE in arms else []
    pairs = tuple((_side(one, name), _side(other, name)) for one, other in entry.get("compare", default))
    settings = tuple(_flat(entry["settings"]))
    return Part(name, str(entry["title"]), arms, seeds, settings, pairs, bool(entry.get("curves", False)))


def _flat(settings: Any) -> Iterator[str]:
    """The texts in nested lists of texts."""
    for entry in settings:
        if isinstance(entry, list):
            yield from _flat(entry)
        else:
            yield str(entry)


def _side(text: str, part: str) -> Side:
    """Part and arm of a text ``part/arm``, or ``arm`` for the same part."""
    owner, slash, arm = str(text).rpartition("/")
    return (owner if slash else part), arm


def _check(study: Study) -> None:
    arms = {part.name: set(part.arms) for part in study.parts}
    for part in study.parts:
        for arm in part.arms:
            if arm not in ARM_LABELS:
                raise ConfigError(
                    f"{study.file}: part {part.name}: no arm {arm!r}; choose from {list(ARM_LABELS)}"
                )
        for owner, arm in (side for pair in part.pairs for side in pair):
            if arm not in arms.get(owner, ()):
                raise ConfigError(
                    f"{study.file}: part {part.name} compares {owner}/{arm}, which is not trained"
                )
