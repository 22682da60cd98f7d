"""A fair queue for writing to a SQLite file, for all threads and processes of a machine.

SQLite has one writer at a time. Others sleep and try again, for up to a tenth of a second, and
later ones may overtake them: of 16 concurrent refreshes the slowest took 80 ms and more. So writers
wait here first.
"""

import fcntl
import os
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

import peewee

#: Seconds that a writer waits for another.
LONGEST: Final = 4.0


class Turns:
    """A turn, which passes from thread to thread, and between processes by a lock on the folder.

    It only determines who is next. That thread then takes SQLite's own lock, which other programs
    may hold, and waits for it as SQLite does.
    """

    def __init__(self, file: Path) -> None:
        self._folder = file.parent
        self._threads = threading.Lock()
        self._handle: int | None = None
        self._waiter: _Waiter | None = None

    def take(self) -> None:
        """Wait for the turn of this thread. Raises ``peewee.OperationalError`` as SQLite does."""
        began = time.monotonic()
        if not self._threads.acquire(timeout=LONGEST):
            raise _locked()
        try:
            handle = self._open() if self._handle is None else self._handle
            # An earlier thread may have given up, and then the waiter still waits.
            if self._waiter is not None and self._waiter.is_waiting:
                self._waiter.wait(began + LONGEST - time.monotonic())
            else:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self._waiter = self._waiter or _Waiter(handle)
                    self._waiter.wait(began + LONGEST - time.monotonic())
        except OSError:
            pass  # no locks or descriptors here: SQLite's own lock is enough
        except BaseException:
            self.give()
            raise
        # The file was locked for all this time, so another attempt is useless.
        if time.monotonic() - began >= LONGEST:
            self.give()
            raise _locked()

    def give(self) -> None:
        """Let the next one write."""
        try:
            if self._handle is not None:
                fcntl.flock(self._handle, fcntl.LOCK_UN)
        except OSError:
            pass  # where nothing could be locked, nothing can be unlocked, and the write is done
        finally:
            self._threads.release()

    def _open(self) -> int:
        """Open the folder, once in each process, because a lock belongs to the open file."""
        self._handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, os.close, self._handle)
        return self._handle


class _Waiter:
    """A thread that waits for the lock on the folder in the place of others.

    ``flock`` has no deadline, and another process may be stopped in its turn (Ctrl-Z). To try again
    and again instead would let that process overtake, whose threads know when the lock is free.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._changed = threading.Condition()
        #: Whether it waits for the lock; until it does not, nobody else here may take the lock.
        self.is_waiting = False
        self._is_wanted = False
        threading.Thread(target=self._run, name="turns", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Take the lock. Raises ``peewee.OperationalError`` if that takes longer."""
        with self._changed:
            self._is_wanted = self.is_waiting = True
            self._changed.notify_all()
            try:
                if not self._changed.wait_for(lambda: not self.is_waiting, seconds):
                    raise _locked()
            finally:
                self._is_wanted = False

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.is_waiting)
            with suppress(OSError):  # no locks here: SQLite's own lock is enough
                fcntl.flock(self._handle, fcntl.LOCK_EX)
            with self._changed:
                if not self._is_wanted:
                    with suppress(OSError):
                        fcntl.flock(self._handle, fcntl.LOCK_UN)
                # Last, because whoever finds that it does not wait takes the lock.
                self.is_waiting = False
                self._changed.notify_all()


def _locked() -> peewee.OperationalError:
    return peewee.OperationalError("database is locked")
