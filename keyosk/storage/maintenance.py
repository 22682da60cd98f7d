"""What an operator asks of a database besides its rows: a copy, and whether it is sound."""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

from keyosk.errors import DatabaseDamaged, Invalid, Unavailable
from keyosk.storage.database import Database

_SHOWN = 20  # faults of one kind


def backup(database: Database, target: Path) -> None:
    """Copy a SQLite database to a new file (0600) as it is at one moment, while it is in use.

    The copy is on disk and under its name only once it is whole. Raises ``Invalid`` if there is
    something of that name already, ``Unavailable``.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        # SECURITY: made here, as SQLite would make it by the umask. And never over another file.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise Invalid.field("file", "exists already; give another name") from None
    except OSError as error:
        raise Invalid.field("file", f"cannot be made: {error.strerror}") from error
    try:
        os.close(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        with contextlib.closing(sqlite3.connect(part)) as copy:
            # All pages in one step, within one read transaction: writers go on meanwhile.
            database.raw.connection().backup(copy)
            # One file, that needs no other beside it.
            copy.execute("PRAGMA journal_mode = delete")
        _to_disk(part)
        part.rename(target)
        _to_disk(target.parent)
    except (OSError, sqlite3.Error) as error:
        for path in (part, target):
            path.unlink(missing_ok=True)
        raise Unavailable(f"The backup was not made: {error}.") from error


def faults_of_files(database: Database) -> list[str]:
    """Return what is wrong with the database's pages and indexes, as it tells itself."""
    if database.is_sqlite:
        told = _read(database, f"PRAGMA integrity_check({_SHOWN})")
        return [line for (line,) in told if line != "ok"]
    # PostgreSQL looks at a page when it reads it: read all there is.
    faults = []
    with database.driver_errors():
        names = database.raw.get_tables()
    for name in names:
        try:
            _read(database, f'SELECT count((t.*)::text) FROM "{name}" AS t')  # noqa: S608  # nosec B608
        except DatabaseDamaged as error:
            faults.append(f"{name}: {error.reason}")
    return faults


def faults_of_references(database: Database) -> list[str]:
    """Rows that refer to rows that are not there."""
    if database.is_sqlite:
        found = _read(database, "PRAGMA foreign_key_check")
        return [f"row {row} of {table} refers to no {other}" for table, row, other, _ in found]
    unchecked = (
        "SELECT conrelid::regclass::text, conname FROM pg_constraint "
        "WHERE NOT convalidated AND connamespace = current_schema()::regnamespace"
    )
    return [
        f"{table} was never validated against {name}" for table, name in _read(database, unchecked)
    ]


def _read(database: Database, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query, however long it takes.

    Raises ``DatabaseDamaged`` for what cannot be read, and ``Unavailable`` only for an outage: a
    check has to tell one from the other.
    """
    with database.unhurried(), database.driver_errors():
        return list(database.raw.execute_sql(sql).fetchall())


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
