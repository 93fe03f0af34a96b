"""Checks the charge, spin and occupancies that a file states: only neutral closed shells are accepted."""

import re
from collections.abc import Callable

import numpy as np

from tracegrad.errors import DataError
from tracegrad.physics.geometry_files.frame import Frame, Statement
from tracegrad.physics.geometry_files.values import numbers_of

# Patterns of names in lower case without blanks and signs. Charges: charge, total_charge, netCharge, q, chrg, ...
_CHARGE = re.compile(r".*(charge|chrg|chg)s?(state|total|tot|e)?|q(tot|total|net|mol|s)?|(tot|total|net)q")
_NO_CHARGE = re.compile(r"nuclear|core|born|effective|valence|density|point|background")
_MULTIPLICITY = re.compile(r".*(multiplicity|multip)|(spin)?mult")
_SPIN = re.compile(r".*(?<![ni])spins?(state|total|tot)?|(?:total|electronic)spin")
_UNPAIRED = re.compile(r"n?uhf|(n|num|number)?(of)?unpaired(electrons)?|nopen|openshell|(twos|2s)")
_ELECTRONS = re.compile(r"n(um)?(berof)?e(l|lec|lect|lectrons?|lecs)|electrons|totalelectrons")
_MOMENT = re.compile(r".*(magmom|magnetic?moment|magneti[sz]ation|spinmoment|magn?mom)s?(total|tot)?")
_NONE = ("f", "false", "no", "none")
_OCCUPANCY = re.compile(r"(site)?occupanc(y|ies)")

# Charges (e) and moments (Bohr magnetons) up to this size are rounding errors of a sum that is zero.
_ROUNDED = 0.05
_ADVICE = "networks and reference data are of neutral closed shells only, leave this geometry out"


def check_state(frame: Frame) -> bool:
    """Refuse charges, open shells, magnetic moments and partly occupied sites; return whether a charge (0) is stated.

    Raises:
        DataError: a statement of another state, or one that is not understood.
    """
    stated = False
    for statement in frame.statements:
        kind = _kind(statement)
        if kind is None or statement.value is None:
            continue
        if kind is _unpaired and str(statement.value).strip().lower() in _NONE:
            continue
        values = None if isinstance(statement.value, bool) else numbers_of(statement.value)
        if values is None:
            raise DataError(
                f"{statement.place}: {statement} is not understood as a number; write charge=0 and multiplicity=1, "
                "or leave it out, where the geometry is neutral and all electrons are paired"
            )
        kind(statement, values, frame)
        stated |= kind is _charge
    return stated


def _kind(statement: Statement) -> Callable[[Statement, np.ndarray, Frame], None] | None:
    """The check for the name of a statement; None if it concerns neither charge, spin nor occupancy."""
    name = re.sub(r"[\W_]", "", statement.key).lower()
    if _CHARGE.fullmatch(name) and not _NO_CHARGE.search(name):
        return _charge
    if _MOMENT.fullmatch(name):
        return _moment
    if _MULTIPLICITY.fullmatch(name):
        return _multiplicity
    if _UNPAIRED.fullmatch(name):
        return _unpaired
    if _SPIN.fullmatch(name):
        return _moment if statement.column else _spin
    if _OCCUPANCY.fullmatch(name):
        return _occupancy
    return _electrons if _ELECTRONS.fullmatch(name) else None


def _charge(statement: Statement, values: np.ndarray, frame: Frame) -> None:
    atomic = statement.column or len(values) > 1
    if atomic and len(values) != len(frame.atoms):
        raise DataError(
            f"{statement.place}: {statement} has {len(values)} charges for {len(frame.atoms)} atoms; "
            "correct or remove it"
        )
    total = float(values.sum())
    if abs(total) > (_ROUNDED if atomic else 1e-6):
        what = (
            f"atomic charges that sum to {total:.4g} ({_named(statement)})"
            if atomic
            else f"charge {total:g} ({statement})"
        )
        raise DataError(f"{statement.place}: has {what}; {_ADVICE}")


def _moment(statement: Statement, values: np.ndarray, frame: Frame) -> None:
    largest = float(np.abs(values).max())
    if largest > _ROUNDED:
        raise DataError(
            f"{statement.place}: has magnetic moments up to {largest:.4g} ({_named(statement)}); {_ADVICE}"
        )


def _multiplicity(statement: Statement, values: np.ndarray, frame: Frame) -> None:
    _unpaired(statement, values - 1, frame)


def _spin(statement: Statement, values: np.ndarray, frame: Frame) -> None:
    if (values == 1).all():
        raise DataError(
            f"{statement.place}: {statement} may be a multiplicity or unpaired electrons; write multiplicity=1 "
            "instead where all electrons are paired"
        )
    _unpaired(statement, values, frame)


def _unpaired(statement: Statement, values: np.ndarray, frame: Frame) -> None:
    if values.any():
        raise DataError(f"{statement.place}: has {statement}; {_ADVICE}")


def _electrons(statement: Statement, values: np.ndarray, frame: Frame) -> None:
    neutral = int(frame.atoms.numbers.sum())
    if not (values == neutral).all():
        raise DataError(
            f"{statement.place}: has {statement}, but the neutral geometry has {neutral} electrons; {_ADVICE}, or "
            "remove this number where it counts valence electrons"
        )


def _occupancy(statement: Statement, values: np.ndarray, frame: Frame) -> None:
    if np.abs(values - 1).max() > 1e-3:
        raise DataError(
            f"{statement.place}: has sites that are partly occupied ({_named(statement)}); give a geometry in which "
            "every site holds one atom"
        )


def _named(statement: Statement) -> str:
    return str(statement) if statement.column else statement.key
