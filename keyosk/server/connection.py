"""One client's connection: what has been read of it, what is still to be sent, and its patience."""

import enum
import io
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from gunicorn.http.errors import ParseException

from keyosk.server.answers import INCOMPLETE, MALFORMED, TIMEOUT, Problem
from keyosk.server.framing import Framing, Limits, Step

READ_BYTES = 16 * 1024
_STREAM_BYTES = 64 * 1024
PIECE = 32 * 1024  # progress that earns a client its whole time again
# On Linux the kernel throws away what is received with this flag, without copying it.
_DISCARD = socket.MSG_TRUNC if sys.platform == "linux" else 0


class Phase(enum.Enum):
    """What a connection waits for in the event loop; in the order in which it is given up."""

    DRAINING = "the client to close after a refusal"
    IDLE = "the next request"
    READING = "the rest of a request"
    FLUSHING = "the client to take the answer"


class ClientGone(OSError):
    """The client has closed the connection or does not take its answer."""


class Connection:
    """A socket that never blocks, and the state of its current request."""

    __slots__ = (
        "buffer",
        "client",
        "deadline",
        "drained",
        "events",
        "framing",
        "keep",
        "out",
        "phase",
        "progress",
        "server",
        "sock",
        "step",
        "task",
    )

    def __init__(self, sock: socket.socket, client: Any, server: Any, limits: Limits) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.client = client  # as accept() gave it
        self.server = server  # the listener's address
        self.buffer = b""  # received and not yet consumed
        self.framing = Framing(limits)
        self.step = Step.MORE
        self.task: Any = None  # a request that waits for a lane
        self.out = b""  # of the answer, not yet sent
        self.keep = True  # may serve another request once `out` is sent
        self.phase: Phase | None = None  # None: with a thread, in a queue, or closed
        self.deadline = 0.0
        self.events = 0  # registered with the poller
        self.progress = 0  # bytes since the deadline was last put off
        self.drained = 0

    @property
    def held(self) -> int:
        """How many bytes of memory it takes."""
        return len(self.buffer) + len(self.out)

    def look(self) -> Step:
        """How far the current request has come."""
        self.step = self.framing.advance(self.buffer)
        return self.step

    def take(self) -> bytes:
        """Cut the complete request off the buffer."""
        end = self.framing.end
        request, self.buffer = self.buffer[:end], self.buffer[end:]
        return request

    def next_request(self, limits: Limits) -> None:
        """Forget the request that was answered."""
        self.framing = Framing(limits)
        self.step = Step.MORE

    def send_some(self) -> int:
        """Send of `out` what the network takes now; the number of bytes. Raises OSError."""
        try:
            sent = self.sock.send(self.out)
        except BlockingIOError:
            return 0
        self.out = self.out[sent:]
        return sent

    def discard_some(self, scratch: bytearray) -> int:
        """Throw away what has arrived; the number of bytes, 0 at the end. Raises OSError."""
        count = self.sock.recv_into(scratch, len(scratch), _DISCARD)
        self.drained += count
        return count


class Patience:
    """How long a thread waits for one client: `seconds` for each PIECE, and for the last bit.

    Only the time spent waiting counts, not what the application does in between.
    """

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock
        self._seconds = seconds
        self._left = seconds
        self._moved = 0

    def send(self, data: memoryview) -> int:
        """Send some of the data; how much. Raises TimeoutError, OSError."""
        started = self._start()
        return self._moving(started, self._sock.send(data))

    def receive(self) -> bytes:
        """Receive something; empty at the end. Raises TimeoutError, OSError."""
        started = self._start()
        data = self._sock.recv(_STREAM_BYTES)
        self._moving(started, len(data))
        return data

    def _start(self) -> float:
        if self._left <= 0:
            raise TimeoutError
        self._sock.settimeout(self._left)
        return time.monotonic()

    def _moving(self, started: float, count: int) -> int:
        self._left -= time.monotonic() - started
        self._moved += count
        if self._moved >= PIECE:
            self._moved = 0
            self._left = self._seconds
        return count


class Outlet:
    """What gunicorn's Response takes for a socket: gathers an answer and sends it in few pieces.

    Of an answer that the client does not take, up to `kept` bytes are left over for the event loop,
    so that a slow reader holds no thread.
    """

    def __init__(self, sock: socket.socket, kept: int, seconds: float) -> None:
        self._sock = sock
        self._kept = kept
        self._patience = Patience(sock, seconds)
        self._parts: list[bytes] = []
        self.on_wire = 0  # bytes that can no longer be taken back

    def sendall(self, data: bytes) -> None:
        """Add to the answer."""
        self._parts.append(data)

    def send(self, data: bytes) -> int:
        """Swallow the `100 Continue` that gunicorn sends here: the event loop has sent it."""
        return len(data)

    def flush(self) -> bytes:
        """Send what there is and return what the client did not take. Raises ClientGone."""
        data = b"".join(self._parts)
        self._parts.clear()
        sent = 0
        try:
            with suppress(BlockingIOError):
                sent = self._sock.send(data)
            if len(data) - sent > self._kept:
                view = memoryview(data)
                while len(data) - sent > self._kept:
                    sent += self._patience.send(view[sent:])
                self._sock.settimeout(0)
        except OSError as fault:
            raise ClientGone from fault
        self.on_wire += sent
        rest = data[sent:]
        if rest:
            self._parts.append(rest)
        return rest


class Upload(io.RawIOBase):
    """The body of a request that the application reads from the network itself.

    Reading raises OSError when the body is malformed, late or cut off; `problem` says which.
    """

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._patience = Patience(connection.sock, seconds)
        self.body: Any = None  # gunicorn's reader, once the head is parsed
        self.problem: Problem | None = None

    def source(self) -> Iterator[bytes]:
        """The request as the parser wants it: what is there, then what comes."""
        received, self._connection.buffer = self._connection.buffer, b""
        yield received
        while True:
            data = self._patience.receive()
            self._connection.sock.settimeout(0)
            if not data:
                # SECURITY: gunicorn's reader takes this for the end of the body, and the
                # application would work on half an upload.
                raise ConnectionError
            yield data

    def readable(self) -> bool:
        """Whether this can be read: always."""
        return True

    def readinto(self, target: Any) -> int:
        """Read up to the target's size; 0 at the end."""
        try:
            if self.problem:
                raise ConnectionError
            data = self.body.read(len(target))
        except ParseException as fault:
            self.problem = MALFORMED
            raise OSError("malformed request body") from fault
        except TimeoutError:
            self.problem = TIMEOUT
            raise
        except OSError:
            self.problem = self.problem or INCOMPLETE
            raise
        target[: len(data)] = data
        return len(data)
