"""The application called for one request, and what it makes sent as a response (PEP 3333).

It runs in a thread, or in the event loop for what rarely waits. It reaches the connection
through `Client` only.
"""

import asyncio
import functools
import io
import re
import threading
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import unquote_to_bytes

from keyosk.server import problems
from keyosk.server.options import Environ, Options
from keyosk.server.parsing import RequestParser
from keyosk.server.problems import Problem

PIECE: Final = 32 * 1024  # progress that earns a client its whole time again
#: In the environ of a request that is not slow: see Options.slow.
HAND_OVER: Final = "server.hand_over"
#: Likewise, in the environ of a request that the event loop answers: see Options.in_loop.
LEAVE_LOOP: Final = "server.leave_loop"
#: In every environ: called with seconds, it has the finished response wait so long.
HOLD: Final = "server.hold"
#: In every environ: the name of the listener that the request came by.
LISTENER: Final = "server.listener"
#: Likewise: ``time.monotonic()`` of a moment after the client had sent its head.
ARRIVED: Final = "server.arrived"
_AHEAD: Final = 256 * 1024  # bytes of a stream that are sent before we look whether they arrive
_LONGEST_HOLD: Final = 2.0  # seconds
_NO_BODY: Final = ("204", "304")
_ENCODED_SLASH: Final = re.compile("%2f", re.IGNORECASE)
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade"})


class TakesLong(BaseException):
    """The request is to begin anew where it may take long; no handler of errors is to see it."""


class ClientGone(OSError):
    """The client has closed the connection or does not take its response."""


class Client(Protocol):
    """What a call needs of a connection. Every method is called in the event loop."""

    gone: bool

    @property
    def stopping(self) -> bool:
        """Whether connections are to be closed after their response."""

    def send(self, data: bytes) -> None:
        """Send a part of the response; more will come."""

    def when_sent(self, then: Callable[[], None]) -> None:
        """Call this once the client took what was sent so far, or is gone."""

    def finish(self, data: bytes, *, keep: bool, hold: float) -> None:
        """Send the end of the response, after a while; then go on with the connection or close."""

    def refuse(self, problem: Problem) -> None:
        """Send a response of the server itself, then close."""

    def abort(self) -> None:
        """Close at once, so that the client cannot take what it has for the whole."""


class Upload(io.RawIOBase):
    """The body of a request that the application reads while it comes.

    Reading raises OSError when the body is malformed, late or cut off; ``problem`` says which.
    """

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._seconds = seconds  # that the client has for each PIECE
        self._loop = asyncio.get_running_loop()
        self._incoming = asyncio.StreamReader(limit=PIECE)
        self._incoming.set_transport(transport)  # which it pauses when there is too much
        self._is_whole = False
        self.problem: Problem | None = None

    def put(self, data: bytes, *, last: bool) -> None:
        """Take what was received."""
        if not self._is_whole:
            self._incoming.feed_data(data)
        if last and not self._is_whole:
            self._is_whole = True
            self._incoming.feed_eof()

    def fail(self, problem: Problem) -> None:
        """Have reading fail from now on, unless all is there."""
        if not self._is_whole and self.problem is None:
            self.problem = problem
            self._incoming.set_exception(OSError(problem.code))

    def readable(self) -> bool:
        """Return whether this can be read: always."""
        return True

    def readinto(self, target: Any) -> int:
        """Read up to the target's size; 0 at the end."""
        reading = self._read(min(len(target), PIECE))
        data = asyncio.run_coroutine_threadsafe(reading, self._loop).result()
        target[: len(data)] = data
        return len(data)

    async def _read(self, size: int) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._incoming.readexactly(size)
        except asyncio.IncompleteReadError as end:
            return end.partial
        except TimeoutError:
            self.fail(problems.TIMEOUT)
            raise


