"""Other ways to be reached than a TCP port: a Unix socket, and sockets that systemd opens."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

import terminal
from live import ADMIN_PASSWORD, LiveServer, command, environment, free_port
from people import make_key, make_person
from processes import execute
from test_proxies import From, missing, run_caddy, run_haproxy, run_nginx
from waiting import until, until_it_listens

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "tls.md"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(str(self.path))


class Local(LiveServer):
    """A Keyosk at a Unix socket; a TCP port, which it does not have, is only its name."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.socket = folder / "keyosk.sock"
        super().__init__(
            f"sqlite:///{folder / 'keyosk.db'}",
            folder,
            bind=f"unix:{self.socket}",
            issuer="https://login.example.org",
            **settings,
        )

    def is_ready(self) -> bool:
        try:
            return self.ask("/health/ready") == 200
        except OSError as error:
            raise requests.ConnectionError from error

    def ask(self, path: str) -> int:
        with closing(UnixConnection(self.socket)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        yield Path(name)


def curl(*arguments: str) -> str:
    result = execute(["curl", "-sS", *arguments])
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- A Unix socket --------------------------------------------------------------------------------


def test_a_token_by_curl_through_a_unix_socket_that_is_gone_afterwards(folder: Path) -> None:
    with Local(folder) as server:
        said = curl(
            *("--unix-socket", str(server.socket), "-u", f"admin:{ADMIN_PASSWORD}"),
            *("http://keyosk/auth/token", "-d", "audience=keyosk"),
        )
        assert "access_token" in said
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o660
        assert f"at unix:{server.socket}" in server.log.read_text()
        assert "count as one" in server.log.read_text()
    assert not server.socket.exists()


def test_commands_reach_a_keyosk_at_its_unix_socket(folder: Path) -> None:
    with Local(folder, trusted_proxies="unix") as server:
        named = ("--server", f"unix:{server.socket}")
        there = {"XDG_STATE_HOME": str(folder / "state")}

        def run(*arguments: str, text: str = "") -> terminal.Done:
            return terminal.keyosk(there, folder, *arguments, *named, text=text)

        result = run("login", "--username", "admin", text=f"{ADMIN_PASSWORD}\n")
        assert result.code == 0, result.err
        result = run("account", "list")
        assert result.code == 0, result.err
        assert "admin" in result.out
        assert run("logout").code == 0
        # And what a health check runs, by the settings alone.
        for option in ((), ("--ready",)):
            healthy = server.run("health", *option)
            assert (healthy.returncode, healthy.stdout) == (0, "ok\n"), healthy.stderr
    gone = server.run("health")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert f"keyosk: Keyosk does not respond at unix:{server.socket}" in gone.stderr


def test_a_health_check_of_every_ipv4_address_asks_this_machine(tmp_path: Path) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path)
    server.environment |= environment(
        bind=f":{server.port}", issuer=f"http://127.0.0.1:{server.port}"
    )
    with server:
        assert server.run("health").stdout == "ok\n"


def test_ipv4_clients_of_a_socket_for_every_address_are_told_by_their_own(tmp_path: Path) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path)
    server.environment |= environment(bind=f"[::]:{server.port}", issuer=server.url)
    with server:
        caller = server.client("admin", "wrong")
        caller.post("/auth/token")
        [seen] = server.admin().get("/login-failures").json()["addresses"]
        assert seen["address"] == caller.source
        [line] = [line for line in server.log.read_text().splitlines() if '"status": 401' in line]
        assert json.loads(line)["address"] == caller.source


def test_the_metrics_are_not_to_be_had_by_a_host_header(folder: Path) -> None:
    port = free_port()
    with Local(folder, metrics_bind=f"127.0.0.1:{port}", bind_mode="0600") as server:
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
        status = curl(
            *("--unix-socket", str(server.socket), "-H", f"Host: localhost:{port}"),
            *("-o", "/dev/null", "-w", "%{http_code}", "http://keyosk/metrics"),
        )
        assert status == "404"
        assert requests.get(f"http://127.0.0.1:{port}/metrics", timeout=60).status_code == 200


