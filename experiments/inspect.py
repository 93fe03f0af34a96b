"""Print what is in a database, and write a recipe with which a training can start."""

import os
import re
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch.utils.data import Dataset

from experiments.inspecting.recipe import Recipe, crystal_recipe, molecule_recipe, settings_of
from experiments.inspecting.step_cost import StepCost, step_cost
from experiments.settings.arguments import shell_word
from experiments.settings.configuration import command, plain
from experiments.training.forecast import duration, size
from tracegrad.data.crystal_files.database import CrystalDatabase
from tracegrad.data.crystals.spins import BOTH, named_spin
from tracegrad.data.loading.datamodule import MoleculeDataset, database_path
from tracegrad.data.loading.deeph_module import CrystalDataset
from tracegrad.data.loading.molecule_formats import open_molecules
from tracegrad.data.survey.survey import Survey, survey_crystals, survey_molecules
from tracegrad.elements import SYMBOLS
from tracegrad.errors import CollinearError, ConfigError, DataError
from tracegrad.hamiltonian.basis import shells_name
from tracegrad.hamiltonian.graph import HamiltonianGraph
from tracegrad.hamiltonian.needed_irreps import needed_irreps
from tracegrad.plots.hoppings import hoppings_figure
from tracegrad.plots.style import save
from tracegrad.system.progress import ProgressDisplay
from tracegrad.system.text_files import write_json, write_text
from tracegrad.units import MEV

LIMITS = (100.0, 10.0, 1.0, 0.1)  # meV, of the distances beyond which H is smaller
_SQLITE = b"SQLite format 3\0"  # first bytes of a database of molecules


def main() -> None:
    """Inspect ``data=PATH``, which is the setting ``source`` here: ``data`` is a group of trainings."""
    sys.argv[1:] = [re.sub("^data=", "source=", word) for word in sys.argv[1:]]
    _inspect()


@command("inspect", help_without_arguments=True)
def _inspect(config: DictConfig) -> None:
    inspect_database(plain(config))


def inspect_database(values: dict[str, Any]) -> None:
    """Print the report of a database and write its files.

    Args:
        values: settings of ``conf/inspect.yaml``.

    Raises:
        ConfigError: a setting that cannot be used, or files that exist.
        DataError: the database cannot be read, or is too small for a training.
    """
    for name in ("samples", "seed"):
        if type(values[name]) is not int:
            raise ConfigError(f"{name}={values[name]} is not understood; give a whole number")
    if not isinstance(values["include"], list):
        raise ConfigError(f"include={values['include']} is not a list; give one such as ['light_*']")
    source = str(values["source"])
    path = database_path(source)
    with ProgressDisplay("structures") as progress:
        bar = progress.bar("reading")
        dataset: Dataset[HamiltonianGraph]
        if _is_sqlite(path):
            molecules = open_molecules(path)
            survey = survey_molecules(molecules, values["samples"], values["seed"], bar)
            dataset = MoleculeDataset(molecules, survey.rows, survey.basis)
            make_recipe = partial(molecule_recipe, source, molecules, survey)
        else:
            crystals = _crystals(path, values["include"])
            survey = survey_crystals(crystals, values["samples"], values["seed"], bar)
            dataset = CrystalDataset(crystals, survey.rows, survey.basis)
            make_recipe = partial(crystal_recipe, source, path, survey, values["include"])
    print("\n".join(_report(path, survey)))
    recipe = make_recipe()
    output = None if values["output"] is None else Path(str(values["output"]))
    if output is not None:
        _check_free(output, recipe, overwrite=values["overwrite"])
    print(f"start, recipe {recipe.name}")
    for title, text in recipe.lines:
        print(f"  {title:<11} {text}")
    with tempfile.TemporaryDirectory() as folder:
        recipe.write(Path(folder))
        config = settings_of(recipe, Path(folder))
    cost = None
    if values["seconds"] > 0:
        batches = _batches(dataset, survey, config.data.batch_size)
        cost = step_cost(config, batches, values["seconds"])
        print(f"  step        {_cost_line(cost, config.data.batch_size)}")
    if output is not None:
        _write(output, recipe, survey, cost, path)
        print(f"wrote {output}: {', '.join(_files(recipe))}. Train with")
        print(f"  tracegrad train --config-dir {shell_word(str(output))} experiment={recipe.name}")


def _crystals(path: Path, include: list[str]) -> CrystalDatabase:
    """The database, with both spins if its calculations are collinear, or its structures NAME_up and NAME_down."""
    database = CrystalDatabase(path, include=include)
    try:
        one_spin = not database.spinful and all(named_spin(name)[1] for name in database.names)
    except CollinearError:
        return CrystalDatabase(path, include=include, spin=BOTH)
    if not one_spin or len({named_spin(name)[1] for name in database.names}) == 1:
        return database
    return CrystalDatabase(path, include=include, spin=BOTH)


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False  # a folder, or an error that the reader of crystals names


