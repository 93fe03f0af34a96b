"""Plain data as a JSON file."""

import json
from pathlib import Path
from typing import Any

from tracegrad.system.whole_files import replacing


def write_json(path: Path, values: Any) -> None:
    """Write plain data as JSON; a process that is killed leaves either the old file or the complete new one."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
