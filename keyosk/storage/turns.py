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
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import peewee

from keyosk.alarms import alarm

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

    def take(self) -> None:
        """Wait for the turn of this thread. Raises ``peewee.OperationalError`` as SQLite does."""
        began = time.monotonic()
        if not self._threads.acquire(timeout=LONGEST):
            raise _locked()
        try:
            handle = self._open() if self._handle is None else self._handle
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Without a deadline in a thread of the server: it waits for as long as another
                # process holds it, and all others of this process only so long for this thread.
                with _deadline():
                    fcntl.flock(handle, fcntl.LOCK_EX)
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


def _deadline() -> AbstractContextManager[None]:
    """Limit the wait of a command, because another process may be stopped (Ctrl-Z).

    Only its main thread can have an alarm; in that of the server nothing is written.
    """
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return alarm(LONGEST, _locked)


def _locked() -> peewee.OperationalError:
    return peewee.OperationalError("database is locked")
