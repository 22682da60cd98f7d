"""Parses requests from the bytes of a connection.

Pure: bytes in, a request or a refusal out; no socket, no clock. llhttp (through httptools) reads
and judges every byte. This module adds what llhttp leaves to others: limits, the requirements on an
HTTP/1.1 server, and the end of a request, so that nothing after it is read before its response.
"""

import re
from dataclasses import dataclass
from typing import Final

import httptools
from httptools import HttpParserError, HttpParserUpgrade

from keyosk.server import problems
from keyosk.server.problems import Problem

_END_OF_HEAD: Final = b"\r\n\r\n"
_MOST_FIELDS: Final = 100
_LONGEST_LINE: Final = 8190
_LONGEST_CHUNK_LINE: Final = 1024
# SECURITY: llhttp also accepts HTTP/0.9, HTTP/2.0 and RTSP, and several spaces in place of one.
_REQUEST_LINE: Final = re.compile(rb"(?:\r\n)?[!-~]+ [!-~]+ HTTP/1\.[01]\r\n")
#: With a host and without a login, RFC 9110 sections 4.2.1 and 4.2.4; then the rest.
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://[^/?@]+([/?].*)?")
_METHOD: Final = re.compile(rb"(\r\n)?([A-Z][A-Z0-9_-]{2,19})(?= )")
_METHOD_BEGUN: Final = re.compile(rb"(?:\r|\r\n)?(?:[A-Z][A-Z0-9_-]{,19})?")
_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n")


@dataclass(frozen=True, slots=True)
class Limits:
    """The most bytes of a request in memory, and the requests whose bodies are streamed.

    ``streams`` has entries such as ``b"POST /accounts/import"``: method and path, exactly as they
    stand in the request line before any ``?``.
    """

    head: int = 16 * 1024
    body: int = 64 * 1024
    streams: frozenset[bytes] = frozenset()


