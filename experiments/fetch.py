"""Download published databases and verify them."""

import difflib
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.settings.arguments import quoted, shell_word
from experiments.settings.cli import clean_errors
from experiments.settings.configuration import CONF, command, plain
from tracegrad.data.fetch.database import FetchedDatabase, fetch
from tracegrad.data.fetch.downloader import RetryPolicy
from tracegrad.data.fetch.entry import DatabaseEntry, FetchOptions
from tracegrad.data.fetch.verify import Expectation
from tracegrad.errors import ConfigError, DataError
from tracegrad.system.progress import BYTES, ProgressDisplay

NAMES = sorted(path.stem for path in (CONF / "fetch").glob("*.yaml"))


@clean_errors
def main() -> None:
    """Fetch with ``data=NAME``, which is the group ``fetch`` here: ``data`` is that of trainings."""
    arguments = sys.argv[1:]
    sys.argv[1:] = [_group(argument) for argument in arguments]
    if arguments and not any(argument.startswith(("-", "data=", "fetch=")) for argument in arguments):
        raise ConfigError(f"data is needed; give data=NAME, one of {', '.join(NAMES)}")
    _fetch()


@command("fetch", help_without_arguments=True)
def _fetch(config: DictConfig) -> None:
    fetch_databases(plain(config))


def fetch_databases(values: dict[str, Any]) -> None:
    """Fetch the databases of a configuration one after another.

    One that fails does not keep the others from being fetched.

    Raises:
        ConfigError: a setting that is not understood.
        DataError: at least one database could not be fetched; others may have been.
    """
    options = _options(values)
    entries = [_entry(name, entry, values["target"]) for name, entry in values["databases"].items()]
    if len(entries) > 1 and options.source is not None:
        raise ConfigError("source is of one database; give one data=NAME with it")
    failed: list[str] = []
    with ProgressDisplay(BYTES) as progress:
        for entry in entries:
            try:
                fetched = fetch(entry, options, progress)
            except DataError as error:
                if len(entries) == 1:
                    raise
                progress.report(f"{entry.table} failed: {error}")
                failed.append(entry.name)
            else:
                if fetched is not None:
                    progress.report(_how_to_use(entry.name, fetched))
    if failed:
        raise DataError(
            f"{', '.join(failed)} failed, see above; the same command goes on with what is missing"
        )


def _group(argument: str) -> str:
    """``data=NAME`` or ``data=[NAME,NAME]`` as a choice of the group ``fetch``."""
    key, equals, value = argument.partition("=")
    if key != "data" or not equals:
        return argument
    for name in value.strip("[]").split(","):
        if name.strip() not in NAMES:
            nearest = difflib.get_close_matches(name.strip(), NAMES, n=3, cutoff=0.4) or NAMES
            raise ConfigError(f"no published database {name.strip()!r}; nearest: {', '.join(nearest)}")
    return f"fetch={value}"


def _options(values: dict[str, Any]) -> FetchOptions:
    if values["retries"] < 0 or values["timeout"] <= 0 or values["pause"] < 0:
        raise ConfigError("retries, timeout and pause must be positive; correct them")
    mirror = values["mirror"]
    if mirror is not None and not str(mirror).startswith(("http://", "https://")):
        raise ConfigError(f"mirror={mirror} is no address; give http(s)://..., or source=PATH for a folder")
    return FetchOptions(
        source=None if values["source"] is None else Path(str(values["source"])),
        mirror=mirror,
        api=values["api"],
        verify=values["verify"],
        keep=values["keep"],
        overwrite=values["overwrite"],
        dry_run=values["dry_run"],
        retry=RetryPolicy(values["retries"], float(values["pause"]), float(values["timeout"])),
    )


def _entry(name: str, entry: dict[str, Any], target: str | None) -> DatabaseEntry:
    path, expect = Path(entry["path"]), entry["expect"]
    for file in entry["files"]:
        if not isinstance(file, dict) or not isinstance(file.get("size"), int | None):
            raise ConfigError(
                f"databases.{name}.files: {file!r} is not understood; give {{name: a.zip, url: https://..., "
                "checksum: md5:...}, and its size in bytes if you know it"
            )
    texts = {key: entry[key] for key in ("title", "table", "page", "citation", "licence")}
    return DatabaseEntry(
        name=name,
        path=path if target is None else Path(str(target)) / path.name,
        release=entry.get("release"),
        records=tuple(entry["records"]),
        patterns=tuple(entry["patterns"]),
        files=tuple(entry["files"]),
        download_size=_number(entry["download_size"]),
        unpacked_size=_number(entry["unpacked_size"]),
        expect=None if expect is None else Expectation.from_config(expect),
        **texts,
    )


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _how_to_use(name: str, fetched: FetchedDatabase) -> str:
    """The settings of a training with the database."""
    settings = [f"data={name}", f"data.path={fetched.path.absolute()}"]
    if fetched.verification is not None and fetched.verification.twisted:
        settings.append(f"data.twisted=[{','.join(map(quoted, fetched.verification.twisted))}]")
    return f"use it: tracegrad train experiment=... {' '.join(map(shell_word, settings))}"


if __name__ == "__main__":
    main()
