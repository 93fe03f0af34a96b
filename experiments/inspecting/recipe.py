"""A recipe to start from, for a database that has been surveyed: the text of a file for the group ``experiment``."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.settings.arguments import quoted
from experiments.settings.paths import CONF
from tracegrad.data.molecules.database import MoleculeDatabase
from tracegrad.data.molecules.md17 import MD17Database
from tracegrad.data.molecules.nabladft import NablaDFTDatabase
from tracegrad.data.qh9.database import QH9Database
from tracegrad.data.splits import PARTS
from tracegrad.data.survey.survey import Survey
from tracegrad.elements import SYMBOLS
from tracegrad.errors import DataError
from tracegrad.hamiltonian.basis import QH9_ELEMENTS, shells_name

GROUP = "experiment"
# Channels of the features of DeepH-E3 by degree, as published; higher degrees take those of the highest one.
_CHANNELS = (64, 32, 16, 8, 8)
_FEW = 10  # structures; of fewer, fractions may leave a part empty
_QHNET_CUTOFF = 15.0  # angstrom, as published
_CRYSTAL_RATE = (
    "the published DeepH-E3 runs took 0.002 to 0.005; not tuned to these data: halve it if the loss jumps"
)
_MOLECULE_RATE = (
    "that of the QH9 benchmark and of the paper; not tuned to these data: halve it if the loss jumps"
)


@dataclass(frozen=True)
class Recipe:
    """A recipe and what it rests on.

    Args:
        name: of the experiment, and of the file without its ending.
        text: content of the file.
        lines: what was chosen and why, for people: pairs of a title and a text.
    """

    name: str
    text: str
    lines: list[tuple[str, str]]

    def write(self, folder: Path) -> Path:
        """Write the file into a folder of configurations that exists, and return its path."""
        path = folder / GROUP / f"{self.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text, encoding="utf-8")
        return path


def crystal_recipe(source: str, path: Path, survey: Survey, include: Sequence[str] = ("*",)) -> Recipe:
    """DeepH-E3 + TraceGrad with the degrees and the cutoff that a database of crystals needs.

    Args:
        source: the database as it was named.
        path: its path.
        survey: of the structures that ``include`` names.

    Raises:
        DataError: too few structures to divide them.
    """
    basis = survey.basis
    count = len(survey.atoms) // len(basis.channels)  # both spins of a calculation are in the same part
    _check_number(path, count)
    degree = 2 * max(basis.union)
    channels = [_CHANNELS[min(n, len(_CHANNELS) - 1)] for n in range(degree + 1)]
    irreps = "+".join(f"{count}x{n}{'oe'[n % 2 == 0]}" for n, count in enumerate(channels))
    cutoff = math.ceil(10 * survey.reach.longest) / 10
    shells = [f"{SYMBOLS[z]}-{shells_name(basis.shells[z])}" for z in basis.elements]
    kind = "\n  spinful: true" if basis.spinful else "\n  collinear: true" if basis.collinear else ""
    spin = "\n  spin: both  # NAME_up and NAME_down of each calculation" if basis.collinear else ""
    included = "" if list(include) == ["*"] else f"\n  include: {json.dumps(list(include))}"
    sizes = [0.6, 0.2, 0.2] if count >= _FEW else [count - 2, 1, 1]
    name = _name(path)
    text = f"""\
# @package _global_
# A start for {count} crystals, written by tracegrad inspect. The arm is TraceGrad; for another one set
# tracegrad=none, trace or grad.
defaults:
  - override /basis: openmx
  - override /data: deeph
  - override /model: deeph_e3
  - override /loss: deeph
  - override /optim: deeph_e3
  - override /callbacks: deeph_e3
name: {name}
seed: 42
basis:
  # With the radius of the orbitals in bohr, such as C6.0-s2p2d1, predictions find the pairs of atoms of bare cells.
  shells: [{", ".join(shells)}]{kind}
data:
  path: {_located(source, path)}{spin}{included}
  sizes: {sizes}  # train, val, test
model:
  backbone:
    # Up to twice the highest degree of the shells
    irreps: {irreps}
    lmax: {degree}
    cutoff: {cutoff}  # angstrom: the farthest pair, {survey.reach.longest:.2f}, rounded up
tracegrad:
  w: full
optim:
  schedule:
    peak: 0.003  # {_CRYSTAL_RATE}
