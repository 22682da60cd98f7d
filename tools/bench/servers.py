"""The servers that are measured: real processes, each group with its CPU time and its memory."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests

WORKERS: Final = 2
THREADS: Final = 4
_START: Final = 30  # seconds that a server may take to respond for the first time
LOOK: Final = 0.002  # seconds between two looks whether one responds
_TICK: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_HERE: Final = Path(__file__).parent


class NotThere(Exception):
    """Nobody listens yet."""


@dataclass(frozen=True)
class Server:
    """A server that runs: its port on 127.0.0.1, and the group that all its processes are in."""

    port: int
    group: int
    folder: Path
    environment: Mapping[str, str]

    def cpu_seconds(self) -> float:
        """The CPU time that its processes took so far."""
        ticks = 0
        for fields in self._stats():
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICK

    def pss(self) -> float:
        """The memory of all its processes in MiB, shared pages counted once (PSS)."""
        kib = 0
        for fields in self._stats():
            rollup = Path(f"/proc/{fields[-1]}/smaps_rollup")
            lines = rollup.read_text().splitlines()
            kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kib / 1024

    def _stats(self) -> Iterator[list[str]]:
        """The fields of each process's /proc/PID/stat after the name, and its PID."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The second field is the name, in parentheses, and may have spaces.
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(fields[2]) == self.group:
                yield [*fields, path.parent.name]


@contextmanager
def floor(folder: Path) -> Iterator[Server]:
    """A bare Flask JSON route under gunicorn's threaded worker."""
    port = _free_port()
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread"]
    command += ["--workers", str(WORKERS), "--threads", str(THREADS), "--no-control-socket"]
    command += ["--bind", f"127.0.0.1:{port}", "--chdir", str(_HERE), "floor:app"]
    with _running(command, folder, dict(os.environ), port=port) as server:
        wait_for(server, "/")
        yield server


@contextmanager
def peer(folder: Path) -> Iterator[Server | None]:
    """oidc-provider with two processes; None where npm or node is missing or npm fails.

    Its server has the environment's PEER_SECRET as the secret of its client ``bench``.
    """
    if not _install_peer():
        yield None
        return
    port, secret = _free_port(), secrets.token_urlsafe(32)
    environment = {**os.environ, "PEER_PORT": str(port), "PEER_SECRET": secret}
    node = shutil.which("node") or "node"
    command = [node, str(_peer_folder() / "server.mjs")]
    with _running(command, folder, environment, port=port) as server:
        wait_for(server, "/jwks")
        yield server


@contextmanager
def keyosk(
    folder: Path, database_url: str, *, settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A whole Keyosk with everything on. It is not waited for. ``settings``: further ones."""
    port = _free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KEYOSK_")}
    environment |= {
        "KEYOSK_BIND": f"127.0.0.1:{port}",
        "KEYOSK_METRICS_BIND": f"127.0.0.1:{_free_port()}",
        "KEYOSK_DATABASE_URL": database_url,
        "KEYOSK_SECRET_KEY": _secret(folder, "secret-key"),
        "KEYOSK_ADMIN_PASSWORD": _secret(folder, "admin-password"),
        "KEYOSK_WORKERS": str(WORKERS),
        "KEYOSK_THREADS": str(THREADS),
        **(settings or {}),
    }
    with _running(_keyosk("serve"), folder, environment, port=port) as server:
        yield server


def wait_for(server: Server, path: str) -> None:
    """Wait until a server responds. Ends the program if it does not."""
    deadline = time.monotonic() + _START
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
                connection.sendall(request)
                if connection.recv(1):
                    return
        except OSError:
            time.sleep(LOOK)
    log = server.folder / f"{server.port}.log"
    raise SystemExit(f"a server did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def _running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], *, port: int
) -> Iterator[Server]:
    """A server in a process group of its own, for as long as the block lasts."""
    # As where it is installed: there the bytecode of its modules lies beside them.
    environment = {k: v for k, v in environment.items() if k != "PYTHONDONTWRITEBYTECODE"}
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
            yield Server(port, process.pid, folder, environment)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def _peer_folder() -> Path:
    """Where npm installs it: outside of what is committed, kept for the next run."""
    return _HERE.parent.parent / "build/bench-peer"


def _install_peer() -> bool:
    folder, npm = _peer_folder(), shutil.which("npm")
    folder.mkdir(parents=True, exist_ok=True)
    same = True
    for name in ("package.json", "server.mjs"):
        content = (_HERE / "peer" / name).read_text()
        same = same and (folder / name).exists() and (folder / name).read_text() == content
        (folder / name).write_text(content)
    if same and (folder / "node_modules/oidc-provider").is_dir():
        return shutil.which("node") is not None
    if npm is None:
        return False
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0


def _secret(folder: Path, name: str) -> str:
    """One for all servers of a folder, so that a database can be served again."""
    file = folder / name
    if not file.exists():
        file.write_text(secrets.token_urlsafe(32))
    return file.read_text()


def _keyosk(*words: str) -> list[str]:
    return [sys.executable, "-c", "from keyosk.cli import main; main()", *words]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def processor() -> str:
    """The name of this machine's processor, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def call(
    server: Server, method: str, path: str, *, login: str | tuple[str, str], body: Any
) -> dict[str, Any]:
    """Send one request while things are set up, and return the JSON of its response.

    ``login``: a Bearer token, or a username and its secret; ``body``: a form as text, or JSON.

    Raises:
        NotThere: Nobody listens.
    """
    try:
        response = _send(server, method, path, login=login, body=body)
    except requests.ConnectionError as error:
        raise NotThere from error
    if response.status_code >= 300:
        raise SystemExit(f"{method} {path}: {response.status_code} {response.text}")
    found: dict[str, Any] = response.json()
    return found


def _send(
    server: Server, method: str, path: str, *, login: str | tuple[str, str], body: Any
) -> requests.Response:
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if isinstance(body, str) else {}
    if isinstance(login, str):
        headers["Authorization"] = f"Bearer {login}"
    return requests.request(
        method,
        f"http://127.0.0.1:{server.port}{path}",
        data=body if isinstance(body, str) else None,
        json=None if isinstance(body, str) else body,
        auth=None if isinstance(login, str) else login,
        headers=headers,
        timeout=30,
    )


def etag(server: Server, path: str) -> str:
    """The entity tag of what is at a path."""
    return requests.get(f"http://127.0.0.1:{server.port}{path}", timeout=30).headers["ETag"]
