"""Threads that handle requests of one kind."""

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from keyosk.server.wsgi import Call

_log = logging.getLogger(__name__)


class Pool:
    """A number of threads, and a limit on the requests that wait for them."""

    def __init__(
        self,
        name: str,
        run: Callable[[Call], None],
        *,
        threads: int,
        length: int,
        niceness: int = 0,
    ) -> None:
        """``niceness``: how far its threads stand back behind all others of the machine."""
        self._run = run
        self._niceness = niceness
        self._room = threads + length
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Call] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def put(self, call: Call) -> bool:
        """Queue a request; False if too many wait."""
        with self._lock:
            if not self._room:
                return False
            self._room -= 1
        self._queue.put(call)
        return True

    def _work(self) -> None:
        if self._niceness:
            _stand_back(self._niceness)
        while True:
            call = self._queue.get()
            try:
                self._run(call)
            except BaseException:  # noqa: BLE001  # whatever it was, the thread is needed
                _log.exception("a request failed")
            del call  # what it holds would stay until the next
            with self._lock:
                self._room += 1


def _stand_back(niceness: int) -> None:
    """Have this thread leave the processor to others; only Linux has a niceness for each."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):  # forbidden by a sandbox
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, now + niceness)