class Refused(Exception):
    """The server refuses the request before the application sees it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


class RequestParser:
    """One request after another: ``feed`` until ``complete``, then ``begin`` again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self.begin()

    def begin(self) -> None:
        """Expect the next request."""
        self.method = ""
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.version = ""
        self.body = bytearray()  # the received part; for a stream, the caller removes it
        self.has_head = False
        self.complete = False
        self.chunked = False
        self.streams = False  # the application is to read the body while it comes
        self.expects = False  # the client waits for 100 before it sends the body
        self.keeps_alive = False
        self.has_body = False  # or the beginning of one
        self.size = 0  # bytes of it, as they came
        self._line = b""  # the request line, later the line of a chunk
        self._has_line = False
        self._tail = b""  # where the end of the head may have begun
        self._left = 0  # bytes of the body, or of a chunk with its end, that are to come
        self._decoded = 0
        self._trailers = 0  # bytes of them, once the last chunk was announced
        self._upgrades = False
        self._problem: Problem | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether nothing of this request has been received."""
        return not self.size

    @property
    def held(self) -> int:
        """The number of bytes in memory."""
        return len(self.body) if self.has_head else self.size

    def feed(self, data: bytes) -> bytes:
        """Consume the data of this request; returns the rest. Raises ``Refused``."""
        while data and not self.complete:
            if not self.has_head:
                data = self._feed_head(data)
                continue
            self.has_body = True
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                self._parse(piece)
            elif self.chunked:
                data = self._feed_line(data)
            else:
                raise Refused(problems.MALFORMED)  # llhttp expects more data than were announced
        # SECURITY: llhttp and this parser differ about the end of the request, which is request
        # smuggling.
        if self.complete and (self._left or (self.chunked and not self._trailers)):
            raise Refused(problems.MALFORMED)
        return data

    def _feed_head(self, data: bytes) -> bytes:
        if not self.method:
            data = self._feed_method(data)
        joined = self._tail + data
        found = joined.find(_END_OF_HEAD)
        end = len(data) if found < 0 else found + len(_END_OF_HEAD) - len(self._tail)
        piece = data[:end]
        if not self._has_line:
            self._line += piece
        self._parse(piece)
        if not self._has_line and b"\r\n" in self._line[2:]:
            if not _REQUEST_LINE.match(self._line):
                raise Refused(problems.MALFORMED)
            self._line, self._has_line = b"", True
        if self.size > self._limits.head:
            raise Refused(problems.HEAD_TOO_LARGE)
        if found < 0:
            self._tail = joined[-3:]
        elif not self.has_head:
            raise Refused(problems.MALFORMED)  # an end without a beginning
        return data[end:]

    def _feed_method(self, data: bytes) -> bytes:
        """Read the method; returns what to parse next, nothing while it is incomplete."""
        begun = self._line + data
        found = _METHOD.match(begun)
        if not found:
            if not _METHOD_BEGUN.fullmatch(begun):
                raise Refused(problems.MALFORMED)
            self._line, self.size = begun, len(begun)
            return b""
        self._line, self.size = b"", 0
        self.method = found[2].decode()
        # llhttp knows only a list of methods. The application decides which of them a path has, and
        # other methods do not change the framing, except CONNECT, which is refused.
        return begun if found[2] in _METHODS else b"POST" + begun[found.end() :]

    def _feed_line(self, data: bytes) -> bytes:
        """Read a line between chunks. The end of the last chunk is the end of the request."""
        found = data.find(b"\n")
        piece = data if found < 0 else data[: found + 1]
        self._line += piece
        self._parse(piece)
        if self._trailers:
            self._trailers += len(piece)
            if self._trailers > self._limits.head:
                raise Refused(problems.HEAD_TOO_LARGE)
        elif len(self._line) > _LONGEST_CHUNK_LINE:
            raise Refused(problems.MALFORMED)
        if found >= 0:
            line, self._line = self._line, b""
            if not self._trailers:
                self._begin_chunk(line)
            elif (line == b"\r\n") is not self.complete:
                raise Refused(problems.MALFORMED)
        return data[len(piece) :]

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK_LINE.fullmatch(line)
        if not found:
            raise Refused(problems.MALFORMED)
        size = int(found[1], 16)
        if not size:
            self._trailers = len(line)
            return
        self._decoded += size
        if self._decoded > self._limits.body and not self.streams:
            raise Refused(problems.BODY_TOO_LARGE)
        self._left = size + 2

    def _parse(self, piece: bytes) -> None:
        self.size += len(piece)
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade:
            self._ignore_upgrade()
        except HttpParserError as fault:
            if self._problem is None:
                is_huge = "Content-Length overflow" in str(fault)
                self._problem = problems.BODY_TOO_LARGE if is_huge else problems.MALFORMED
        if self._problem is not None:
            raise Refused(self._problem)
        # A limit, because tiny chunks or long extensions would make a small body expensive.
        if self.size > 2 * (self._limits.head + self._limits.body) and not self.streams:
            raise Refused(problems.BODY_TOO_LARGE)

    def _ignore_upgrade(self) -> None:
        """Ignore the offer of another protocol (RFC 9110, section 7.8).

        Java's client offers HTTP/2 with its first request, which may have a body. llhttp would
        take that for the other protocol.
        """
        self._upgrades = False
        framing = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {self._left}"
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode())

    # Called by llhttp. It would replace an exception from here, so they store faults instead.

    def on_url(self, url: bytes) -> None:
        """Handle a part of the request's target."""
        if not self.has_head:
            self.target += url
            if len(self.target) > _LONGEST_LINE:
                self._problem = problems.LINE_TOO_LONG

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle a header field; trailers are ignored."""
        if not self.has_head:
            self.headers.append((name.lower(), value.rstrip(b" \t")))
            if len(self.headers) > _MOST_FIELDS:
                self._problem = problems.HEAD_TOO_LARGE

    def on_headers_complete(self) -> None:
        """Check if the complete head is one that can be served."""
        if self.has_head:
            return
        self.has_head = True
        self.version = self._parser.get_http_version()
        self.keeps_alive = self._parser.should_keep_alive()
        self._upgrades = self._parser.should_upgrade()
        self._problem = self._problem or self._read_head()

    def _read_head(self) -> Problem | None:
        # SECURITY: a proxy that lets only some paths through may take all of it for the path.
        if b"#" in self.target:
            return problems.MALFORMED  # RFC 9112, section 3.2
        if not self.target.startswith((b"/", b"*")):
            absolute = _ABSOLUTE.fullmatch(self.target)
            if absolute is None:
                return problems.MALFORMED
            # SECURITY: a query may follow the host, and have what looks like a path.
            rest = absolute[1] or b""
            self.target = rest if rest.startswith(b"/") else b"/" + rest
        modern = self.version == "1.1"
        hosts = length = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                length = int(value)  # llhttp has verified that it is a number
            elif name == b"transfer-encoding":
                # SECURITY: other codings are not supported, and HTTP/1.0 has none.
                if value.lower() != b"chunked" or not modern:
                    return problems.MALFORMED
                self.chunked = True
            elif name == b"expect":
                if value.lower() != b"100-continue":
                    return problems.EXPECTATION
                self.expects = modern
        if hosts > 1 or (modern and not hosts):
            return problems.MALFORMED  # RFC 9112, section 3.2
        if length or self.chunked:
            path = self.target.partition(b"?")[0]
            self.streams = self.method.encode() + b" " + path in self._limits.streams
        if length > self._limits.body and not self.streams:
            return problems.BODY_TOO_LARGE
        self._left = length
        return None

    def on_body(self, body: bytes) -> None:
        """Handle a part of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Mark the request as complete."""
        self.complete = not self._upgrades
