"""Checksums of archives: published ones, and those that were seen first."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from tracegrad.errors import ConfigError, DataError
from tracegrad.system.whole_files import replacing

LENGTHS = {"md5": 32, "sha256": 64}
FIRST_USE = "sha256"
_CHUNK = 1 << 22


def parsed(checksum: str) -> tuple[str, str]:
    """Algorithm and digest of such as ``md5:0cc1...``.

    Raises:
        ConfigError: another algorithm, or no digest of its length.
    """
    algorithm, _, digest = checksum.lower().partition(":")
    if not re.fullmatch(f"[0-9a-f]{{{LENGTHS.get(algorithm, 0) or 1}}}", digest) or algorithm not in LENGTHS:
        raise ConfigError(
            f"checksum {checksum!r} is not understood; give md5:... or sha256:... in hexadecimal"
        )
    return algorithm, digest


def digests(
    path: str | Path,
    algorithms: Iterable[str],
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, str]:
    """Of a file, read once."""
    found = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    try:
        with open(path, "rb") as file:
            total, done = os.fstat(file.fileno()).st_size, 0
            while chunk := file.read(_CHUNK):
                for digest in found.values():
                    digest.update(chunk)
                done += len(chunk)
                on_progress(done, total)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return {name: digest.hexdigest() for name, digest in found.items()}


class Checksums:
    """``checksums.json`` of a folder: digests of files for which none is published, from their first use.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def check(
        self,
        key: str,
        path: str | Path,
        published: str | None,
        on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    ) -> dict[str, str]:
        """Compare a file with what is published, or with its first use.

        Args:
            key: of the file in ``checksums.json``, such as ``bg/archive.zip``.
            published: such as ``md5:0cc1...``; None: not known.

        Returns:
            Digests by algorithm, and under "compared" how they were compared.

        Raises:
            DataError: they differ, or ``checksums.json`` cannot be read.
        """
        if published is not None:
            algorithm, wanted = parsed(published)
            found = digests(path, dict.fromkeys((algorithm, FIRST_USE)), on_progress)
            if found[algorithm] != wanted:
                raise DataError(f"{path}: {algorithm} is {found[algorithm]}, but {wanted} is published")
            return found | {"compared": "as published"}
        found, entry = digests(path, [FIRST_USE], on_progress), self._read().get(key)
        if entry is None:
            return found | {"compared": "not published, seen for the first time"}
        date = entry.get("first_used", "unknown date")
        if entry.get(FIRST_USE) != found[FIRST_USE]:
            raise DataError(
                f"{path}: {FIRST_USE} is {found[FIRST_USE]}, but it was {entry.get(FIRST_USE)} at the first use "
                f"({date}); if the record has a new version, remove {key} from {self.path}"
            )
        return found | {"compared": f"as at the first use ({date})"}

    def remember(self, key: str, found: dict[str, str]) -> None:
        """Record the digests of a file that turned out to be a good one, unless they are recorded or published."""
        known = self._read()
        if key in known or found["compared"] == "as published":
            return
        date = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {FIRST_USE: found[FIRST_USE], "first_used": date}
        with replacing(self.path) as draft:
            draft.write_text(json.dumps(known | {key: entry}, indent=2, sort_keys=True) + "\n")

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            if isinstance(known, dict) and all(isinstance(entry, dict) for entry in known.values()):
                return known
            reason = "not a table of checksums"
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            reason = str(error)
        raise DataError(f"{self.path}: cannot be read ({reason}); correct or remove it")
