"""A SQLite file, with what ``Database`` needs beyond peewee; ``postgresql`` has the same."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import peewee

from keyosk.storage import files, turns
from keyosk.storage.compiled import Insert, Row

_PRAGMAS: Final = {
    "journal_mode": "wal",
    # SECURITY: NORMAL is four times as fast and may lose acknowledged writes when the power fails.
    "synchronous": "full",
    "foreign_keys": 1,  # off by default in SQLite
    "temp_store": "memory",  # there may be no folder for temporary files
}


class Sqlite(peewee.SqliteDatabase):
    """A SQLite database by the path of its file."""

    #: The event loop reads the file itself, and writes by ``GroupCommit``.
    pipeline: Final = None
    write_pipeline: Final = None

    def __init__(self, path: Path) -> None:
        # Only ``files.create`` creates one: SQLite would put an empty one in place of a file that
        # was moved, or below a mount that is gone.
        super().__init__(
            f"{files.uri(path)}?mode=rw", uri=True, pragmas=_PRAGMAS, timeout=turns.LONGEST
        )

    def fetch(self, statement: str, params: Any) -> list[Row]:
        """Run a statement and return all of its rows."""
        cursor = self.execute_sql(statement, params)  # type: ignore[no-untyped-call]
        found: list[Row] = cursor.fetchall()
        return found

    #: For the few statements that run at each request.
    fetch_compiled = fetch

    def insert_many(self, insert: Insert, columns: Sequence[Sequence[Any]]) -> list[Row]:
        """Insert rows, given the values of each column."""
        return self.fetch(*insert.with_shared(columns))

    @contextmanager
    def without_timeouts(self) -> Iterator[None]:
        """Do nothing: there are none."""
        yield


def tables_of(path: Path) -> set[str]:
    """Return the names of the tables in a file, which stays as it is, mode and all.

    Raises ``sqlite3.Error``.
    """
    # A read-only connection to a file in WAL mode makes -wal and -shm, and leaves them behind. An
    # immutable one makes none, but reads only the file itself.
    has_wal = path.with_name(f"{path.name}-wal").exists()
    access = "mode=ro" if has_wal else "immutable=1"
    with closing(sqlite3.connect(f"{files.uri(path)}?{access}", uri=True)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows if not name.startswith("sqlite_")}
