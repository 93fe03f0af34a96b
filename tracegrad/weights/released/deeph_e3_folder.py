"""Model folders that the training of DeepH-E3 writes, read without running the code in them.

A folder holds ``best_model.pkl`` and ``model.pkl`` (of the last epoch), and in ``src`` their description:
``dataset_info.json``, ``target_blocks.json``, ``train.ini`` and a copy of the code with its default settings. Only
text and tensors are read; sizes and irreps follow from the shapes of the tensors.
"""

import json
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from configparser import Error as IniError
from pathlib import Path
from typing import Any, TypeGuard

from tracegrad.errors import CheckpointError
from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.checkpoint import read_plain
from tracegrad.weights.released.deeph_e3 import load_released_deeph_e3

WEIGHTS = "best_model.pkl"
SOURCE = "src"
DATASET, TARGETS, SETTINGS = "dataset_info.json", "target_blocks.json", "train.ini"
DEFAULTS = "deephe3_1/default_configs/train_default.ini"
# Section and key of settings that change the network, and the values with which it is `DeepHE3`.
_NEEDED = {
    ("target", "target"): ("hamiltonian",),
    ("target", "convert_net_out"): ("false", "no", "0", "off"),
    ("network", "only_ij"): ("false", "no", "0", "off"),
    ("network", "ignore_parity"): ("false", "no", "0", "off"),
    ("network", "spherical_basis_irreps"): ("",),
}


def deeph_e3_weights(source: Path) -> Path:
    """The file of the weights.

    Args:
        source: a model folder, a folder that holds one, or the file itself.

    Raises:
        CheckpointError: there are no weights, weights of several models, or no files that describe them.
    """
    if source.is_file():
        weights = source
    else:
        candidates = [source / WEIGHTS, *sorted(source.glob(f"*/{WEIGHTS}"))]
        present = [path for path in candidates if path.is_file()]
        if present[1:] and present[0].parent != source:
            names = ", ".join(path.parent.name for path in present)
            raise CheckpointError(f"{source}: holds several models of DeepH-E3 ({names}); give one of them")
        if not present:
            raise CheckpointError(
                f"{source}: holds no {WEIGHTS}, so it is no model folder of DeepH-E3; give the folder that its "
                f"training has written (for other weights than the best, the file itself, such as model.pkl)"
            )
        weights = present[0]
    missing = [
        name for name in (DATASET, TARGETS, SETTINGS) if not (weights.parent / SOURCE / name).is_file()
    ]
    if missing:
        raise CheckpointError(
            f"{weights.parent}: {SOURCE} lacks {', '.join(missing)}, which describe the weights of DeepH-E3; "
            "copy the whole folder that its training has written"
        )
    return weights


def load_deeph_e3_folder(
    source: str | Path, legacy_e3nn: bool = True, *, edge_chunk: int | None = None
) -> HamiltonianModel:
    """The network of a model folder, in evaluation mode.

    Args:
        source: as of `deeph_e3_weights`.
        legacy_e3nn, edge_chunk: as of `load_released_deeph_e3`.

    Raises:
        CheckpointError: files that are missing or damaged, objects other than tensors, or a network that is not
            `DeepHE3` or predicts only a part of H.
    """
    weights = deeph_e3_weights(Path(source))
    folder = weights.parent / SOURCE
    info, targets = (_json(folder / name) for name in (DATASET, TARGETS))
    _check_targets(info, targets, folder)
    r_max = _radial_range(folder)
    try:
        return load_released_deeph_e3(
            read_plain(weights), info, legacy_e3nn, r_max=r_max, edge_chunk=edge_chunk
        )
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); copy the folder again") from error


def _radial_range(folder: Path) -> float:
    """Range of the radial functions, angstrom; raise `CheckpointError` for settings of another network."""
    path = folder / SETTINGS
    parser = ConfigParser(inline_comment_prefixes=(";",), interpolation=None)
    try:
        parser.read([folder / DEFAULTS, path], encoding="utf-8")
        for (section, key), allowed in _NEEDED.items():
            value = parser.get(section, key, fallback=allowed[0])
            if value.lower() not in allowed:
                raise CheckpointError(
                    f"{path}: {key} of [{section}] is {value}; only networks with {allowed[0] or 'none'} can be read"
                )
        r_max = parser.getfloat("network", "cutoff_radius", fallback=7.2)  # the default of the released code
    except (OSError, ValueError, IniError) as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"{path}: not readable as settings of DeepH-E3 ({reason}); copy the folder again"
        ) from error
    if not 0 < r_max < 1e3:
        raise CheckpointError(f"{path}: cutoff_radius is {r_max}; it is a distance in angstrom")
    return r_max


def _check_targets(info: Any, targets: Any, folder: Path) -> None:
    """Raise `CheckpointError` unless the outputs of the network are all blocks of H, in the default order."""
    path = folder / DATASET
    numbers, shells = (
        info.get(key) if isinstance(info, Mapping) else None for key in ("index_to_Z", "orbital_types")
    )
    spin = isinstance(info, Mapping) and isinstance(info.get("spinful"), bool)
    if not (spin and _integers(numbers) and isinstance(shells, list) and all(map(_integers, shells))):
        raise CheckpointError(
            f"{path}: index_to_Z (atomic numbers), orbital_types (degrees of the shells of each) and spinful are "
            "needed; copy the folder again"
        )
    expected = all_targets(numbers, shells)
    if targets != expected:
        count = len(targets) if isinstance(targets, list) else 0
        raise CheckpointError(
            f"{folder / TARGETS}: the network predicts {count} targets, which are not the {len(expected)} pairs of "
            "shells that make up H; only networks with target_blocks_type = all can be read"
        )


def _integers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and bool(values) and all(type(value) is int for value in values)


def all_targets(numbers: Sequence[int], shells: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    """The default list of *targets* of DeepH-E3, the basic blocks that its network predicts.

    A target maps pairs of elements, such as "42 16", to the positions [i, j] of a pair of shells in their bases.
    Pairs of elements share a target if the shells agree in degree and in their number among the shells of this
    degree.

    Args:
        numbers: atomic numbers, ascending.
        shells: degrees of the shells of each element.
    """
    targets: dict[tuple[int, ...], dict[str, list[int]]] = {}
    elements = list(zip(numbers, shells, strict=False))
    for a, rows in elements:
        for b, columns in elements:
            for i, l1 in enumerate(rows):
                for j, l2 in enumerate(columns):
                    kind = (l1, i - rows.index(l1), l2, j - columns.index(l2))
                    targets.setdefault(kind, {})[f"{a} {b}"] = [i, j]
    return list(targets.values())
