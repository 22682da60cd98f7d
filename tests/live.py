"""A real Keyosk for tests: the command, its processes, HTTP over a socket."""

import itertools
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import requests
from requests.adapters import BaseAdapter, HTTPAdapter

import processes
import terminal
from processes import Process
from waiting import until

ADMIN_PASSWORD = "an admin of this test only"
SECRET_KEY = "the-secret-key-of-this-test-only-and-no-other"
_START = 60  # seconds: as all limits here, generous, because the machine may be busy
_FILES_OF_PROCESSES = Path("/proc/self/fd")  # Linux has it
_RENEW = 300  # seconds that a token is used; it lasts for longer
_numbers = itertools.count(1)
#: By the URL of a Keyosk that is no process: what sends a request to it from an address.
ADAPTERS: dict[str, Callable[[str], BaseAdapter]] = {}


def command(*arguments: str) -> list[str]:
    """The keyosk command of this environment, whatever PATH says."""
    return [sys.executable, "-c", "from keyosk.cli import main; main()", *arguments]


def environment(**settings: str) -> dict[str, str]:
    """The environment of this process, with these settings and no others."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("KEYOSK_")}
    return others | {f"KEYOSK_{name.upper()}": value for name, value in settings.items()}


def unique(stem: str) -> str:
    """A name that no other test uses on the same database."""
    return f"{stem}-{os.getpid()}-{next(_numbers)}"


def source() -> str:
    """An address of this machine that no other test of this run comes from."""
    number = next(_numbers)
    return f"127.{os.getpid() % 200 + 10}.{number // 250 % 250}.{number % 250 + 1}"


class LiveServer:
    """``keyosk serve`` on a database, in a folder and on a port of its own.

    ``with LiveServer(url, folder) as server`` starts and stops it. Settings may be added by name.
    """

    def __init__(self, database_url: str, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **environment(
                database_url=database_url,
                bind=f"127.0.0.1:{self.port}",
                secret_key=SECRET_KEY,
                admin_password=ADMIN_PASSWORD,
                metrics_bind="off",
            ),
            **environment(**settings),
        }
        self.program: Sequence[str] = ()
        """What is started, with ``serve`` behind it; else it is forked (``processes``)."""
        self.script = ""
        """What is forked in place of the command."""
        self.stderr: int | None = None
        """Where its standard error goes, if not to the log."""
        self.process: Process | None = None

    @property
    def log(self) -> Path:
        """What the server wrote, to both outputs."""
        return self.folder / f"server-{self.port}.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def launch(self) -> Process:
        """Start it."""
        with self.log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            settings: dict[str, Any] = {
                "cwd": self.folder,
                "env": self.environment,
                "stdin": nothing,
                "stdout": log,
                "stderr": log if self.stderr is None else self.stderr,
                "start_new_session": True,
            }
            if self.program:
                self.process = subprocess.Popen([*self.program, "serve"], **settings)
            else:
                self.process = processes.start("serve", script=self.script, **settings)
        return self.process

    def start(self) -> None:
        """Start it and wait until all of its workers are ready."""
        process = self.launch()
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                if self.is_ready() and self._serves_with_all():
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"keyosk serve did not start:\n{self.log.read_text()}")

    def is_ready(self) -> bool:
        """Whether it says so. Raises ``requests.ConnectionError`` while nobody listens."""
        return requests.get(f"{self.url}/health/ready", timeout=60).status_code == 200

    def _serves_with_all(self) -> bool:
        """Whether the event loop of each worker runs.

        One that is still starting answers nothing while the database is away.
        """
        if self.process is None or self.program or not _FILES_OF_PROCESSES.exists():
            return True
        try:
            workers = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return False
        wanted = int(self.environment.get("KEYOSK_WORKERS", "1"))
        return sum(map(has_event_loop, workers)) >= wanted

    def stop(self) -> int:
        """Ask it to stop (SIGTERM) and wait; return its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill all of its processes at once, as a power cut would, and wait until they are gone."""
        if self.process is None:
            return
        workers: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            workers = psutil.Process(self.process.pid).children(recursive=True)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)
        until(lambda: not any(_holds_files(worker) for worker in workers))

    def refused(self) -> str:
        """The log of a ``serve`` that ends by itself, with exit code 1."""
        process = self.launch()
        try:
            assert process.wait(_START) == 1, self.log.read_text()
        finally:
            self.kill() if process.poll() is None else None
        return self.log.read_text()

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """A keyosk command on the same installation, in the test's own process."""
        named = ("KEYOSK_", "PG")
        settings = {k: v for k, v in self.environment.items() if k.startswith(named)}
        result = terminal.keyosk(settings, self.folder, *arguments, text=text)
        return subprocess.CompletedProcess(arguments, result.code, result.out, result.err)

    def client(self, username: str | None = None, secret: str = "") -> "Client":
        """A client that logs in by Basic, or not at all."""
        return Client(self.url, auth=None if username is None else (username, secret))

    def admin(self) -> "Client":
        """The first admin with a token, which spares a password hash for each request."""

        def token() -> str:
            basic = self.client("admin", ADMIN_PASSWORD)
            response = basic.post("/auth/token", data={"audience": "keyosk"})
            return str(response.json()["access_token"])

        return Client(self.url, token=token(), renew=token)


