"""TLS without a proxy: real clients, certificates that change, and clients that never finish."""

import contextlib
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

import certificates
import processes
from live import ADMIN_PASSWORD, LiveServer, environment, free_port
from processes import execute
from tables import table
from test_server import Client, Server, assert_not_held_up, assert_problem, request
from waiting import until


class Secured(LiveServer):
    """A Keyosk that speaks TLS by the pair in ``pair``, a copy of ``first``."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.first = certificates.write(folder, "first")
        self.pair = (folder / "tls.crt", folder / "tls.key")
        self.put(self.first)
        super().__init__(
            f"sqlite:///{folder / 'keyosk.db'}",
            folder,
            tls_certificate=str(self.pair[0]),
            tls_key=str(self.pair[1]),
            **settings,
        )
        self.url = f"https://127.0.0.1:{self.port}"

    def put(self, pair: tuple[Path, Path]) -> None:
        for source, target in zip(pair, self.pair, strict=True):
            fresh = target.with_suffix(".new")
            shutil.copy(source, fresh)
            fresh.rename(target)

    def is_ready(self) -> bool:
        response = requests.get(f"{self.url}/health/ready", verify=str(self.first[0]), timeout=60)
        return response.status_code == 200

    def shown(self) -> str:
        """The certificate that a new connection gets."""
        return ssl.get_server_certificate(("127.0.0.1", self.port), timeout=60)

    def wait_until_shown(self, certificate: Path) -> None:
        until(lambda: self.shown().strip() == certificate.read_text().strip(), log=self.log)

    def wait_until_logged(self, text: str) -> None:
        until(lambda: text in self.log.read_text(), log=self.log)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured(tmp_path_factory.mktemp("secured"), workers="2") as server:
        yield server


def curl(server: Secured, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["curl", "-sS", "--cacert", str(server.first[0]), *arguments]
    return execute(command)


# --- What clients see -----------------------------------------------------------------------------


@table("version", ["1.2", "1.3"])
def test_a_token_by_curl_over_tls(secured: Secured, version: str) -> None:
    result = curl(
        secured,
        *(f"--tlsv{version}", "--tls-max", version),
        *("-u", f"admin:{ADMIN_PASSWORD}", f"{secured.url}/auth/token", "-d", "audience=keyosk"),
    )
    assert "access_token" in json.loads(result.stdout), result.stderr


def test_the_issuer_is_https_and_hsts_is_sent(secured: Secured) -> None:
    result = curl(secured, "-i", f"{secured.url}/.well-known/oauth-authorization-server")
    head, _, body = result.stdout.partition("\n\n")
    assert json.loads(body)["issuer"] == secured.url
    assert json.loads(body)["token_endpoint"] == f"{secured.url}/auth/token"
    assert "strict-transport-security: max-age=" in head.lower()


def test_tls_1_1_and_ciphers_without_forward_secrecy_are_refused(secured: Secured) -> None:
    for minimum, maximum, ciphers in (
        (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, "ECDHE+AES:!AESGCM:!AESCCM"),
    ):
        context = ssl.create_default_context(cafile=str(secured.first[0]))
        context.set_ciphers(ciphers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the old version
            context.minimum_version, context.maximum_version = minimum, maximum
        with (
            socket.create_connection(("127.0.0.1", secured.port), 60) as plain,
            pytest.raises((ssl.SSLError, ConnectionResetError)),
        ):
            context.wrap_socket(plain, server_hostname="localhost")


@table("size", [0, 4 * 1024 * 1024])
def test_plain_http_is_told_to_use_https(secured: Secured, size: int) -> None:
    response = requests.post(
        f"http://127.0.0.1:{secured.port}/auth/token", data=b"a" * size, timeout=60
    )
    assert (response.status_code, response.json()["code"]) == (400, "tls_required")


def test_large_responses_arrive_whole(secured: Secured) -> None:
    file = "/docs/swagger-ui-bundle.js"
    with requests.Session() as session:
        session.verify, session.trust_env = str(secured.first[0]), False
        sizes = {len(session.get(secured.url + file, timeout=60).content) for _ in range(3)}
    assert len(sizes) == 1
    assert sizes.pop() > 1_000_000


def test_connections_over_tls_go_to_all_workers(secured: Secured) -> None:
    deadline = time.monotonic() + 60
    while min(shared_out(secured, 32)) < 8:  # one of them may still be starting
        assert time.monotonic() < deadline


def shared_out(server: Secured, number: int) -> list[int]:
    """How many connections, of so many, each worker has."""
    context = ssl.create_default_context(cafile=str(server.first[0]))
    assert server.process is not None
    workers = psutil.Process(server.process.pid).children()
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
            client = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        return [
            sum(each.status == psutil.CONN_ESTABLISHED for each in worker.net_connections("tcp"))
            for worker in workers
        ]


def test_the_health_check_speaks_tls(secured: Secured) -> None:
    result = secured.run("health", "--ready")
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr


def test_the_metrics_speak_no_tls(tmp_path: Path) -> None:
    port = free_port()
    with Secured(tmp_path, metrics_bind=f"127.0.0.1:{port}"):
        page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
    assert "keyosk_http_requests_total" in page


# --- The certificate ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_new_certificate_is_shown_without_a_lost_connection(tmp_path: Path) -> None:
    second = certificates.write(tmp_path, "second")
    with Secured(tmp_path, workers="1") as server:
        with requests.Session() as old:
            old.verify, old.trust_env = str(server.first[0]), False
            assert old.get(f"{server.url}/health/live", timeout=60).status_code == 200
            server.put(second)
            server.wait_until_shown(second[0])
            # The same connection: a new one would show a certificate that this client refuses.
            assert old.get(f"{server.url}/health/live", timeout=60).status_code == 200
        # One of them is of another pair: the last good pair stays.
        server.put((server.first[0], second[1]))
        server.wait_until_logged("key is not the key of the certificate; the last one stays in use")
        assert server.shown().strip() == second[0].read_text().strip()
        # Neither is one that cannot be read, and a good one is taken again.
        server.pair[0].unlink()
        server.wait_until_logged("certificate cannot be read: No such file or directory; the last")
        assert server.shown().strip() == second[0].read_text().strip()
        server.put(server.first)
        server.wait_until_shown(server.first[0])


@pytest.mark.slow
def test_a_worker_that_begins_anew_shows_no_certificate_from_the_start(tmp_path: Path) -> None:
    second = certificates.write(tmp_path, "second")
    with Secured(tmp_path, workers="1") as server:
        server.put(second)
        server.wait_until_shown(second[0])
        assert server.process is not None
        [worker] = psutil.Process(server.process.pid).children()
        worker.kill()
        psutil.wait_procs([worker], 60)
        assert server.shown().strip() == second[0].read_text().strip()


@pytest.mark.slow
def test_workers_with_a_good_certificate_are_not_replaced_by_ones_without(tmp_path: Path) -> None:
    second = certificates.write(tmp_path, "second")
    with Secured(tmp_path, workers="1") as server:
        assert server.process is not None
        server.put(second)
        server.wait_until_shown(second[0])
        [worker] = psutil.Process(server.process.pid).children()
        server.put((server.first[0], second[1]))
        os.kill(server.process.pid, signal.SIGHUP)
        server.wait_until_logged("the workers are not replaced")
        assert psutil.Process(server.process.pid).children() == [worker]
        assert server.shown().strip() == second[0].read_text().strip()
        # A good pair is shown from the first connection on, and by whoever comes later.
        third = certificates.write(tmp_path, "third")
        server.put(third)
        os.kill(server.process.pid, signal.SIGHUP)
        psutil.wait_procs([worker], 60)
        server.wait_until_shown(third[0])


@table(
    ("which", "setting", "said"),
    [
        ("missing certificate", "CERTIFICATE", "cannot be read: No such file or directory"),
        ("missing key", "KEY", "cannot be read: No such file or directory"),
        ("a folder", "KEY", "is not a regular file"),
        ("a pipe", "KEY", "is not a regular file"),
        ("a large file", "CERTIFICATE", "has more than 1 MiB"),
        ("other key", "KEY", "is not the key of the certificate"),
        ("encrypted key", "KEY", "is encrypted"),
        ("text as certificate", "CERTIFICATE", "is not a certificate in PEM"),
        ("certificate as key", "KEY", "is not a key in PEM"),
    ],
)
def test_a_pair_that_cannot_be_used_is_refused_before_anything_is_made(
    tmp_path: Path, which: str, setting: str, said: str
) -> None:
    folder = tmp_path / which.replace(" ", "-")
    chain, key = certificates.write(folder, "good")
    text = folder / "text"
    text.write_text("hidden-word\n")
    os.mkfifo(folder / "pipe")
    (folder / "large").touch()
    os.truncate(folder / "large", 2**30)
    pair = {
        "missing certificate": (folder / "none", key),
        "missing key": (chain, folder / "none"),
        "a folder": (chain, folder),
        "a pipe": (chain, folder / "pipe"),
        "a large file": (folder / "large", key),
        "other key": (chain, certificates.write(folder, "other")[1]),
        "encrypted key": certificates.write(folder, "locked", passphrase=b"hidden-word"),
        "text as certificate": (text, key),
        "certificate as key": (chain, chain),
    }[which]
    empty = folder / "empty"
    empty.mkdir()
    settings = environment(
        bind=f"127.0.0.1:{free_port()}", tls_certificate=str(pair[0]), tls_key=str(pair[1])
    )
    for arguments in (("serve",), ("config", "check")):
        result = processes.run(*arguments, cwd=empty, env=settings)
        told = result.stderr.decode()
        assert (result.returncode, result.stdout) == (1, b""), told
        assert f"KEYOSK_TLS_{setting}: {said}" in told
        assert "hidden-word" not in told
        assert list(empty.iterdir()) == []


# --- Clients that never finish --------------------------------------------------------------------


@pytest.fixture
def half_done() -> bytes:
    """The first message of a handshake, as a client sends it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


