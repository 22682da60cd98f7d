"""Brings a database to the newest schema, once, however many processes start at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import peewee
from playhouse.migrations import Runner

from keyosk.errors import DatabaseTooNew, DatabaseUnusable, Unavailable
from keyosk.storage.database import Database

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x6B796F73  # "kyos": the PostgreSQL advisory lock of all upgrades


def upgrade(database: Database) -> list[str]:
    """Apply all pending migrations; answers their names.

    Raises ``DatabaseTooNew``, ``Unavailable``.

    For the holder of ``exclusive`` only. Each migration is one transaction: a process that dies in
    the middle leaves nothing half done.
    """
    runner = Runner(database.raw, str(MIGRATIONS))
    try:
        _refuse_newer(runner)
        return list(runner.up())
    except peewee.InternalError as error:  # PostgreSQL's word for a standby
        raise Unavailable("The database cannot be written to now.") from error


def pending(database: Database) -> list[str]:
    """The names of the migrations not yet applied. Raises ``DatabaseTooNew``."""
    database.ping()  # the runner lets peewee's own errors through
    runner = Runner(database.raw, str(MIGRATIONS))
    _refuse_newer(runner)
    return [migration.name for migration in runner.status() if migration.applied is None]


@contextmanager
def exclusive(database: Database) -> Iterator[None]:
    """Hold the one right to set up this database, over all processes and machines that share it.

    The lock dies with its holder: a lock file's by the kernel, an advisory lock's with the session.
    """
    database.create_file()
    if database.path is None:
        database.ping()  # what follows lets peewee's own errors through
        with database.unhurried():
            try:
                database.raw.execute_sql("SELECT pg_advisory_lock(%s)", (_LOCK,))
            except peewee.OperationalError as error:
                raise Unavailable("Another process has been setting up the database.") from error
            try:
                yield
            finally:
                database.raw.execute_sql("SELECT pg_advisory_unlock(%s)", (_LOCK,))
        return
    lock = f"{database.path}.lock"
    try:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise DatabaseUnusable(f"Cannot make {lock}: {error.strerror}.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Not before: the first connections to a new file that all turn WAL on fail without waiting.
        database.ping()
        yield
    finally:
        os.close(handle)


def _refuse_newer(runner: Runner) -> None:
    unknown = [migration.name for migration in runner.status() if migration.path is None]
    if unknown:
        raise DatabaseTooNew(
            f"This database was upgraded by a newer Keyosk ({', '.join(unknown)}); run that one."
        )