class Call:
    """A request on its way through the application. ``run`` may be called once more elsewhere."""

    def __init__(
        self,
        environ: Environ,
        request: RequestParser,
        client: Client,
        *,
        upload: Upload | None,
        log: Any,
    ) -> None:
        self.environ = environ
        self.client = client
        self.upload = upload
        self.body = bytes(request.body)
        self._log = log
        self._is_head = request.method == "HEAD"
        self._is_modern = request.version == "1.1"
        self._keeps_alive = request.keeps_alive

    def run(
        self,
        application: Any,
        options: Options,
        post: Callable[..., object],
        *,
        may_take_long: bool,
    ) -> None:
        """Call the application and send its response.

        ``post`` makes the event loop call something. Raises ``TakesLong`` where the request may not
        run.
        """
        self._options = options
        self._post = post
        self._may_wait = threading.current_thread() is not threading.main_thread()
        self._status = ""
        self._fields: list[tuple[str, str]] = []
        self._length: int | None = None
        self._parts: list[bytes] = []
        self._sent = self._ahead = 0
        self._has_head = self._on_wire = self._is_finished = False
        self._chunked = self._keep = False
        self._hold = 0.0
        failure: BaseException | None = None
        try:
            parts = self._call(application, may_take_long=may_take_long)
            try:
                for part in parts:
                    self._write(part)
                    if self._may_wait and self._parts and self._sent != self._length:
                        self._flush()  # more will come, and perhaps not soon
                if self.upload is None or self.upload.problem is None:
                    # Now, as what the application does after its response may take its time.
                    self._finish()
            finally:
                if hasattr(parts, "close"):
                    parts.close()
        except ClientGone:
            return
        except (Exception, SystemExit) as fault:  # noqa: BLE001  # the application's, any
            failure = fault
        self._settle(failure)

    def _call(self, application: Any, *, may_take_long: bool) -> Iterable[bytes]:
        environ = {**self.environ, HOLD: self._wait}  # of its own: this may be the first of two
        body: io.IOBase = io.BytesIO(self.body)
        environ["wsgi.input"] = (
            body if self.upload is None else io.BufferedReader(self.upload, PIECE)
        )
        if not may_take_long:
            environ[HAND_OVER] = self._hand_over
        if not self._may_wait:
            environ[LEAVE_LOOP] = self._hand_over
        parts: Iterable[bytes] = application(environ, self._start_response)
        return parts

    def _hand_over(self) -> NoReturn:
        # SECURITY: two responses to one request would be taken for those of two.
        if self._on_wire or self._is_finished:
            raise RuntimeError("too late to begin anew: its response is on its way")
        raise TakesLong

    def _settle(self, failure: BaseException | None) -> None:
        """Say what went wrong, if something did.

        Whatever the application made of a body that could not be read (most make it a 500 or
        raise): the client is at fault.
        """
        problem = self.upload.problem if self.upload is not None else None
        if failure is not None and problem is None:
            self._log.error("the application failed", exc_info=failure)
            problem = problems.INTERNAL
        if problem is None or self._is_finished:
            return
        if self._on_wire:
            self._post(self.client.abort)
        else:
            self._post(self.client.refuse, problem)

    def _wait(self, seconds: float) -> None:
        self._hold = max(self._hold, min(seconds, _LONGEST_HOLD))

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info and self._on_wire:
            raise exc_info[1]
        if self._status and not exc_info:
            raise AssertionError("the response has begun")
        self._parts.clear()
        self._status, self._fields, self._has_head, self._length = status, headers, False, None
        for name, value in headers:
            if name.lower() == "content-length":
                self._length = int(value)
        return self._write

    def _write(self, part: bytes) -> None:
        if not self._has_head:
            self._parts.append(self._head())
        if self._is_head or self._status.startswith(_NO_BODY):
            return
        if self._length is not None:
            part = part[: self._length - self._sent]
        if part:
            self._sent += len(part)
            self._parts.append(b"%x\r\n%b\r\n" % (len(part), part) if self._chunked else part)

    def _head(self) -> bytes:
        if not self._status:
            raise AssertionError("no response was begun")
        self._has_head = True
        bare = self._is_head or self._status.startswith(_NO_BODY)
        self._chunked = self._length is None and self._is_modern and not bare
        self._keep = (
            self._keeps_alive
            and not self.client.stopping
            and self.upload is None
            and (bare or self._chunked or self._length is not None)
        )
        fields = [
            f"HTTP/1.1 {self._status}",
            f"Server: {self._options.server_name}",
            f"Date: {_date(int(time.time()))}",
            f"Connection: {'keep-alive' if self._keep else 'close'}",
            *[f"{name}: {v}" for name, v in self._fields if name.lower() not in _HOP_BY_HOP],
        ]
        if self._chunked:
            fields.append("Transfer-Encoding: chunked")
        head = "\r\n".join(fields)
        # SECURITY: nothing in a field can begin another, or the body.
        if head.count("\n") != len(fields) - 1 or head.count("\r") != len(fields) - 1:
            raise ValueError("a header field has a line break")
        return f"{head}\r\n\r\n".encode("latin-1")

    def _flush(self) -> None:
        """Send what there is; a thread that is ahead of its client waits for it."""
        data = b"".join(self._parts)
        self._parts.clear()
        self._on_wire = True
        self._ahead += len(data)
        self._post(self.client.send, data)
        if self._ahead > _AHEAD:
            self._ahead = 0
            taken = threading.Event()
            self._post(self.client.when_sent, taken.set)
            taken.wait()  # the event loop gives clients up that take nothing
        if self.client.gone:
            raise ClientGone

    def _finish(self) -> None:
        if not self._has_head:
            self._write(b"")
        if self._chunked:
            self._parts.append(b"0\r\n\r\n")
        data = b"".join(self._parts)
        # The most that is kept of a large response for a slow client.
        while self._may_wait and len(data) > self._options.reply_bytes:
            self._parts = [data[: self._options.reply_bytes]]
            data = data[self._options.reply_bytes :]
            self._ahead = _AHEAD
            self._flush()
        is_short = self._length is not None and self._sent != self._length
        whole = not is_short or self._is_head or self._status.startswith(_NO_BODY)
        self._is_finished = True
        finish = functools.partial(
            self.client.finish, data, keep=self._keep and whole, hold=self._hold
        )
        self._post(finish)


