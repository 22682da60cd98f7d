"""The worker process: one event loop that reads requests, a few threads that answer them.

The loop (the main thread) accepts connections and reads each request completely, head and body,
without ever waiting for one client, under one deadline a request. Only complete requests go to the
threads. So the number of slow or idle clients does not matter, and neither does what they send:
their cost is a socket and a buffer. Answers that a client does not take come back to the loop.

gunicorn's gthread worker is not used because it gives every accepted connection to a thread, which
then waits for the request without a deadline.
"""

import os
import queue
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Any

from gunicorn.workers import base
from gunicorn.workers.base import Worker as GunicornWorker

from keyosk.server import answers
from keyosk.server.answers import Problem
from keyosk.server.connection import READ_BYTES, Connection, Phase
from keyosk.server.exchange import Exchange
from keyosk.server.framing import Limits, Step
from keyosk.server.options import Options
from keyosk.server.pool import Pool
from keyosk.server.process import Heartbeat, raise_file_limit, share_one_arena
from keyosk.server.waiting import READ, WaitingRoom

_TICK = 0.5  # seconds between two looks at the deadlines
_ACCEPTS = 16  # new connections per round, so that a flood of them leaves room for the others
_HELD_BYTES = 64 * 1024 * 1024  # of all half-read requests, and of all half-sent answers
_STOP_IDLE, _STOP_READING = 1.0, 5.0  # seconds left to open connections once we are told to stop
_SPARE_FILES = 128  # descriptors kept for everything but connections

_REFUSALS = {
    Step.LINE_TOO_LONG: answers.LINE_TOO_LONG,
    Step.HEAD_TOO_LARGE: answers.HEAD_TOO_LARGE,
    Step.BODY_TOO_LARGE: answers.BODY_TOO_LARGE,
}
# Blocked from before a worker's fork until it can act on them; see Arbiter in this package.
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})

# gunicorn has no setting for the kind of file, and makes it before a worker class has a say.
base.WorkerTmp = Heartbeat


