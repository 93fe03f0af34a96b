"""The arrays in the column ``data`` of a row of an ASE database, read without ASE.

ASE writes this column in two ways, and nothing in either is executed when it is read:

* bytes (since 2019): an int64 with the position of a JSON text, the numbers of the arrays, and the JSON text, where
  ``{"__ndarray__": [shape, dtype, position of the first byte]}`` stands for an array.
* JSON text (before): ``{"__ndarray__": [shape, dtype, [numbers]]}``.

SchNetPack before 2019 stored the base64 code of the numbers of an array NAME, ``_shape_NAME`` and ``_dtype_NAME``.
"""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

DTYPES = ("float32", "float64")


def read_arrays(content: bytes | str, names: Sequence[str]) -> list[np.ndarray]:
    """Some arrays of the column ``data`` of a row.

    Args:
        content: as SQLite returns it.
        names: of the arrays.

    Raises:
        ValueError: the content is damaged, or an array is missing or not of float32 or float64.
    """
    if isinstance(content, str):
        values = json.loads(content)
    else:
        if len(content) < 8:
            raise ValueError(f"{len(content)} bytes are no data of ASE")
        values = json.loads(content[int(np.frombuffer(content[:8], "<i8")[0]) :].decode())
    if not isinstance(values, dict):
        raise ValueError(f"holds {type(values).__name__}, not named values")
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing, it has {', '.join(sorted(values))}")
    return [_array(values, name, content) for name in names]


def _array(values: dict[str, Any], name: str, content: bytes | str) -> np.ndarray:
    value = values[name]
    if isinstance(value, str):
        shape, dtype = values.get(f"_shape_{name}"), values.get(f"_dtype_{name}")
        numbers: Any = base64.b64decode(value, validate=True)
    elif isinstance(value, dict) and isinstance(value.get("__ndarray__"), list):
        shape, dtype, numbers = value["__ndarray__"]
    else:
        raise ValueError(f"{name} is no array")
    if dtype not in DTYPES:
        raise ValueError(f"{name} is an array of {dtype}, not of {' or '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"{name} has the shape {shape}")
    if isinstance(numbers, int):
        if not isinstance(content, bytes) or numbers < 0:
            raise ValueError(f"{name} begins at {numbers}")
        numbers = content[numbers : numbers + math.prod(shape) * np.dtype(dtype).itemsize]
    if isinstance(numbers, bytes):
        return np.frombuffer(numbers, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    return np.array(numbers, dtype=dtype).reshape(shape)
