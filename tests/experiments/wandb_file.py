"""Reader of the files of offline W&B runs; the Python package of W&B contains none."""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import HistoryItem, Record

BLOCK, HEADER = 32768, struct.Struct("<IHB")
FULL, LAST = 1, 4


def records(piece: Path) -> Iterator[Record]:
    """Records of one offline directory: a LevelDB log after a header of seven bytes."""
    (path,) = piece.glob("*.wandb")
    data = path.read_bytes()
    position, content = 7, b""
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        checksum, length, kind = HEADER.unpack_from(data, position)
        part = data[position + HEADER.size : position + HEADER.size + length]
        position += HEADER.size + length
        assert checksum == zlib.crc32(bytes([kind]) + part)
        content += part
        if kind in (FULL, LAST):
            yield Record.FromString(content)
            content = b""


def history(piece: Path) -> list[dict[str, Any]]:
    """The logged rows."""
    return [
        _row(record.history.item)
        for record in records(piece)
        if record.WhichOneof("record_type") == "history"
    ]


def _row(items: Iterable[HistoryItem]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = row
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return row
