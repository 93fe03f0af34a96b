"""Move unpacked files to the places where a database is read from."""

import os
from collections.abc import Sequence
from pathlib import Path

from tracegrad.data.crystal_files.deeph import is_structure_folder
from tracegrad.errors import DataError

OTHER_FILES = "other_files"


def single_file(folder: Path, name: str) -> Path:
    """The only file of this name below ``folder``.

    Raises:
        DataError: there is none, or more than one.
    """
    paths = sorted(folder.rglob(name))
    if len(paths) != 1:
        raise _other_database(folder, f"not {'one ' * (len(paths) > 1)}{name}")
    return paths[0]


def arrange_structures(unpacked: Path, folder: Path) -> list[str]:
    """Move the structure folders below ``unpacked`` to where `CrystalDatabase` reads them.

    They become ``folder/structure``, or ``folder/group/structure`` where the archives have them in several folders;
    the names of nested folders are joined with an underscore. Everything else goes to ``folder/other_files``.

    Returns:
        Names of the structures.

    Raises:
        DataError: there are none, or two would get the same name.
    """
    paths = _structure_folders(unpacked)
    if not paths:
        raise _other_database(unpacked, "no folder of a structure (hamiltonians.h5, element.dat, ...)")
    parents = [path.relative_to(unpacked).parts[:-1] for path in paths]
    common = _common_depth(parents)
    names: dict[str, Path] = {}
    for path, parent in zip(paths, parents, strict=True):
        name = "/".join([*_group(parent[common:]), path.name])
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


def _group(folders: Sequence[str]) -> list[str]:
    """The name of a group from its nested folders (empty: no group), without repetitions of the one before."""
    parts = [name for before, name in zip(("", *folders), folders, strict=False) if name != before]
    return ["_".join(parts)] if parts else []


def _common_depth(parents: Sequence[tuple[str, ...]]) -> int:
    """How many folders, from the top, are the same for all."""
    levels = zip(*parents, strict=False)
    return next((depth for depth, names in enumerate(levels) if len({*names}) > 1), min(map(len, parents)))


def _structure_folders(root: Path) -> list[Path]:
    paths = []
    for place, subfolders, _ in os.walk(root):
        if is_structure_folder(place):
            paths.append(Path(place))
            subfolders.clear()
    return sorted(paths)


def _other_database(folder: Path, missing: str) -> DataError:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return DataError(
        f"the archive holds {', '.join(names[:5]) or 'nothing'}{', ...' * (len(names) > 5)} and {missing}; it is of "
        "another database: give the files of the record"
    )
