"""TLS: the certificate that is shown, and the layer between a socket and a connection.

Not asyncio's own layer: that one keeps a buffer of 256 KiB for each connection from its first byte
on, ends a handshake by a deadline of its own, and cannot close one direction alone.
"""

import asyncio
import ssl
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from keyosk.server import problems
from keyosk.server.problems import Problem

#: Bytes of a certificate with its chain, or of a key.
_LARGEST: Final = 1024 * 1024
_CHECK: Final = 1.0  # seconds between two looks at the files
#: No honest handshake without a client's certificate sends as much.
_HANDSHAKE_BYTES: Final = 32 * 1024
# For TLS 1.2: forward secrecy and AEAD only. All of TLS 1.3 are so.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_Signature = tuple[tuple[int, int, int], ...]


class BadPair(ValueError):
    """The certificate and the key cannot be used. ``is_key``: which of the two files is at fault.

    The message says why, without a word of what they hold.
    """

    def __init__(self, message: str, *, is_key: bool) -> None:
        super().__init__(message)
        self.is_key = is_key


class Certificate:
    """A certificate and its key, read again when their files change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raise ``BadPair`` if the files cannot be used."""
        self._files = (certificate, key)
        self._read = self._signature()
        self.context = _context(certificate, key)

    def renew(self, log: Any) -> bool:
        """Read the files again if they have changed, for workers that are about to be forked.

        Returns whether they can be used; the log has the reason if not.
        """
        signature = self._signature()
        if signature == self._read:
            return True
        is_good = self._load(log)
        if is_good:
            self._read = signature
        return is_good

    def watch(self, log: Any) -> None:
        """Look after the files in a thread of its own, for as long as the process lives.

        Not in the event loop: a disk that hangs would stop it. The first look is waited for, as
        the master may have read the files months ago, and the certificate may have expired since.
        """
        looked = threading.Event()
        threading.Thread(
            target=self._watch, args=(log, looked), name="certificate", daemon=True
        ).start()
        looked.wait(_CHECK)

    def _watch(self, log: Any, looked: threading.Event) -> None:
        pause = threading.Event()
        before = self._signature()
        if before != self._read:
            self._read = before
            self._load(log)
        looked.set()
        while not pause.wait(_CHECK):
            now = self._signature()
            # Two files are never replaced at once: look when they have rested.
            if now == before and now != self._read:
                self._read = now
                self._load(log)
            before = now

    def _load(self, log: Any) -> bool:
        try:
            self.context = _context(*self._files)
        except BadPair as fault:
            part = "key" if fault.is_key else "certificate"
            log.error("the new TLS %s %s; the last one stays in use", part, fault)
            return False
        log.warning("the TLS certificate was read again")
        return True

    def _signature(self) -> _Signature:
        states = []
        for path in self._files:
            try:
                status = path.stat()
                states.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                states.append((0, 0, 0))
        return tuple(states)


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return what makes servers of TLS connections. Raises ``BadPair``."""
    for path, is_key in ((certificate, False), (key, True)):
        try:
            status = path.stat()
            # OpenSSL would wait for a pipe, and read a large file to its end.
            if not stat.S_ISREG(status.st_mode):
                raise BadPair("is not a regular file", is_key=is_key)
            if status.st_size > _LARGEST:
                raise BadPair("has more than 1 MiB", is_key=is_key)
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise BadPair(f"cannot be read: {error.strerror}", is_key=is_key) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadPair("is not the key of the certificate", is_key=True) from None
        # OpenSSL does not say which of the two it is about.
        is_key = _has_certificate(certificate)
        what = "a key" if is_key else "a certificate"
        reason = f" ({error.reason})" if error.reason else ""
        raise BadPair(f"is not {what} in PEM that can be used{reason}", is_key=is_key) from None
    except OSError as error:  # gone since
        raise BadPair(f"cannot be read: {error.strerror}", is_key=False) from None
    return context


def _has_certificate(path: Path) -> bool:
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        probe.load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return False
    return True


def _no_passphrase() -> NoReturn:
    # OpenSSL would ask for it at the terminal.
    raise BadPair("is encrypted: a passphrase cannot be given", is_key=True)


class Inner(Protocol):
    """What the layer needs of the connection above it."""

    gone: bool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put received data."""

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received data."""

    def eof_received(self) -> bool:
        """Handle the end of the client's data."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end."""

    def pause_writing(self) -> None:
        """Handle a client that does not read everything at once."""

    def resume_writing(self) -> None:
        """Handle a client that has read everything."""

    def refuse(self, problem: Problem) -> None:
        """Send a response of the server itself, then close."""


