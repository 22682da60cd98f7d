"""A real PgBouncer for tests."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from live import free_port, unique
from postgres import ROLE


@dataclass
class Pooler:
    """A PgBouncer before one database."""

    url: str
    command: list[str]
    log: Path
    identity: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, **self.identity)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.log.read_text()
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End it at once, and all its connections with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)


@contextmanager
def pgbouncer(url: str, mode: str, *, size: int = 40) -> Iterator[Pooler]:
    """A PgBouncer with ``size`` sessions before the database at ``url``."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    parts, port = urlsplit(url), free_port()
    folder = Path(f"/tmp/{unique('keyosk-pgbouncer')}")
    folder.mkdir()
    (folder / "users").write_text(f'"{ROLE}" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {folder}/users\npool_mode = {mode}\ndefault_pool_size = {size}\n"
        "server_login_retry = 1\n"
    )
    pooler = Pooler(
        f"postgresql://{ROLE}@127.0.0.1:{port}{parts.path}",
        [program, str(folder / "ini")],
        folder / "log",
        {"user": pwd.getpwnam("nobody").pw_uid} if os.geteuid() == 0 else {},
    )
    try:
        pooler.start()
        yield pooler
    finally:
        if pooler.process is not None:
            pooler.process.terminate()
            pooler.process.wait(60)
        shutil.rmtree(folder)
