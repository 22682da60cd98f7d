"""The HTTP server, as a process of its own, with a small application that knows nothing of Keyosk.

Everything goes through real sockets. The deadlines are short, so that their end can be waited for.
"""

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import platform
import random
import resource
import select
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyosk.server.options import Options
from keyosk.server.parsing import Limits, Refused, RequestParser
from tables import table

CHUNKED = "Transfer-Encoding: chunked"
ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024

PROGRAM = """
import contextlib, hashlib, json, operator, os, signal, sys, threading, time
from pathlib import Path
from keyosk.server import Certificate, Hooks, Options, serve

chosen = json.loads(sys.argv[1])
chosen["streams"] = frozenset(chosen.get("streams", ()))
broken = chosen.pop("broken", False)
early = chosen.pop("early", False)
if "certificate" in chosen:
    chosen["certificate"] = Certificate(*map(Path, chosen["certificate"]))

def say(text):
    os.write(1, (text + "\\n").encode())

def respond(start, body, status="200 OK", *headers):
    start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
    return [body]

def stream(size):
    for _ in range(size // 65536):
        yield b"z" * 65536

def last():
    # Until the test says that it is over.
    say("running")
    latest = time.monotonic() + 60
    while not Path(os.environ["HOME"], "over").exists() and time.monotonic() < latest:
        time.sleep(0.02)

class Afterwards(list):
    def close(self):
        last()
        say("closed")

class TooLate(list):
    def close(self):
        self.leave()

def application(environ, start):
    path, _, number = environ["PATH_INFO"].partition("=")
    if path == "/health":
        return respond(start, b"ok")
    if path == "/pid":
        return respond(start, str(os.getpid()).encode())
    if path == "/echo":
        body = environ["wsgi.input"].read()
        length = environ.get("CONTENT_LENGTH", "none")
        head = f"{environ['REQUEST_METHOD']} {environ['QUERY_STRING']} {length}:"
        return respond(start, head.encode() + body)
    if path == "/environ":
        shown = {name: value for name, value in environ.items() if isinstance(value, str)}
        return respond(start, json.dumps(shown).encode())
    if path == "/late":
        body = environ["wsgi.input"].read()
        environ["left"] = environ.get("left", 0) + 1  # in an environ of its own each time
        if "server.hand_over" in environ:
            environ["server.hand_over"]()
        last()
        return respond(start, b"late %d " % environ["left"] + body)
    if path in ("/lasts", "/slow"):
        last()
        return respond(start, b"over")
    if path == "/hold":
        environ["server.hold"](float(number))
        return respond(start, b"held")
    if path.endswith("/niceness"):
        thread = threading.get_native_id()
        return respond(start, str(os.getpriority(os.PRIO_PROCESS, thread)).encode())
    if path in ("/memory", "/instant"):
        if number == "leave":
            body = environ["wsgi.input"].read()
            environ.get("server.leave_loop", lambda: None)()
            return respond(start, threading.current_thread().name.encode() + b" " + body)
        if number == "late":
            parts = TooLate(respond(start, b"once"))
            parts.leave = environ.get("server.leave_loop") or environ.get("server.hand_over")
            return parts
        if number:
            raise RuntimeError("a secret of the application")
        return respond(start, path[1:].encode())
    if path == "/big":
        return respond(start, b"b" * int(number))
    if path == "/stream":
        start("200 OK", [("Content-Type", "text/plain")])
        return stream(int(number))
    if path == "/half":
        start("200 OK", [("Content-Length", "10")])
        return [b"half"]
    if path == "/after":
        return Afterwards(respond(start, b"done"))
    if path == "/fail":
        raise RuntimeError("a secret of the application")
    if path == "/leave":
        raise SystemExit(5)
    if path == "/log":
        environ["wsgi.errors"].write('two\\nlines {"level": "forged"}\\n')
        return respond(start, b"logged")
    if path == "/upload":
        digest, size = hashlib.sha256(), 0
        try:
            while piece := environ["wsgi.input"].read(65536):
                digest.update(piece)
                size += len(piece)
        except OSError:
            if number:
                raise
            return respond(start, b"as a framework does it", "500 Internal Server Error")
        return respond(start, f"{size} {digest.hexdigest()}".encode())
    return respond(start, b"nothing here", "404 Not Found")

def factory():
    if broken:
        raise RuntimeError("cannot start")
    return application

def begin():
    say(f"start {os.getpid()}")
    if early:
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.environ["HOME"] + "/once")
            os.kill(os.getpid(), signal.SIGTERM)

serve(
    factory,
    Options(
        slow=lambda environ: environ["PATH_INFO"].startswith("/slow"),
        instant=lambda environ: environ["PATH_INFO"] == "/instant",
        in_loop=lambda environ, body: (
            operator.call if environ["PATH_INFO"].startswith("/memory") else None
        ),
        **chosen,
    ),
    Hooks(
        on_ready=lambda addresses: say("ready " + addresses[0]),
        on_worker_start=begin,
        on_worker_exit=lambda: say(f"exit {os.getpid()}"),
        on_child_exit=lambda pid: say(f"reaped {pid}"),
    ),
)
"""