class Worker(GunicornWorker):
    """A gunicorn worker class. `app.options` has its settings."""

    def init_process(self) -> None:
        """Prepare the process, then run until told to stop. gunicorn calls this after the fork."""
        options: Options = self.app.options
        self.options = options
        self.limits = Limits(
            head=options.head_bytes,
            body=options.body_bytes,
            streams=frozenset(entry.encode() for entry in options.streams),
        )
        self.connections: set[Connection] = set()  # all that are open, wherever they are
        self.most = max(1, min(options.connections, raise_file_limit() - _SPARE_FILES))
        self.jobs: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self.returned: deque[Connection] = deque()
        self.scratch = bytearray(256 * 1024)
        self.accepting = False
        self.woken = False
        self.next_tick = 0.0
        self.next_complaint = 0.0
        share_one_arena()
        super().init_process()

    def init_signals(self) -> None:
        """Set the handlers, then let in what was sent since the fork."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def run(self) -> None:
        """Serve until SIGTERM, then finish what is under way."""
        self.waiting = WaitingRoom()
        # Signals and threads wake the loop through this pipe; gunicorn makes it.
        self.waiting.poller.register(self.PIPE[0], READ)
        self.exchange = Exchange(
            self.wsgi,
            self.cfg,
            self.log,
            self.options,
            stopping=lambda: not self.alive,
            resume=self.jobs.put,
        )
        pool = Pool(
            self.exchange,
            self.limits,
            self.jobs,
            give_back=self._give_back,
            close=self._close,
            log=self.log,
        )
        pool.start(self.options.threads + 1)
        while self.alive:
            self._accept_while_room()
            self._turn()
        self._stop()

    def _stop(self) -> None:
        """Finish: what waits to be accepted still is, then nothing more."""
        for listener in self.sockets:
            self._accept(listener, batch=self.options.connections)
            if self.accepting:
                self.waiting.poller.unregister(listener)
            listener.close()
        self.waiting.hurry(_STOP_IDLE, _STOP_READING)
        # The master kills at the same time as we would give up: be a little earlier.
        latest = time.monotonic() + self.options.graceful_timeout - 0.5
        while self.connections and time.monotonic() < latest:
            self._turn()

    # Only `_give_back`, `_wake` and `_close` are called by threads; all else by the loop alone.

    def _turn(self) -> None:
        for source in self.waiting.ready(_TICK):
            if isinstance(source, Connection):
                self._guarded(self._on_ready, source)
            elif source is not None:
                self._accept(source, batch=_ACCEPTS)
            else:
                # In this order: a thread that still finds `woken` set has put its connection into
                # `returned` before we look there.
                os.read(self.PIPE[0], 4096)
                self.woken = False
        while self.returned:
            self._guarded(self._take_back, self.returned.popleft())
        now = time.monotonic()
        if now >= self.next_tick:
            self.next_tick = now + _TICK
            self._tick()

    def _tick(self) -> None:
        self.notify()  # the master kills a worker that stops saying this
        if self.ppid != os.getppid():
            self.log.info("the master is gone, stopping")
            self.alive = False
        for connection in self.waiting.expired():
            self._guarded(self._expire, connection)
        for connection in self.waiting.too_heavy(_HELD_BYTES):
            self._drop(connection)

    def _guarded(self, step: Any, connection: Connection) -> None:
        """SECURITY: a fault with one connection must not end the loop, which serves all."""
        try:
            step(connection)
        except Exception:
            self.log.exception("a connection failed")
            self._drop(connection)

    def _on_ready(self, connection: Connection) -> None:
        if connection.phase in (Phase.IDLE, Phase.READING):
            self._receive(connection)
        elif connection.phase is Phase.FLUSHING:
            self._flush(connection)
        elif connection.phase is Phase.DRAINING:
            self._drain(connection)
        # else: closed or taken in the same round, before its event was looked at.

    def _accept_while_room(self) -> None:
        room = len(self.connections) < self.most or bool(self.waiting)
        if room != self.accepting:
            self.accepting = room
            for listener in self.sockets:
                if room:
                    self.waiting.poller.register(listener, READ, listener)
                else:
                    self.waiting.poller.unregister(listener)

    def _accept(self, listener: Any, batch: int) -> None:
        for _ in range(batch):
            if len(self.connections) >= self.most and not self._evict():
                return
            try:
                sock, client = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as fault:
                # Out of descriptors or memory: an old connection has to go.
                self.log.error("cannot accept: %s", fault.strerror)
                if not self._evict():
                    time.sleep(0.01)  # rather than spin
                return
            connection = Connection(sock, client, listener.getsockname(), self.limits)
            self.connections.add(connection)
            self._guarded(self._receive, connection)

    def _evict(self) -> bool:
        """Close the connection that is worth least; False if all are at work."""
        connection = self.waiting.least()
        if connection is None:
            return False
        self._drop(connection)
        now = time.monotonic()
        if now >= self.next_complaint:
            self.next_complaint = now + 10
            self.log.warning("too many connections: closing those that have waited longest")
        return True

    def _drop(self, connection: Connection) -> None:
        self.waiting.leave(connection)
        self._close(connection)

    def _expire(self, connection: Connection) -> None:
        if connection.phase is Phase.READING and connection.buffer:
            self._refuse_and_flush(connection, answers.TIMEOUT)
        else:
            self._drop(connection)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(READ_BYTES)
        except BlockingIOError:
            if connection.phase is None:  # just accepted
                self.waiting.wait(connection, Phase.READING, self.options.request_timeout)
            return
        except OSError:
            self._drop(connection)
            return
        if not data:
            if connection.buffer:
                self._refuse_and_flush(connection, answers.INCOMPLETE)
            else:
                self._drop(connection)
            return
        connection.buffer = connection.buffer + data if connection.buffer else data
        self._advance(connection)

    def _advance(self, connection: Connection) -> None:
        step = connection.look()
        if connection.framing.wants_continue(connection.buffer):
            connection.framing.continued = True
            try:
                # 25 bytes into a socket with nothing else to send: if they do not fit, it is dead.
                connection.sock.send(answers.CONTINUE)
            except OSError:
                self._drop(connection)
                return
        if step in _REFUSALS:
            self._refuse_and_flush(connection, _REFUSALS[step])
        elif step is Step.READY or step is Step.STREAM:
            self.waiting.leave(connection)
            self.jobs.put(connection)
        else:
            self.waiting.wait(connection, Phase.READING, self.options.request_timeout)

    def _take_back(self, connection: Connection) -> None:
        """Go on with a connection that a thread has given back."""
        if connection.out or not connection.keep:
            self._flush(connection)
        else:
            self._next(connection)

    def _next(self, connection: Connection) -> None:
        """Go on with what was sent behind the last request, or wait for something."""
        if connection.buffer:
            self._advance(connection)
        else:
            seconds = self.options.idle_timeout if self.alive else _STOP_IDLE
            self.waiting.wait(connection, Phase.IDLE, seconds)

    def _flush(self, connection: Connection) -> None:
        """Send the rest of an answer, then go on with the next request or close."""
        if connection.out:
            try:
                connection.progress += connection.send_some()
            except OSError:
                self._drop(connection)
                return
        if connection.out:
            self.waiting.wait_to_send(connection, self.options.send_timeout)
            return
        if connection.keep:
            self._next(connection)
            return
        # Closing while the client still sends would make the kernel reset the connection, and the
        # client may then never see the answer (RFC 9112, section 9.6).
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(connection)
            return
        connection.buffer = b""
        self.waiting.wait(connection, Phase.DRAINING, self.options.drain_timeout)

    def _drain(self, connection: Connection) -> None:
        try:
            count = connection.discard_some(self.scratch)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count or connection.drained > self.options.drain_bytes:
            self._drop(connection)

    def _refuse_and_flush(self, connection: Connection, problem: Problem) -> None:
        self.exchange.refuse(connection, problem, head=connection.buffer.startswith(b"HEAD "))
        self._flush(connection)

    def _give_back(self, connection: Connection) -> None:
        self.returned.append(connection)
        self._wake()

    def _wake(self) -> None:
        if not self.woken:
            self.woken = True
            with suppress(BlockingIOError):  # full: the loop is about to wake up anyhow
                os.write(self.PIPE[1], b".")

    def _close(self, connection: Connection) -> None:
        self.connections.discard(connection)
        connection.sock.close()
        if not self.accepting:
            self._wake()
