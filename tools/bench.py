"""Measures what a token costs, as a multiple of a bare Flask route on the same server and machine.

``make bench`` starts a bare WSGI application, a bare Flask route, and a whole Keyosk, all on
Keyosk's own server with the same number of workers and threads. It asks them in turn, round after
round, so that whatever else the machine does meets all of them alike, and prints the medians. What
counts is the CPU time of the server's processes for one request: unlike requests per second it
hardly depends on how many cores there are and who else uses them. Absolute numbers say nothing on
another machine; the ratios do.
"""

import argparse
import base64
import json
import os
import re
import secrets
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

WORKERS, THREADS = 2, 4
CONNECTIONS = 8
ROUNDS = 5
TARGET = 1.35
START = 30  # seconds that a server may take to answer for the first time
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass
class Subject:
    """One thing that is asked: a request, and the server that answers it."""

    name: str
    port: int
    group: int  # the process group of the server
    request: bytes
    rates: list[float] = field(default_factory=list)  # requests per second, by round
    costs: list[float] = field(default_factory=list)  # CPU microseconds per request, by round


def main() -> int:
    """Measure and print; answers the exit code."""
    arguments = _arguments()
    if arguments.serve:
        return _serve(arguments.serve, arguments.port)
    if arguments.ask:
        return _ask(arguments.port, arguments.seconds)
    if not Path("/proc/self/stat").exists():
        print("This needs /proc, to read what CPU time the servers took.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="keyosk-bench-") as folder, ExitStack() as servers:
        subjects = _start(Path(folder), servers, arguments.backend, log_level=arguments.log_level)
        for subject in subjects:
            _measure(subject, 0.5)  # the first requests open connections and fill caches
            subject.rates.clear()
            subject.costs.clear()
        for _ in range(ROUNDS):
            for subject in subjects:
                _measure(subject, arguments.seconds)
    _report(subjects, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the token path.")
    parser.add_argument(
        "--seconds", type=float, default=1.2, help="how long one measurement lasts (1.2)"
    )
    parser.add_argument(
        "--backend",
        default="sqlite",
        metavar="sqlite|URL",
        help="a SQLite file of its own, or the postgresql:// URL of an empty database",
    )
    parser.add_argument(
        "--log-level", default="info", help="of Keyosk; at info, its default, it logs each request"
    )
    parser.add_argument("--serve", choices=["wsgi", "flask"], help=argparse.SUPPRESS)
    parser.add_argument("--ask", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- The servers ----------------------------------------------------------------------------------


def _start(folder: Path, servers: ExitStack, backend: str, *, log_level: str) -> list[Subject]:
    """Start all servers; answers what to ask them."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KEYOSK_")}
    ports = {name: _free_port() for name in ("wsgi", "flask", "keyosk")}
    groups = {}
    for name in ("wsgi", "flask"):
        command = [sys.executable, __file__, "--serve", name, "--port", str(ports[name])]
        groups[name] = servers.enter_context(
            _running(command, folder, environment, port=ports[name])
        )
    environment |= {
        "KEYOSK_BIND": f"127.0.0.1:{ports['keyosk']}",
        "KEYOSK_DATABASE_URL": f"sqlite:///{folder / 'keyosk.db'}"
        if backend == "sqlite"
        else backend,
        "KEYOSK_SECRET_KEY": secrets.token_urlsafe(32),
        "KEYOSK_WORKERS": str(WORKERS),
        "KEYOSK_THREADS": str(THREADS),
        "KEYOSK_LOG_LEVEL": log_level,
    }
    groups["keyosk"] = servers.enter_context(
        _running(_keyosk("serve"), folder, environment, port=ports["keyosk"])
    )
    username, password, key = _account(folder, environment)
    requests = {
        "bare WSGI": ("wsgi", _request("GET", "/")),
        "bare Flask": ("flask", _request("GET", "/")),
        "key set": ("keyosk", _request("GET", "/auth/jwks")),
        "token by API key": ("keyosk", _request("POST", "/auth/token", username, secret=key)),
        "token by password": ("keyosk", _request("POST", "/auth/token", username, secret=password)),
    }
    return [
        Subject(name, ports[server], groups[server], request)
        for name, (server, request) in requests.items()
    ]


def _account(folder: Path, environment: Mapping[str, str]) -> tuple[str, str, str]:
    """Make an account as users have them: two scopes of one service; its name and both secrets."""
    number = secrets.token_hex(4)
    service, username, password = f"bench-{number}", f"bencher-{number}", secrets.token_urlsafe(24)
    scopes = [f"{service}:read", f"{service}:write"]

    def run(*words: str, text: str = "") -> str:
        ran = subprocess.run(
            _keyosk(*words),
            cwd=folder,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            raise SystemExit(f"keyosk {' '.join(words)}: {ran.stderr}")
        return ran.stdout

    run("service", "create", service, *(word for scope in scopes for word in ("--scope", scope)))
    run("account", "create", username, "--password", text=f"{password}\n")
    run("grant", "add", username, *scopes)
    key = json.loads(run("api-key", "create", username, "bench", "--json"))["secret"]
    return username, password, key


def _keyosk(*words: str) -> list[str]:
    return [sys.executable, "-c", "from keyosk.cli import main; main()", *words]


@contextmanager
def _running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], *, port: int
) -> Iterator[int]:
    """A server in a process group of its own, for as long as the block lasts; gives the group."""
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(port, folder / f"{port}.log", process)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def _wait_for(port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(_request("GET", "/health/ready"))
                if connection.recv(1):
                    return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"a server did not start:\n{log.read_text()[-2000:]}")


def _serve(name: str, port: int) -> int:
    """Be one of the bare servers."""
    # Here, as the process that asks is started for each measurement and has no use for it.
    from keyosk.server import Options, serve  # noqa: PLC0415

    applications = {"wsgi": _bare_wsgi, "flask": _bare_flask}
    serve(
        applications[name],
        Options(bind=(f"127.0.0.1:{port}",), workers=WORKERS, threads=THREADS, log_level="warning"),
    )


def _bare_wsgi() -> Callable[..., list[bytes]]:
    def application(_environ: object, start: Callable[..., object]) -> list[bytes]:
        start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1")])
        return [b"x"]

    return application


def _bare_flask() -> object:
    from flask import Flask  # noqa: PLC0415  # likewise

    app = Flask("bare")

    @app.get("/")
    def route() -> bytes:
        return b"x"

    return app


# --- The measuring --------------------------------------------------------------------------------


def _measure(subject: Subject, seconds: float) -> None:
    """Ask for so long, in a process of its own, and note rate and cost."""
    before = _cpu_seconds(subject.group)
    words = ["--ask", "--port", str(subject.port), "--seconds", str(seconds)]
    asked = subprocess.run(
        [sys.executable, __file__, *words],
        input=subject.request,
        stdout=subprocess.PIPE,
        check=True,
    )
    after = _cpu_seconds(subject.group)
    result = json.loads(asked.stdout)
    if result["wrong"] or not result["right"]:
        raise SystemExit(f"{subject.name}: {result['wrong']} of the answers were not 200")
    subject.rates.append(result["right"] / result["seconds"])
    subject.costs.append((after - before) / result["right"] * 1e6)


def _cpu_seconds(group: int) -> float:
    """The CPU time that the processes of a group took so far."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The second field is the name, in parentheses, and may have spaces.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICK


def _ask(port: int, seconds: float) -> int:
    """Send the request of standard input over and over, over connections that stay open."""
    request = sys.stdin.buffer.read()
    waiting = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port), 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting.register(connection, selectors.EVENT_READ, bytearray())
    right = wrong = 0
    began = time.perf_counter()
    for key in waiting.get_map().values():
        key.fileobj.sendall(request)
    while (now := time.perf_counter()) < began + seconds:
        for key, _ in waiting.select(1):
            received = key.fileobj.recv(65536)
            if not received:
                raise SystemExit("the server closed a connection")
            key.data.extend(received)
            if not _is_whole(key.data):
                continue
            if key.data.startswith(b"HTTP/1.1 200 "):
                right += 1
            else:
                wrong += 1
            key.data.clear()
            key.fileobj.sendall(request)
    print(json.dumps({"right": right, "wrong": wrong, "seconds": now - began}))
    return 0


def _is_whole(answer: bytearray) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return length is not None and len(body) >= int(length[1])


def _request(method: str, path: str, username: str = "", *, secret: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "Accept: */*", "User-Agent: bench"]
    if username:
        pair = base64.b64encode(f"{username}:{secret}".encode()).decode()
        lines.append(f"Authorization: Basic {pair}")
    if method == "POST":
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "", ""]).encode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- The table ------------------------------------------------------------------------------------


