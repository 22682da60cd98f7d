"""The connections of a worker: their phases, deadlines and limits.

Everything here runs in the event loop. A request that takes a thread is a `wsgi.Call`.
"""

import asyncio
import enum
import functools
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from keyosk.server import problems
from keyosk.server.options import Environ, Options
from keyosk.server.parsing import Limits, Refused, RequestParser
from keyosk.server.pool import Pool
from keyosk.server.problems import Problem
from keyosk.server.tls import Certificate, Layer
from keyosk.server.wsgi import LISTENER, PIECE, Call, TakesLong, Upload, environ_of

_READ_BYTES: Final = 16 * 1024
_DRAIN_BYTES: Final = 256 * 1024
_HELD_BYTES: Final = 64 * 1024 * 1024  # of all half-read requests, and of all half-sent responses
# On a busy processor, Linux gives a thread that is nicer by 5 a third of the time, so that a
# request of a millisecond goes before a password hash of twenty.
_SLOW_NICENESS: Final = 5
_STOP_IDLE, _STOP_READING = 1.0, 5.0  # seconds for open connections after the order to stop


class Phase(enum.Enum):
    """What a connection waits for, in the order in which connections are closed for others."""

    DRAINING = "the client to close after our last response"
    IDLE = "the next request"
    READING = "the rest of a request"
    HOLDING = "the moment from which the response may be sent"
    SENDING = "the client to take the response"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket. ``base``: the part of the environ that all its requests share."""

    address: Any
    certificate: Certificate | None
    base: Environ


class Server:
    """What the connections of a worker share: the application, its threads, and limits."""

    def __init__(
        self, application: Any, options: Options, log: Any, *, errors: Any, most: int
    ) -> None:
        self.application = application
        self.options = options
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.limits = Limits(
            head=options.head_bytes,
            body=options.body_bytes,
            streams=frozenset(entry.encode() for entry in options.streams),
        )
        self.scratch = memoryview(bytearray(_READ_BYTES))
        self.secret_scratch = memoryview(bytearray(_READ_BYTES))  # the same, before decryption
        self.sink = memoryview(bytearray(_DRAIN_BYTES))  # where data that nobody reads are received
        self.stopping = False
        self.open: set[Connection] = set()
        self._most = most
        self._waiting: dict[Phase, dict[Connection, None]] = {phase: {} for phase in Phase}
        self._next_complaint = 0.0
        self.base: Environ = {
            "wsgi.version": (1, 0),
            "wsgi.errors": errors,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "SERVER_SOFTWARE": options.server_name,
            "SCRIPT_NAME": "",
        }
        # One thread is always free for requests that are not slow, and one for those that cannot
        # hang.
        self._usual = Pool(
            "request", self._run_usual, threads=options.threads, length=options.connections
        )
        self._instant = Pool("instant", self._run_usual, threads=1, length=options.connections)
        slow_threads = max(1, min(options.slow_threads, options.threads - 1))
        self._slow = Pool(
            "slow",
            self._run_slow,
            threads=slow_threads,
            length=options.slow_queue,
            niceness=_SLOW_NICENESS,
        )

    def listener(self, address: Any, name: str) -> Listener:
        """Return the ``Listener`` for a socket."""
        certificate = None if name in self.options.plain else self.options.certificate
        scheme = "http" if certificate is None else "https"
        base = {**self.base, "wsgi.url_scheme": scheme, LISTENER: name}
        return Listener(address, certificate, base)

    def run(self, call: Call) -> bool:
        """Run a request in the right thread or in the loop; returns False if too many wait."""
        options = self.options
        start = None
        if call.upload is None and options.in_loop:
            start = options.in_loop(call.environ, call.body)
        if start is not None:
            start(functools.partial(self._run_in_loop, call))
            return True
        return self._give_to_thread(call)

    def _run_in_loop(self, call: Call) -> None:
        try:
            call.run(self.application, self.options, _call_now, may_take_long=False)
        except TakesLong:
            if not self._give_to_thread(call):
                call.client.refuse(problems.OVERLOADED)

    def _give_to_thread(self, call: Call) -> bool:
        options = self.options
        if call.upload is None and options.instant and options.instant(call.environ):
            return self._instant.put(call)
        if call.upload is not None or (options.slow and options.slow(call.environ)):
            return self._slow.put(call)
        return self._usual.put(call)

    def _run_usual(self, call: Call) -> None:
        post = self.loop.call_soon_threadsafe
        try:
            call.run(self.application, self.options, post, may_take_long=False)
        except TakesLong:
            if not self._slow.put(call):
                post(call.client.refuse, problems.OVERLOADED)

    def _run_slow(self, call: Call) -> None:
        post = self.loop.call_soon_threadsafe
        call.run(self.application, self.options, post, may_take_long=True)

    def wait(self, connection: "Connection", phase: Phase, seconds: float) -> None:
        """Let a connection wait; its deadline begins with the phase."""
        if connection.phase is not phase:
            self.leave(connection)
            connection.phase = phase
            connection.deadline = time.monotonic() + seconds
            self._waiting[phase][connection] = None

    def leave(self, connection: "Connection") -> None:
        """End the wait of a connection."""
        if connection.phase is not None:
            del self._waiting[connection.phase][connection]
            connection.phase = None

    def make_room(self) -> bool:
        """Close the least important connection if there is no room. False: all are busy."""
        if len(self.open) < self._most:
            return True
        phases = self._waiting.values()
        first = next((next(iter(waiting)) for waiting in phases if waiting), None)
        if first is None:
            return False
        first.abort()
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + 10
            self.log.warning("too many connections: closing those that have waited longest")
        return True

    def tick(self) -> None:
        """Check the deadlines, and the memory of all connections."""
        now = time.monotonic()
        for phase in Phase:
            for connection in list(self._waiting[phase]):
                if phase is Phase.SENDING:
                    connection.note_progress(now)
                if connection.deadline <= now:
                    connection.expire()
                elif phase is not Phase.SENDING and phase is not Phase.READING:
                    break  # all have the same timeout, and those behind it began later
        for phase in (Phase.SENDING, Phase.READING):
            held = sum(connection.held for connection in self._waiting[phase])
            for connection in self._heaviest(phase, held):
                connection.abort()

    def _heaviest(self, phase: Phase, held: int) -> Iterator["Connection"]:
        for connection in list(self._waiting[phase]):
            if held <= _HELD_BYTES:
                return
            held -= connection.held
            yield connection

    def stop(self) -> None:
        """Limit idle and reading connections to a few seconds from now."""
        self.stopping = True
        now = time.monotonic()
        for connection in list(self._waiting[Phase.READING]):
            seconds = _STOP_IDLE if connection.request.is_fresh else _STOP_READING
            connection.deadline = min(connection.deadline, now + seconds)
        for connection in self._waiting[Phase.IDLE]:
            connection.deadline = min(connection.deadline, now + _STOP_IDLE)


def _call_now(step: Callable[..., object], *arguments: object) -> None:
    """The ``post`` of a request that already runs in the event loop."""
    step(*arguments)


class Connection(asyncio.BufferedProtocol):
    """A connection, from `accept` to its end. It answers one request at a time."""

    transport: asyncio.Transport

    def __init__(self, server: Server, client: Any, listener: Listener) -> None:
        self._server = server
        self._options = server.options
        self._client = client  # as returned by accept()
        self._listener = listener
        self.request = RequestParser(server.limits)
        self.phase: Phase | None = None  # None: in a thread, or closed
        self.deadline = 0.0
        self.gone = False
        self._behind = b""  # data received after the request that is being handled
        self._upload: Upload | None = None
        self._is_responding = False
        self._is_made = False
        self._ended = False  # the client will send nothing further
        self._keep = True
        self._given = 0  # bytes of responses, and how many of them the client had taken
        self._taken = 0
        self._drained = 0
        self._then: Callable[[], None] | None = None

    @property
    def stopping(self) -> bool:
        """Whether connections must be closed after their response."""
        return self._server.stopping

    @property
    def held(self) -> int:
        """The number of bytes in memory."""
        return self.request.held + self._unsent()

    def _unsent(self) -> int:
        return self.transport.get_write_buffer_size() if self._is_made else 0

    def protocol(self) -> asyncio.BufferedProtocol:
        """Return the protocol of its socket: itself, or TLS below itself."""
        if self._listener.certificate is None:
            return self
        context = self._listener.certificate.context
        return Layer(context, self, self._server.secret_scratch, log=self._server.log)

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._is_made = True
        if self.gone:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for received data; all connections share it."""
        del sizehint
        return self._server.sink if self.phase is Phase.DRAINING else self._server.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received data."""
        if self.phase is Phase.DRAINING:
            self._drained += nbytes
            if self._drained > self._options.drain_bytes:
                self.abort()
            return
        data = bytes(self._server.scratch[:nbytes])
        # SECURITY: earlier data go first, even between the end of a response and the next request;
        # in another order they would be a different request.
        if self._behind or (self._is_responding and self._upload is None):
            self._behind += data
            self.transport.pause_reading()
        else:
            self._receive(data)

    def eof_received(self) -> bool:
        """Handle the end of the client's data; returns True, because a response may follow."""
        self._ended = True
        if self.phase is Phase.DRAINING:
            self.abort()
        elif self._upload is not None and self._is_responding:
            self._upload.fail(problems.INCOMPLETE)
        elif self._is_responding or self._behind:
            pass  # it closes after the response
        elif self.request.is_fresh:
            self.abort()
        else:
            self.refuse(problems.INCOMPLETE)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        del exc
        self.gone = True
        self._server.leave(self)
        self._server.open.discard(self)
        if self._upload is not None:
            self._upload.fail(problems.INCOMPLETE)
        self.resume_writing()

    def pause_writing(self) -> None:
        """Handle a client that does not read everything at once."""
        if self.phase is None:
            self._server.wait(self, Phase.SENDING, self._options.send_timeout)

    def resume_writing(self) -> None:
        """Handle a client that has read everything."""
        if self.phase is Phase.SENDING:
            self._server.leave(self)
        then, self._then = self._then, None
        if then is not None:
            then()

    # A request.

    def begin(self) -> None:
        """Wait for the first request."""
        self._server.wait(self, Phase.READING, self._options.request_timeout)

    def _receive(self, data: bytes) -> None:
        request = self.request
        had_head = request.has_head
        try:
            rest = request.feed(data)
        except Refused as refusal:
            if self._upload is not None:
                self._upload.fail(refusal.problem)
            else:
                self.refuse(refusal.problem)
            return
        waits = request.expects and not (request.complete or request.has_body)
        if waits and request.has_head and not had_head:
            self.transport.write(problems.CONTINUE)
        if request.streams:
            self._receive_stream()
        elif request.complete:
            self._behind = rest
            self._respond()
        else:
            self._server.wait(self, Phase.READING, self._options.request_timeout)

    def _receive_stream(self) -> None:
        request, upload = self.request, self._upload
        if upload is None:
            upload = Upload(self.transport, self._options.request_timeout)
        upload.put(bytes(request.body), last=request.complete)
        request.body.clear()
        if self._upload is None:
            self._upload = upload
            self._respond()

    def _respond(self) -> None:
        self._server.leave(self)
        self._is_responding = True
        request = self.request
        environ = environ_of(
            request, self._client, self._listener.address, base=self._listener.base
        )
        call = Call(environ, request, self, upload=self._upload, log=self._server.log)
        if not self._server.run(call):
            self.refuse(problems.OVERLOADED)

    # Its response.

    def send(self, data: bytes) -> None:
        """Send a part of the response; more will come."""
        if not self.gone:
            self._given += len(data)
            self.transport.write(data)

    def when_sent(self, then: Callable[[], None]) -> None:
        """Call this once the client took what was sent so far, or is gone."""
        if self.gone or not self._unsent():
            then()
        else:
            self._then = then

    def finish(self, data: bytes, *, keep: bool, hold: float) -> None:
        """Send the end of the response, after a while; then go on with the connection or close."""
        if self.gone:
            return
        if hold > 0:
            self._server.wait(self, Phase.HOLDING, hold + self._options.send_timeout)
            release = functools.partial(self.finish, data, keep=keep, hold=0)
            self._server.loop.call_later(hold, release)
            return
        self._keep = keep
        self._upload = None
        self._server.leave(self)
        self.send(data)
        self.when_sent(self._go_on)

    def refuse(self, problem: Problem) -> None:
        """Send a response of the server itself, then close."""
        request_id = str(uuid.uuid4())
        # Nothing of the request is logged, because it may be a secret.
        client = self._client[0] if isinstance(self._client, tuple) else "unix"
        self._server.log.info("%d %s from %s, %s", problem.status, problem.code, client, request_id)
        headers = (("Server", self._options.server_name), *self._options.error_headers)
        data = problem.render(request_id, headers=headers, body=self.request.method != "HEAD")
        self._is_responding = True
        self.finish(data, keep=False, hold=0)

    def _go_on(self) -> None:
        """After everything was sent: take the next request, or close."""
        if self.gone:
            return
        self._is_responding = False
        if not self._keep or (self._ended and not self._behind):
            self._close()
            return
        self.request.begin()
        if self._behind:
            # Not a direct call, because many pipelined requests would be as many nested calls.
            self._server.loop.call_soon(self._take_behind)
            return
        seconds = _STOP_IDLE if self.stopping else self._options.idle_timeout
        self._server.wait(self, Phase.IDLE, seconds)
        self.transport.resume_reading()

    def _take_behind(self) -> None:
        if self.gone:
            return
        data, self._behind = self._behind, b""
        self._receive(data)
        if not self._is_responding and not self.gone:
            if self._ended:
                self.eof_received()
            else:
                self.transport.resume_reading()

    def _close(self) -> None:
        """Close once the client has closed.

        Closing while it still sends would make the kernel reset the connection, and it may then
        never see the response (RFC 9112, section 9.6).
        """
        if self._ended:
            self.transport.close()
            return
        self._behind = b""
        self._server.wait(self, Phase.DRAINING, self._options.drain_timeout)
        self.transport.write_eof()
        self.transport.resume_reading()

    # Its end.

    def note_progress(self, now: float) -> None:
        """Restart the timeout of a client that has received a piece of its response."""
        taken = self._given - self._unsent()
        if taken - self._taken >= PIECE:
            self._taken = taken
            self.deadline = now + self._options.send_timeout

    def expire(self) -> None:
        """Handle the end of its time."""
        if self.phase is Phase.READING and not self.request.is_fresh:
            self.refuse(problems.TIMEOUT)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._server.leave(self)
        self.gone = True
        self._server.open.discard(self)
        if self._is_made:
            self.transport.abort()
