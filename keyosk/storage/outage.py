"""A circuit breaker: one thread probes a database that timed out, the others fail fast."""

import fcntl
import logging
import math
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from keyosk.errors import DatabaseUnusable, Unavailable

_log = logging.getLogger(__name__)

_PAUSE: Final = 1.0  # seconds between two tries
#: Seconds that an outage of reads lasts at least: a server that dies has statements that still
#: succeed. Something is read each second, so that the end is still seen soon.
_SHORTEST: Final = 1.0
#: Seconds that an outage by a full disk lasts after the last write that was refused: others, which
#: find room in pages that are there already, succeed in between.
_FULL: Final = 60.0
#: Seconds that an outage may have lasted when it is recorded: a statement waits for a response.
_UNNOTICED: Final = 10.0


class Outage:
    """While a database does not respond, one thread probes it and all others fail at once.

    Otherwise each would wait for as long as the first did, and occupy a thread.
    """

    def __init__(self) -> None:
        self._trying = threading.Lock()
        self._next_try = 0.0
        self.is_on = False
        #: The number of outages so far; a connection from before the last one may be dead.
        self.number = 0
        self._whose: int | None = None

    def begin(self) -> None:
        """Record that the database did not respond in time."""
        self._next_try = time.monotonic() + _PAUSE
        self.number += 1
        self.is_on = True

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Enclose a probe, which ends the outage unless it raises ``Unavailable``.

        Raises ``Unavailable`` if no probe is due, or another thread is probing.
        """
        if not self._trying.acquire(blocking=False):
            raise Unavailable("The database is not available.")
        try:
            if time.monotonic() < self._next_try:
                raise Unavailable("The database is not available.")
            self._whose = threading.get_ident()
            try:
                yield
            except Unavailable:
                self._next_try = time.monotonic() + _PAUSE
                raise
            except BaseException:
                self.is_on = False
                raise
            self.is_on = False
        finally:
            self._whose = None
            self._trying.release()

    @property
    def forbids(self) -> bool:
        """Whether the database does not respond, and this thread is not the one that probes it."""
        return self.is_on and self._whose != threading.get_ident()


class ThreadState(threading.local):
    """The state of a thread's connection."""

    outages = 0  #: the number of outages when it was opened
    wrote = False  #: whether anything was written in its transaction
    is_read_only = False  #: whether it was opened while its SQLite file could only be read


class SharedOutage:
    """Whether an outage was logged, shared by processes that are forked from one.

    It is in memory, because a file could not be written if the outage is a full disk.
    """

    def __init__(self) -> None:
        self._state = mmap.mmap(-1, 1)  # shared by processes forked afterwards
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("keyosk-outage")
        else:  # not Linux
            self._file = os.dup(tempfile.TemporaryFile().fileno())  # noqa: SIM115 - until the end

    def turn(self, *, is_on: bool) -> bool:
        """Change the state; returns whether it differed. Only one process gets true each time."""
        # lockf, because its lock belongs to the process, and the kernel frees it when that dies.
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            was, self._state[0] = self._state[0], is_on
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        return was != is_on


class OutageLog:
    """Logs one line when a database becomes unavailable, with the reason, and one when it is back.

    A database that cannot be written to can often be read, so a read does not end an outage of
    writes.
    """

    def __init__(self, shared: SharedOutage | None = None) -> None:
        """``shared``: the state that processes share, so that one of them logs the line."""
        self._shared = shared
        self._lock = threading.Lock()
        self._logged: dict[bool, float] = {}
        self._full_until = 0.0
        #: When the last one began and ended.
        self._last = (-math.inf, -math.inf)
        self._is_started = False
        #: Whether there is an outage to end; all that a success looks at.
        self.is_on = False

    def begin(self, failure: Unavailable, *, reads: bool, is_full: bool = False) -> None:
        """Record that a statement failed; ``reads``: it only reads. ``is_full``: the disk is."""
        # If this ends the start of a process, the process itself reports it.
        is_reported = isinstance(failure, DatabaseUnusable) and not self._is_started
        with self._lock:
            if is_full:
                self._full_until = time.monotonic() + _FULL
            if self._logged or failure.reason is None or is_reported:
                return
            self._logged[reads] = time.monotonic()
            self.is_on = True
            if self._shared is not None and not self._shared.turn(is_on=True):
                return
        _log.warning("%s", failure.explanation)

    def end(self, *, reads: bool) -> None:
        """Record that a statement succeeded; ``reads``: it only reads."""
        with self._lock:
            if not self._logged or (reads and False in self._logged):
                return
            now = time.monotonic()
            if now - self._logged.get(True, 0.0) < _SHORTEST or now < self._full_until:
                return
            self._last = (min(self._logged.values()), now)
            self._logged.clear()
            self.is_on = False
            if self._shared is not None and not self._shared.turn(is_on=False):
                return
        _log.warning("The database is available again.")

    def seconds(self, *, within: float) -> float:
        """Return how long the last outage was, at most; 0 if it ended over ``within`` seconds ago.

        One that goes on counts from its beginning until now.
        """
        now = time.monotonic()
        with self._lock:
            began, ended = (min(self._logged.values()), now) if self._logged else self._last
        return 0.0 if now - ended > within else ended - began + _UNNOTICED

    def started(self) -> None:
        """Record that a process started: an outage that an earlier process logged is over."""
        self._is_started = True
        if self._shared is not None and self._shared.turn(is_on=False):
            _log.warning("The database is available again.")
