"""The parts of deploy/compose.yaml together, without a container engine.

Each service is a host of its own (a network namespace with an address, the names of the others and
its secrets), and starts the program that its image starts, with what the file says.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import requests
import yaml

from live import environment
from postgres import PostgresServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.skipif(
        "CI" not in os.environ and not (shutil.which("caddy") and shutil.which("prometheus")),
        reason="no Caddy or no Prometheus here",
    ),
]

DEPLOY: Final = Path(__file__).resolve().parent.parent / "deploy"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
HOST: Final = "login.example.org"
#: Those of the file, and those of this run: others may test on this machine at the same time.
SUBNET: Final = "172.30.80."
OURS: Final = f"10.214.{os.getpid() % 250}."
ADDRESSES: Final = {
    "caddy": f"{OURS}2",
    "postgresql": f"{OURS}130",
    "keyosk-1": f"{OURS}131",
    "keyosk-2": f"{OURS}132",
    "prometheus": f"{OURS}133",
}
_START: Final = """
set -eu
hosts=$1 secrets=$2; shift 2
mount --bind "$hosts" /etc/hosts
mount -t tmpfs tmpfs /run
mkdir /run/secrets
mount --bind "$secrets" /run/secrets
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the engine would be."""

    folder: Path
    until_stopped: ExitStack

    def start(self, service: str, *command: str | Path, **settings: str) -> None:
        """Start a service's program on its host, with what the file says of its environment."""
        said = COMPOSE["services"][service].get("environment", {})
        said = {name: filled(str(value)) for name, value in said.items()}
        log = self.until_stopped.enter_context((self.folder / f"{service}.log").open("wb"))
        inside = ["unshare", "--mount", "sh", "-c", _START, "sh"]
        mounted = [str(self.folder / "hosts"), str(self.folder / "secrets")]
        (self.folder / service).mkdir(exist_ok=True)
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace(service), *inside, *mounted, *map(str, command)],
            env=environment() | said | settings,
            cwd=self.folder / service,
            stdout=log,
            stderr=log,
        )
        self.until_stopped.callback(stop, process)

    def logs(self) -> str:
        return "\n".join(
            f"--- {file.name}\n{file.read_text()[-3000:]}" for file in self.folder.glob("*.log")
        )


def filled(text: str) -> str:
    return text.replace("${LOGIN_HOST:-localhost}", HOST).replace(SUBNET, OURS)


def namespace(service: str) -> str:
    return f"kc{os.getpid() % 10_000}-{service}"


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def network() -> Iterator[None]:
    """The network of the file, with a host for each service."""
    bridge = f"kc{os.getpid() % 10_000}"
    with ExitStack() as made:
        try:
            ip("link", "add", bridge, "type", "bridge")
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no network namespaces here")
        made.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"{OURS}1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number, (service, address) in enumerate(ADDRESSES.items()):
            name, outside = namespace(service), f"{bridge}-{number}"
            ip("netns", "add", name)
            made.callback(ip, "netns", "del", name)
            ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", outside, "master", bridge, "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield


def start_postgresql(machine: Machine, server: PostgresServer) -> None:
    """As the image does: a superuser with the password, and a database of that name."""
    said = COMPOSE["services"]["postgresql"]["environment"]
    # PostgreSQL does not run as root, whom the test's own folder is for.
    folder = Path(machine.until_stopped.enter_context(tempfile.TemporaryDirectory()))
    data, password = folder / "data", folder / "password"
    shutil.copy(machine.folder / "secrets" / "database_password", password)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for each in (folder, password):
        os.chown(each, 65534, 65534)
    initdb, postgres = (server.program(name) for name in ("initdb", "postgres"))
    subprocess.run(
        [*user, initdb, "--pgdata", data, f"--username={said['POSTGRES_USER']}",
         f"--pwfile={password}", "--auth=scram-sha-256", said["POSTGRES_INITDB_ARGS"]],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    machine.start(
        "postgresql", *user, postgres, "-D", data, "-c", "listen_addresses=*",
        "-c", "unix_socket_directories=",
    )  # fmt: skip
    url = f"postgresql://{said['POSTGRES_USER']}@{ADDRESSES['postgresql']}/postgres"

    def made() -> bool:
        with psycopg.connect(url, password=password.read_text(), autocommit=True) as superuser:
            superuser.execute(f"CREATE DATABASE {said['POSTGRES_DB']}".encode())
        return True

    wait(machine, made, psycopg.OperationalError)


def wait(machine: Machine, is_met: Callable[[], bool], *errors: type[Exception]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(*errors):
            if is_met():
                return
        time.sleep(0.2)
    raise AssertionError(machine.logs())


@pytest.fixture
def machine(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Machine]:
    """Everything that the file names, started."""
    tmp_path.chmod(0o755)
    shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)
    subprocess.run(["sh", tmp_path / "make-secrets.sh"], check=True, capture_output=True)
    hosts = [f"{address} {service}" for service, address in ADDRESSES.items()]
    (tmp_path / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
    with network(), ExitStack() as until_stopped:
        machine = Machine(tmp_path, until_stopped)
        start_postgresql(machine, postgres_server)
        keyosk: list[str | Path] = [
            sys.executable,
            "-c",
            "from keyosk.cli import main; main()",
            "serve",
        ]
        for service in ("keyosk-1", "keyosk-2"):
            machine.start(service, *keyosk, KEYOSK_BIND=":8080")
        caddyfile = tmp_path / "Caddyfile"
        # No authority of the Internet is asked for a certificate.
        text = (DEPLOY / "Caddyfile").read_text()
        caddyfile.write_text(f"{{\n\tskip_install_trust\n\tlocal_certs\n}}\n{text}")
        caddy: list[str | Path] = ["caddy", "run", "--adapter", "caddyfile", "--config", caddyfile]
        machine.start("caddy", *caddy, HOME=str(tmp_path / "caddy"), XDG_DATA_HOME=str(tmp_path))
        shutil.copy(DEPLOY / "prometheus.yaml", tmp_path / "prometheus.yml")
        shutil.copy(DEPLOY / "prometheus" / "alerts.yaml", tmp_path)
        machine.start(
            "prometheus", "prometheus", f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/tsdb", "--web.listen-address=:9090",
        )  # fmt: skip
        yield machine


def call(machine: Machine, path: str, *options: str) -> tuple[str, Any]:
    """What Caddy responds to curl: the status, and the JSON."""
    authority = machine.folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    result = subprocess.run(
        ["curl", "--silent", "--show-error", "--cacert", authority, "--write-out", "\n%{http_code}",
         "--resolve", f"{HOST}:443:{ADDRESSES['caddy']}", *options, f"https://{HOST}{path}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    body, _, status = result.stdout.rpartition("\n")
    return status, json.loads(body) if body else result.stderr


def targets() -> set[str]:
    """What Prometheus reads."""
    address = f"http://{ADDRESSES['prometheus']}:9090/api/v1/targets"
    active_targets = requests.get(address, timeout=60).json()["data"]["activeTargets"]
    return {each["labels"]["instance"] for each in active_targets if each["health"] == "up"}


def served_by_both(machine: Machine) -> bool:
    logs = [(machine.folder / f"keyosk-{number}.log").read_text() for number in (1, 2)]
    return all('"/auth/token"' in log for log in logs)


def test_the_parts_of_compose_work_together(machine: Machine) -> None:
    wait(machine, lambda: call(machine, "/health/ready")[0] == "200")
    password = (machine.folder / "secrets" / "admin_password").read_text()
    (machine.folder / "login").write_text(f'user = "admin:{password}"\n')
    login = ("--config", str(machine.folder / "login"), "--data", "audience=keyosk")

    def both_issue_tokens() -> bool:
        assert call(machine, "/auth/token", *login)[0] == "200"
        return served_by_both(machine)

    wait(machine, both_issue_tokens)
    _, metadata = call(machine, "/.well-known/oauth-authorization-server")
    assert metadata["issuer"] == f"https://{HOST}"
    # Who asks is who reached Caddy, neither Caddy itself nor whoever a client says.
    _, issued = call(machine, "/auth/token", *login)
    (machine.folder / "token").write_text(f"Authorization: Bearer {issued['access_token']}\n")
    bearer = ("--header", f"@{machine.folder}/token")
    forged = ("--header", "X-Forwarded-For: 192.0.2.66", "--header", "Forwarded: for=192.0.2.66")
    change = ("--request", "PATCH", "--json", '{"display_name": "The admin"}')
    assert call(machine, "/accounts/admin", *bearer, *forged, *change)[0] == "200"
    _, log = call(machine, "/audit?action=account.change", *bearer)
    assert [each["address"] for each in log["items"]] == [f"{OURS}1"]
    both = {"keyosk-1:9464", "keyosk-2:9464"}
    wait(machine, lambda: targets() >= both, requests.ConnectionError)