def test_a_socket_of_a_killed_process_is_replaced_and_a_live_one_is_not(folder: Path) -> None:
    server = Local(folder)
    server.start()
    server.kill()
    assert server.socket.exists()
    with server:
        assert server.ask("/health/live") == 200
        second = folder / "second"
        second.mkdir()
        other = LiveServer(f"sqlite:///{second / 'keyosk.db'}", second)
        other.environment |= environment(
            bind=f"unix:{server.socket}", issuer="https://login.example.org"
        )
        assert (
            f"KEYOSK_BIND: cannot listen at unix:{server.socket}: Address already in use; stop the "
            "program that listens there, or choose another path" in other.refused()
        )
        assert [each.name for each in second.iterdir()] == [other.log.name]
        assert server.ask("/health/live") == 200


def test_of_many_that_start_at_one_stale_socket_one_serves(folder: Path) -> None:
    server = Local(folder)
    server.start()
    server.kill()
    started = [Local(folder) for _ in range(4)]
    for each in started:
        each.launch()
    try:
        until(lambda: sum(each.process.poll() is None for each in started if each.process) <= 1)
        [left] = [each for each in started if each.process and each.process.poll() is None]
        until(lambda: "serves" in left.log.read_text())
        assert left.ask("/health/live") == 200
    finally:
        for each in started:
            each.stop()


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(folder: Path, what: str) -> None:
    server = Local(folder)
    if what == "file":
        server.socket.write_text("precious")
    elif what == "folder":
        server.socket.mkdir()
    else:
        server.socket.symlink_to(folder / "elsewhere")
    said = server.refused()
    assert (
        f"KEYOSK_BIND: cannot listen at unix:{server.socket}: there is a file that is not" in said
    )
    assert server.socket.is_symlink() or server.socket.exists()
    assert not (folder / "keyosk.db").exists()


def test_the_socket_of_a_successor_is_not_removed(folder: Path) -> None:
    server = Local(folder)
    with server:
        server.socket.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(server.socket))
            server.stop()
            assert server.socket.exists()


def test_connections_at_a_unix_socket_go_to_all_workers(folder: Path) -> None:
    with Local(folder, workers="2") as server:
        deadline = time.monotonic() + 60
        while min(shared_out(server, 32)) < 8:  # one of them may still be starting
            assert time.monotonic() < deadline


def shared_out(server: Local, number: int) -> list[int]:
    """How many connections, of so many, each worker has."""
    assert server.process is not None
    workers = psutil.Process(server.process.pid).children()
    with ExitStack() as stack:
        for _ in range(number):
            opened = stack.enter_context(closing(UnixConnection(server.socket)))
            opened.request("GET", "/health/live")
            assert opened.getresponse().read()
        # Their own ends have no name, so those with the name are the server's.
        named = str(server.socket)
        return [
            sum(each.laddr == named for each in worker.net_connections("unix")) - 1
            for worker in workers
        ]


# --- Proxies in front of it -----------------------------------------------------------------------


