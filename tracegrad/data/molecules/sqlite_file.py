"""Reading of an SQLite file by any number of processes and threads."""

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tracegrad.errors import DataError


class SQLiteFile:
    """An SQLite file that is only read.

    Each process and thread opens a connection of its own, so that an instance can be shared with DataLoader workers.

    Args:
        path: of the file, which has to exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._local = threading.local()

    def query(self, sql: str, *parameters: Any, where: str = "") -> list[tuple]:
        """All rows of a query; ``where`` is the place in the file, such as ``row 3: ``, for the message.

        Raises:
            DataError: the file cannot be read, is no SQLite database, or is damaged.
        """
        try:
            return self._connection().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: {where}not a readable SQLite database ({error}); "
                "if it is truncated or damaged, download or generate it again, "
                "else check its permissions and that no program is writing it"
            ) from error

    def tables(self) -> list[str]:
        """Names of the tables."""
        return [row[0] for row in self.query("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def columns(self, table: str) -> tuple[str, ...]:
        """Names of the columns of a table, in order; none if there is no such table."""
        return tuple(row[1] for row in self.query(f"PRAGMA table_info({table})"))

    def _connection(self) -> sqlite3.Connection:
        local = self._local
        if getattr(local, "pid", None) != os.getpid():  # SQLite connections must not cross a fork
            uri = f"file://{quote(os.fsencode(self.path.absolute()))}?mode=ro"
            local.connection = sqlite3.connect(uri, uri=True)
            local.pid = os.getpid()
        return local.connection

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())
