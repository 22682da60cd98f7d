"""The threads that answer requests."""

import queue
import threading
from collections.abc import Callable
from typing import Any

from keyosk.server.connection import READ_BYTES, ClientGone, Connection
from keyosk.server.exchange import Exchange
from keyosk.server.framing import Limits, Step

_NEXT_REQUEST = 0.001  # seconds to wait for a client's next request when nothing else is to do


class Pool:
    """A connection belongs to the thread that took it, until `give_back` or `close` is called."""

    def __init__(
        self,
        exchange: Exchange,
        limits: Limits,
        jobs: "queue.SimpleQueue[Connection]",
        *,
        give_back: Callable[[Connection], None],
        close: Callable[[Connection], None],
        log: Any,
    ) -> None:
        self._exchange = exchange
        self._limits = limits
        self._jobs = jobs
        self._give_back = give_back
        self._close = close
        self._log = log

    def start(self, threads: int) -> None:
        """Start the threads. They end with the process."""
        for number in range(threads):
            threading.Thread(target=self._work, name=f"request-{number}", daemon=True).start()

    def _work(self) -> None:
        while True:
            connection = self._jobs.get()
            try:
                self._serve(connection)
            except ClientGone:
                self._close(connection)
            except BaseException:  # noqa: BLE001  # whatever it was, the thread is needed
                self._log.exception("a connection failed")
                self._close(connection)

    def _serve(self, connection: Connection) -> None:
        """Answer the request, and those that follow it while nobody else waits for a thread."""
        while self._exchange.answer(connection):
            if not connection.keep and _may_close_at_once(connection):
                self._close(connection)
                return
            if connection.out or not connection.keep:
                break
            connection.next_request(self._limits)
            if not connection.buffer:
                connection.buffer = self._await_next(connection)
            if not connection.buffer or connection.look() is not Step.READY:
                break
            if not self._jobs.empty():
                self._jobs.put(connection)  # to the end of the queue
                return
        else:
            return  # it waits in the slow lane; a thread will take it from there
        self._give_back(connection)

    def _await_next(self, connection: Connection) -> bytes:
        """The bytes of a next request that comes at once, which spares two changes of thread."""
        if not self._jobs.empty() or self._exchange.stopping():
            return b""
        connection.sock.settimeout(_NEXT_REQUEST)
        try:
            return connection.sock.recv(READ_BYTES)
        except OSError:
            return b""  # nothing yet, or a fault or an end that the loop will meet again
        finally:
            connection.sock.settimeout(0)


def _may_close_at_once(connection: Connection) -> bool:
    """Whether everything is sent, and nothing was received that would make a close a reset."""
    if connection.out or connection.buffer or connection.step is Step.STREAM:
        return False
    try:
        return not connection.sock.recv(1)
    except OSError:
        return True  # nothing there
