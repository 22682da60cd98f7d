"""A real Patroni cluster for tests: PostgreSQL nodes with synchronous replication, and an etcd."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import requests

from live import free_port
from waiting import until

_PROGRAMS: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_rewind"))
_NEEDED: Final = ("patroni", "etcd")
_START: Final = 90  # seconds
#: Seconds after which a primary that is silent has lost its lease; Patroni allows no fewer.
LEASE: Final = 20

missing = [name for name in _NEEDED if shutil.which(name) is None]
if not _PROGRAMS:
    missing.append("postgresql")


@dataclass
class Member:
    """A node: its Patroni, its PostgreSQL, and where both listen."""

    name: str
    folder: Path
    port: int
    api: int
    process: subprocess.Popen[bytes]

    def is_primary(self) -> bool:
        return self._is("primary")

    def _is(self, state: str) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.api}/{state}", timeout=2).ok
        except requests.RequestException:
            return False

    def is_synchronous(self) -> bool:
        return self._is("synchronous")

    def is_replica(self) -> bool:
        return self._is("replica")

    def kill(self) -> None:
        """Kill all of it at once, as when a host loses its power."""
        with suppress(FileNotFoundError, ProcessLookupError):
            postmaster = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@dataclass
class PatroniCluster:
    """Three members of which one is the primary and one replicates synchronously."""

    members: list[Member]

    @property
    def url(self) -> str:
        """As libpq finds the primary by itself."""
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"postgresql://keyosk@{hosts}/keyosk"

    def primary(self, *, other_than: Member | None = None, within: float = _START) -> Member:
        """The primary, once there is one."""
        return self._wait(lambda each: each.is_primary() and each is not other_than, within)

    def synchronous(self) -> Member:
        """The member that has every acknowledged write besides the primary, once there is one."""
        return self._wait(Member.is_synchronous, _START)

    def _wait(self, wanted: Any, within: float) -> Member:
        deadline = time.monotonic() + within
        while True:
            for member in self.members:
                if wanted(member):
                    return member
            logs = [(each.folder / "log").read_text()[-1500:] for each in self.members]
            assert time.monotonic() < deadline, "\n".join(logs)
            time.sleep(0.1)


@contextmanager
def patroni() -> Iterator[PatroniCluster]:
    """A cluster of three with the database and the role ``keyosk``."""
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="keyosk-patroni-", dir="/tmp"))
    if who:
        os.chown(folder, who["user"], who["group"])
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)

        def start(name: str, *command: str) -> subprocess.Popen[bytes]:
            place = folder / name
            place.mkdir(exist_ok=True)
            if who:
                os.chown(place, who["user"], who["group"])
            with (place / "log").open("ab") as log:
                return subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    cwd=place,
                    start_new_session=True,
                    env={"PATH": os.environ["PATH"], "HOME": str(place), "LC_ALL": "C.UTF-8"},
                    **who,
                )

        client, peer = free_port(), free_port()
        etcd = start(
            "etcd",
            "etcd",
            "--data-dir=data",
            "--unsafe-no-fsync=true",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        )
        stack.callback(etcd.wait, 60)
        stack.callback(etcd.kill)
        started = PatroniCluster([])
        for number in range(3):
            name, port, api = f"pg{number}", free_port(), free_port()
            place = folder / name
            place.mkdir()
            (place / "patroni.yml").write_text(
                json.dumps(_settings(name, place, port, api, client))
            )
            process = start(name, shutil.which("patroni") or "patroni", "patroni.yml")
            member = Member(name, place, port, api, process)
            stack.callback(member.kill)
            started.members.append(member)
            if number == 0:
                started.primary()
        started.synchronous()
        _wait_for_replicas(started)
        url = f"postgresql://postgres@127.0.0.1:{started.primary().port}/postgres"
        with psycopg.connect(url, autocommit=True) as session:
            session.execute("CREATE ROLE keyosk LOGIN")
            session.execute(
                "CREATE DATABASE keyosk OWNER keyosk ENCODING 'UTF8' TEMPLATE template0"
            )
        yield started


def _wait_for_replicas(cluster: PatroniCluster) -> None:
    until(lambda: sum(member.is_replica() for member in cluster.members) >= 2)


def _settings(name: str, place: Path, port: int, api: int, etcd: int) -> dict[str, Any]:
    """Patroni's settings; JSON is YAML."""
    access = ["local all all trust", "host all all 127.0.0.1/32 trust"]
    return {
        "scope": "keyosk",
        "name": name,
        "restapi": {"listen": f"127.0.0.1:{api}", "connect_address": f"127.0.0.1:{api}"},
        "etcd3": {"host": f"127.0.0.1:{etcd}"},
        "bootstrap": {
            "dcs": {
                "ttl": LEASE,
                "loop_wait": 1,
                "retry_timeout": 3,
                "synchronous_mode": True,
                "synchronous_mode_strict": True,
                "postgresql": {"use_pg_rewind": True, "use_slots": True},
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{port}",
            "connect_address": f"127.0.0.1:{port}",
            "data_dir": str(place / "data"),
            "bin_dir": str(_PROGRAMS[-1].parent) if _PROGRAMS else "",
            "pgpass": str(place / "pgpass"),
            "pg_hba": [*access, "host replication all 127.0.0.1/32 trust"],
            "authentication": {
                "superuser": {"username": "postgres"},
                "replication": {"username": "replicator"},
                "rewind": {"username": "rewind"},
            },
            "parameters": {
                "unix_socket_directories": str(place),
                "shared_buffers": "32MB",
                "max_connections": 100,
            },
        },
    }
