"""A registered study: which data, arms, seeds and metrics are compared, written down before the runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.settings.arguments import quoted
from tracegrad.errors import ConfigError
from tracegrad.reports.arms import ARMS, BASELINE

STUDIES = Path(__file__).parents[2] / "studies"
FILE = "study.yaml"
PLACE = "{databases}"
Side = tuple[str, str]  # part and arm


@dataclass(frozen=True)
class Metric:
    """A metric of the tests. ``complement``: a similarity s, whose error is 1 - s. ``drawn``: in the figure."""

    label: str
    complement: bool = False
    drawn: bool = True

    def error(self, value: float | None) -> float | None:
        """What is to be small."""
        return 1 - value if value is not None and self.complement else value


@dataclass(frozen=True)
class Part:
    """One database with its arms and seeds.

    Attributes:
        name: of the directory of its runs.
        title: in tables and figures.
        arms, seeds: of the runs.
        settings: arguments of every run; "{databases}" stands for the folder of the databases.
        pairs: what is compared, as (part, arm) against (part, arm).
        curves: whether the learning curves are drawn.
    """

    name: str
    title: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    pairs: tuple[tuple[Side, Side], ...]
    curves: bool = False

    def arguments(self, data: Path) -> list[str]:
        """Command line of the sweep of this part, without its directory."""
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
    """Everything a ``study.yaml`` says."""

    name: str
    file: Path
    registered: str
    metrics: Mapping[str, Metric]
    parts: tuple[Part, ...]


def read_study(name: str) -> Study:
    """A study of ``studies/`` or of a file.

    Raises:
        ConfigError: there is none, or it is not one.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else STUDIES / name / FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        names = ", ".join(sorted(path.parent.name for path in STUDIES.glob(f"*/{FILE}")))
        raise ConfigError(f"study={name}: there is no {file}; there are {names}") from error
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
    """The texts in a list of texts and lists."""
    for entry in settings:
        if isinstance(entry, list):
            yield from _flat(entry)
        else:
            yield str(entry)


def _side(text: str, part: str) -> Side:
    """``arm`` of the same part, or ``part/arm``."""
    owner, slash, arm = str(text).rpartition("/")
    return (owner if slash else part), arm


def _check(study: Study) -> None:
    arms = {part.name: set(part.arms) for part in study.parts}
    for part in study.parts:
        for arm in part.arms:
            if arm not in ARMS:
                raise ConfigError(f"{study.file}: part {part.name}: no arm {arm!r}; choose from {list(ARMS)}")
        for owner, arm in (side for pair in part.pairs for side in pair):
            if arm not in arms.get(owner, ()):
                raise ConfigError(
                    f"{study.file}: part {part.name} compares {owner}/{arm}, which is not trained"
                )
