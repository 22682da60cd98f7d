"""Backups, and checks of the integrity of the database."""

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
        # SECURITY: created here, because SQLite uses the umask; an existing file is never replaced.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise Invalid.field(str(target), "exists already; give another name") from None
    except OSError as error:
        raise Invalid.field("file", f"{target} cannot be made: {error.strerror}") from error
    try:
        os.close(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        with contextlib.closing(sqlite3.connect(part)) as copy:
            # All pages in one step, within one read transaction: writers go on meanwhile.
            database.raw.connection().backup(copy)
            # A single file, without -wal and -shm beside it.
            copy.execute("PRAGMA journal_mode = delete")
        _to_disk(part)
        part.rename(target)
        _to_disk(target.parent)
    except (OSError, sqlite3.Error) as error:
        for path in (part, target):
            path.unlink(missing_ok=True)
        raise Unavailable(f"The backup was not made: {error}.") from error


def faults_of_files(database: Database) -> list[str]:
    """Return the faults of pages and indexes that the database reports."""
    if database.is_sqlite:
        messages = _read(database, f"PRAGMA integrity_check({_SHOWN})")
        return [line for (line,) in messages if line != "ok"]
    # PostgreSQL verifies a page when it reads it, so read everything.
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
    """Return the rows that refer to missing rows."""
    if database.is_sqlite:
        rows = _read(database, "PRAGMA foreign_key_check")
        return [f"row {row} of {table} refers to no {other}" for table, row, other, _ in rows]
    unchecked = (
        "SELECT conrelid::regclass::text, conname FROM pg_constraint "
        "WHERE NOT convalidated AND connamespace = current_schema()::regnamespace"
    )
    return [
        f"{table} was never validated against {name}" for table, name in _read(database, unchecked)
    ]


def version(database: Database) -> str:
    """Return the name and version of the database."""
    if database.is_sqlite:
        return f"SQLite {sqlite3.sqlite_version}"
    [(number,)] = _read(database, "SHOW server_version")
    return f"PostgreSQL {number}"


def encoding(database: Database) -> str:
    """Return the encoding of text in the database."""
    statement = "PRAGMA encoding" if database.is_sqlite else "SHOW server_encoding"
    [(name,)] = _read(database, statement)
    return str(name)


def missing_rights(database: Database) -> list[str]:
    """Return the rights in the database that Keyosk needs and lacks."""
    if database.is_sqlite:
        path = database.path
        places = [] if path is None else [path, path.parent]
        return [f"write to {place}" for place in places if not os.access(place, os.W_OK)]
    [(is_read_only, may_create)] = _read(
        database,
        "SELECT current_setting('transaction_read_only') = 'on',"
        " has_schema_privilege(current_user, current_schema(), 'CREATE')",
    )
    closed = _read(
        database,
        "SELECT relname FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace = current_schema()::regnamespace AND NOT ("
        "has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')"
        " AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))"
        " ORDER BY relname",
    )
    return [
        *(["write: the server is read-only, a standby perhaps"] if is_read_only else []),
        *([] if may_create else ["create tables, as upgrades do"]),
        *(f"read and write the table {name}" for (name,) in closed),
    ]


def _read(database: Database, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query, without a time limit.

    Raises ``DatabaseDamaged`` for what cannot be read, and ``Unavailable`` only for an outage: a
    check has to tell one from the other.
    """
    with database.without_timeouts(), database.driver_errors():
        return list(database.raw.execute_sql(sql).fetchall())


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
