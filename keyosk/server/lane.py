"""A bound on how many requests of one kind run at once."""

import threading
from collections import deque

from keyosk.server.connection import Connection


class LaneFull(Exception):
    """Too many are waiting already."""


class Lane:
    """At most `width` connections run in it; up to `length` more wait, without holding a thread."""

    def __init__(self, width: int, length: int) -> None:
        self._free = width
        self._length = length
        self._waiting: deque[Connection] = deque()
        self._lock = threading.Lock()

    def enter(self, connection: Connection) -> bool:
        """Take a place, or a place in the queue (False). Raises LaneFull."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            if len(self._waiting) >= self._length:
                raise LaneFull
            self._waiting.append(connection)
            return False

    def leave(self) -> Connection | None:
        """Give the place up. If somebody waits, the place is theirs: they are to be run next."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._free += 1
            return None
