"""Reads .xyz and .extxyz files strictly: no line is skipped, and every error names its line.

The numbers are bitwise those that `ase.io` reads.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.comment import charge_and_multiplicity, other_unit, pairs, statements_in
from tracegrad.physics.geometry_files.frame import Frame, Statement
from tracegrad.physics.geometry_files.values import atomic_number, number, numbers_of

_SPECIES = {"species", "symbol", "symbols", "element", "elements"}
_NUMBERS = {"z", "numbers", "atomicnumbers"}
_POSITIONS = {"pos", "position", "positions"}
_CELLS = {"cell", "box", "unitcell", "cellvectors", "latticevectors", "cellparameters", "cellpar", "tv"}
_TRUTH = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
# Numbers of further columns that molecular dynamics programs write into plain xyz files: velocities, forces or both.
_VECTORS = (3, 6)


@dataclass(frozen=True)
class _Column:
    """A property of the atoms: its name in the file, its kind (R, I, S or L), and its words in a line."""

    name: str
    kind: str
    part: slice

    @property
    def plain(self) -> str:
        """The name in lower case without blanks and signs."""
        return re.sub(r"[\W_]", "", self.name).lower()


def read_xyz(path: Path, text: str) -> list[Frame]:
    """All frames of a file with the content ``text``; ``path`` is named in messages.

    Raises:
        DataError: a line belongs to no frame, or is damaged or ambiguous.
    """
    return _Reader(path, re.split(r"\r\n|\r|\n", text)).frames()


class _Reader:
    """Parses the lines of one file; line numbers in arguments count from 0, those in messages from 1."""

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path, self.lines = path, lines

    def frames(self) -> list[Frame]:
        starts: list[int] = []
        frames: list[Frame] = []
        line = 0
        while line < len(self.lines):
            if not self.lines[line].strip():
                line += 1  # between frames
                continue
            starts.append(line)
            count = self.count(line, starts)
            frames.append(self.frame(line, count))
            line += 2 + count
        if len(frames) == 1:
            return frames
        return [
            Frame(frame.atoms, f"{self.path}, frame {index}", frame.statements, frame.pbc)
            for index, frame in enumerate(frames)
        ]

    def error(self, line: int, message: str) -> DataError:
        """The error of a line, to be raised."""
        return DataError(f"{self.path}, line {line + 1}: {message}")

    def shown(self, line: int) -> str:
        """The beginning of a line, in quotation marks, for messages."""
        text = self.lines[line].strip()
        return repr(text if len(text) <= 40 else f"{text[:37]}...")

    def count(self, line: int, starts: Sequence[int]) -> int:
        """The number of atoms in the first line of a frame; ``starts`` are the first lines of the frames so far."""
        words = self.lines[line].split()
        if len(words) == 1 and words[0].isascii() and words[0].isdigit() and int(words[0]) > 0:
            return int(words[0])
        if len(starts) == 1:
            raise self.error(
                line,
                f"{self.shown(line)} is no number of atoms; an xyz file has only this number in its first line, a "
                "comment in the second, then a line for each atom",
            )
        before = starts[-2]
        raise self.error(
            line,
            f"{self.shown(line)} follows the {self.lines[before].strip()} atoms that line {before + 1} says; correct "
            "that number, or remove what follows the atoms",
        )

    def frame(self, start: int, count: int) -> Frame:
        at = start + 1
        comment = self.lines[at] if at < len(self.lines) else ""
        if self.is_atom(comment):
            raise self.error(
                at,
                f"{self.shown(at)} is an atom where the comment stands; put a line, perhaps empty, before it",
            )
        unit = other_unit(comment)
        if unit is not None:
            raise self.error(
                at,
                f"the unit of length is {unit!r}; convert the coordinates to angstrom and correct the comment",
            )
        known = self.known_pairs(at, comment)
        lattice = self.lattice(at, known)
        flags, how = self.periodicity(at, known, lattice is not None)
        columns = self.columns(at, known.get("properties"))
        rows = self.rows(start, count, columns)
        elements, positions = self.elements(at + 1, rows, columns), self.positions(at + 1, rows, columns)
        atoms = Atoms(elements, positions, cell=lattice, pbc=flags)
        place = f"{self.path}, line {at + 1}"
        statements = [Statement(place, key, value) for key, value in statements_in(comment)]
        for key, value in zip(
            ("charge", "multiplicity"), charge_and_multiplicity(comment) or (), strict=False
        ):
            reading = f"{place} ({comment.strip()!r} reads as charge and multiplicity)"
            statements.append(Statement(reading, key, value))
        for column in columns or ():
            if column.kind != "L" and column.plain not in _SPECIES | _NUMBERS | _POSITIONS:
                values = " ".join(word for row in rows for word in row[column.part])
                statements.append(Statement(place, column.name, values, column=True))
        return Frame(atoms, str(self.path), statements, how)

    def is_atom(self, text: str) -> bool:
        """Whether a comment looks like the line of an atom: an element and three numbers with a decimal point."""
        words = text.split()
        if len(words) != 4 or None in map(number, words[1:]) or "." not in text:
            return False
        try:
            atomic_number(words[0])
        except ValueError:
            return False
        return True

    def known_pairs(self, at: int, comment: str) -> dict[str, str]:
        """The values of Lattice, pbc and Properties in a comment line, as far as they are there."""
        known: dict[str, str] = {}
        for key, value in pairs(comment):
            name = re.sub(r"[\W_]", "", key).lower()
            if name in _CELLS:
                raise self.error(
                    at,
                    f'{key}= is not read; write the lattice vectors (angstrom) as Lattice="ax ay az bx ..."',
                )
            if name in ("lattice", "pbc", "properties"):
                if name in known:
                    raise self.error(at, f"{key}= occurs twice; remove one")
                known[name] = value
        return known

    def lattice(self, at: int, known: dict[str, str]) -> np.ndarray | None:
        """The lattice vectors (rows)."""
        if "lattice" not in known:
            return None
        values = numbers_of(known["lattice"])
        if values is None or len(values) != 9:
            text = known["lattice"]
            raise self.error(at, f'Lattice="{text}" is not nine numbers (three vectors, angstrom)')
        return values.reshape(3, 3)

    def periodicity(self, at: int, known: dict[str, str], lattice: bool) -> tuple[list[bool], str]:
        """The flags pbc, and the words of the file that state them; ``lattice``: whether there is one."""
        if "pbc" not in known:  # by the definition of the format
            return [lattice] * 3, "Lattice without pbc" if lattice else ""
        text = known["pbc"]
        flags = [_TRUTH.get(word.lower()) for word in re.split(r"[\s,]+", text.strip(" \t[]()"))]
        if len(flags) not in (1, 3) or None in flags:
            raise self.error(
                at, f'pbc="{text}" is not understood; write pbc="T T T", or F where it is not periodic'
            )
        return [bool(flag) for flag in flags] * (3 // len(flags)), f'pbc="{text}"'

    def columns(self, at: int, properties: str | None) -> list[_Column] | None:
        """The columns of Properties=species:S:1:pos:R:3; None for a plain file."""
        if properties is None:
            return None
        fields = properties.split(":")
        columns: list[_Column] = []
        start = 0
        for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
            if kind not in tuple("RISL") or not width.isdigit() or int(width) < 1:
                break
            columns.append(_Column(name, kind, slice(start, start + int(width))))
            start += int(width)
        sizes = {column.plain: column.part.stop - column.part.start for column in columns}
        species = [size for name, size in sizes.items() if name in _SPECIES | _NUMBERS]
        positions = [size for name, size in sizes.items() if name in _POSITIONS]
        each_once = 3 * len(columns) == len(fields) and len(sizes) == len(columns)
        if not each_once or not species or max(species) > 1 or positions != [3]:
            raise self.error(
                at,
                f"Properties={properties} is not understood; name each column once with kind and width, and species "
                "and pos among them, such as Properties=species:S:1:pos:R:3:forces:R:3",
            )
        return columns

    def rows(self, start: int, count: int, columns: list[_Column] | None) -> list[list[str]]:
        """The words of the lines of atoms, after a check of their number."""
        first = start + 2
        rows: list[list[str]] = []
        for line in range(first, first + count):
            words = self.lines[line].split() if line < len(self.lines) else []
            if not words or (len(words) == 1 and words[0].isdigit()):
                reason = f"line {start + 1} says {count} atoms, of which {len(rows)} stand before"
                if any(text.strip() for text in self.lines[line:]):
                    raise self.error(
                        line, f"no atom, but {reason}; correct that number, or remove what is no atom"
                    )
                raise self.error(
                    len(self.lines) - 1,
                    f"the file ends, but {reason}; correct that number, or add the others",
                )
            width = columns[-1].part.stop if columns else len(rows[0]) if rows else len(words)
            if columns is None:
                self.check_plain(line, words, width)
            elif len(words) != width:
                raise self.error(
                    line, f"has {len(words)} columns, but Properties in line {start + 2} names {width}"
                )
            rows.append(words)
        return rows

    def check_plain(self, line: int, words: list[str], width: int) -> None:
        """Check the columns of an atom in a plain file; ``width`` is the number of columns of the first atom."""
        further = len(words) - 4
        if further < 0:
            raise self.error(
                line, f"{self.shown(line)} is no atom; write its element and x, y, z in angstrom"
            )
        if len(words) != width:
            raise self.error(line, f"has {len(words)} columns, but the line above has {width}")
        numeric = None not in map(number, words[4:])
        if further and not (numeric and further in _VECTORS):
            raise self.error(
                line,
                f"has {len(words)} columns, but element, x, y and z are 4; remove the others, or name them in the "
                "comment line, such as Properties=species:S:1:pos:R:3:charge:R:1",
            )

    def elements(self, first: int, rows: list[list[str]], columns: list[_Column] | None) -> np.ndarray:
        places = [0] if columns is None else [c.part.start for c in columns if c.plain in _SPECIES | _NUMBERS]
        known: dict[str, int] = {}
        numbers = np.zeros(len(rows), dtype=np.int64)
        for index, row in enumerate(rows):
            for place in places:
                symbol = row[place]
                if symbol not in known:
                    try:
                        known[symbol] = atomic_number(symbol)
                    except ValueError as error:
                        raise self.error(first + index, str(error)) from None
                if place != places[0] and known[symbol] != numbers[index]:
                    raise self.error(
                        first + index, f"the columns of elements differ: {row[places[0]]} and {symbol}"
                    )
                numbers[index] = known[symbol]
        return numbers

    def positions(self, first: int, rows: list[list[str]], columns: list[_Column] | None) -> np.ndarray:
        part = slice(1, 4) if columns is None else next(c.part for c in columns if c.plain in _POSITIONS)
        positions = np.empty((len(rows), 3))
        for index, row in enumerate(rows):
            for axis, word in enumerate(row[part]):
                value = number(word)
                if value is None:
                    raise self.error(
                        first + index,
                        f"{word!r} is not a finite number; write x, y, z in angstrom, such as 0.5",
                    )
                positions[index, axis] = value
        return positions
