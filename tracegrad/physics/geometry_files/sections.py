"""Reads charges, radicals and occupancies of molfiles and PDB files, which ASE drops."""

from pathlib import Path

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.frame import Statement
from tracegrad.physics.geometry_files.values import atomic_number


def molfile_statements(path: Path, text: str) -> list[Statement]:
    """The statements on charges and radicals in an MDL molfile (.mol, .sdf).

    Raises:
        DataError: several molecules, isotopes, unknown elements, or a version other than V2000.
    """
    lines = text.splitlines()
    if len(lines) < 4 or "V3000" in lines[3]:
        raise DataError(f"{path}: not a molfile of version V2000; write the molecule as .xyz")
    end = next((n for n, line in enumerate(lines) if line.startswith("$$$$")), len(lines))
    if any(line.strip() for line in lines[end + 1 :]):
        raise DataError(
            f"{path}, line {end + 2}: a second molecule, which ASE does not read; give one, or several as .xyz"
        )
    statements = []
    count = int(lines[3][:3]) if lines[3][:3].strip().isdigit() else 0
    for n, line in enumerate(lines[4 : 4 + count], 5):
        _check_symbol((line.split() + 4 * [""])[3], f"{path}, line {n}")
        code = line[36:39].strip()
        if code not in ("", "0"):  # 1 to 3 are +3 to +1, 5 to 7 are -1 to -3, 4 is a doublet radical
            key, value = (
                ("unpaired", 1) if code == "4" else ("charge", 4 - int(code) if code.isdigit() else code)
            )
            statements.append(Statement(f"{path}, line {n}", key, value))
    charges, place = 0, ""
    for n, line in enumerate(lines[:end], 1):
        fields = line.split()
        if line.startswith("M  CHG"):
            charges += sum(int(word) for word in fields[4::2] if word.lstrip("+-").isdigit())
            place = place or f"{path}, line {n} (M  CHG)"
        if line.startswith("M  RAD"):
            statements.append(Statement(f"{path}, line {n}", "unpaired", "1"))
        if line.startswith("M  ISO"):
            raise DataError(f"{path}, line {n}: isotopes (M  ISO) have the same Hamiltonian; remove the line")
    if place:  # lines M  CHG replace all charges in the lines of the atoms
        statements = [entry for entry in statements if entry.key != "charge"] + [
            Statement(place, "charge", charges)
        ]
    else:
        values = [entry for entry in statements if entry.key == "charge"]
        if values and all(isinstance(entry.value, int) for entry in values):
            total = sum(entry.value for entry in values)
            statements = [entry for entry in statements if entry.key != "charge"]
            statements.append(Statement(values[0].place, "charge", total))
    return statements


def pdb_statements(path: Path, text: str) -> list[Statement]:
    """The sum of the formal charges in a PDB file as a statement; no statement if the file has no charges.

    Raises:
        DataError: partial occupancy, alternative positions, unknown elements, or a charge that is no charge.
    """
    charges = 0
    first = ""
    for n, line in enumerate(text.splitlines(), 1):
        if not line.startswith(("ATOM", "HETATM")):
            continue
        _check_symbol(line[76:78].strip(), f"{path}, line {n} (columns 77 and 78)")
        occupancy = line[54:60].strip()
        if line[16:17].strip() or occupancy not in ("", "1.00", "1.0", "1"):
            what = f"occupancy {occupancy}" if occupancy else f"alternative position {line[16]}"
            raise DataError(
                f"{path}, line {n}: has {what}; choose one position for every atom, with occupancy 1.00"
            )
        sign = line[78:80].strip()
        if sign:
            digits = sign.strip("+-") or "1"
            if not digits.isdigit() or sign == digits:
                raise DataError(
                    f"{path}, line {n}: columns 79 and 80 hold {sign!r}, no charge such as 1+; correct them"
                )
            charges += int(digits) * (-1 if "-" in sign else 1)
            first = first or f"{path}, line {n}"
    return [Statement(first, "charge", charges)] if first else []


def _check_symbol(symbol: str, place: str) -> None:
    try:
        if not symbol.isalpha():
            raise ValueError(f"{symbol!r} is no element; write its symbol")
        atomic_number(symbol)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None
