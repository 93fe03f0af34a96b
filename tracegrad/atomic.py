"""Files that are whole or absent: written beside their place and then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracegrad.errors import TraceGradError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` once the block ends without an error.

    Missing folders are made.

    Raises:
        TraceGradError: the folder or file cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        sync(draft)
        draft.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TraceGradError(f"{path}: cannot be written ({reason}); choose another place") from error
    finally:
        if draft.exists():
            draft.unlink()


def sync(path: Path) -> None:
    """Bring a file or folder to the disk, so that a later rename cannot outlive its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
