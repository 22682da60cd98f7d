"""The worker process: one event loop that reads requests, a few threads that answer them.

The loop (asyncio's, in the main thread) accepts connections and reads each request completely, head
and body, under one deadline a request. Only complete requests go to the threads. So the number of
slow or idle clients does not matter, and neither does what they send: their cost is a socket and a
buffer. Responses that a client does not take stay with the loop.
"""

import asyncio
import os
import signal
import socket
import time
from typing import Any, Final

from gunicorn.workers import base
from gunicorn.workers.base import Worker as GunicornWorker

from keyosk.server.balance import Balance
from keyosk.server.connection import Connection, Server
from keyosk.server.logs import ErrorStream
from keyosk.server.options import Options
from keyosk.server.process import Heartbeat, raise_file_limit, share_one_arena

_TICK: Final = 0.5  # seconds between two looks at the deadlines
_ACCEPTS: Final = 16  # new connections at once, so that a flood of them leaves room for the others
_LEFT_TO_OTHERS: Final = 0.005  # seconds that a worker which is ahead leaves connections to others
_SPARE_FILES: Final = 128  # descriptors kept for everything but connections
# Blocked from before a worker's fork until it can act on them; see Arbiter in this package.
SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2})
LEAVE: Final = signal.SIGUSR2  # from the master: the worker will be stopped soon

# gunicorn has no setting for the kind of file, and makes it before a worker class has a say.
base.WorkerTmp = Heartbeat


class Worker(GunicornWorker):
    """A gunicorn worker class. `app.options` has its settings."""

    def init_process(self) -> None:
        """Prepare the process, then run until told to stop. gunicorn calls this after the fork."""
        self.options: Options = self.app.options
        self.is_accepting = False
        self.hurries = False
        self.unclaimed = 1
        self.balance: Balance = self.app.balance
        self.opening: set[asyncio.Task[None]] = set()
        share_one_arena()
        super().init_process()

    def init_signals(self) -> None:
        """Set the handlers, then let in what was sent since the fork."""
        super().init_signals()
        signal.signal(LEAVE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def run(self) -> None:
        """Serve until SIGTERM, then finish what is under way."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._log_fault)
        self.signalled = asyncio.Event()
        self.loop.add_signal_handler(LEAVE, self.app.hooks.on_leaving)
        for number in SIGNALS - {LEAVE}:
            self.loop.add_signal_handler(number, self._end, number)
        most = max(1, min(self.options.connections, raise_file_limit() - _SPARE_FILES))
        self.server = Server(
            self.wsgi, self.options, log=self.log, errors=ErrorStream(self.log), most=most
        )
        names = (*self.options.names, *([""] * len(self.sockets)))
        self.listeners = {
            each.fileno(): self.server.listener(each.getsockname(), name)
            for each, name in zip(self.sockets, names, strict=False)
        }
        if self.options.certificate is not None:
            self.options.certificate.watch(self.log)
        while self.alive:
            self._tick()
            await self._pause(_TICK)
        self._stop_accepting(last=True)
        self.server.stop()
        # The master kills at the same time as we would give up: be a little earlier.
        latest = time.monotonic() + self.options.graceful_timeout - 0.5
        while (self.server.open or self.opening) and time.monotonic() < latest:
            if self.hurries:
                break
            self._tick()
            await self._pause(0.05)
        # asyncio closes the pipe that tells it of signals before it removes their handlers: a
        # second SIGTERM in between, as systemd sends one to each process, printed a traceback.
        signal.set_wakeup_fd(-1)

    def _end(self, number: int) -> None:
        self.alive = False
        self.hurries = self.hurries or number != signal.SIGTERM
        self.signalled.set()

    async def _pause(self, seconds: float) -> None:
        """Serve for so long, or until a signal comes."""
        self.signalled.clear()
        timer = self.loop.call_later(seconds, self.signalled.set)
        await self.signalled.wait()
        timer.cancel()

    def _tick(self) -> None:
        self.notify()  # the master kills a worker that stops saying this
        if self.ppid != os.getppid() and self.alive:
            self.log.info("the master is gone, stopping")
            self.alive = False
        self.server.tick()
        if not self.alive:
            return
        self._note_connections()
        # Others may respond from memory to what a worker that waits for a database cannot.
        is_wanted = self.options.is_ready() or not self.balance.has_others(self.age)
        if self.is_accepting and not is_wanted:
            self._stop_accepting()
        elif is_wanted and not self.is_accepting:
            self.is_accepting = True
            for listener in self.sockets:
                self.loop.add_reader(listener.fileno(), self._accept, listener, _ACCEPTS)

    def _note_connections(self) -> None:
        """Tell the other workers, unless they had better not leave any connection to this one."""
        if self.options.is_ready():
            self.balance.note(self.age, len(self.server.open))
        else:
            self.balance.leave(self.age)

    def _accept(self, listener: Any, batch: int) -> None:
        """Accept connections that wait, unless another worker has clearly fewer."""
        for _ in range(batch):
            if self.is_accepting and self.balance.is_ahead(self.age, len(self.server.open)):
                self.loop.remove_reader(listener.fileno())
                self.loop.call_later(_LEFT_TO_OTHERS, self._accept_left, listener)
                return
            if not self._accept_one(listener):
                return

    def _accept_left(self, listener: Any) -> None:
        """Accept what the others left, ever more if they go on leaving it: they may be stuck."""
        if not self.is_accepting:
            return
        self.loop.add_reader(listener.fileno(), self._accept, listener, _ACCEPTS)
        for _ in range(self.unclaimed):
            if not self._accept_one(listener):
                self.unclaimed = 1
                return
        self.unclaimed = min(2 * self.unclaimed, _ACCEPTS)

    def _accept_one(self, listener: Any) -> bool:
        """Accept a connection; returns whether there was one, and may be another."""
        if not self.server.make_room():
            self._stop_accepting()  # until the next tick
            return False
        try:
            sock, client = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as fault:  # no descriptor or memory left
            self.log.error("cannot accept: %s", fault.strerror)
            self._stop_accepting()
            return False
        sock.setblocking(False)
        connection = Connection(self.server, client, self.listeners[listener.fileno()])
        self.server.open.add(connection)
        self._note_connections()
        connection.begin()
        task = self.loop.create_task(self._open(sock, connection))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)
        return True

    async def _open(self, sock: socket.socket, connection: Connection) -> None:
        try:
            await self.loop.connect_accepted_socket(connection.protocol, sock)
        except OSError:  # it is gone already
            connection.abort()

    def _stop_accepting(self, *, last: bool = False) -> None:
        """Leave new connections to others, or to later; at last after those that wait already."""
        for listener in self.sockets:
            self.loop.remove_reader(listener.fileno())
        self.is_accepting = False
        self.balance.leave(self.age)
        if last:
            for listener in self.sockets:
                self._accept(listener, self.options.connections)
                listener.close()

    def _log_fault(self, _loop: object, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        self.log.error("a connection failed: %s", context.get("message"), exc_info=fault)
