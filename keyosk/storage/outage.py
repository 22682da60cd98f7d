"""What everybody who needs a database knows of it once it was silent to one of them."""

import fcntl
import logging
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


class Outage:
    """While a database is silent, one at a time tries it and all others fail at once.

    Else each would wait for as long as the first did, and hold a thread meanwhile.
    """

    def __init__(self) -> None:
        self._trying = threading.Lock()
        self._next_try = 0.0
        self.is_on = False
        #: How many there were; a connection from before the last one may be dead without knowing.
        self.number = 0
        self._whose: int | None = None

    def begin(self) -> None:
        """Record that the database did not respond in time."""
        self._next_try = time.monotonic() + _PAUSE
        self.number += 1
        self.is_on = True

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Around a try, which ends the outage unless it raises ``Unavailable``.

        Raises that itself if it is not time for one, or somebody else is at it.
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
        """Whether the database is silent, and it is not this thread's turn to try it."""
        return self.is_on and self._whose != threading.get_ident()


class Known(threading.local):
    """What a thread knows of its connection."""

    outages = 0  #: how many there were before it
    wrote = False  #: whether anything was written in its transaction


class SharedOutage:
    """What processes that were forked from one know together: whether an outage was told of.

    In memory: a write to a file fails where the outage is that of a full disk.
    """

    def __init__(self) -> None:
        self._state = mmap.mmap(-1, 1)  # shared by processes forked afterwards
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("keyosk-outage")
        else:  # not Linux
            self._file = os.dup(tempfile.TemporaryFile().fileno())  # noqa: SIM115 - until the end

    def turn(self, *, is_on: bool) -> bool:
        """Change it; returns whether it was otherwise, which one process sees each time."""
        # Of this process, unlike a lock of flock's; the kernel frees it when the process dies.
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            was, self._state[0] = self._state[0], is_on
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        return was != is_on


class OutageLog:
    """One line when a database goes away, with the reason, and one when it is back.

    What cannot be written to can often be read: a success ends only what it disproves.
    """

    def __init__(self, shared: SharedOutage | None = None) -> None:
        """``shared``: by processes, one of which reports it."""
        self._shared = shared
        self._lock = threading.Lock()
        self._told: dict[bool, float] = {}
        self._is_started = False
        #: Whether there is anything to end; the one look that each success costs.
        self.is_on = False

    def begin(self, failure: Unavailable, *, reads: bool) -> None:
        """A statement failed that only ``reads``, or any."""
        # A start that this ends tells of it itself, and of nothing else.
        is_told = isinstance(failure, DatabaseUnusable) and not self._is_started
        with self._lock:
            if self._told or failure.reason is None or is_told:
                return
            self._told[reads] = time.monotonic()
            self.is_on = True
            if self._shared is not None and not self._shared.turn(is_on=True):
                return
        _log.warning("%s", failure.explanation)

    def end(self, *, reads: bool) -> None:
        """A statement that only ``reads``, or a write, succeeded."""
        with self._lock:
            if not self._told or (reads and False in self._told):
                return
            if time.monotonic() - self._told.get(True, 0.0) < _SHORTEST:
                return
            self._told.clear()
            self.is_on = False
            if self._shared is not None and not self._shared.turn(is_on=False):
                return
        _log.warning("The database is available again.")

    def started(self) -> None:
        """A process started with the database: what one that is gone told of is over."""
        self._is_started = True
        if self._shared is not None and self._shared.turn(is_on=False):
            _log.warning("The database is available again.")
