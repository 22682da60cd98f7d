"""One measurement in a process of its own: as a client, or of what Keyosk is compared with.

Reads a job as JSON from standard input and prints what it measured as JSON:

``http``: sends requests over connections that stay open, for some seconds; afterwards verifies
every response and the signature of every token.

``argon2``: verifies a password with bare argon2id, which releases the GIL.

``durable``: writes one row over and over, each in a transaction of its own that waits for the disk.
"""

import base64
import json
import re
import resource
import selectors
import socket
import sqlite3
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

_HEAD_END: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def main() -> int:
    """Do the job of standard input."""
    job = json.load(sys.stdin)
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "http": _http,
        "argon2": _argon2,
        "durable": _durable,
    }
    json.dump(kinds[job.pop("kind")](**job), sys.stdout)
    return 0


# --- HTTP -----------------------------------------------------------------------------------------


@dataclass
class _Connection:
    """One connection: the requests that it sends in turn, and what it has received so far."""

    socket: socket.socket
    requests: list[bytes]
    next: int = 0
    sent_at: float = 0.0
    received: bytearray = field(default_factory=bytearray)

    def send(self) -> None:
        self.received.clear()
        request = self.requests[self.next]
        self.next = (self.next + 1) % len(self.requests)
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)


def _http(
    *, port: int, seconds: float, connections: list[list[str]], expected: str, jwks: str
) -> dict[str, Any]:
    """Measure requests.

    Args:
        port: Of 127.0.0.1.
        seconds: How long.
        connections: The requests of each, base64, sent in turn.
        expected: ``token``, ``refresh`` (each response brings the next request's refresh token),
            ``active``, ``304`` or ``200``.
        jwks: The path of the server's JWK set.
    """
    waiting = selectors.DefaultSelector()
    for requests in connections:
        opened = socket.create_connection(("127.0.0.1", port), 10)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        decoded = [base64.b64decode(request) for request in requests]
        waiting.register(opened, selectors.EVENT_READ, _Connection(opened, decoded))
    bodies: list[bytes] = []
    times: list[float] = []
    status = b"304" if expected == "304" else b"200"
    began = now = time.perf_counter()
    for key in list(waiting.get_map().values()):
        key.data.send()
    busy = len(connections)
    while busy:  # until all that were sent in time have a response, as all cost the server
        for key, _ in waiting.select(1):
            connection: _Connection = key.data
            part = connection.socket.recv(65536)
            if not part:
                raise SystemExit("the server closed a connection")
            connection.received += part
            body = _body(connection.received, without=expected == "304")
            if body is None:
                continue
            if connection.received[9:12] != status:
                raise SystemExit(f"not {status.decode()}: {bytes(connection.received[:600])!r}")
            now = time.perf_counter()
            times.append(now - connection.sent_at)
            bodies.append(body)
            if expected == "refresh":
                connection.requests = [_refresh(connection.requests[0], body)]
            if now < began + seconds:
                connection.send()
            else:
                busy -= 1
    _look_at(bodies, expected, f"http://127.0.0.1:{port}{jwks}")
    times.sort()
    return {
        "count": len(times),
        "seconds": now - began,
        "p50": times[len(times) // 2],
        "p99": times[min(len(times) - 1, len(times) * 99 // 100)],
        # The next round continues the chains of refresh tokens.
        "connections": [
            [base64.b64encode(request).decode() for request in key.data.requests]
            for key in waiting.get_map().values()
        ],
    }


def _body(received: bytearray, *, without: bool) -> bytes | None:
    """Return the body of a response that has arrived whole, and None before."""
    head, found, body = received.partition(_HEAD_END)
    if not found:
        return None
    if without:
        return b""
    length = _CONTENT_LENGTH.search(head)
    if length is None:
        raise SystemExit(f"no Content-Length: {bytes(head)!r}")
    return bytes(body) if len(body) >= int(length[1]) else None


def _refresh(request: bytes, body: bytes) -> bytes:
    """The next request of a chain: the same, with the refresh token of the last response."""
    token = json.loads(body)["refresh_token"].encode()
    head = request.partition(_HEAD_END)[0]
    form = b"grant_type=refresh_token&refresh_token=" + token
    head = _CONTENT_LENGTH.sub(b"\r\nContent-Length: %d" % len(form), head)
    return head + _HEAD_END + form


def _look_at(bodies: list[bytes], expected: str, jwks: str) -> None:
    """Verify that every response has what a client needs. Ends the program if one has not."""
    if expected == "active" and not all(json.loads(body)["active"] is True for body in bodies):
        raise SystemExit("a token was not active")
    if expected not in ("token", "refresh"):
        return
    import jwt  # noqa: PLC0415  # not needed by most measurements

    with urllib.request.urlopen(jwks) as response:  # the server under test
        keys = {key.key_id: key for key in jwt.PyJWKSet.from_json(response.read()).keys}
    seen = set()
    for body in bodies:
        token = json.loads(body)["access_token"]
        key = keys[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(
            token, key, algorithms=[key.algorithm_name], options={"verify_aud": False}
        )
        seen.add(claims["jti"])
    if len(seen) != len(bodies):
        raise SystemExit("a jti came twice")


# --- What it is compared with ---------------------------------------------------------------------


def _argon2(*, stored: str, password: str, seconds: float, threads: int) -> dict[str, Any]:
    """Verify with bare argon2id, in so many threads."""
    from argon2 import PasswordHasher  # noqa: PLC0415  # as above

    counts = [0] * threads
    began = time.perf_counter()

    def verify(number: int) -> None:
        hasher = PasswordHasher()
        while time.perf_counter() < began + seconds:
            hasher.verify(stored, password)
            counts[number] += 1

    before = _cpu()
    workers = [threading.Thread(target=verify, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {
        "count": sum(counts),
        "seconds": time.perf_counter() - began,
        "cpu": _cpu() - before,
    }


def _durable(*, database: str, seconds: float) -> dict[str, Any]:
    """Change one row in durable transactions. ``database``: a SQLite file or a libpq URL."""
    count = 0
    if database.startswith("postgresql:"):
        import psycopg  # noqa: PLC0415  # as above

        connected = psycopg.connect(database)
        connected.execute("CREATE TABLE IF NOT EXISTS bench_row (id integer, value integer)")
        connected.execute("INSERT INTO bench_row VALUES (1, 0)")
        connected.commit()
        began, before = time.perf_counter(), _cpu()
        while time.perf_counter() < began + seconds:
            connected.execute("UPDATE bench_row SET value = value + 1 WHERE id = 1")
            connected.commit()
            count += 1
    else:
        file = sqlite3.connect(database, isolation_level=None)
        file.execute("PRAGMA journal_mode = wal")
        file.execute("PRAGMA synchronous = full")
        file.execute("CREATE TABLE IF NOT EXISTS bench_row (id integer, value integer)")
        file.execute("INSERT INTO bench_row VALUES (1, 0)")
        began, before = time.perf_counter(), _cpu()
        while time.perf_counter() < began + seconds:
            file.execute("BEGIN IMMEDIATE")
            file.execute("UPDATE bench_row SET value = value + 1 WHERE id = 1")
            file.execute("COMMIT")
            count += 1
    return {"count": count, "seconds": time.perf_counter() - began, "cpu": _cpu() - before}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
