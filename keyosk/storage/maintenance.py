"""Backups, and checks of the integrity of the database."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from peewee import Tuple

from keyosk.errors import DatabaseDamaged, Invalid, Unavailable
from keyosk.storage import tables
from keyosk.storage.database import Database
from keyosk.storage.tables import JsonField, Table

_SHOWN = 20  # faults of one kind
_AT_ONCE = 2000  # rows of a table


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


def faults_of_json(database: Database) -> list[str]:
    """Return the columns that have no JSON document of the right shape, by table and key."""
    faults: list[str] = []
    for table in tables.ALL:
        columns = [field for field in table._meta.sorted_fields if isinstance(field, JsonField)]
        if columns:
            faults += islice(_faults_of_columns(database, table, columns), _SHOWN)
    return faults


def _faults_of_columns(
    database: Database, table: type[Table], columns: Sequence[JsonField]
) -> Iterator[str]:
    keys = table._meta.get_primary_keys()
    for row in _by_pages(database, table.select(*keys, *columns), keys):
        key = " ".join(str(row[field.name]) for field in keys)
        for field in columns:
            text = row[field.name]
            if text is not None and not _has_shape(text, field.shape):
                kind = "list" if field.shape is list else "object"
                yield f"{table._meta.table_name} {key}: {field.name} is no JSON {kind}"


def _by_pages(database: Database, query: Any, keys: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Return the rows of a query in the order of their keys, a few thousand at a time."""
    page = query
    while True:
        rows = database.rows(page.order_by(*keys).limit(_AT_ONCE))
        yield from rows
        if len(rows) < _AT_ONCE:
            return
        last = [rows[-1][key.name] for key in keys]
        page = query.where(Tuple(*keys) > Tuple(*last))


def _has_shape(text: str, shape: type) -> bool:
    try:
        return isinstance(json.loads(text), shape)
    except (ValueError, RecursionError):
        return False


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
