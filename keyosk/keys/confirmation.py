"""What the database says now of what a key set depends on, within a bounded time.

A database that hangs is only given up after seconds, and a key set must not wait for that: it is
public, in memory, and what all services verify tokens with. So in a server a thread of its own asks
the database, and requests wait for the answer only briefly.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from keyosk import delays
from keyosk.errors import Unavailable

_Answer = TypeVar("_Answer")

#: Seconds that a request waits for an answer.
_LONGEST: Final = 0.25

_log = logging.getLogger(__name__)


class Confirmation(Generic[_Answer]):
    """The answer of the database to one question, as it was last asked.

    SECURITY: a request that begins after a key was declared stolen gets a set without it. So the
    time at which the database was asked counts, not that of its answer.
    """

    def __init__(self, ask: Callable[[], _Answer]) -> None:
        """``ask`` asks the database. It may raise ``Unavailable``."""
        self._ask = ask
        self._changed = threading.Condition()
        #: When the database was last asked, and its answer; ``None`` if it had none.
        self._last: tuple[float, _Answer | None] = (-math.inf, None)
        self._is_wanted = False
        #: When the question began that has no answer yet.
        self._began: float | None = None
        self._has_thread = False

    def start(self) -> None:
        """Start the thread. Before that, those who want an answer ask by themselves."""
        self._has_thread = True
        threading.Thread(target=self._run, name="confirmation", daemon=True).start()

    def answer(self, since: float | None) -> _Answer | None:
        """Return the answer, asked after ``since``; ``None`` if the database gives none in time.

        ``since``: by ``time.monotonic``; ``None`` for now. An answer to another request will do.
        """
        asked, answer = self._last
        if since is not None and since <= asked:
            return answer
        # In the event loop, reads fail instead of waiting (``Database.read_without_waiting``).
        if self._has_thread and delays.leave_loop.get() is None:
            return self._wait(time.monotonic() if since is None else since)
        began = time.monotonic()
        try:
            answer = self._ask()
        except Unavailable:
            answer = None
        self._last = (began, answer)
        return answer

    def _wait(self, since: float) -> _Answer | None:
        with self._changed:
            if self._began is not None and time.monotonic() - self._began > _LONGEST:
                return None
            self._is_wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._last[0] >= since, _LONGEST)
            asked, answer = self._last
            return answer if asked >= since else None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_wanted)
                self._is_wanted = False
                began = self._began = time.monotonic()
            answer = None
            try:
                answer = self._ask()
            except Unavailable:
                pass  # the log has a line when that begins
            except Exception as error:  # noqa: BLE001 - whatever it is, the next question may pass
                _log.error("the key set was not confirmed: %s", type(error).__name__)
            with self._changed:
                self._last = (began, answer)
                self._began = None
                self._changed.notify_all()
