"""Upgrades a database to the newest schema, once for all processes that start together."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from peewee import CharField
from playhouse.migrations import Runner

from keyosk.errors import DatabaseTooNew, DatabaseUnusable
from keyosk.storage import sqlite
from keyosk.storage.database import Database
from keyosk.storage.tables import SigningKey, Table

MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: The suffix of migrations with which older programs can still run and start.
ADDITIVE: Final = "_additive"
# Read at the start, because the files may later be those of another version.
_KNOWN: Final = frozenset(path.stem for path in MIGRATIONS.glob("[0-9]*.py"))
_LOCK: Final = 0x6B796F73  # "kyos": the PostgreSQL advisory lock of all upgrades


class _Applied(Table):
    """The table of applied migrations, which ``Runner`` writes."""

    name = CharField(primary_key=True)

    class Meta:
        table_name = "schema_migration"


def upgrade(database: Database) -> list[str]:
    """Apply all pending migrations; returns their names.

    Raises ``DatabaseTooNew``, ``Unavailable``.

    For the holder of ``exclusive`` only. Each migration is one transaction: a process that dies in
    the middle leaves nothing half done. If none is pending nothing is written: a database that can
    only be read, such as a standby, can be used for what only reads.
    """
    if not pending(database):
        return []
    with database.driver_errors():
        return list(Runner(database.raw, str(MIGRATIONS)).up())


def pending(database: Database) -> list[str]:
    """Return the names of the migrations not yet applied.

    Raises ``DatabaseTooNew``, and ``DatabaseUnusable`` for a SQLite file of another program.
    """
    _refuse_foreign(database)
    if database.is_sqlite and not database.has_file():
        return sorted(_KNOWN)
    with database.driver_errors():
        runner = Runner(database.raw, str(MIGRATIONS))
        _refuse_unknown(runner.applied())
        return [migration.name for migration in runner.status() if migration.applied is None]


def refuse_newer(database: Database) -> None:
    """Refuse a database that a newer version has made unusable for this one.

    Only for a database that is set up. Raises ``DatabaseTooNew``, ``Unavailable``.
    """
    _refuse_unknown(row["name"] for row in database.rows(_Applied.select(_Applied.name)))


def is_empty(database: Database) -> bool:
    """Return whether there is no database, or it has no table of Keyosk.

    Raises ``Unavailable``, and ``DatabaseUnusable`` for a SQLite file of another program.
    """
    _refuse_foreign(database)
    if database.is_sqlite and not database.has_file():
        return True
    with database.driver_errors():
        runner = Runner(database.raw, str(MIGRATIONS))
        return not any(migration.applied for migration in runner.status())


def has_signing_keys(database: Database) -> bool:
    """Return whether a SQLite database of any version has signing keys."""
    with database.driver_errors():
        if not database.raw.table_exists(SigningKey._meta.table_name):
            return False
    return database.row(SigningKey.select(SigningKey.kid)) is not None


@contextmanager
def exclusive(database: Database) -> Iterator[None]:
    """Hold the lock for setting up this database, across all processes and machines that share it.

    The lock ends with its holder: the kernel frees a lock file, and the session an advisory lock.
    Raises ``DatabaseUnusable`` for a SQLite file of another program, ``Unavailable``.
    """
    _refuse_foreign(database)
    database.create_file()
    if database.path is None:
        with database.lock_apart("upgrade", in_public=_LOCK), database.without_timeouts():
            yield
        return
    # By the real file, because symbolic links give it several names.
    lock = f"{os.path.realpath(database.path)}.lock"
    try:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise DatabaseUnusable(f"Cannot make {lock}: {error.strerror}.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Only now: concurrent first connections that all enable WAL would fail.
        database.ping()
        yield
    finally:
        os.close(handle)


def _refuse_foreign(database: Database) -> None:
    """Refuse a SQLite file that another program uses: a path that was mistaken, for example.

    Before the file is opened: to create it closes it to others, and each connection turns on the
    write-ahead log. A schema of PostgreSQL may have tables of others beside Keyosk's.
    """
    is_open = not database.raw.is_closed()  # so it was looked at
    if database.path is None or is_open or not database.has_file():
        return
    with database.driver_errors():
        tables = sqlite.tables_of(database.path) - {_Applied._meta.table_name}
    if tables and SigningKey._meta.table_name not in tables:
        raise DatabaseUnusable(
            f"{database.path} is the database of another program: it has the table {min(tables)}, "
            "and none of Keyosk's."
        )


def _refuse_unknown(applied: Iterable[str]) -> None:
    unknown = sorted(name for name in {*applied} - _KNOWN if not name.endswith(ADDITIVE))
    if unknown:
        raise DatabaseTooNew(
            f"This database was upgraded by a newer Keyosk ({', '.join(unknown)}); run that one, "
            "or restore the backup from before the upgrade."
        )