class SecureClient(Client):
    """A client of the small server that speaks TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")


@contextlib.contextmanager
def small(folder: Path, **chosen: Any) -> Iterator[tuple[Server, ssl.SSLContext]]:
    pair = certificates.write(folder, "small")
    server = Server(folder, certificate=[str(each) for each in pair], **chosen)
    try:
        server.listen()
        yield server, ssl.create_default_context(cafile=str(pair[0]))
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.attack
def test_2000_handshakes_that_never_finish_do_not_matter(tmp_path: Path, half_done: bytes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with (
        small(tmp_path, workers=1, request_timeout=30) as (server, context),
        contextlib.ExitStack() as stack,
        selectors.DefaultSelector() as watched,
    ):
        [worker] = server.workers()
        before = worker.memory_info().rss

        def seconds() -> float:
            started = time.monotonic()
            with SecureClient(server.port, context) as client:
                assert client.get("/health").body == b"ok"
            return time.monotonic() - started

        usual = [seconds() for _ in range(10)]
        for index in range(2000):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
            watched.register(sock, selectors.EVENT_READ)
            # Nothing, half of the first message, or all of it and then nothing.
            sock.sendall((b"", half_done[: len(half_done) // 2], half_done)[index % 3])
        assert_not_held_up([seconds() for _ in range(20)], usual)
        assert worker.memory_info().rss - before < 256 * 1024 * 1024
        # They are closed, by the deadline of a request.
        closed, latest = 0, time.monotonic() + 120
        while closed < 2000:
            assert time.monotonic() < latest
            for key, _ in watched.select(0.2):
                assert isinstance(key.fileobj, socket.socket)
                try:
                    data = key.fileobj.recv(65536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    watched.unregister(key.fileobj)
                    closed += 1


@pytest.mark.attack
def test_a_handshake_that_goes_on_for_ever_is_ended(tmp_path: Path, half_done: bytes) -> None:
    """By its size: each fragment alone is a good one, and none is the last."""
    with small(tmp_path, workers=1, request_timeout=300) as (server, _):
        # A first message that is said to be 128 KiB long, in records of 16 KiB.
        message = b"\x01" + (131_000).to_bytes(3, "big") + half_done[9:].ljust(131_000, b"\0")
        sock = socket.create_connection(("127.0.0.1", server.port), 60)
        # It is reset, as there is more to read: sending fails then, or receiving.
        with sock, contextlib.suppress(ConnectionError):
            for start in range(0, 128_000, 16_000):
                part = message[start : start + 16_000]
                sock.sendall(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part)
            assert not sock.recv(1)


def test_a_request_that_is_cut_off_without_a_goodbye_gets_400(tmp_path: Path) -> None:
    with (
        small(tmp_path, workers=1) as (server, context),
        SecureClient(server.port, context) as client,
    ):
        client.send(request("POST", "/echo", "Content-Length: 3", body=b"ab"))
        socket.socket.shutdown(client.sock, socket.SHUT_WR)
        assert_problem(client.read_response(), 400, "incomplete_request")


def test_a_stream_and_a_pipeline_over_tls(tmp_path: Path) -> None:
    with small(tmp_path, workers=1, streams=["POST /upload"]) as (server, context):
        with SecureClient(server.port, context) as client:
            client.send(request("GET", "/health") * 100)
            assert [client.read_response().body for _ in range(100)] == [b"ok"] * 100
            client.send(request("GET", f"/stream={1 << 20}"))
            assert client.read_response().body == b"z" * (1 << 20)
            client.send(request("POST", "/upload", "Content-Length: 100000", body=b"a" * 100_000))
            assert client.read_response().body.startswith(b"100000 ")
        with SecureClient(server.port, context) as client:
            client.send(request("GET", "/environ"))
            assert json.loads(client.read_response().body)["wsgi.url_scheme"] == "https"
