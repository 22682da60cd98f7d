"""Statements of the event loop for PostgreSQL, over one connection, without waiting.

What requests send in one turn of the loop is sent together (libpq's pipeline mode), and the rows
arrive together: no thread wakes another, and a few system calls serve all of them. It is one
transaction, so what they write waits for the disk once.

SECURITY: there is one reaction to whatever goes wrong. The connection is closed, and the requests
that wait for it begin again in threads, whose connections know about outages and errors. So only
what may run twice is sent here. And what is written must not wait for the locks of others: two
transactions that each write several rows could wait for each other.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from keyosk import suspension
from keyosk.errors import KeyoskError
from keyosk.storage.compiled import Row
from keyosk.storage.direct_statements import numbered
from keyosk.storage.outage import Outage

_MOST: Final = 64  # reads that wait; while the server is slow, further ones use threads
_PAUSE: Final = 1.0  # seconds between two tries to open a connection
#: Seconds without a response until threads ask instead. They wait for longer, and on connections of
#: their own: behind this one, all wait for the first that is slow.
_PATIENCE: Final = 2.0


class Pipeline:
    """The connection of the event loop. A thread opens it, once the loop has wanted it."""

    def __init__(self, connect: Callable[[], Any], outage: Outage) -> None:
        """``connect`` opens a connection, for which it may wait."""
        self._connect = connect
        self._outage = outage
        self._session: _Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Whether a thread that has just read something should call ``open``.
        self.is_wanted = False
        self._is_allowed = True
        self._opening = threading.Lock()
        self._next_try = 0.0

    def is_ready(self) -> bool:
        """Return whether a read can be sent. Called in the loop, as ``fetch``."""
        session = self._session
        if session is not None and session.is_usable():
            return len(session.waiting) < _MOST
        self._session = None
        if self._is_allowed:
            self._loop, self.is_wanted = asyncio.get_running_loop(), True
        return False

    def fetch(self, statement: str, parameters: Sequence[Any]) -> list[Row] | None:
        """Suspend the request, and return the rows of a statement with psycopg's placeholders.

        ``None`` if the request is to begin again in a thread, for whatever reason.
        """
        if not suspension.is_possible() or not self.is_ready():
            return None
        assert self._session is not None
        return self._session.fetch(statement, parameters)

    def open(self) -> None:
        """Open the connection for the loop, in a thread."""
        if time.monotonic() < self._next_try or not self._opening.acquire(blocking=False):
            return
        try:
            self._next_try = time.monotonic() + _PAUSE
            outages = self._outage.number
            connection = self._connect()
            # A pooler has it take turns with others, and traces are of cursors.
            has_direct = connection.direct is not None
            self._is_allowed = has_direct and connection.prepare_threshold is not None
            if self._is_allowed:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._use, connection, outages)
            else:
                self.is_wanted = False
                connection.close()
        except (psycopg.Error, KeyoskError, RuntimeError):  # RuntimeError: the process ends
            pass  # the thread's own request has what it needs
        finally:
            self._opening.release()

    def _use(self, connection: Any, outages: int) -> None:
        assert self._loop is not None
        self.is_wanted = False
        if self._session is not None:  # the loop was slow to use the one before
            connection.close()
            return
        self._session = _Session(self._loop, connection, self._outage, outages=outages)


class _Session:
    """An open connection, and the requests that wait for their rows, in this order."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Any,
        outage: Outage,
        *,
        outages: int,
    ) -> None:
        """``outages``: the number of them when it was opened."""
        #: What resumes each, and when its statement was sent.
        self.waiting: deque[tuple[Callable[[Any], object], float]] = deque()
        self._responded = loop.time()
        self._loop = loop
        self._outage = outage
        self._outages = outages
        self._connection = connection  # which would be closed with its last reference
        self._pgconn: PGconn = connection.pgconn
        self._values = Transformer(connection)
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._numbers = count()
        self._is_sending = False
        #: The rows of what was sent together, so far.
        self._rows: list[list[Row]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._socket = self._pgconn.socket  # libpq forgets that of a lost connection
        loop.add_reader(self._socket, self._receive)

    def is_usable(self) -> bool:
        """Return whether it is open, and from after the last outage: else it may be dead."""
        if self._outages != self._outage.number:
            self._close()
        return self._is_open

    def fetch(self, statement: str, parameters: Sequence[Any]) -> list[Row] | None:
        """Send a statement with those of this turn of the loop, and suspend the request."""
        values = self._values
        try:
            dumped = values.dump_sequence(parameters, [PyFormat.AUTO] * len(parameters))
        except (psycopg.Error, ValueError):  # a text with NUL, or that is not UTF-8
            return None
        types, formats = values.types or (), values.formats
        try:
            name = self._names.get((statement, types))
            if name is None:
                name = self._names[statement, types] = f"keyosk_{next(self._numbers)}".encode()
                self._pgconn.send_prepare(name, numbered(statement), types)
            self._pgconn.send_query_prepared(name, dumped, formats)
        except psycopg.Error:
            self._close()
            return None
        rows: list[Row] | None = suspension.suspend(self._wait)
        return rows

    def _wait(self, resume: Callable[[Any], object]) -> None:
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send)
        now = self._loop.time()
        self.waiting.append((resume, now))
        if self._timer is None:
            self._timer = self._loop.call_at(now + _PATIENCE, self._check_deadline)

    def _send(self) -> None:
        self._is_sending = False
        try:
            self._pgconn.pipeline_sync()
            is_stuck = self._pgconn.flush()
        except psycopg.Error:
            is_stuck = True
        if is_stuck:  # a socket takes many times as much
            self._close()

    def _receive(self) -> None:
        try:
            self._pgconn.consume_input()
            while self.waiting and not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None or result.status == ExecStatus.COMMAND_OK:  # it was prepared
                    continue
                if result.status == ExecStatus.PIPELINE_SYNC:  # it is committed
                    arrived, self._rows = self._rows, []
                    for rows in arrived:
                        self._resume(rows)
                    continue
                if result.status != ExecStatus.TUPLES_OK:
                    self._close()
                    return
                self._responded = self._loop.time()
                self._values.set_pgresult(result)
                self._rows.append(self._values.load_rows(0, result.ntuples, tuple))
        except psycopg.Error:
            self._close()

    def _check_deadline(self) -> None:
        """Leave a server that does not respond to threads."""
        self._timer = None
        if not self.waiting:
            return
        _, sent = self.waiting[0]
        # It runs one statement after another, and responds to those of each turn together.
        deadline = max(sent, self._responded) + _PATIENCE
        if deadline > self._loop.time():
            self._timer = self._loop.call_at(deadline, self._check_deadline)
            return
        self._close()

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._socket)
        if self._timer is not None:
            self._timer.cancel()
        self._pgconn.finish()
        while self.waiting:
            self._resume(None)

    def _resume(self, rows: list[Row] | None) -> None:
        """Have the loop resume the request that has waited longest, as this may run in another."""
        resume, _ = self.waiting.popleft()
        self._loop.call_soon(resume, rows)