class _From(HTTPAdapter):
    """Connects from a given address of this machine."""

    def __init__(self, source: str) -> None:
        self._source = source
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, source_address=(self._source, 0))


class Client:
    """HTTP requests to one server as one caller; paths, or URLs that it gave.

    Each comes from a loopback address of its own, as wrong passwords are counted by address.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: tuple[str, str] | None = None,
        token: str | None = None,
        renew: Callable[[], str] | None = None,
    ) -> None:
        """``renew``: a new token, for a client that is used longer than one token lasts."""
        self.url = url
        self._renew = renew
        self._renewed = time.monotonic()
        self.session = requests.Session()
        self.source = source()
        if url.startswith("http://127."):
            self.session.mount("http://", _From(self.source))
        elif url in ADAPTERS:
            self.session.mount("http://", ADAPTERS[url](self.source))
        self.session.trust_env = False
        self.session.auth = auth
        if token is not None:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", 60)
        options.setdefault("allow_redirects", False)
        if self._renew is not None and time.monotonic() - self._renewed > _RENEW:
            self._renewed = time.monotonic()
            self.session.headers["Authorization"] = f"Bearer {self._renew()}"
        # An absolute URL names the issuer, which need not be where this server listens.
        url = self.url + re.sub(r"^https?://[^/]+", "", path)
        return self.session.request(method, url, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> requests.Response:
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> requests.Response:
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> requests.Response:
        return self.request("DELETE", path, **options)


Request = Callable[[Client], requests.Response]


def at_once(caller: Client, asked: Sequence[Request]) -> list[requests.Response]:
    """The responses to requests that are all sent at one moment, each on its own connection."""
    ready = threading.Barrier(len(asked))

    def send(request: Request) -> requests.Response:
        own = Client(caller.url)
        own.session.auth = caller.session.auth
        own.session.headers.update(caller.session.headers)
        with own.session:
            ready.wait(timeout=30)
            return request(own)

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(send, asked))


def patching(path: str, body: Mapping[str, Any], **headers: str) -> Request:
    return lambda own: own.patch(path, json=body, headers=headers)


def putting(path: str, body: Mapping[str, Any]) -> Request:
    return lambda own: own.put(path, json=body)


def posting(path: str, body: Mapping[str, Any]) -> Request:
    return lambda own: own.post(path, json=body)


def has_event_loop(process: psutil.Process) -> bool:
    """Whether a process waits for events by epoll."""
    with suppress(OSError):
        files = Path(f"/proc/{process.pid}/fd").iterdir()
        return any(str(each.readlink()) == "anon_inode:[eventpoll]" for each in files)
    return False


def _holds_files(process: psutil.Process) -> bool:
    """Whether a thread of a process has not ended, and so may still hold the port."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE or int(process.num_threads()) > 1
    except psutil.NoSuchProcess:
        return False


def soon() -> float:
    """A moment that still lies ahead when the server reads it, and not for long."""
    return float(int(time.time()) + 2)


def wait_for(moment: float) -> None:
    """Wait until a moment has passed."""
    while time.time() <= moment:
        time.sleep(max(0.0, moment - time.time()) + 0.01)


def _ports() -> Iterator[int]:
    """TCP ports that no other process of this run gives out, in any order.

    Below those that the system gives to connections: one of them would take it before a server
    does, or while a server starts again. So might a server of another worker of xdist.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = range(10_000 + worker, 32_000, workers)
    return itertools.cycle(secrets.SystemRandom().sample(own, len(own)))


_own_ports = _ports()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now, and no other test will."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = next(_own_ports)
            probe.bind(("127.0.0.1", port))
            return port
