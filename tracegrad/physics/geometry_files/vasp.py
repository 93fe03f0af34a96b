"""Checks the elements and the number of atoms of a POSCAR or XDATCAR before ASE reads the file."""

from pathlib import Path

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.values import atomic_number, number


def check_vasp(path: Path, text: str, trajectory: bool) -> None:
    """Refuse unknown elements and a number of positions that differs from line 7.

    Args:
        trajectory: the file is an XDATCAR; its positions are not counted.

    Raises:
        DataError: with the line and what to write.
    """
    lines = text.splitlines()

    def words(index: int) -> list[str]:
        return lines[index].split("!")[0].split("#")[0].split() if index < len(lines) else []

    if not words(5):
        raise DataError(
            f"{path}, line 6: the symbols of the elements are missing (scale, three vectors, symbols, counts)"
        )
    if all(word.isdigit() for word in words(5)):
        raise DataError(
            f"{path}, line 6: {lines[5].strip()!r} are numbers of atoms; put a line of element symbols before it"
        )
    for symbol in words(5):
        bare = symbol.split("_")[0].split("/")[0]  # names of pseudopotentials, such as Mo_sv
        try:
            if bare.isdigit():
                raise ValueError(f"{symbol!r} is no element; write its symbol")
            atomic_number(bare)
        except ValueError as error:
            raise DataError(f"{path}, line 6: {error}") from None
    counts = words(6)
    if len(counts) != len(words(5)) or not all(word.isdigit() for word in counts):
        raise DataError(
            f"{path}, line 7: {' '.join(counts)!r} is not a number of atoms for each of {' '.join(words(5))}"
        )
    if trajectory:
        return
    total = sum(map(int, counts))
    first = 8 + (words(7)[:1] != [] and words(7)[0][0] in "sS")
    for line in range(first, first + total):
        if len(words(line)) < 3 or None in map(number, words(line)[:3]):
            raise DataError(
                f"{path}, line {line + 1}: is no position; line 7 says {total} atoms, {line - first} are there"
            )
    after = words(first + total)[:3]
    if len(after) == 3 and None not in map(number, after):
        raise DataError(
            f"{path}, line {first + total + 1}: is one position more than the {total} atoms of line 7"
        )
