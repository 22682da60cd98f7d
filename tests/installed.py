"""An installation in the test's own process, for code that no request or command reaches.

The fixture ``installation`` of conftest.py gives one; here is what it and tests make more of.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from keyosk import config, delays
from keyosk.installation import Installation
from keyosk.metrics import Metrics, SharedCounts
from keyosk.model import OPERATOR, Scope
from live import ADMIN_PASSWORD, SECRET_KEY

#: In place of a table: what is sealed and what waits for it.
EVERY_AUDIT_ROW: Final = (
    "(SELECT id, action, target, after FROM audit_row UNION ALL"
    " SELECT id, action, target, after FROM waiting_audit_row) AS every_row"
)


class Clock:
    """A clock that the test sets: ``clock.now += 60``."""

    def __init__(self, now: float = 1_900_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def settings(database_url: str) -> config.Config:
    return config.load(
        {
            "KEYOSK_DATABASE_URL": database_url,
            "KEYOSK_SECRET_KEY": SECRET_KEY,
            "KEYOSK_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "KEYOSK_KEY_PUBLISH_AHEAD": "900",
        }
    )


@contextmanager
def delays_noted() -> Iterator[list[float]]:
    """For how long responses are to wait, as a server is told; nothing waits here."""
    seconds: list[float] = []
    before = delays.hold.set(seconds.append)
    try:
        yield seconds
    finally:
        delays.hold.reset(before)


@contextmanager
def installed(
    database_url: str,
    *,
    clock: Callable[[], float] = time.time,
    counts: SharedCounts | None = None,
) -> Iterator[Installation]:
    """An installation on a database that is set up; ``clock`` may be given, and what it counts."""
    installation = Installation(settings(database_url), clock=clock, metrics=Metrics(counts))
    try:
        yield installation
    finally:
        installation.database.close()


def rows_of(installation: Installation, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What the database says to a query of the test's own; ``?`` stands for a parameter."""
    raw = installation.database.raw
    return list(raw.execute_sql(sql.replace("?", raw.param), parameters).fetchall())


@contextmanager
def with_todo(url: str, clock: Clock) -> Iterator[Installation]:
    """One with a service todo, which allows refreshing."""
    with installed(url, clock=clock) as made:
        scopes = [Scope("todo:read")]
        made.services.create(OPERATOR, name="todo", scopes=scopes, refresh_allowed=True)
        yield made


class _Statements(logging.Handler):
    """Takes down what peewee says it sends, with and without its values."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.sent: list[tuple[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.msg, tuple)
        sql = str(record.msg[0])
        self.sent.append(record.msg)
        if not sql.startswith(("BEGIN", "SELECT pg_advisory")):  # of one of the databases only
            self.texts.append(sql)


@contextmanager
def _listening() -> Iterator[_Statements]:
    log, handler = logging.getLogger("peewee"), _Statements()
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that this process sends meanwhile, the same on both databases."""
    with _listening() as handler:
        yield handler.texts


@contextmanager
def statements_with_values() -> Iterator[list[tuple[str, Any]]]:
    """All of it, each statement with its values."""
    with _listening() as handler:
        yield handler.sent


def sqlite_steps(connection: sqlite3.Connection, read: Callable[[], Any]) -> int:
    """The steps that SQLite's machine takes for all queries of a call."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(step, 1)
    try:
        read()
    finally:
        connection.set_progress_handler(None, 0)
    return steps
