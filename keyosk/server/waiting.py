"""The connections that wait for the network, each for one thing and until a deadline."""

import selectors
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from keyosk.server.connection import PIECE, Connection, Phase

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class WaitingRoom:
    """Used by the event loop only. Each phase is sorted by deadline, as each has one timeout."""

    def __init__(self) -> None:
        self.poller = selectors.DefaultSelector()
        self._phases: dict[Phase, OrderedDict[Connection, None]] = {
            phase: OrderedDict() for phase in Phase
        }

    def __bool__(self) -> bool:
        return any(self._phases.values())

    def ready(self, seconds: float) -> Iterator[Any]:
        """What was registered with the poller and has something to say; waits at most so long."""
        for key, _ in self.poller.select(seconds):
            yield key.data

    def wait(self, connection: Connection, phase: Phase, seconds: float) -> None:
        """Wait for the network, until a deadline that begins when the phase does."""
        if connection.phase is not phase:
            if connection.phase is not None:
                del self._phases[connection.phase][connection]
            connection.phase = phase
            connection.deadline = time.monotonic() + seconds
            self._phases[phase][connection] = None
        events = WRITE if phase is Phase.FLUSHING else READ
        if connection.events != events:
            change = self.poller.modify if connection.events else self.poller.register
            change(connection.sock, events, connection)
            connection.events = events

    def wait_to_send(self, connection: Connection, seconds: float) -> None:
        """Wait until the client takes more; every PIECE that it took begins the time anew."""
        if connection.phase is Phase.FLUSHING and connection.progress >= PIECE:
            connection.progress = 0
            connection.deadline = time.monotonic() + seconds
            self._phases[Phase.FLUSHING].move_to_end(connection)
        self.wait(connection, Phase.FLUSHING, seconds)

    def leave(self, connection: Connection) -> None:
        """Wait for the network no longer."""
        if connection.phase is not None:
            del self._phases[connection.phase][connection]
            connection.phase = None
        if connection.events:
            self.poller.unregister(connection.sock)
            connection.events = 0

    def expired(self) -> Iterator[Connection]:
        """Those whose time is over, each time the next. The caller must move it elsewhere."""
        now = time.monotonic()
        for connections in self._phases.values():
            while connections and (first := next(iter(connections))).deadline <= now:
                yield first

    def too_heavy(self, limit: int) -> Iterator[Connection]:
        """Those with which half-read requests, or half-sent answers, hold more than `limit` bytes.

        The caller must close them.
        """
        for phase in (Phase.FLUSHING, Phase.READING):
            connections = self._phases[phase]
            held = sum(connection.held for connection in connections)
            while held > limit:
                first = next(iter(connections))
                held -= first.held
                yield first

    def least(self) -> Connection | None:
        """The connection that is worth least: of the first phase, the one that came first."""
        for connections in self._phases.values():
            if connections:
                return next(iter(connections))
        return None

    def hurry(self, idle: float, reading: float) -> None:
        """Leave those that send nothing, and those that send, only so many seconds from now."""
        for connection in list(self._phases[Phase.READING]):
            if not connection.buffer:
                self.wait(connection, Phase.IDLE, idle)
        now = time.monotonic()
        for phase, seconds in ((Phase.IDLE, idle), (Phase.READING, reading)):
            for connection in self._phases[phase]:
                connection.deadline = min(connection.deadline, now + seconds)
