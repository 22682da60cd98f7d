"""Where one HTTP/1 request ends in the bytes that a connection has sent so far.

Pure: bytes in, a verdict out; no socket, no clock. It does not decide whether a request is well
formed. That is the business of gunicorn's parser, which sees exactly the bytes that are cut off
here. So this module knows only the plainest framing, and whatever looks odd to it is marked `odd`
and given to the parser at once, to be refused there. Where the two disagree, the request is
refused.
"""

import enum
import re
from dataclasses import dataclass

_END_OF_HEAD = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"(?:\r\n)?[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
# A name goes on until a character that no name may have: content-length-hint is another field.
_NAME_END = rb"(?![!#$%&'*+\-.^_`|~0-9a-z])"
_LENGTH_NAME = re.compile(rb"\ncontent-length" + _NAME_END)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*(?=\r\n)")
_CODING_NAME = re.compile(rb"\ntransfer-encoding" + _NAME_END)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n)")
_EXPECT_NAME = re.compile(rb"\nexpect" + _NAME_END)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_LONGEST_CHUNK_LINE = 1024
_LONGEST_LENGTH = 18  # digits; more cannot be meant, and int() refuses thousands of them


class Step(enum.Enum):
    """What to do with a connection after a look at its bytes."""

    MORE = "read on"
    READY = "the request is complete"
    STREAM = "the head is complete and the application reads the body itself"
    LINE_TOO_LONG = "refuse: 414"
    HEAD_TOO_LARGE = "refuse: 431"
    BODY_TOO_LARGE = "refuse: 413"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a request is held in memory, in bytes, and which bodies are not held at all.

    `streams` has entries such as `b"POST /accounts/import"`: method and path, exactly as they stand
    in the request line before any `?`.
    """

    head: int = 16 * 1024
    body: int = 64 * 1024
    streams: frozenset[bytes] = frozenset()


class Framing:
    """Progress through one request. Feed `advance` the whole buffer after each read."""

    __slots__ = (
        "_chunk",
        "_decoded",
        "_limits",
        "_scanned",
        "_verdict",
        "chunked",
        "continued",
        "end",
        "expects",
        "head",
        "odd",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._scanned = 0
        self._chunk = 0  # where the next chunk-size line begins
        self._decoded = 0
        self._verdict = Step.MORE
        self.head = 0  # length of the head with its empty line; 0 until it is complete
        self.end = 0  # where the request ends, once READY
        self.chunked = False
        self.expects = False  # the client waits for 100 before it sends the body
        self.continued = False  # set by whoever sent the 100
        self.odd = False  # the parser must refuse this request

    def advance(self, buffer: bytes) -> Step:
        """Look at the bytes of this request that are there so far, and at nothing twice.

        The same buffer may be given again: a verdict other than to read on stands.
        """
        if self._verdict is Step.MORE:
            self._verdict = self._look(buffer)
        return self._verdict

    def wants_continue(self, buffer: bytes) -> bool:
        """Whether the client waits for `100 Continue` before it sends a body that we will take."""
        if not self.expects or self.continued or len(buffer) != self.head:
            return False
        return self._verdict is Step.MORE or self._verdict is Step.STREAM

    def _look(self, buffer: bytes) -> Step:
        if not self.head:
            step = self._find_head(buffer)
            if step is not Step.READY or self.odd:
                return step
            step = self._read_head(buffer)
            if step is not Step.MORE:
                return step
        if self.chunked:
            return self._read_chunks(buffer)
        return Step.READY if len(buffer) >= self.end else Step.MORE

    def _odd(self, end: int) -> Step:
        self.odd = True
        self.end = end
        return Step.READY

    def _find_head(self, buffer: bytes) -> Step:
        found = buffer.find(_END_OF_HEAD, max(0, self._scanned - 3), self._limits.head)
        if found >= 0:
            self.head = found + len(_END_OF_HEAD)
            self.end = self.head
            return Step.READY
        # None of these can become a request, so there is no reason to wait for the deadline: a line
        # that ends with LF alone, a control character at the start (TLS spoken to this port), a
        # first line that is no request line.
        if (
            _BARE_LF.search(buffer, max(0, self._scanned - 1))
            or (buffer and buffer[0] < 0x20 and buffer[0] != 0x0D)
            or (b"\r\n" in buffer[2:] and not _REQUEST_LINE.match(buffer))
        ):
            return self._odd(len(buffer))
        self._scanned = len(buffer)
        if len(buffer) < self._limits.head:
            return Step.MORE
        return Step.HEAD_TOO_LARGE if b"\r\n" in buffer[2:] else Step.LINE_TOO_LONG

    def _read_head(self, buffer: bytes) -> Step:
        head = buffer[: self.head - 2].lower()
        has_length = b"\ncontent-length" in head
        has_coding = b"\ntransfer-encoding" in head
        if not has_length and not has_coding:
            return Step.READY
        names = len(_LENGTH_NAME.findall(head))
        lengths = _LENGTH.findall(head)
        codings = len(_CODING_NAME.findall(head))
        modern = head.partition(b"\r\n")[0].endswith(b" http/1.1")
        length = 0
        # SECURITY: exactly one statement of the length, in its plainest form. Anything else is how
        # requests are smuggled past a proxy that reads it differently, and the parser refuses it.
        if codings:
            if codings != 1 or names or len(_CHUNKED.findall(head)) != 1 or not modern:
                return self._odd(self.head)
            self.chunked = True
        elif names:
            if names != 1 or len(lengths) != 1:
                return self._odd(self.head)
            digits = lengths[0].lstrip(b"0")
            if len(digits) > _LONGEST_LENGTH:
                return Step.BODY_TOO_LARGE
            length = int(digits or b"0")
        if _EXPECT_NAME.search(head):
            if not _EXPECT.search(head):
                return self._odd(self.head)
            self.expects = modern
        if (self.chunked or length) and self._limits.streams:
            words = buffer[: buffer.find(b"\r\n", 2)].split(b" ", 2)
            target = words[1] if len(words) == 3 else b""
            if words[0] + b" " + target.partition(b"?")[0] in self._limits.streams:
                return Step.STREAM
        if length > self._limits.body:
            return Step.BODY_TOO_LARGE
        self._chunk = self.head
        self.end = self.head + length
        return Step.MORE

    def _read_chunks(self, buffer: bytes) -> Step:
        while True:
            at = self._chunk
            line_end = buffer.find(b"\r\n", at, at + _LONGEST_CHUNK_LINE)
            if line_end < 0:
                if len(buffer) - at >= _LONGEST_CHUNK_LINE:
                    return self._odd(len(buffer))
                return self._unless_bloated(buffer)
            size_text = buffer[at:line_end].partition(b";")[0].rstrip(b" \t")
            if not _CHUNK_SIZE.fullmatch(size_text):
                return self._odd(len(buffer))
            size = int(size_text, 16)
            data = line_end + 2
            if size == 0:
                return self._read_trailers(buffer, data)
            if self._decoded + size > self._limits.body:
                return Step.BODY_TOO_LARGE
            following = data + size + 2
            if len(buffer) < following:
                return self._unless_bloated(buffer)
            if buffer[following - 2 : following] != b"\r\n":
                return self._odd(len(buffer))
            self._decoded += size
            self._chunk = following

    def _read_trailers(self, buffer: bytes, at: int) -> Step:
        if buffer[at : at + 2] == b"\r\n":
            self.end = at + 2
            return Step.READY
        found = buffer.find(_END_OF_HEAD, at, at + self._limits.head)
        if found >= 0:
            self.end = found + len(_END_OF_HEAD)
            return Step.READY
        if _BARE_LF.search(buffer, at):
            return self._odd(len(buffer))
        return Step.MORE if len(buffer) - at < self._limits.head else Step.HEAD_TOO_LARGE

    def _unless_bloated(self, buffer: bytes) -> Step:
        # Chunks of one byte, or long extensions, would let a small body fill the memory.
        bloated = len(buffer) - self.head > 2 * self._limits.body + self._limits.head
        return Step.BODY_TOO_LARGE if bloated else Step.MORE
