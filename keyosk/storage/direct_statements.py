"""Runs the statements of each request by libpq's functions, without a cursor.

For each execution a cursor of psycopg determines what the statement is, what it was before, and the
names of its columns. For a statement that is compiled once and fetched whole, that is half of the
driver's time. psycopg's own code converts the values, so the results are those of a cursor.
"""

import re
import select
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final, Protocol

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from keyosk.storage.compiled import Row

_DONE: Final = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
_PLACE: Final = re.compile(r"%([s%])")

#: A statement, and the types of its parameters.
_Key = tuple[str, tuple[int, ...]]


class _Session(Protocol):
    """What the statements need of their connection."""

    response_timeout: float | None

    @property
    def pgconn(self) -> PGconn:
        """The connection of libpq."""

    def give_up(self) -> None:
        """End the connection, because the server does not respond."""


class DirectStatements:
    """The statements of one connection, each a transaction of its own."""

    def __init__(self, connection: Any, *, prepare_after: int | None) -> None:
        """``prepare_after``: executions after which the server keeps a plan; ``None``: never."""
        self._session: _Session = connection
        self._pgconn: PGconn = connection.pgconn
        self._values = Transformer(connection)
        self._prepare_after = prepare_after
        self._runs: dict[_Key, int] = {}
        self._names: dict[_Key, bytes] = {}
        self._numbers = count()
        self._readable = self._poll(select.POLLIN)
        self._usable = self._poll(select.POLLIN | select.POLLOUT)

    @property
    def is_idle(self) -> bool:
        """Whether the connection can run a statement: it is open, and in no transaction."""
        return self._pgconn.transaction_status == TransactionStatus.IDLE

    def fetch(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        """Run a statement with psycopg's placeholders; returns all of its rows."""
        values = self._values
        dumped = values.dump_sequence(parameters, [PyFormat.AUTO] * len(parameters))
        types, formats = values.types or (), values.formats
        key = (statement, types)
        known = self._names.get(key)
        try:
            name = known or self._prepare(key)
            if name is None:
                self._pgconn.send_query_params(numbered(statement), dumped, types, formats)
            else:
                self._pgconn.send_query_prepared(name, dumped, formats)
            result = self._result()
        except (psycopg.errors.InvalidSqlStatementName, psycopg.errors.FeatureNotSupported):
            # The server did not run it. psycopg deallocates all prepared statements at a rollback,
            # and a migration may change the columns of one. It is prepared again, once.
            if known is None:
                raise
            self._names.clear()
            return self.fetch(statement, parameters)
        values.set_pgresult(result)
        return values.load_rows(0, result.ntuples, tuple)

    def _prepare(self, key: _Key) -> bytes | None:
        """Return the name of a statement that ran often enough, after it was prepared."""
        if self._prepare_after is None:
            return None
        runs = self._runs[key] = self._runs.get(key, 0) + 1
        if runs <= self._prepare_after:
            return None
        name = f"keyosk_{next(self._numbers)}".encode()
        statement, types = key
        self._pgconn.send_prepare(name, numbered(statement), types)
        self._result()
        self._names[key] = name
        return name

    def _result(self) -> PGresult:
        """Wait for the result of what was sent. Raises psycopg's errors."""
        timeout = self._session.response_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        pgconn = self._pgconn
        results: list[PGresult] = []
        try:
            while pgconn.flush():
                self._wait(self._usable, deadline)
                pgconn.consume_input()
            while True:
                while pgconn.is_busy():
                    self._wait(self._readable, deadline)
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is None:
                    break
                results.append(result)
        except psycopg.DatabaseError:
            # A server that ends the session sends the reason, then closes the connection.
            # SECURITY: other results do not count, because a write is committed only when the
            # server is ready for the next statement.
            if not any(each.status == ExecStatus.FATAL_ERROR for each in results):
                raise
        except BaseException:
            pgconn.finish()  # otherwise the next statement would get the rest of this result
            raise
        if not results:
            raise psycopg.InternalError("no result")
        # SECURITY: check all. The error of a commit follows the result of the statement.
        for each in results:
            if each.status not in _DONE:
                raise psycopg.errors.error_from_result(each)
        return results[0]

    def _wait(self, sockets: Any, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not sockets.poll(left):
            self._session.give_up()

    def _poll(self, events: int) -> Any:
        poller = select.poll()
        poller.register(self._pgconn.socket, events)
        return poller


@lru_cache(maxsize=1024)
def numbered(statement: str) -> bytes:
    """Return a statement with PostgreSQL's placeholders: $1, $2 ..."""
    numbers = count(1)
    text = _PLACE.sub(lambda place: f"${next(numbers)}" if place[1] == "s" else "%", statement)
    return text.encode()
