"""Arguments of a command line in the grammar of Hydra: paths as typed, other text in quotes where needed."""

import os
import re
import shlex
from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from experiments.settings.paths import path_keys
from tracegrad.errors import ConfigError

# Options of Hydra that are followed by a value.
WITH_VALUE = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
)
OPTIONS = (
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run",
    "-r",
    "--multirun",
    "-m",
    "--shell-completion",
    "-sc",
    "--info",
    "-i",
    "--experimental-rerun",
    *WITH_VALUE,
)
_BRACKETS = ("[", "{", "(", "'", '"')


def readable(words: Sequence[str], command: str, own: Collection[str] = ()) -> list[str]:
    """The arguments of a command, rewritten so that Hydra reads each as the user means it.

    The value of a path is everything after the first ``=``, unless it is null or in quotes of Hydra's grammar; in it
    Hydra still replaces ``${...}``. Other values that Hydra cannot parse become text in quotes. Calling the function
    on its result changes nothing.

    Args:
        own: keys, and prefixes of keys that end in a dot, that the command reads itself; their values do not change.

    Raises:
        ConfigError: an argument that is no setting, or a value whose brackets or quotes do not match; the message has
            an argument to type instead.
    """
    settings, waiting = [], list(words)
    has_options = any(_is_option(word) for word in words)
    while waiting:
        word = waiting.pop(0)
        if word.startswith("-"):
            if not _is_option(word):
                raise ConfigError(_not_an_option(word, waiting))
            settings.append(word)
            if word in WITH_VALUE and waiting:
                settings.append(waiting.pop(0))
        elif "=" not in word:
            if not word.startswith("~"):  # ~KEY removes a setting in Hydra's grammar
                raise ConfigError(_not_a_setting(word, waiting))
            settings.append(word)
        else:
            settings.append(_setting(word, waiting, command, own, sweeps=has_options))
    return settings


def quoted(value: object) -> str:
    """A value in quotes of Hydra's grammar, for text with spaces, commas or equals signs."""
    # In Hydra's grammar a backslash is special only before a quote.
    escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", str(value)).replace("'", "\\'")
    return f"'{escaped}'"


def shell_word(text: str) -> str:
    """A text as one argument for a shell, in quotes if it needs them."""
    if shlex.quote(text) == text:
        return text
    return shlex.quote(text) if re.search(r'["$`\\!\n]', text) else f'"{text}"'


def path_value(key: str, text: str) -> str:
    """The path that the user means by a value: the text in quotes of Hydra's grammar, else the value as typed.

    Raises:
        ConfigError: the value is empty.
    """
    if not text.strip():
        raise ConfigError(f"{key} is empty; give {key}=PATH")
    parsed = _parsed(key, text)
    value = None if parsed is None or parsed.is_sweep_override() else parsed.value()
    if isinstance(value, str) and (text[0] in "'\"" or not os.path.exists(text)):
        return value
    return text


def _setting(word: str, waiting: Sequence[str], command: str, own: Collection[str], *, sweeps: bool) -> str:
    key, _, value = word.partition("=")
    key = key.strip()
    name = key.lstrip("+~")
    if not name or (not value and waiting and not _is_setting(waiting[0])):
        raise ConfigError(_spaces_message(name or "KEY", value or (waiting[0] if waiting else "VALUE")))
    if name in own or any(name.startswith(entry) for entry in own if entry.endswith(".")):
        return f"{key}={value}"
    known = path_keys(command)
    if name in known and value.strip().lower() != "null":
        listed = _list(key, value, paths=True) if known[name] else None
        return f"{key}={listed or _path(key, value)}"
    parsed = _parsed(key, value)
    if parsed is not None:
        if parsed.is_sweep_override() and not sweeps:
            raise ConfigError(
                f"{key}={value} are several values; as one text write {shell_word(f'{key}={quoted(value)}')}, as a "
                f"list {shell_word(f'{key}=[{value}]')}, and to compare values see tracegrad sweep"
            )
        return f"{key}={value}"
    listed = _list(key, value, paths=False)
    if listed is None and value.strip().startswith(_BRACKETS):
        text = shell_word(f"{key}={quoted(value)}")
        raise ConfigError(
            f"{key}={value} is not understood: do its brackets and quotes match? As text write {text}"
        )
    return f"{key}={listed or quoted(value)}"


def _path(key: str, text: str) -> str:
    """A path in Hydra's grammar, in quotes only if Hydra would read it differently without them."""
    path = path_value(key, text)
    parsed = _parsed(key, text)
    plain = parsed is not None and not parsed.is_sweep_override() and parsed.value() == path
    return text if plain else quoted(path)


def _list(key: str, text: str, *, paths: bool) -> str | None:
    """A list in Hydra's grammar with its entries in quotes where needed; None if the text is no list."""
    entries = text.strip()
    if not (entries.startswith("[") and entries.endswith("]")) or (paths and os.path.exists(text)):
        return None
    if _parsed(key, text) is not None:
        return text
    entries = entries[1:-1]
    if re.search(r"""[\[\]{}'"]""", entries):
        return None
    words = [entry.strip() for entry in entries.split(",")]
    return f"[{','.join(word if _is_one_value(key, word) else quoted(word) for word in words)}]"


def _is_one_value(key: str, word: str) -> bool:
    """Whether Hydra parses a word as one value."""
    parsed = _parsed(key, word)
    return parsed is not None and not parsed.is_sweep_override()


def _parsed(key: str, value: str) -> Override | None:
    """A setting as Hydra parses it; None if it cannot."""
    try:
        return OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return None


def _is_option(word: str) -> bool:
    return word.partition("=")[0] in OPTIONS


def _is_setting(word: str) -> bool:
    return word.startswith("-") or "=" in word[1:]


def _not_an_option(word: str, waiting: Sequence[str]) -> str:
    name, equals, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if not equals:
        value = waiting[0] if waiting and not _is_setting(waiting[0]) else "VALUE"
    return f"{name} is not an option; settings are written key=value: {shell_word(f'{key}={value}')}"


def _not_a_setting(word: str, waiting: Sequence[str]) -> str:
    if waiting and waiting[0].startswith("="):
        rest = [waiting[0][1:], *waiting[1:2]]
        return _spaces_message(word, next((value for value in rest if value), "VALUE"))
    return f"not understood: {word}; settings are written key=value, such as {shell_word(f'{word}=VALUE')}"


def _spaces_message(key: str, value: str) -> str:
    return f"there are spaces around =; write {shell_word(f'{key}={value}')}"
