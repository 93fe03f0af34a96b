"""``NAME.fetched.json`` beside a database: where it comes from, its licence, and how it was verified."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracegrad import __version__
from tracegrad.data.fetch.verify import Verification
from tracegrad.data.fetch.wanted import Wanted
from tracegrad.system.whole_files import replacing


def write_notes(
    wanted: Wanted,
    path: Path,
    source: dict[str, Any] | None,
    files: dict[str, dict[str, str]],
    licence: str | None,
    verification: Verification | None,
) -> None:
    """Of a database that was there before (``source`` None), what is noted of its origin stays."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    origin = {"source": source, "files": files, "licence": licence, "date": now}
    if source is None:
        origin = _noted(wanted.notes) or origin | {"source": {"database": "was there before"}, "date": None}
    checked = None
    if verification is not None:
        checked = {
            "against": verification.against,
            "found": verification.found,
            "differences": list(verification.differences),
            "date": now,
        }
    text = {
        "database": str(path),
        "table": wanted.table,
        "page": wanted.page,
        "citation": wanted.citation,
        **origin,
        "verification": checked,
        "tracegrad": __version__,
    }
    with replacing(wanted.notes) as draft:
        draft.write_text(json.dumps(text, indent=2) + "\n")


def _noted(path: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {key: known[key] for key in ("source", "files", "licence", "date")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
