"""A read of the database for which requests wait only briefly.

A database that hangs is only given up after seconds, and a key set must not wait for that: it is
public, in memory, and what all services verify tokens with. So in a server a thread of its own
reads, and requests wait for the result for a quarter of a second.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from keyosk import delays
from keyosk.errors import Unavailable

_Result = TypeVar("_Result")

#: Seconds that a request waits for a result.
_LONGEST: Final = 0.25

_log = logging.getLogger(__name__)


class BoundedRead(Generic[_Result]):
    """The result of one read, shared by all requests that wait for it.

    SECURITY: a request that begins after a key was declared stolen gets a set without it. So the
    time at which a read began counts, not the time of its result.
    """

    def __init__(self, read: Callable[[], _Result]) -> None:
        """``read`` reads the database. It may raise ``Unavailable``."""
        self._read = read
        self._changed = threading.Condition()
        #: When the last read began, and its result; ``None`` if it failed.
        self._last: tuple[float, _Result | None] = (-math.inf, None)
        self._is_requested = False
        #: When the read began that has no result yet.
        self._began: float | None = None
        self._has_thread = False

    def start(self) -> None:
        """Start the thread. Before that, requests read the database themselves."""
        self._has_thread = True
        threading.Thread(target=self._run, name="bounded-read", daemon=True).start()

    def result(self, since: float | None) -> _Result | None:
        """Return the result of a read after ``since``; ``None`` if there is none in time.

        ``since``: by ``time.monotonic``; ``None`` for now. A read for another request will do.
        """
        began, result = self._last
        if since is not None and since <= began:
            return result
        # In the event loop, reads fail instead of waiting (``Database.read_without_waiting``).
        if self._has_thread and delays.leave_loop.get() is None:
            return self._wait(time.monotonic() if since is None else since)
        began = time.monotonic()
        try:
            result = self._read()
        except Unavailable:
            result = None
        self._last = (began, result)
        return result

    def _wait(self, since: float) -> _Result | None:
        with self._changed:
            if self._began is not None and time.monotonic() - self._began > _LONGEST:
                return None
            self._is_requested = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._last[0] >= since, _LONGEST)
            began, result = self._last
            return result if began >= since else None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_requested)
                self._is_requested = False
                began = self._began = time.monotonic()
            result = None
            try:
                result = self._read()
            except Unavailable:
                pass  # the log has a line when that begins
            except Exception as error:  # noqa: BLE001 - whatever it is, the next read may succeed
                _log.error("the key set was not confirmed: %s", type(error).__name__)
            with self._changed:
                self._last = (began, result)
                self._began = None
                self._changed.notify_all()