trainer:
  max_steps: -1
  max_epochs: 3000
  gradient_clip_val: null
"""
    lines = [
        (
            "network",
            f"DeepH-E3 + TraceGrad, irreps {irreps}, lmax {degree}: twice the highest degree of the shells",
        ),
        ("cutoff", f"{cutoff} A: the farthest pair with a block, {survey.reach.longest:.2f} A, rounded up"),
        ("rate", f"0.003: {_CRYSTAL_RATE}"),
    ]
    if basis.collinear:
        lines.append(
            ("spin", "data.spin=both basis.collinear=true: one network for H of spin up and of spin down")
        )
    return Recipe(name, text, lines)


def molecule_recipe(source: str, database: MoleculeDatabase, survey: Survey) -> Recipe:
    """QHNet + TraceGrad for a database of molecules.

    Raises:
        DataError: too few molecules to divide them.
    """
    path = database.path
    _check_number(path, len(survey.atoms), 5)
    cutoff = max(_QHNET_CUTOFF, float(math.ceil(survey.reach.longest)))
    group, data = _molecule_data(database, len(survey.atoms))
    other = set(survey.basis.elements) - set(QH9_ELEMENTS)
    elements = f"\nbasis:\n  elements: {list(survey.basis.elements)}" if other else ""
    name = _name(path)
    text = f"""\
# @package _global_
# A start for {len(survey.atoms)} molecules, written by tracegrad inspect. The arm is TraceGrad; for another one set
# tracegrad=none, trace or grad.
defaults:
  - override /data: {group}
  - override /model: qhnet
  - override /loss: qh9
  - override /optim: qh9
name: {name}{elements}
data:
  path: {_located(source, path)}
{data}model:
  backbone:
    cutoff: {cutoff}  # angstrom: the farthest pair is {survey.reach.longest:.2f}
optim:
  schedule:
    peak: 5.0e-4  # {_MOLECULE_RATE}
    total_steps: 300_000
trainer:
  max_steps: 310_000
"""
    lines = [
        ("network", "QHNet + TraceGrad as in the QH9 benchmark, features up to degree 4"),
        (
            "cutoff",
            f"{cutoff} A: of the radial functions; the farthest pair has {survey.reach.longest:.2f} A",
        ),
        ("rate", f"0.0005: {_MOLECULE_RATE}"),
    ]
    return Recipe(name, text, lines)


def _molecule_data(database: MoleculeDatabase, count: int) -> tuple[str, str]:
    """The group of data settings for a database of molecules, and those of them that say how it is divided."""
    train, rest = (0.8, 0.1) if count >= 10 else (0.6, 0.2)  # of five molecules one is one fifth
    if isinstance(database, MD17Database):
        return "md17", f"  sizes: [{train}, {rest}]  # train and val; all others are tested\n"
    fractions = f"  fractions: [{train}, {rest}, {rest}]  # train, val, test\n"
    if isinstance(database, NablaDFTDatabase):
        return "nabladft", fractions
    assert isinstance(database, QH9Database)
    split = {"stable": "random", "dynamic": "geometry"}[database.flavour]
    release = database.release
    return "qh9", f"  database: {release or 'custom'}\n  split: {split}\n{'' if release else fractions}"


def settings_of(recipe: Recipe, folder: Path) -> DictConfig:
    """The settings of a training with a recipe that stands in a folder of configurations."""
    place = quoted(f"file://{folder.absolute()}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"{GROUP}={recipe.name}", f"hydra.searchpath=[{place}]"])


def _check_number(path: Path, count: int, least: int = len(PARTS)) -> None:
    if count < least:
        raise DataError(
            f"{path}: has {count} structures, and train, val and test need one each ({least} at least); give a "
            "larger database"
        )


def _name(path: Path) -> str:
    """Name of an experiment after a database, of characters that need no quotes; none of conf/experiment."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path.absolute().stem).strip("_-") or "database"
    return f"{name}_start" if (CONF / GROUP / f"{name}.yaml").exists() else name


def _located(source: str, path: Path) -> str:
    """The database in YAML; a path becomes absolute, so that the recipe works everywhere."""
    located = source if source.startswith("embedded:") else str(path.absolute())
    return yaml.safe_dump(located, width=10_000).removesuffix("\n").removesuffix("\n...")