def _report(path: Path, survey: Survey) -> list[str]:
    basis, reach, mev = survey.basis, survey.reach, MEV[survey.basis.unit]
    atoms, edges = survey.atoms, survey.edges
    what = ("crystal" if basis.periodic else "molecule") + "s" * (len(atoms) > 1)
    shells = ", ".join(f"{SYMBOLS[z]} {shells_name(basis.shells[z])}" for z in basis.elements)
    needed = needed_irreps(basis)
    label = 4 * survey.padded  # float32
    mean = edges.sum() / atoms[survey.rows].sum()
    below = [(limit, reach.distance_below(limit / mev)) for limit in LIMITS]
    falls = [
        f"{limit:g} meV from {distance:.2f} A on" for limit, distance in below if distance <= reach.longest
    ]
    spin = " with spin-orbit coupling" if basis.spinful else ""
    if basis.collinear:
        spin = f", both spins of {len(atoms) // 2:,} collinear calculations"
    return [
        f"{path}: {len(atoms):,} {what} of {_range(atoms)} atoms, {shells}{spin}; read: {len(survey.rows)}",
        f"  blocks      {len(basis.union) ** 2} basic ones, {basis.dim} x {basis.dim} numbers for a pair of atoms",
        f"  irreps      {needed}",
        f"              highest degree {needed.lmax}; a network must reach all of them",
        f"  pairs       {_range(edges)} with a block in a structure, on-site ones included; {mean:.0f} an atom",
        f"  labels      {size(label.min())} to {size(label.max())} a structure in float32, about "
        f"{size(float(label.sum()) / atoms[survey.rows].sum() * atoms.sum())} all",
        f"  reach       the farthest pair with a block is {reach.longest:.2f} A apart; |H| between two atoms is",
        f"              {'below ' + ', '.join(falls) if falls else f'{LIMITS[0]:g} meV or more up to there'}",
    ]


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _batches(
    dataset: Dataset[HamiltonianGraph], survey: Survey, batch_size: int
) -> list[list[HamiltonianGraph]]:
    """Batches of ascending size: the smallest structure, and then the largest ones, up to the size of the batch."""
    order = np.argsort(survey.edges, kind="stable")[::-1]
    graphs = [dataset[int(row)] for row in np.resize(order, batch_size)]
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size < batch_size]
    return [[dataset[int(order[-1])]], *(graphs[:size] for size in [*sizes, batch_size])]


def _cost_line(cost: StepCost, batch: int) -> str:
    how = "measured" if cost.tried else "estimated from smaller batches"
    structures = "the largest structure" if batch == 1 else f"the {batch} largest structures"
    return (
        f"{duration(cost.seconds)}, {size(cost.bytes)} of memory for {structures}, {how} on {cost.device}; "
        f"{cost.parameters:,} parameters"
    )


def _files(recipe: Recipe) -> list[str]:
    return [f"experiment/{recipe.name}.yaml", "hoppings.png", "inspect.json"]


def _check_free(output: Path, recipe: Recipe, *, overwrite: bool) -> None:
    if os.path.lexists(output) and not output.is_dir():
        raise DataError(f"{output}: exists and is no folder; choose another output")
    for name in _files(recipe):
        if (output / name).exists() and not overwrite:
            raise DataError(f"{output / name}: exists; choose another output or set overwrite=true")


def _write(output: Path, recipe: Recipe, survey: Survey, cost: StepCost | None, path: Path) -> None:
    files = [output / name for name in _files(recipe)]
    mev = MEV[survey.basis.unit]
    save(hoppings_figure(survey.reach, mev, path.stem), files[1])
    atoms, edges = survey.atoms, survey.edges
    summary = {
        "structures": len(atoms),
        "read": len(survey.rows),
        "atoms": [int(atoms.min()), int(atoms.max())],
        "shells": {SYMBOLS[z]: shells_name(survey.basis.shells[z]) for z in survey.basis.elements},
        "spinful": survey.basis.spinful,
        "collinear": survey.basis.collinear,
        "irreps": str(needed_irreps(survey.basis)),
        "pairs": [int(edges.min()), int(edges.max())],
        "matrix_elements": [int(survey.numbers.min()), int(survey.numbers.max())],
        "longest_pair_angstrom": survey.reach.longest,
        "below_meV_from_angstrom": {f"{x:g}": survey.reach.distance_below(x / mev) for x in LIMITS},
        "step": None if cost is None else asdict(cost),
    }
    write_json(files[2], summary)
    write_text(files[0], recipe.text)


if __name__ == "__main__":
    main()
