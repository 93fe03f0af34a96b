"""Unpacked archives in the places where a database is read from."""

import os
from collections.abc import Sequence
from pathlib import Path

from tracegrad.data.crystals.deeph import is_structure_folder
from tracegrad.errors import DataError

OTHER_FILES = "other_files"


def single_file(folder: Path, name: str) -> Path:
    """The file of a name below ``folder``.

    Raises:
        DataError: it is not there, or twice.
    """
    found = sorted(folder.rglob(name))
    if len(found) != 1:
        held = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        raise DataError(
            f"the archive holds {', '.join(held[:5]) or 'nothing'}{', ...' * (len(held) > 5)} and not "
            f"{'one ' * (len(found) > 1)}{name}; it is of another database: give the files of the record"
        )
    return found[0]


def arrange_structures(unpacked: Path, folder: Path) -> list[str]:
    """Move the structure folders below ``unpacked`` to where `CrystalDatabase` finds them.

    They become ``folder/structure``, or ``folder/group/structure`` where the archives have them in several folders;
    deeper folders are joined with an underscore. Everything else goes to ``folder/other_files``.

    Returns:
        Names of the structures.

    Raises:
        DataError: there are none, or two would get the same name.
    """
    found = _structures(unpacked)
    if not found:
        held = sorted(path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file())
        raise DataError(
            f"the archive holds {', '.join(held[:5]) or 'nothing'}{', ...' * (len(held) > 5)} and no folder of a "
            "structure (hamiltonians.h5, element.dat, ...); it is of another database: give the files of the record"
        )
    groups = [path.relative_to(unpacked).parts[:-1] for path in found]
    shared = _shared(groups)
    names: dict[str, Path] = {}
    for path, group in zip(found, groups, strict=True):
        own = [
            part
            for before, part in zip(("", *group[shared:]), group[shared:], strict=False)
            if part != before
        ]
        name = "/".join([*(["_".join(own)] if own else []), path.name])
        if name in names:
            raise DataError(f"{path} and {names[name]} would both become {name}; rename one in the archive")
        names[name] = path
    for name, path in names.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    if any(path.is_file() for path in unpacked.rglob("*")):
        unpacked.rename(folder / OTHER_FILES)
    return sorted(names)


def _shared(groups: Sequence[tuple[str, ...]]) -> int:
    """How many folders, from the top, all groups have in common."""
    levels = zip(*groups, strict=False)
    return next((depth for depth, names in enumerate(levels) if len({*names}) > 1), min(map(len, groups)))


def _structures(root: Path) -> list[Path]:
    found = []
    for place, subfolders, _ in os.walk(root):
        if is_structure_folder(place):
            found.append(Path(place))
            subfolders.clear()
    return sorted(found)
