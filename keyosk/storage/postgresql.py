"""PostgreSQL as peewee connects to it, but with a deadline for each of its answers.

Its own ``statement_timeout`` ends what takes long. Nothing of its own ends the wait for a server
that hangs, is stopped or cut off: a socket to it looks like one to a busy server.
"""

from functools import partial
from typing import Any, Final

import peewee
import psycopg

from keyosk.storage.outage import Outage

CONNECT_TIMEOUT: Final = 3  # seconds until a session is there
STATEMENT_TIMEOUT: Final = 7_000  # milliseconds that the server gives one statement
_ANSWER_TIMEOUT: Final = 8.0  # seconds, the way there and back included


class _Connection(psycopg.Connection[Any]):
    """A connection that ends when the server does not answer in time."""

    outage: Outage
    #: Seconds to wait for one answer; ``None`` for as long as it takes.
    patience: float | None = _ANSWER_TIMEOUT

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()  # close() would wait too
            self.outage.begin()
        # peewee knows this one by its name.
        raise psycopg.OperationalError("The server does not answer.")


class _Adapter(peewee.Psycopg3Adapter):
    def __init__(self, outage: Outage) -> None:
        super().__init__()
        self._outage = outage

    def connect(self, db: peewee.Database, **params: Any) -> _Connection:
        # peewee connects one thread after another: those who waited need not find it out again.
        if self._outage.forbids:
            raise psycopg.OperationalError("The server does not answer.")
        try:
            connection = _Connection.connect(db.database, **params)
        except psycopg.errors.ConnectionTimeout:
            self._outage.begin()
        else:
            connection.outage = self._outage
            return connection
        raise psycopg.OperationalError("The server does not answer.")


class Postgresql(peewee.PostgresqlDatabase):
    """A PostgreSQL database by its URL."""

    def __init__(self, url: str, outage: Outage) -> None:
        """``outage``: begun when the server does not answer."""
        self.psycopg3_adapter = partial(_Adapter, outage)
        super().__init__(
            url,
            prefer_psycopg3=True,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="keyosk",
            options=f"-c statement_timeout={STATEMENT_TIMEOUT} -c synchronous_commit=on",
        )
