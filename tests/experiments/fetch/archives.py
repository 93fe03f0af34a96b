"""Archives and folders of the tests of `tracegrad fetch`."""

import io
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]


EXPECT = "databases.qs.expect={samples: 3, elements: [H, O], atoms: [2, 3]}"


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