class Layer(asyncio.Transport, asyncio.BufferedProtocol):
    """TLS on one connection: the protocol of its socket, the transport of what is above.

    The deadlines are those of the connection above, from the first byte of the handshake on.
    """

    def __init__(
        self, context: ssl.SSLContext, inner: Inner, scratch: memoryview, *, log: Any
    ) -> None:
        """``scratch``: where what was received is put for a moment; all connections share it."""
        super().__init__()
        self._inner = inner
        self._scratch = scratch
        self._log = log
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._loop = asyncio.get_running_loop()
        self._shaken = 0  # bytes of the handshake
        self._is_ready = False  # the handshake is done
        self._is_plain = False  # there will be no TLS
        self._is_paused = False
        self._is_closing = False  # we have told the client that nothing follows
        self._has_ended = False  # the client has told us, or has closed without a word
        self._is_cut_off = False  # it has closed; there may still be data from before

    # What the socket's transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the connection begin; it sees nothing before the handshake is done."""
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        self._inner.connection_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for received data."""
        del sizehint
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received data."""
        if self._is_closing:
            self._inner.buffer_updated(nbytes)  # which counts what it throws away
            return
        self._incoming.write(self._scratch[:nbytes])
        if not self._is_ready:
            self._shaken += nbytes
        self._advance()

    def eof_received(self) -> bool:
        """Handle the end of the client's data, with or without TLS's own word of it."""
        if not (self._is_ready or self._is_closing):
            return False
        if self._is_closing:
            self._inner.eof_received()
        else:
            # Not the engine's to know: for it that would be an attack, after which it cannot send.
            # What was cut off is incomplete to HTTP, which says so.
            self._is_cut_off = True
            self._advance()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Handle a client that does not read everything at once."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Handle a client that has read everything."""
        self._inner.resume_writing()

    def _advance(self) -> None:
        """Take what was received as far as it goes."""
        if self._is_closing:
            return
        try:
            if not self._is_ready:
                self._tls.do_handshake()
                self._is_ready = True
            self._read()
        except ssl.SSLWantReadError:
            if self._is_cut_off:
                self._end()
            elif not self._is_ready and self._shaken > _HANDSHAKE_BYTES:
                self._raw.abort()
        except ssl.SSLError as fault:
            self._fail(fault)
        self._flush()

    def _read(self) -> None:
        inner = self._inner
        while not (self._is_paused or self._is_closing or self._has_ended or inner.gone):
            buffer = inner.get_buffer(-1)
            count: int = self._tls.read(len(buffer), buffer)  # type: ignore[assignment]
            if count:
                inner.buffer_updated(count)
            else:
                self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._inner.eof_received()

    def _fail(self, fault: ssl.SSLError) -> None:
        if fault.reason == "HTTP_REQUEST" and not self._is_ready:
            self._is_plain = True
            self._inner.refuse(problems.TLS_REQUIRED)
            return
        self._log.debug("TLS failed: %s", fault.reason)
        self._flush()  # the alert
        self._raw.close()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._is_plain:
            self._raw.write(self._outgoing.read())

    # What the connection above calls.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data."""
        if self._is_plain:
            self._raw.write(data)
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError:
            self._raw.abort()  # as after an alert of the client
        self._flush()

    def write_eof(self) -> None:
        """Tell the client that nothing follows; what it sends from now on is thrown away."""
        self._say_goodbye()
        self._raw.write_eof()

    def _say_goodbye(self) -> None:
        if not self._is_closing and self._is_ready:
            with suppress(ssl.SSLError):  # the client's own goodbye may come later, or not at all
                self._tls.unwrap()
            self._flush()
        self._is_closing = True

    def close(self) -> None:
        """Close once everything was sent."""
        self._say_goodbye()
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._raw.abort()

    def is_closing(self) -> bool:
        """Return whether it is closed or will be."""
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        """Leave data where it is."""
        self._is_paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with what is here already first."""
        self._is_paused = False
        self._raw.resume_reading()
        if self._incoming.pending or self._is_cut_off or self._tls.pending():
            self._loop.call_soon(self._advance)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the connection is told that the client does not read."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the client has not taken."""
        return self._raw.get_write_buffer_size()