def _report(subjects: Sequence[Subject], arguments: argparse.Namespace) -> None:
    """Print the medians. A ratio is taken in each round, then its median."""
    (flask,) = [subject for subject in subjects if subject.name == "bare Flask"]
    backend = "sqlite" if arguments.backend == "sqlite" else "postgresql"
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 2 * cores:
        print(
            f"Something else keeps this machine busy (load {load:.1f} on {cores} cores): the ratios"
        )
        print("are too high and far apart. Measure again when it is quiet.\n")
    print(
        f"{WORKERS} workers, {THREADS} threads, {CONNECTIONS} connections kept open, {backend}, "
        f"log level {arguments.log_level}; medians of {ROUNDS} rounds of {arguments.seconds:g} s"
    )
    heads = f"{'requests/s':>10}  {'CPU us/request':>14}  {'x bare Flask':>12}  {'from-to':>13}"
    print(f"\n{'':18}  {heads}")
    for subject in subjects:
        ratios = [mine / bare for mine, bare in zip(subject.costs, flask.costs, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(
            f"{subject.name:18}  {statistics.median(subject.rates):>10.0f}  "
            f"{statistics.median(subject.costs):>14.0f}  {statistics.median(ratios):>12.2f}  "
            f"{spread:>13}"
        )
        if subject.name == "token by API key":
            reached = statistics.median(ratios)
    verdict = "met" if reached <= TARGET else "missed"
    print(
        f"\nA token by API key is to cost at most {TARGET} x bare Flask: {reached:.2f}, {verdict}."
    )


if __name__ == "__main__":
    sys.exit(main())