@functools.lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


@functools.lru_cache(maxsize=256)
def _variable(name: bytes) -> str:
    """Return the name in the environ of a field; empty for one that is left out."""
    # SECURITY: an underscore would become the same variable as a hyphen.
    if b"_" in name:
        return ""
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def environ_of(request: RequestParser, peer: Any, server: Any, *, base: Environ) -> Environ:
    """Return the environ of a request without its body; ``base``: the same part for all."""
    target = request.target.decode("latin-1")
    path, _, query = target.partition("?")
    if "%" in path:
        # SECURITY: what is encoded is no slash between steps (RFC 3986 section 2.2), as a proxy
        # that lets only some paths through does not take it for one.
        path = unquote_to_bytes(_ENCODED_SLASH.sub("%252F", path)).decode("latin-1")
    environ = {
        **base,
        "REQUEST_METHOD": request.method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "RAW_URI": target,
        "SERVER_PROTOCOL": f"HTTP/{request.version}",
        ARRIVED: time.monotonic(),
    }
    for name, value in request.headers:
        key = _variable(name)
        if key:
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]},{text}" if key in environ else text
    if request.chunked and not request.streams:
        # The chunks are gone: the application sees a body of known length.
        del environ["HTTP_TRANSFER_ENCODING"]
        environ["CONTENT_LENGTH"] = str(len(request.body))
    if isinstance(peer, tuple):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = peer[0], str(peer[1])
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
    else:  # a unix socket
        environ["REMOTE_ADDR"] = ""
        # SECURITY: nothing of the Host header, which the client writes.
        port = "443" if base["wsgi.url_scheme"] == "https" else "80"
        environ["SERVER_NAME"], environ["SERVER_PORT"] = "localhost", port
    return environ
