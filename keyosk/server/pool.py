"""Threads that handle requests of one kind."""

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from keyosk.server.wsgi import Call

_log = logging.getLogger(__name__)


class Pool:
    """A number of threads, and a limit on the requests that wait for them.

    A request goes to the thread that became idle last, whose database pages and code are still
    cached. A shared queue would give it to the thread that was idle for longest, and wake another
    one for nothing (60 to 100 us together).
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Call], None],
        *,
        threads: int,
        length: int,
        niceness: int = 0,
    ) -> None:
        """``niceness``: that of its threads, so that others on the machine go first."""
        self._run = run
        self._niceness = niceness
        self._room = threads + length
        self._lock = threading.Lock()
        self._waiting: deque[Call] = deque()
        self._idle: list[_Assignment] = []
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def put(self, call: Call) -> bool:
        """Queue a request; False if too many wait."""
        with self._lock:
            if not self._room:
                return False
            self._room -= 1
            if not self._idle:
                self._waiting.append(call)
                return True
            thread = self._idle.pop()
        thread.give(call)
        return True

    def _work(self) -> None:
        if self._niceness:
            _stand_back(self._niceness)
        assignment = _Assignment()
        while True:
            with self._lock:
                call = self._waiting.popleft() if self._waiting else None
                if call is None:
                    self._idle.append(assignment)
            if call is None:
                call = assignment.wait()
            try:
                self._run(call)
            except BaseException:  # noqa: BLE001  # the thread must go on after any error
                _log.exception("a request failed")
            del call  # otherwise its objects would live until the next request
            with self._lock:
                self._room += 1


class _Assignment:
    """The request that an idle thread waits for."""

    __slots__ = ("_call", "_given")

    def __init__(self) -> None:
        self._call: Call | None = None
        self._given = threading.Lock()
        self._given.acquire()

    def give(self, call: Call) -> None:
        self._call = call
        self._given.release()

    def wait(self) -> Call:
        self._given.acquire()
        call, self._call = self._call, None
        assert call is not None
        return call


def _stand_back(niceness: int) -> None:
    """Raise the niceness of this thread; only Linux has one for each thread."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):  # forbidden by a sandbox
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, now + niceness)
