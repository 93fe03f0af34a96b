"""Checksums of archives: published ones, and in ``checksums.json`` those of the first use of all others."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pooch

from tracegrad.errors import ConfigError, DataError
from tracegrad.system.text_files import write_json

NOT_PUBLISHED = "not published, first use"
_CHECKSUM = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", re.IGNORECASE)


def require_checksum(checksum: str) -> None:
    """Raise `ConfigError` unless the checksum is ``md5:`` or ``sha256:`` and its hexadecimal digits."""
    if not _CHECKSUM.fullmatch(checksum):
        raise ConfigError(
            f"checksum {checksum!r} is not understood; give md5:... or sha256:... in hexadecimal"
        )


class Checksums:
    """Compares archives with their checksums.

    Args:
        path: the file ``checksums.json``; it need not exist.
    """

    def __init__(self, path: Path):
        self.path = path

    def compare(self, key: str, archive: Path, published: str | None) -> dict[str, str]:
        """Compare an archive with its published checksum, or with that of its first use.

        Args:
            key: of the archive in ``checksums.json``, such as ``bg/archive.zip``.
            published: such as ``md5:0cc1...``; None: not known.

        Returns:
            The digest by its algorithm, and under "compared" how it was compared.

        Raises:
            DataError: the checksums differ, or ``checksums.json`` cannot be read.
        """
        first_use = None if published else self._read().get(key)
        expected, origin, advice = published, "as published", "get it again"
        if first_use is not None:
            expected = f"sha256:{first_use.get('sha256')}"
            origin = f"as at the first use ({first_use.get('first_used', 'unknown date')})"
            advice = (
                f"if the record has a new version, remove {key} from {self.path}, else get the archive again"
            )
        algorithm, _, digest = (expected or "sha256:").lower().partition(":")
        actual = pooch.file_hash(archive, algorithm)
        if expected is not None and actual != digest:
            raise DataError(f"{archive}: {algorithm} is {actual}, but should be {digest} {origin}; {advice}")
        return {algorithm: actual, "compared": NOT_PUBLISHED if expected is None else origin}

    def record_first_use(self, key: str, digests: dict[str, str]) -> None:
        """Record an archive without a published checksum once it is verified; ``digests`` are those of `compare`."""
        if digests["compared"] == NOT_PUBLISHED:
            date = datetime.now(UTC).isoformat(timespec="seconds")
            entries = self._read() | {key: {"sha256": digests["sha256"], "first_used": date}}
            write_json(self.path, dict(sorted(entries.items())))

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
            if not all(isinstance(entry, dict) for entry in entries.values()):
                raise ValueError("not a table of checksums")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"{self.path}: cannot be read ({error}); correct or remove it") from error
        return entries