class Server:
    """A running server; what it says on stdout and logs on stderr is gathered line by line."""

    def __init__(self, folder: Path, *, before: str = "", **chosen: Any) -> None:
        """``before``: the lines that begin its program."""
        program = folder / "program.py"
        program.write_text(before + PROGRAM)
        options = {"bind": ["127.0.0.1:0"], "workers": 2, "threads": 2, **chosen}
        self.home = folder
        self.size = options["workers"]
        self._over = folder / "over"
        self.process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A copy with a planted fault comes first on the path (tools/faults.py).
            env={"PYTHONPATH": str(ROOT), **os.environ, "HOME": str(folder), "SCRIPT_NAME": "/x"},
        )
        self.said: list[str] = []
        self.logged: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._gather, args=pair)
            for pair in ((self.process.stdout, self.said), (self.process.stderr, self.logged))
        ]
        for reader in self._readers:
            reader.start()

    def _gather(self, pipe: Any, lines: list[str]) -> None:
        for line in pipe:
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, found: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait until something follows from what was said and logged."""
        with self._changed:
            assert self._changed.wait_for(found, seconds), (self.said, self.logged)
            return found()

    def start(self) -> "Server":
        self.listen()
        with self.connect() as client:
            assert client.get("/health").body == b"ok"
        return self

    def listen(self) -> None:
        """Wait until it listens with all of its workers."""
        ready = self.wait_for(lambda: [line for line in self.said if line.startswith("ready")])
        self.port = int(ready[0].rpartition(":")[2])
        # All of its workers, not the first: a test that looks at each must find each.
        self.wait_for(lambda: sum(line.startswith("start ") for line in self.said) >= self.size)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            for child in self.workers():
                child.kill()
            self.process.kill()
            raise
        finally:
            for reader in self._readers:
                reader.join()
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()

    def end_what_lasts(self) -> None:
        """Let the requests end that go on until then."""
        self._over.touch()

    def workers(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children())

    def connect(self, **options: Any) -> "Client":
        return Client(self.port, **options)

    def ask(self, request: bytes) -> "Response":
        """One request on a connection of its own."""
        with self.connect() as client:
            client.send(request)
            return client.read_response()


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Client:
    """A client that sends exactly what it is told to."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(60)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, path: str) -> Response:
        self.send(request("GET", path))
        return self.read_response()

    def _until(self, enough: Callable[[bytes], bool]) -> None:
        while not enough(self._buffer):
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data

    def _take(self, size: int) -> bytes:
        self._until(lambda buffer: len(buffer) >= size)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _line(self) -> bytes:
        self._until(lambda buffer: b"\r\n" in buffer)
        return self._take(self._buffer.index(b"\r\n") + 2)[:-2]

    def read_response(self, *, head: bool = False) -> Response:
        """The next response, read exactly to its end. Raises EOFError."""
        status = int(self._line().split()[1])
        headers = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(": ")
            headers[name.lower()] = value
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._line(), 16):
                body += self._take(size + 2)[:-2]
            self._take(2)
        elif status != 100 and not head:
            body = self._take(int(headers.get("content-length", "0")))
        return Response(status, headers, body)

    def is_closed(self) -> bool:
        """Wait for the end of the connection; False if something else comes."""
        try:
            return not self._buffer and not self.sock.recv(1)
        except ConnectionResetError:
            return True