def lines(begin: str) -> str:
    """A block of docs/how-to/tls.md."""
    (text,) = re.findall(rf"^```\w+\n({begin}.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(text)


def nginx(port: int, path: Path, folder: Path) -> "subprocess.Popen[bytes]":
    text = lines("upstream keyosk").replace("127.0.0.1:8080", f"unix:{path}")
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    return run_nginx(folder, re.sub(r"^ *ssl_.*\n", "", text, flags=re.MULTILINE))


def caddy(port: int, path: Path, folder: Path) -> "subprocess.Popen[bytes]":
    text = lines("login.example.org").replace("127.0.0.1:8080", f"unix/{path}")
    return run_caddy(folder, text.replace("login.example.org", f"http://127.0.0.1:{port}", 1))


def haproxy(port: int, path: Path, folder: Path) -> "subprocess.Popen[bytes]":
    text = lines("frontend login").replace("127.0.0.1:8080", f"unix@{path}")
    return run_haproxy(folder, re.sub("bind :443 .*", f"bind 127.0.0.1:{port}", text))


@pytest.mark.parametrize("start", [nginx, caddy, haproxy], ids=["nginx", "caddy", "haproxy"])
def test_a_proxy_at_a_socket_tells_clients_apart(folder: Path, start: Callable[..., Any]) -> None:
    with Local(folder, trusted_proxies="unix") as server:
        port = free_port()
        process = start(port, server.socket, folder)
        try:
            until_it_listens(process, port)
            server.url = f"http://127.0.0.1:{port}"
            admin = server.admin()
            alice = make_person(admin)
            _, key = make_key(admin, alice, networks=["127.0.0.8/30"])

            def status(address: str, **headers: str) -> int:
                with requests.Session() as session:
                    session.mount("http://", From(address))
                    session.auth = (alice.username, key)
                    url = f"{server.url}/auth/token"
                    return session.post(url, headers=headers, timeout=60).status_code

            for made_up in ({}, {"X-Forwarded-For": "127.0.0.9"}, {"Forwarded": "for=127.0.0.9"}):
                assert status("127.0.0.9", **made_up) == 200
                assert status("127.0.0.2", **made_up) == 401
        finally:
            process.terminate()
            process.wait(timeout=60)


# --- Sockets that systemd opens -------------------------------------------------------------------


@pytest.fixture
def activated(folder: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Run ``keyosk serve`` by systemd's own program, once a client comes."""
    program = shutil.which("systemd-socket-activate") or missing("systemd-socket-activate")
    running: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, **settings: str) -> "subprocess.Popen[bytes]":
        settings = {
            "issuer": "https://login.example.org",
            "admin_password": ADMIN_PASSWORD,
            "metrics_bind": "off",
            **settings,
        }
        given = {name: value for name, value in environment(**settings).items() if value}
        named = [f"--setenv={name}={value}" for name, value in given.items()]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, *named, *arguments, *command("serve")],
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answered(make: Callable[[], http.client.HTTPConnection], path: str = "/health/live") -> int:
    """The status of a request, once somebody listens."""
    deadline = time.monotonic() + 60
    while True:
        connection = make()
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        finally:
            connection.close()


def test_a_tcp_socket_of_systemd_is_served(folder: Path, activated: Callable[..., Any]) -> None:
    port = free_port()
    # The bind of the settings is somebody else's place: it is not used.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        activated("-l", f"127.0.0.1:{port}", bind=f"127.0.0.1:{taken.getsockname()[1]}")
        status = answered(lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=60))
    assert status == 200
    assert f"at http://127.0.0.1:{port}" in (folder / "log").read_text()


def test_a_unix_socket_of_systemd_stays_and_metrics_have_their_own(
    folder: Path, activated: Callable[..., Any]
) -> None:
    path, port = folder / "by-systemd.sock", free_port()
    process = activated(
        *("-l", str(path), "-l", f"127.0.0.1:{port}", "--fdname=main:metrics"),
        metrics_bind="",
        trusted_proxies="unix",
    )
    assert answered(lambda: UnixConnection(path)) == 200
    page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=60)
    assert "keyosk_http_requests_total" in page.text
    assert requests.get(f"http://127.0.0.1:{port}/health/live", timeout=60).status_code == 404
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 0
    assert path.exists()


def test_a_socket_of_systemd_needs_an_issuer(folder: Path, activated: Callable[..., Any]) -> None:
    port = free_port()
    process = activated("-l", f"127.0.0.1:{port}", issuer="")
    threading.Thread(target=_knock, args=(port,), daemon=True).start()
    assert process.wait(60) == 1
    assert (
        "KEYOSK_ISSUER: is required, as systemd opens the sockets" in (folder / "log").read_text()
    )
    assert not (folder / "data").exists()


def _knock(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 60).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


def test_variables_that_were_meant_for_another_process_are_not_believed(tmp_path: Path) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path)
    server.environment |= {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    with server:
        assert server.client().get("/health/live").status_code == 200
