"""Tables that operators look up by a key, because they take strings and numbers beside tensors, but no objects."""

import hashlib
from typing import Any, ClassVar, TypeVar

Table = TypeVar("Table", bound="NamedTable")


class NamedTable:
    """Base class of these tables; equal tables have equal keys.

    A layer keeps its table and passes the key to the operator. If the layer is sent to another process, its table
    goes with it and can be looked up there.
    """

    key: str
    _by_key: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        cls._by_key = {}

    def __post_init__(self) -> None:
        self.__dict__["key"] = hashlib.sha256(self._content()).hexdigest()[:16]  # subclasses may be frozen
        self._by_key.setdefault(self.key, self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._by_key.setdefault(self.key, self)

    def _content(self) -> bytes:
        """What tells this table from others."""
        return repr(self).encode()

    @classmethod
    def named(cls: type[Table], key: str) -> Table:
        """The table of a key."""
        table: Table = cls._by_key[key]
        return table
