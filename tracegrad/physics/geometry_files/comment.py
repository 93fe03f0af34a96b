"""Parses the comment line of an xyz file: name=value pairs, and words that state charge, spin or unit."""

import re
from collections.abc import Iterator

_PAIR = re.compile(
    r"""(?P<key>[A-Za-z_][\w.-]*|"[^"=]+"|'[^'=]+')\s*=\s*
    (?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^}]*\}|\[[^\]]*\]|(?:(?!,\s*[A-Za-z_][\w.-]*\s*=)[^\s;])*)""",
    re.VERBOSE,
)
_SPOKEN = re.compile(
    r"""(?<![\w.])(?P<key>(?:(?:total|net|formal|molecular|overall)[ _-]?)?(?:charge|chrg)|(?:spin[ _-]?)?multiplicity
    |mult|spin|uhf|nelec\w*|magmom)["']?\s*(?:(?:is|of)\b|[:>]|->)?\s*["']?
    (?P<value>[+-]?\d+(?:\.\d*)?(?:[+-]|/\d+)?)(?![\w.])""",
    re.VERBOSE | re.IGNORECASE,
)
# A comment with charge and multiplicity only, as in inputs of quantum chemistry programs.
_CHARGE_MULTIPLICITY = re.compile(r"\s*([+-]?\d)[\s,]+([1-9])\s*")
_POSITIONS = r"(?:coord(?:inate)?s?|positions?|geometry|lengths?|distances?|xyz|pos)"
# "Au" is gold, "au" and "AU" are atomic units.
_UNIT = r"(bohrs?|a\.u\.|atomic[ _]?units?|nanomet\w+|picomet\w+|(?-i:au|AU|nm|pm))"
_OTHER_UNIT = re.compile(
    rf"""^\W*(?:in\s+)?{_UNIT}\W*$
    |\b{_POSITIONS}\W+(?:(?:are|is|given)\W+)*(?:in\W+)?(?:units?\W+of\W+)?{_UNIT}(?!\w)
    |(?<![\w/*^.-])(bohrs?)(?![\w/*^])""",
    re.VERBOSE | re.IGNORECASE,
)
_UNIT_KEY = re.compile(
    r"(length|pos|position|coord|coordinate|distance|geometry|xyz)?s?[_ .-]?units?", re.IGNORECASE
)
_ANGSTROM = re.compile(r"\W*(a|å|ang|angstr(o|ö)ms?|ångstr(o|ö)ms?|ångström)\W*", re.IGNORECASE)
_ENERGY_UNIT = re.compile(
    r"\W*(ev|mev|hartree|ha|ry|rydberg|kcal\W?(/\W?)?mol|kj\W?(/\W?)?mol|metal|real)\W*", re.IGNORECASE
)


def pairs(text: str) -> list[tuple[str, str]]:
    """All name=value pairs in their order, without quotes; a name may occur twice."""
    return [(match["key"].strip("\"'"), _unquoted(match["value"])) for match in _PAIR.finditer(text)]


def statements_in(text: str) -> Iterator[tuple[str, str]]:
    """All name=value pairs, and charge and spin stated in words, also those inside of quoted values."""
    yield from pairs(text)
    yield from stated_in_words(text)


def stated_in_words(text: str) -> Iterator[tuple[str, str]]:
    """Charge and spin stated in words, such as "charge 2" or "total charge: -1", as pairs of name and value."""
    for match in _SPOKEN.finditer(_PAIR.sub(" ; ", text)):
        yield match["key"], match["value"]
    for _, value in pairs(text):
        if value != text:
            yield from statements_in(value)


def charge_and_multiplicity(text: str) -> tuple[str, str] | None:
    """The two numbers of a comment that consists of them only, such as "0 1"; None for other comments."""
    match = _CHARGE_MULTIPLICITY.fullmatch(text)
    return (match[1], match[2]) if match else None


def other_unit(text: str) -> str | None:
    """The unit of length that a comment names if it is not angstrom; None otherwise."""
    for key, value in pairs(text):
        if _UNIT_KEY.fullmatch(key) and not _ANGSTROM.fullmatch(value):
            only_length = len(re.sub(r"[_ .-]?units?$", "", key, flags=re.IGNORECASE)) > 0
            if only_length or not _ENERGY_UNIT.fullmatch(value):
                return value
    match = _OTHER_UNIT.search(_PAIR.sub(" ; ", text))
    return next((unit for unit in match.groups() if unit), None) if match else None


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] in "\"'{[":
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value.rstrip(",")