def request(
    method: str, path: str, *headers: str, body: bytes = b"", version: str = "1.1"
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def assert_problem(response: Response, status: int, code: str | None = None) -> None:
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = json.loads(response.body)
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    if code:
        assert problem["code"] == code
    assert response.headers["server"] == "keyosk"
    assert "date" in response.headers
    assert response.closes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two workers, which gives up nobody on a machine that is busy for a while."""
    with shared(tmp_path_factory.mktemp("server"), seconds=30) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One at which a request and an idle connection have two seconds, and a response one."""
    with shared(tmp_path_factory.mktemp("impatient"), seconds=2) as running:
        yield running


@contextlib.contextmanager
def shared(folder: Path, *, seconds: int) -> Iterator[Server]:
    running = Server(
        folder,
        request_timeout=seconds,
        idle_timeout=seconds,
        send_timeout=seconds / 2,
        drain_timeout=seconds,
        reply_bytes=8 * MIB,
        streams=["POST /upload", "POST /upload=raises"],
    )
    try:
        yield running.start()
        assert running.stop() == 0
    finally:
        running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(**chosen: Any) -> Server:
            running = Server(tmp_path, **chosen)
            stack.callback(running.stop)
            return running

        yield start


# Ordinary requests


def test_a_connection_serves_many_requests(server: Server) -> None:
    with server.connect() as client:
        for number in range(20):
            client.send(request("GET", f"/echo?n={number}"))
            response = client.read_response()
            assert (response.status, response.body) == (200, f"GET n={number} none:".encode())
            assert response.headers["connection"] == "keep-alive"


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    requests = [
        request("POST", f"/echo?n={number}", "Content-Length: 3", body=b"abc")
        if number % 2
        else request("GET", f"/echo?n={number}")
        for number in range(20)
    ]
    with server.connect() as client:
        client.send(b"".join(requests))
        for number in range(20):
            assert client.read_response().body.partition(b" ")[2].startswith(b"n=%d " % number)


@pytest.mark.attack
def test_thousands_of_requests_sent_at_once_are_answered_one_after_another(server: Server) -> None:
    count = 2000
    with server.connect() as client:
        sending = threading.Thread(target=client.send, args=(request("GET", "/pid") * count,))
        sending.start()
        before = [worker.memory_info().rss for worker in server.workers()]
        responses = {client.read_response().body for _ in range(count)}
        sending.join()
        assert len(responses) == 1
        after = [worker.memory_info().rss for worker in server.workers()]
    assert max(new - old for new, old in zip(after, before, strict=True)) < 8 * MIB


@pytest.mark.attack
def test_what_is_sent_behind_a_request_is_not_held_meanwhile(start: Callable[..., Server]) -> None:
    """It stays in the system's buffers, and then with the client."""
    server = start(workers=1).start()
    (worker,) = server.workers()
    with server.connect() as client:
        client.send(request("GET", "/lasts"))
        server.wait_for(lambda: "running" in server.said)
        before = worker.memory_info().rss
        client.sock.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MIB:
                sent += client.sock.send(bytes(65536))
        assert worker.memory_info().rss - before < 2 * MIB
        assert sent < 64 * MIB
        server.end_what_lasts()
        client.sock.settimeout(60)
        assert client.read_response().body == b"over"


@table(
    ("header", "body"),
    [("Content-Length: 3", b"abc"), (CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"), ("X-A: b", b"")],
)
def test_an_offer_of_another_protocol_is_ignored(server: Server, header: str, body: bytes) -> None:
    """Java's client offers HTTP/2 with its first request."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with server.connect() as client:
        for _ in range(2):
            client.send(request("POST", "/echo", header, *offer, body=body))
            response = client.read_response()
            assert response.status == 200
            assert response.body.endswith(b":" + (b"abc" if body else b""))
            assert response.headers["connection"] == "keep-alive"


def test_a_stream_to_a_client_of_http_1_0_has_no_chunks(server: Server) -> None:
    with server.connect() as client:
        client.send(request("GET", "/stream=131072", "Connection: keep-alive", version="1.0"))
        received = b""
        while data := client.sock.recv(65536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert b"chunked" not in head
    assert body == b"z" * 131072


def test_a_response_that_is_held_occupies_no_thread(start: Callable[..., Server]) -> None:
    server = start(workers=1, threads=1).start()
    with contextlib.ExitStack() as stack:
        # Were the thread occupied, they would take 80 seconds, and a client waits for 60.
        held = [stack.enter_context(server.connect()) for _ in range(40)]
        started = time.monotonic()
        for client in held:
            client.send(request("GET", "/hold=2"))
        assert server.ask(request("GET", "/health")).body == b"ok"
        for client in held:
            assert client.read_response().body == b"held"
            assert time.monotonic() - started >= 2
            assert client.get("/health").body == b"ok"


def test_what_is_answered_from_memory_waits_for_no_thread(start: Callable[..., Server]) -> None:
    server = start(workers=1, threads=1).start()
    with contextlib.ExitStack() as stack:
        lasting = [stack.enter_context(server.connect()) for _ in range(4)]
        for client in lasting:
            client.send(request("GET", "/lasts"))
        server.wait_for(lambda: "running" in server.said)
        for path in ("/memory", "/instant"):
            assert server.ask(request("GET", path)).body == path[1:].encode()
        # The thread is theirs all the time, and who waits for it comes after them.
        assert server.ask(request("GET", "/memory=fail")).status == 500
        assert select.select([client.sock for client in lasting], [], [], 0)[0] == []
        server.end_what_lasts()
        assert [client.read_response().body for client in lasting] == [b"over"] * 4


def test_a_request_that_leaves_the_event_loop_begins_anew_in_a_thread(
    start: Callable[..., Server],
) -> None:
    server = start(workers=1, threads=2).start()
    asked = request("POST", "/memory=leave", "Content-Length: 4", body=b"body")
    for _ in range(3):
        response = server.ask(asked)
        assert (response.status, response.body.decode()[:8], response.body[-5:]) == (
            200,
            "request-",
            b" body",
        )


@pytest.mark.attack
@table("path", ["/memory=late", "/instant=late"])
def test_a_request_that_leaves_after_its_response_has_no_second_one(
    start: Callable[..., Server], path: str
) -> None:
    server = start(workers=1).start()
    with server.connect() as client:
        for asked, expected in ((path, b"once"), ("/health", b"ok"), ("/health", b"ok")):
            client.send(request("GET", asked))
            assert client.read_response().body == expected


def test_a_request_goes_to_the_thread_that_became_idle_last(start: Callable[..., Server]) -> None:
    server = start(workers=1, threads=4).start()
    asked = request("POST", "/memory=leave", "Content-Length: 4", body=b"body")
    threads: Counter[bytes] = Counter()
    with server.connect() as client:
        for _ in range(40):
            client.send(asked)
            threads[client.read_response().body.split()[0]] += 1
    # Two, as the one that has just answered may not be idle yet; in turn they would have half.
    assert sum(number for _, number in threads.most_common(2)) > 30


@table(
    ("version", "header", "closes"),
    [
        ("1.1", "X-A: b", False),
        ("1.1", "Connection: close", True),
        ("1.0", "X-A: b", True),
        ("1.0", "Connection: keep-alive", False),
    ],
)
def test_the_connection_closes_when_it_must(
    server: Server, version: str, header: str, closes: bool
) -> None:
    with server.connect() as client:
        client.send(request("GET", "/health", header, version=version))
        response = client.read_response()
        assert response.body == b"ok"
        assert response.closes is closes
        if closes:
            assert client.is_closed()
        else:
            assert client.get("/health").body == b"ok"


def test_head_has_no_body_and_keeps_the_connection(server: Server) -> None:
    with server.connect() as client:
        client.send(request("HEAD", "/health"))
        assert client.read_response(head=True).headers["content-length"] == "2"
        assert client.get("/health").body == b"ok"


def test_a_refused_head_has_no_body_either(server: Server) -> None:
    with server.connect() as client:
        client.send(request("HEAD", "/health", "Broken"))
        assert client.read_response(head=True).status == 400
        assert client.is_closed()


def test_a_client_that_half_closes_is_answered(server: Server) -> None:
    with server.connect() as client:
        client.send(request("GET", "/health"))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read_response().body == b"ok"
        assert client.is_closed()


@table(
    "body",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"1\r\nh\r\n004;name=value\r\nello\r\n0\r\n\r\n",
        b'5;a="b"\r\nhello\r\n0\r\nX-Trailer: yes\r\n\r\n',
    ],
)
def test_chunked_bodies_arrive_whole_and_with_a_length(server: Server, body: bytes) -> None:
    with server.connect() as client:
        client.send(request("POST", "/echo?", CHUNKED, body=body))
        assert client.read_response().body == b"POST  5:hello"
        assert client.get("/health").body == b"ok"


def test_a_body_as_large_as_allowed_is_accepted(server: Server) -> None:
    body = random.Random(1).randbytes(65536)
    with server.connect() as client:
        client.send(request("POST", "/echo", "Content-Length: 65536", body=body))
        assert client.read_response().body == b"POST  65536:" + body
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (256, body[at : at + 256]) for at in range(0, 65536, 256)
        )
        client.send(request("POST", "/echo", CHUNKED, body=chunks))
        client.send(b"0\r\n\r\n")
        assert client.read_response().body == b"POST  65536:" + body


def test_100_continue_is_sent_once_and_only_to_who_waits(server: Server) -> None:
    with server.connect() as client:
        client.send(request("POST", "/echo", "Content-Length: 3", "Expect: 100-Continue"))
        assert client.read_response().status == 100
        client.send(b"abc")
        assert client.read_response().body == b"POST  3:abc"
        client.send(
            request("POST", "/echo", "Content-Length: 3", "Expect: 100-continue", body=b"abc")
        )
        assert client.read_response().body == b"POST  3:abc"
        client.send(request("POST", "/echo", "Content-Length: 0", "Expect: 100-continue"))
        assert client.read_response().body == b"POST  0:"
    with server.connect() as client:
        client.send(
            request("POST", "/echo", "Content-Length: 3", "Expect: 100-continue", version="1.0")
        )
        client.send(b"abc")
        assert client.read_response().body == b"POST  3:abc"


def test_a_body_that_is_too_large_gets_413_instead_of_100(server: Server) -> None:
    headers = ("Content-Length: 65537", "Expect: 100-continue")
    assert_problem(server.ask(request("POST", "/echo", *headers)), 413, "body_too_large")


def test_the_answer_of_a_stream_is_chunked_and_whole(server: Server) -> None:
    with server.connect() as client:
        assert client.get(f"/stream={4 * MIB}").body == b"z" * 4 * MIB
        assert client.get("/health").body == b"ok"


def test_what_the_application_does_after_its_answer_does_not_delay_it(
    start: Callable[..., Server],
) -> None:
    server = start(workers=1).start()
    assert server.ask(request("GET", "/after")).body == b"done"
    assert "closed" not in server.said
    server.end_what_lasts()
    server.wait_for(lambda: "closed" in server.said)


def test_an_answer_shorter_than_promised_ends_the_connection(server: Server) -> None:
    with server.connect() as client:
        client.send(request("GET", "/half"))
        with pytest.raises(EOFError, match="half"):
            client.read_response()


@table("path", ["/fail", "/leave"])
def test_an_application_that_fails_is_a_problem_without_its_text(server: Server, path: str) -> None:
    response = server.ask(request("GET", path))
    assert_problem(response, 500, "internal_error")
    assert b"secret" not in response.body
    assert server.ask(request("GET", "/health")).body == b"ok"


# What gunicorn must not do


def test_the_server_header_tells_no_version(server: Server) -> None:
    assert server.ask(request("GET", "/health")).headers["server"] == "keyosk"
    shown = json.loads(server.ask(request("GET", "/environ")).body)
    assert "gunicorn" not in shown["SERVER_SOFTWARE"]


def test_no_header_changes_address_scheme_or_path(server: Server) -> None:
    headers = (
        "X-Forwarded-For: 10.1.1.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Ssl: on",
        "X-Forwarded-Protocol: ssl",
        "Forwarded: for=10.1.1.1;proto=https",
        "Script_Name: /environ",
        "Path_Info: /health",
        "X_Forwarded_For: 10.1.1.1",
    )
    shown = json.loads(server.ask(request("GET", "/environ", *headers)).body)
    assert shown["REMOTE_ADDR"] == "127.0.0.1"
    assert shown["wsgi.url_scheme"] == "http"
    assert shown["SCRIPT_NAME"] == ""
    assert shown["PATH_INFO"] == "/environ"
    assert shown["HTTP_X_FORWARDED_FOR"] == "10.1.1.1"


def test_nothing_is_left_under_home(server: Server) -> None:
    assert [path.name for path in server.home.iterdir()] == ["program.py"]


def test_the_log_is_json_lines_that_no_input_can_forge(server: Server) -> None:
    before = len(server.logged)
    assert server.ask(request("GET", "/log")).body == b"logged"
    server.ask(request("GET", "/\x0b", 'X-A: "}\x1b[0m'))
    server.ask(request("GET", "/health", "Authorization Basic c2VjcmV0"))
    server.wait_for(lambda: len(server.logged) >= before + 3)
    records = [json.loads(line) for line in server.logged]
    assert all(record["time"].endswith("+00:00") for record in records)
    assert not any(record["level"] == "forged" for record in records)
    assert any(record["message"].startswith("two\nlines") for record in records)
    assert "c2VjcmV0" not in "".join(server.logged)


@pytest.mark.attack
@table(
    ("target", "read"),
    [
        (b"/health?a=http://b/c", b"/health?a=http://b/c"),
        (b"http://a/health", b"/health"),
        (b"HTTPS://a:443/health?b", b"/health?b"),
        (b"http://a", b"/"),
        # A proxy that lets only some paths through lets this one through as /.
        (b"http://a?b=/health", b"/?b=/health"),
        (b"http://a?/health", b"/?/health"),
        (b"*", b"*"),
    ],
)
def test_a_target_with_a_host_is_its_path_and_query(target: bytes, read: bytes) -> None:
    parser = RequestParser(Limits())
    assert parser.feed(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n") == b""
    assert (parser.complete, parser.target) == (True, read)


# Requests that must be refused

MALFORMED = {
    # A proxy that lets only some paths through may take it for a part of the path.
    "fragment": b"GET /health#.png HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment behind a query": b"GET /health?a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "empty fragment": b"GET http://a/health# HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host in the target": b"GET http:///health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a login in the target": b"GET http://a@b/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "another scheme": b"GET ftp://a/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "no request line": b"\r\n\r\n",
    "something else": b"HELO example.com\r\n",
    "version 2": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "version 1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "version 1.9 with a body": b"POST / HTTP/1.9\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    "version 0.9": b"GET / HTTP/0.9\r\n\r\n",
    "version 3.0": b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
    "version 1.01": b"GET / HTTP/1.01\r\nHost: a\r\n\r\n",
    "version 1": b"GET / HTTP/1\r\nHost: a\r\n\r\n",
    "lower-case version": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "another protocol": b"GET / ICY/1.1\r\nHost: a\r\n\r\n",
    "version of three digits": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in target": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "8 bits in target": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nX-A: b\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\nBroken\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n",
    "control in value": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\x01\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rX-C: d\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF in header": b"GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n",
    "obs-fold": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "proxy protocol": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tunnel": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "method of 21 letters": b"A" * 21 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    "RTSP": b"OPTIONS * RTSP/1.0\r\nHost: a\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 101 + b"\r\n",
}

# Each carries a second request, which must never be answered.
AMBIGUOUS = {
    "length and coding": b"Content-Length: 4\r\nTransfer-Encoding: chunked",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5",
    "the same length twice": b"Content-Length: 5\r\nContent-Length: 5",
    "list of lengths": b"Content-Length: 5, 5",
    "signed length": b"Content-Length: +5",
    "negative length": b"Content-Length: -5",
    "hexadecimal length": b"Content-Length: 0x5",
    "length with underscore": b"Content-Length: 1_0",
    "superscript length": b"Content-Length: \xb2",
    "empty length": b"Content-Length:",
    "length of 5000 digits": b"Content-Length: " + b"9" * 5000,
    "space before the colon": b"Content-Length : 5",
    "tab before the colon": b"Transfer-Encoding\t: chunked",
    "folded length": b"X-A: b\r\n Content-Length: 5",
    "folded coding": b"Transfer-Encoding:\r\n chunked",
    "bare CR before coding": b"X-A: b\rTransfer-Encoding: chunked",
    "bare LF before coding": b"X-A: b\nTransfer-Encoding: chunked",
    "vertical tab in coding": b"Transfer-Encoding: \x0bchunked",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "chunked twice": b"Transfer-Encoding: chunked, chunked",
    "gzip and chunked": b"Transfer-Encoding: gzip, chunked",
    "identity": b"Transfer-Encoding: identity",
    "chunked and identity": b"Transfer-Encoding: chunked, identity",
    "unknown coding": b"Transfer-Encoding: xchunked",
    "quoted coding": b'Transfer-Encoding: "chunked"',
    "NUL in name": b"Content-Length\x00: 5",
}

BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "no hexadecimal": b"g\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "space behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "bare LF": b"5\nhello\n0\n\n" + b" " * 1100,
    "LF after size": b"5\nhello\r\n0\r\n\r\n",
    "too long": b"5\r\nhello!\r\n0\r\n\r\n",
    "no CRLF": b"5\r\nhelloX\n0\r\n\r\n",
    "bad extension": b"5;\x00\r\nhello\r\n0\r\n\r\n",
    "LF in extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "endless extension": b"5;" + b"a" * 2000,
    "bad trailer": b"5\r\nhello\r\n0\r\nBroken\r\n\r\n",
    "length in trailer": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "LF in trailer": b"5\r\nhello\r\n0\r\nA: b\n\n",
    "size of many digits": b"fffffffffffffffff\r\nhello",
}


@pytest.mark.attack
@table("raw", MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests_get_json_at_once(server: Server, raw: bytes) -> None:
    with server.connect() as client:
        client.send(raw)
        response = client.read_response()
        # Not 408: it does not wait for the deadline.
        assert_problem(response, 431 if raw.count(b"A: b") > 9 else 400)
        assert client.is_closed()


@pytest.mark.attack
@table("framing", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_ambiguous_framing_is_refused(server: Server, framing: bytes) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n"
    with server.connect() as client:
        client.send(head + b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        response = client.read_response()
        assert response.status in (400, 413)
        assert_problem(response, response.status)
        assert client.is_closed()


@table("method", ["BREW", "NO-SUCH_1", "PROPFIND", "DESCRIBE", "CONNECT"])
def test_any_method_reaches_the_application(server: Server, method: str) -> None:
    with server.connect() as client:
        client.send(method[:2].encode())
        client.send(request(method, "/echo?a", "Content-Length: 2", body=b"hi")[2:])
        assert client.read_response().body == f"{method} a 2:hi".encode()
        assert client.get("/health").body == b"ok"


@pytest.mark.attack
def test_chunks_in_http_1_0_are_refused(server: Server) -> None:
    raw = request("POST", "/echo", CHUNKED, body=b"0\r\n\r\n", version="1.0")
    assert_problem(server.ask(raw), 400)


@pytest.mark.attack
@table("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
@table("path", ["/echo", "/upload"])
def test_malformed_chunks_are_refused(server: Server, path: str, body: bytes) -> None:
    with server.connect() as client:
        client.send(request("POST", path, CHUNKED, body=body))
        client.sock.shutdown(socket.SHUT_WR)
        assert_problem(client.read_response(), 400)
        assert client.is_closed()


TOO_LARGE = {
    "line": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "endless line": (b"GET /" + b"a" * 20000, 414),
    "field": (request("GET", "/", "X-A: " + "a" * 20000), 431),
    "fields": (request("GET", "/", *["X-A: a"] * 3000), 431),
    "secret": (request("GET", "/", "Authorization: Basic " + "a" * MIB), 431),
    "expectation": (request("GET", "/", "Expect: the-moon"), 417),
    "expectation before body": (request("POST", "/", "Content-Length: 3", "Expect: moon"), 417),
    "body": (request("POST", "/", "Content-Length: 65537"), 413),
    "body of 20 digits": (request("POST", "/", "Content-Length: 99999999999999999999"), 413),
    "chunk": (request("POST", "/", CHUNKED, body=b"10001\r\n"), 413),
    "chunks": (request("POST", "/", CHUNKED, body=b"1\r\na\r\n" * 40000), 413),
}


@pytest.mark.attack
@table(("raw", "status"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_is_too_large_is_refused(server: Server, raw: bytes, status: int) -> None:
    assert_problem(server.ask(raw), status)


@pytest.mark.attack
def test_16_bodies_of_48_mib_are_refused_unread(server: Server) -> None:
    before = [worker.memory_info().rss for worker in server.workers()]

    def upload(_: int) -> int:
        # As most clients do it: the whole body first, and only then a look at the response.
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        with contextlib.closing(client):
            client.request("POST", "/echo", body=bytes(48 * MIB))
            response = client.getresponse()
            assert json.loads(response.read())["code"] == "body_too_large"
            return response.status

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(upload, range(16))) == [413] * 16
    after = [worker.memory_info().rss for worker in server.workers()]
    assert max((new - old) / MIB for old, new in zip(before, after, strict=True)) < 16


# Time


def health_times(server: Server, count: int) -> list[float]:
    """Seconds that each of `count` health requests took, each on a connection of its own."""
    times = []
    for _ in range(count):
        started = time.monotonic()
        assert server.ask(request("GET", "/health", "Connection: close")).body == b"ok"
        times.append(time.monotonic() - started)
    return times


def assert_not_held_up(times: list[float], usual: list[float]) -> None:
    """Requests took no longer than those before, on a machine that may be busy."""
    assert statistics.median(times) < max(0.5, 20 * statistics.median(usual)), (times, usual)


@pytest.mark.attack
def test_200_slow_heads_and_200_slow_bodies_and_400_idle_do_not_matter(impatient: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    begun = request("GET", "/health", "X-Slow: ")[:-4]
    body = request("POST", "/echo", "Content-Length: 9000")
    usual = health_times(impatient, 10)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as watched:
        started = time.monotonic()
        slow: list[Client] = []
        for index in range(800):
            client = stack.enter_context(impatient.connect())
            watched.register(client.sock, selectors.EVENT_READ, client)
            if index % 2:
                client.send(begun if index % 4 == 1 else body)
                slow.append(client)

        def trickle() -> None:
            for client in slow:
                with contextlib.suppress(OSError):
                    client.sock.send(b"a")

        times = []
        for _ in range(10):
            trickle()
            times += health_times(impatient, 10)
        assert_not_held_up(times, usual)

        # All are closed by the server, the slow ones with a response, though they go on sending.
        responses = 0
        closed = 0
        while closed < 800:
            assert time.monotonic() - started < 60
            trickle()
            for key, _ in watched.select(0.2):
                client = key.data
                try:
                    data = client.sock.recv(65536)
                except ConnectionResetError:
                    data = b""
                responses += data.startswith(b"HTTP/1.1 408 ")
                if not data:
                    watched.unregister(client.sock)
                    closed += 1
        assert responses == 400


def test_a_request_that_is_cut_off_gets_400(server: Server) -> None:
    with server.connect() as client:
        client.send(request("POST", "/echo", "Content-Length: 3", body=b"ab"))
        client.sock.shutdown(socket.SHUT_WR)
        assert_problem(client.read_response(), 400, "incomplete_request")


@table(
    ("proxy", "seconds"),
    [
        ("nginx, AWS", 60),
        ("Traefik, Heroku, programs in Go", 90),
        ("Caddy, Azure", 120),
        ("Google", 600),
    ],
)
def test_no_connection_is_closed_that_a_proxy_may_use_again(proxy: str, seconds: float) -> None:
    """It would send a request on one that is just being closed, and respond with 502."""
    assert Options().idle_timeout > seconds, proxy


def test_what_comes_too_late_gets_408_and_idleness_ends_in_silence(impatient: Server) -> None:
    begun = request("POST", "/echo", "Content-Length: 3", body=b"ab")
    stream = request("POST", "/upload", "Content-Length: 100000", body=b"a" * 5000)
    with impatient.connect() as late, impatient.connect() as stopped, impatient.connect() as idle:
        started = time.monotonic()
        idle.get("/health")
        late.send(begun)
        stopped.send(stream)
        for client in (late, stopped):
            assert_problem(client.read_response(), 408, "request_timeout")
            assert client.is_closed()
        assert idle.is_closed()
        assert 1.5 < time.monotonic() - started < 60


@pytest.mark.attack
def test_clients_that_do_not_read_hold_no_thread(impatient: Server) -> None:
    usual = health_times(impatient, 10)
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            client = stack.enter_context(impatient.connect(receive_buffer=4096))
            client.send(request("GET", f"/big={6 * MIB}"))  # the system holds 4 MiB of it
        assert_not_held_up(health_times(impatient, 40), usual)
        # Once they are given up, no connection of theirs is left in the impatient.
        deadline = time.monotonic() + 60
        while any(len(worker.net_connections("tcp")) > 3 for worker in impatient.workers()):
            assert time.monotonic() < deadline
            health_times(impatient, 5)


@pytest.mark.attack
def test_a_stream_that_nobody_reads_is_given_up(start: Callable[..., Server]) -> None:
    server = start(workers=1, threads=1, send_timeout=0.7).start()
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(server.connect(receive_buffer=4096))
            client.send(request("GET", f"/stream={64 * MIB}"))
        # The only thread is held now, but only until each client's time is over.
        assert server.ask(request("GET", "/health")).body == b"ok"


def test_a_slow_but_steady_reader_gets_all(server: Server) -> None:
    with server.connect(receive_buffer=65536) as client:
        client.send(request("GET", f"/big={8 * MIB}"))
        received = bytearray()
        for _ in range(10):
            received += client.sock.recv(65536)
            health_times(server, 5)
        while received.count(b"b") < 8 * MIB:
            received += client.sock.recv(MIB)
        assert client.get("/health").body == b"ok"


@pytest.mark.attack
def test_more_connections_than_allowed_push_out_the_oldest(start: Callable[..., Server]) -> None:
    server = start(workers=1, connections=20).start()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(60)]
        assert server.ask(request("GET", "/health")).body == b"ok"
        assert idle[0].is_closed()
        idle[-1].send(request("GET", "/health"))
        assert idle[-1].read_response().body == b"ok"


# Slow requests and streams


def test_a_request_that_takes_long_leaves_a_thread_to_others(start: Callable[..., Server]) -> None:
    server = start(workers=1, threads=2, slow_threads=2, slow_queue=2).start()
    with contextlib.ExitStack() as stack:
        late = [stack.enter_context(server.connect()) for _ in range(4)]
        for client in late:
            client.send(request("POST", "/late", "Content-Length: 4", body=b"body"))
        fast = stack.enter_context(server.connect())
        for _ in range(5):
            assert fast.get("/health").status == 200
        # One runs, two wait, and for the fourth there is no room.
        responses = responses_when_one_is_refused(server, late)
    assert sorted(response.status for response in responses) == [200, 200, 200, 503]
    assert {response.body for response in responses if response.status == 200} == {b"late 1 body"}


def responses_when_one_is_refused(server: Server, clients: list[Client]) -> list[Response]:
    """The responses to requests that go on until one of them was refused: that one's first."""
    refused, _, _ = select.select([client.sock for client in clients], [], [], 60)
    first = [client for client in clients if client.sock in refused]
    responses = [client.read_response() for client in first]
    server.end_what_lasts()
    return responses + [client.read_response() for client in clients if client not in first]


def test_slow_requests_leave_a_thread_to_the_others(start: Callable[..., Server]) -> None:
    server = start(workers=1, threads=2, slow_threads=2, slow_queue=2).start()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(4)]
        for client in slow:
            client.send(request("GET", "/slow"))
        health_times(server, 10)
        # One runs (a thread stays free), two wait, one is turned away.
        refused, *others = responses_when_one_is_refused(server, slow)
        assert [response.status for response in others] == [200] * 3
        assert_problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a niceness for each thread")
def test_slow_requests_stand_back_where_the_processors_are_busy(server: Server) -> None:
    with server.connect() as client:
        usual, in_loop, slow = (
            int(client.get(f"{path}/niceness").body) for path in ("", "/memory", "/slow")
        )
    assert usual == in_loop == os.getpriority(os.PRIO_PROCESS, 0)
    assert slow == min(usual + 5, 19)


@table("chunked", [False, True])
def test_a_stream_is_read_by_the_application_itself(server: Server, chunked: bool) -> None:
    body = random.Random(2).randbytes(3 * MIB + 17)
    header = CHUNKED if chunked else f"Content-Length: {len(body)}"
    with server.connect() as client:
        client.send(request("POST", "/upload?x=y", header, "Expect: 100-continue"))
        assert client.read_response().status == 100
        if chunked:
            for at in range(0, len(body), 50000):
                piece = body[at : at + 50000]
                client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
        else:
            client.send(body)
        expected = f"{len(body)} {hashlib.sha256(body).hexdigest()}"
        response = client.read_response()
        assert response.body.decode() == expected
        assert response.closes


@table("path", ["/upload", "/upload=raises"])
def test_a_stream_that_is_cut_off_is_not_taken_for_whole(server: Server, path: str) -> None:
    with server.connect() as client:
        client.send(request("POST", path, "Content-Length: 100000", body=b"a" * 5000))
        client.sock.shutdown(socket.SHUT_WR)
        assert_problem(client.read_response(), 400, "incomplete_request")


@pytest.mark.attack
def test_streams_that_stop_leave_a_thread_to_the_others(server: Server) -> None:
    usual = health_times(server, 10)
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            client = stack.enter_context(server.connect())
            client.send(request("POST", "/upload", "Content-Length: 100000", body=b"a" * 5000))
        assert_not_held_up(health_times(server, 40), usual)


# Processes


def test_sigterm_finishes_what_is_under_way(start: Callable[..., Server]) -> None:
    server = start().start()
    with server.connect() as client, server.connect() as idle:
        idle.get("/health")
        client.send(request("GET", "/lasts"))
        server.wait_for(lambda: "running" in server.said)
        server.process.send_signal(signal.SIGTERM)
        assert idle.is_closed()
        server.end_what_lasts()
        response = client.read_response()
        assert (response.status, response.body) == (200, b"over")
        assert response.closes
    assert server.process.wait(60) == 0
    server.stop()
    started, ended, reaped = (
        {line.split()[1] for line in server.said if line.startswith(word)}
        for word in ("start", "exit", "reaped")
    )
    assert len(started) == 2
    assert started == ended
    assert reaped <= started


def test_sigterm_before_a_worker_is_ready_is_not_lost(start: Callable[..., Server]) -> None:
    server = start(workers=1, early=True).start()
    server.wait_for(lambda: sum(line.startswith("start") for line in server.said) == 2)
    first, second = (line.split()[1] for line in server.said if line.startswith("start"))
    assert f"exit {first}" in server.said
    assert server.ask(request("GET", "/pid")).body.decode() == second


def test_what_another_gunicorn_left_in_the_environment_is_not_believed(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a program that gunicorn has started again starts Keyosk."""
    monkeypatch.setenv("GUNICORN_PID", "1")
    monkeypatch.setenv("GUNICORN_FD", "0")
    assert start().start().stop() == 0


def test_sigusr2_starts_no_second_master(start: Callable[..., Server]) -> None:
    server = start().start()
    server.process.send_signal(signal.SIGUSR2)
    server.wait_for(lambda: any("SIGUSR2 is ignored" in line for line in server.logged))
    assert len(psutil.Process(server.process.pid).children()) == server.size


#: A worker gets SIGTERM at the moment at which asyncio has closed its pipe for signals.
LATE_SIGNAL = """
import asyncio.selector_events, os, signal

loops = asyncio.selector_events.BaseSelectorEventLoop
close = loops._close_self_pipe

def close_and_terminate(loop):
    close(loop)
    os.kill(os.getpid(), signal.SIGTERM)

loops._close_self_pipe = close_and_terminate
"""


def test_a_second_sigterm_at_the_end_prints_no_traceback(start: Callable[..., Server]) -> None:
    server = start(before=LATE_SIGNAL, workers=1).start()
    assert server.stop() == 0
    assert any("Worker exiting" in line for line in server.logged)
    assert not any("Traceback" in line for line in server.logged)


def test_a_killed_worker_is_replaced(start: Callable[..., Server]) -> None:
    server = start(workers=1).start()
    old = int(server.ask(request("GET", "/pid")).body)
    os.kill(old, signal.SIGKILL)
    server.wait_for(lambda: sum(line.startswith("start") for line in server.said) == 2)
    assert int(server.ask(request("GET", "/pid")).body) != old
    server.wait_for(lambda: f"reaped {old}" in server.said)


def test_sighup_replaces_the_workers_without_a_gap(start: Callable[..., Server]) -> None:
    server = start(workers=1).start()
    old = server.ask(request("GET", "/pid")).body
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while server.ask(request("GET", "/pid", "Connection: close")).body == old:
        assert time.monotonic() < deadline


def test_an_application_that_cannot_be_made_ends_the_server(start: Callable[..., Server]) -> None:
    assert start(broken=True).process.wait(60) == 3


HEAP = """
import ctypes, sys, threading
from keyosk.server.process import share_one_arena

if sys.argv[1] == "shared":
    share_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
all_there, one_at_a_time = threading.Barrier(8), threading.Lock()

def hash():
    all_there.wait()
    for _ in range(3):
        with one_at_a_time:
            block = ctypes.c_void_p(libc.malloc(19 << 20))
            ctypes.memset(block, 1, 19 << 20)
            libc.free(block)
    all_there.wait()

threads = [threading.Thread(target=hash) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) for line in status if line.startswith("VmRSS")))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that has arenas")
def test_threads_do_not_keep_a_large_block_each() -> None:
    shared, separate = (
        int(subprocess.check_output([sys.executable, "-c", HEAP, mode], cwd=ROOT)) / 1024
        for mode in ("shared", "separate")
    )
    assert separate - shared > 80  # MiB; what it costs without


# Framing, without a network

LIMITS = Limits(head=300, body=60)
WHOLE = {
    "no body": request("GET", "/a?b=c", "Accept: */*"),
    "length": request("POST", "/a", "content-length:  8 ", body=b"12\r\n\r\n78"),
    "hint": request("GET", "/a", "Content-Length-Hint: 99", "Expect-CT: a"),
    "empty line first": b"\r\n" + request("GET", "/a"),
    "chunks": request(
        "POST",
        "/",
        CHUNKED,
        body=b"8\r\n12\r\n\r\n78\r\n1;a=b\r\nx\r\n0\r\n\r\n",
    ),
    "trailer": request("POST", "/", CHUNKED.upper(), body=b"1\r\nx\r\n0\r\nA: b\r\n\r\n"),
}


@table("raw", WHOLE.values(), ids=WHOLE)
def test_the_end_of_a_request_is_found_wherever_it_is_split(raw: bytes) -> None:
    following = b"GET / HTTP/1.1\r\n"
    whole = RequestParser(LIMITS)
    assert whole.feed(raw + following) == following
    for split in range(len(raw)):
        parser = RequestParser(LIMITS)
        assert (parser.feed(raw[:split]), parser.complete) == (b"", False)
        assert (parser.feed(raw[split:] + following), parser.complete) == (following, True)
        for name in ("method", "target", "headers", "version", "body", "size"):
            assert getattr(parser, name) == getattr(whole, name)
    parser = RequestParser(LIMITS)
    verdicts = []
    for byte in raw:
        assert parser.feed(bytes([byte])) == b""
        verdicts.append(parser.complete)
    assert verdicts == [False] * (len(raw) - 1) + [True]
    assert parser.body == whole.body


def test_one_parser_reads_many_requests() -> None:
    parser = RequestParser(LIMITS)
    data = b"".join(WHOLE.values())
    for raw in WHOLE.values():
        before = len(data)
        data = parser.feed(data)
        assert parser.complete
        assert before - len(data) == len(raw)
        parser.begin()
    assert parser.is_fresh


@table("raw", WHOLE.values(), ids=WHOLE)
def test_a_request_in_pieces_is_answered_as_if_whole(server: Server, raw: bytes) -> None:
    chance = random.Random(raw)
    with server.connect() as client:
        for _ in range(20):
            ends = [*sorted(chance.sample(range(len(raw)), 5)), len(raw)]
            begin = 0
            for end in ends:
                client.send(raw[begin:end])
                begin = end
            assert client.read_response().status == 404


@given(st.lists(st.binary(max_size=40), max_size=12), st.sampled_from([b"", *WHOLE.values()]))
def test_no_bytes_break_the_framing(pieces: list[bytes], beginning: bytes) -> None:
    parser = RequestParser(LIMITS)
    given_so_far = 0
    try:
        for piece in (beginning[: len(beginning) // 2 + len(pieces)], *pieces):
            given_so_far += len(piece)
            rest = parser.feed(piece)
            assert parser.size + len(rest) <= given_so_far
            assert not rest or parser.complete
            if parser.complete:
                break
    except Refused:
        pass
    assert len(parser.body) <= LIMITS.body
    if not parser.complete:
        assert parser.size <= 2 * (LIMITS.head + LIMITS.body) + 40


@given(st.binary(min_size=1, max_size=60), st.lists(st.integers(1, 59), max_size=6))
def test_any_body_in_any_chunks_is_found(body: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[begin:end] for begin, end in itertools.pairwise(edges)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    raw = request("POST", "/", CHUNKED, body=chunks)
    parser = RequestParser(LIMITS)
    assert (parser.feed(raw[:-1]), parser.complete) == (b"", False)
    assert (parser.feed(raw[-1:] + b"GET"), parser.complete) == (b"GET", True)
    assert parser.body == body
