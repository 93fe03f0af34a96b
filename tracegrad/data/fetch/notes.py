"""``NAME.fetched.json`` beside a database: its origin, its licence, and how it was verified."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracegrad import __version__
from tracegrad.data.fetch.entry import DatabaseEntry
from tracegrad.data.fetch.verify import Verification
from tracegrad.system.text_files import write_json


def write_notes(
    entry: DatabaseEntry,
    path: Path,
    source: dict[str, Any] | None,
    files: dict[str, dict[str, str]],
    licence: str | None,
    verification: Verification | None,
) -> None:
    """Write the notes on the database at ``path``; ``files`` are the digests of its archives by their names.

    Without a ``source`` the database was there before, and its notes keep the origin that they state.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    file = entry.folder / f"{entry.path.stem}.fetched.json"
    origin = {"source": source, "files": files, "licence": licence, "date": now}
    if source is None:
        origin = _noted_origin(file) or origin | {"source": {"database": "was there before"}, "date": None}
    verified = verification and {
        "against": verification.against,
        "found": verification.numbers,
        "differences": list(verification.differences),
        "date": now,
    }
    notes = {
        "database": str(path),
        "table": entry.table,
        "page": entry.page,
        "citation": entry.citation,
        **origin,
        "verification": verified,
        "tracegrad": __version__,
    }
    write_json(file, notes)


def _noted_origin(path: Path) -> dict[str, Any] | None:
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        return {key: notes[key] for key in ("source", "files", "licence", "date")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
