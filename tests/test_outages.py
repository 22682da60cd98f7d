"""The ground taken away: a database that is gone, frozen or locked, and a disk that is full."""

import contextlib
import os
import re
import resource
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import requests

import live
from installed import installed
from keyosk.errors import Unavailable
from keyosk.model import OPERATOR
from keyosk.storage.database import Database
from keyosk.storage.postgresql import CONNECT_TIMEOUT
from keyosk.tokens import refresh_sessions
from live import ADMIN_PASSWORD, Client, LiveServer, unique
from people import PASSWORD
from postgres import PostgresServer
from waiting import until

pytestmark = [pytest.mark.fault, pytest.mark.every_database, pytest.mark.slow]

#: Seconds. A database that hangs is found out by waiting; 503 has to come within these, which are
#: fewer than all that ask would wait one after another.
HANGS = 30
#: Fewer than the database is waited for.
PROMPT = 7
BACK_LINE = "The database is available again."
NEEDS_NOTHING = (
    "/auth/jwks",
    "/auth/jwks?service=keyosk",
    "/services/keyosk/jwks",
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
    "/openapi.json",
    "/health/live",
)


#: What clients send with such requests, though it changes nothing.
LOGINS = (None, "Bearer x", f"Bearer kysk_{'x' * 38}", "Basic eDp5", "Digest x")


class Known:
    """A server with an admin's API key and token, as clients had them before the ground went."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.admin = server.admin()
        response = server.client("admin", ADMIN_PASSWORD).post(
            "/accounts/me/api-keys", json={"name": unique("key")}
        )
        self.key: str = response.json()["secret"]
        assert self.token().status_code == 200

    def token(self, **options: Any) -> requests.Response:
        return self.server.client("admin", self.key).post("/auth/token", **options)

    def login(self, **options: Any) -> requests.Response:
        return self.server.client("admin", ADMIN_PASSWORD).post("/auth/token", **options)

    def write(self, name: str | None = None, **options: Any) -> requests.Response:
        return self.admin.post("/roles", json={"name": name or unique("role")}, **options)

    def requests(self) -> list[Callable[..., requests.Response]]:
        """What needs the database, one of each kind."""
        ready = self.server.client()
        return [
            self.token,
            self.login,
            self.write,
            lambda **options: self.admin.get("/accounts", **options),
            lambda **options: ready.get("/health/ready", **options),
            lambda **options: ready.get("/auth/revocations", **options),
        ]

    def is_back(self) -> None:
        """Every kind of request succeeds again, without a restart."""
        asked = self.requests()
        until(lambda: [ask().status_code for ask in asked] == [200, 200, 201, 200, 200, 200])

    def can_be_read(self) -> None:
        """What only reads succeeds again, at each process that a connection is open to."""
        until(lambda: self.token().status_code == 200)
        until(lambda: self.admin.get("/accounts").status_code == 200)


def assert_unavailable(response: requests.Response) -> None:
    assert response.status_code == 503, response.text
    assert int(response.headers["Retry-After"]) >= 1
    body = response.json()
    assert body.get("code", body.get("error")) in ("unavailable", "temporarily_unavailable")


def assert_the_rest_answers(server: LiveServer, logins: tuple[str | None, ...] = LOGINS) -> None:
    client = server.client()
    for path in NEEDS_NOTHING:
        for login in logins:
            headers = {} if login is None else {"Authorization": login}
            response = client.get(path, headers=headers, timeout=PROMPT)
            assert response.status_code == 200, (path, login)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(durable=True) as server:
        yield server


@pytest.fixture
def known(postgres: PostgresServer, tmp_path: Path) -> Iterator[Known]:
    with LiveServer(postgres.create_database(), tmp_path, workers="2") as server:
        yield Known(server)


def test_a_frozen_postgresql_is_503_and_holds_up_nothing_else(
    known: Known, postgres: PostgresServer
) -> None:
    """More requests hang than there are threads; the rest is answered all the while."""
    asked = known.requests() * 6
    for _ in range(5):
        assert_the_rest_answers(known.server)  # connections are open in each process
    postgres.freeze()
    try:
        with ThreadPoolExecutor(len(asked)) as pool:
            waiting = [pool.submit(ask, timeout=HANGS) for ask in asked]
            while not all(request.done() for request in waiting):
                assert_the_rest_answers(known.server)
            for request in waiting:
                assert_unavailable(request.result())
        # By now everybody knows, and nobody waits but the one that looks whether it is back.
        waits = []
        for ask in known.requests():
            began = time.monotonic()
            assert_unavailable(ask(timeout=HANGS))
            waits.append(time.monotonic() - began)
        assert statistics.median(waits) < CONNECT_TIMEOUT, waits
    finally:
        postgres.thaw()
    known.is_back()


def test_who_refreshed_as_a_database_went_away_goes_on_when_it_is_back(
    known: Known, postgres: PostgresServer
) -> None:
    """A response that was lost then cannot be asked for again in time."""
    sessions = [Session(known) for _ in range(4)]
    began = time.monotonic()
    for session in sessions:
        session.refresh(is_lost=True)
    postgres.freeze()
    try:
        # Both workers learn of it.
        until(lambda: {known.token(timeout=HANGS).status_code for _ in range(8)} == {503})
        until(lambda: time.monotonic() > began + refresh_sessions.RETRY + 2)
    finally:
        postgres.thaw()
    for session in sessions:
        session.refresh()
        session.refresh()


class Session:
    """A refresh session of an account, with its latest token."""

    def __init__(self, known: Known) -> None:
        self.server = known.server
        name = unique("todo")
        service = {"name": name, "scopes": [f"{name}:read"], "refresh_allowed": True}
        known.admin.post("/services", json=service).raise_for_status()
        account = {"username": unique("alice"), "password": PASSWORD}
        account["grants"] = {"scopes": [f"{name}:read"]}  # type: ignore[assignment]
        known.admin.post("/accounts", json=account).raise_for_status()
        login = self.server.client(account["username"], PASSWORD)
        response = login.post("/auth/token", data={"scope": "offline_access"})
        self.token: str = response.json()["refresh_token"]

    def refresh(self, *, is_lost: bool = False) -> None:
        """Try until the database is there; ``is_lost``: the client does not get the response."""
        form = {"grant_type": "refresh_token", "refresh_token": self.token}
        client = self.server.client()
        while (response := client.post("/auth/token", data=form)).status_code == 503:
            time.sleep(0.1)
        assert response.status_code == 200, response.text
        if not is_lost:
            self.token = response.json()["refresh_token"]


def test_a_postgresql_that_ended_at_once_loses_nothing_and_comes_back(
    known: Known, postgres: PostgresServer
) -> None:
    names: list[str] = []
    stop = threading.Event()

    def write() -> None:
        own = Known.__new__(Known)
        own.admin = Client(known.server.url)
        own.admin.session.headers.update(known.admin.session.headers)
        while not stop.is_set():
            name = unique("kept")
            if own.write(name).status_code == 201:
                names.append(name)

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write) for _ in range(3)]
        while len(names) < 20:
            assert not any(writer.done() for writer in writers)
        postgres.halt()
        try:
            for ask in known.requests():
                assert_unavailable(ask(timeout=HANGS))
            assert_the_rest_answers(known.server)
        finally:
            stop.set()
            postgres.restart()
        for writer in writers:
            writer.result()
    known.is_back()
    for name in names:
        assert known.admin.get(f"/roles/{name}").status_code == 200


def test_keyosk_starts_without_a_database_yet(postgres: PostgresServer, tmp_path: Path) -> None:
    server = LiveServer(postgres.create_database(), tmp_path, workers="2")
    postgres.halt()
    try:
        server.launch()
        client = server.client()
        until(lambda: client.get("/health/live").status_code == 200)
        assert_unavailable(client.get("/health/ready"))
        for path in ("/auth/jwks", "/accounts"):
            assert_unavailable(client.get(path))
        assert_unavailable(server.client("admin", ADMIN_PASSWORD).post("/auth/token"))
    finally:
        postgres.restart()
    try:
        # Each worker waits by itself.
        for _ in range(8):
            until(lambda: server.client().get("/health/ready").status_code == 200)
        until(lambda: server.client("admin", ADMIN_PASSWORD).post("/auth/token").ok)
        until(lambda: BACK_LINE in server.log.read_text())
        told = server.log.read_text()
        # One line with the reason and one that it is back; not of each worker, nor at each try.
        assert told.count("Connection refused") == 1
        assert told.count(BACK_LINE) == 1
    finally:
        server.stop()


def test_a_worker_that_begins_while_the_database_is_away_waits_for_it(
    known: Known, postgres: PostgresServer
) -> None:
    assert known.server.process is not None
    postgres.halt()
    try:
        kill_workers(known.server)
        client = known.server.client()
        until(lambda: client.get("/health/live").status_code == 200)
        assert_unavailable(known.token())
    finally:
        postgres.restart()
    until(lambda: known.token().status_code == 200)
    known.is_back()


def test_a_worker_that_waits_for_the_database_leaves_connections_to_those_that_know_keys(
    known: Known, postgres: PostgresServer
) -> None:
    assert known.server.process is not None
    master = psutil.Process(known.server.process.pid)
    killed, stays = master.children()
    postgres.halt()
    try:
        killed.kill()
        until(lambda: killed not in (now := master.children()) and len(now) == 2)
        (new,) = [worker for worker in master.children() if worker != stays]
        until(lambda: live.has_event_loop(new))
        for _ in range(40):  # connections
            assert_the_rest_answers(known.server, (None,))
    finally:
        postgres.restart()
    known.is_back()
    stays.suspend()
    try:
        until(lambda: known.server.client().get("/health/ready").status_code == 200)
    finally:
        stays.resume()


def only_read(postgres: PostgresServer, url: str, *, is_on: bool) -> None:
    """Refuse writes by a setting, as a full disk or an operator may."""
    postgres.set_for(url, "default_transaction_read_only", "on" if is_on else "off")
    postgres.halt()
    postgres.restart()


def stand_by(postgres: PostgresServer, _: str, *, is_on: bool) -> None:
    """Make it a standby, or the primary again."""
    with postgres.halted() as folder:
        signal_file = folder / "standby.signal"
        if is_on:
            signal_file.touch()
        else:
            signal_file.unlink()


@pytest.mark.parametrize("turn", [only_read, stand_by])
def test_a_postgresql_that_can_only_be_read_is_503_for_what_writes(
    postgres: PostgresServer, tmp_path: Path, turn: Callable[..., None]
) -> None:
    url = postgres.create_database()
    with LiveServer(url, tmp_path, workers="2") as server:
        known = Known(server)
        turn(postgres, url, is_on=True)
        known.can_be_read()
        assert_only_reads(known)
        # That of the connection ended; each refused write would be another one.
        assert server.log.read_text().count(BACK_LINE) <= 2
        server.stop()
        server.launch()
        known.can_be_read()
        assert_only_reads(known)
        turn(postgres, url, is_on=False)
        until(lambda: known.token().status_code == 200)
        known.is_back()


def assert_only_reads(known: Known) -> None:
    for _ in range(10):
        assert_unavailable(known.write())
        assert known.admin.get("/accounts").status_code == 200
    assert_unavailable(known.login())
    assert_the_rest_answers(known.server)


def test_a_worker_makes_no_new_installation_of_a_database_that_was_emptied(
    known: Known, postgres: PostgresServer
) -> None:
    """As while a dump is restored: it stays empty until somebody fills it."""
    url = known.server.environment["KEYOSK_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("ALTER SCHEMA public RENAME TO away")
        other.execute("CREATE SCHEMA public")
        kill_workers(known.server)
        client = known.server.client()
        until(lambda: client.get("/health/live").status_code == 200)
        until(lambda: "waiting for the database" in known.server.log.read_text())
        assert_unavailable(known.token())
        tables = other.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchall() == []
        other.execute("DROP SCHEMA public")
        other.execute("ALTER SCHEMA away RENAME TO public")
    until(lambda: known.token().status_code == 200)
    known.is_back()


def test_a_full_disk_of_postgresql_is_503_for_what_writes_and_no_more(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Of its tables: one without room for its log either ends PostgreSQL, as ``halt`` does."""
    with small_disk(Path(tempfile.mkdtemp()) / "disk", 24) as disk:
        url = postgres.create_database_in(disk)
        with LiveServer(url, tmp_path, workers="2") as server:
            known = Known(server)
            fill(disk)
            names = write_until_refused(known)
            for _ in range(3):
                assert_unavailable(known.write())
                assert known.token().status_code == 200
            # Others may succeed, as that of the row of the audit log about the refusal does.
            told = server.log.read_text()
            assert (told.count("No space left"), told.count(BACK_LINE)) == (1, 0)
            assert known.admin.get("/accounts").status_code == 200
            assert_the_rest_answers(server)
            server.stop()
            server.launch()
            until(lambda: known.token().status_code == 200)
            assert_unavailable(known.write())
            (disk / "filler").unlink()
            known.is_back()
            for name in names:
                assert known.admin.get(f"/roles/{name}").status_code == 200
        postgres.drop_tablespace(url)


def kill_workers(server: LiveServer) -> None:
    """Kill them, and wait until clients can see that their connections have ended."""
    assert server.process is not None
    workers = psutil.Process(server.process.pid).children()
    for worker in workers:
        worker.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


# ---- SQLite --------------------------------------------------------------------------------------


def test_a_locked_sqlite_file_is_503_for_what_writes_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "keyosk.db"
    with LiveServer(f"sqlite:///{path}", tmp_path, workers="2") as server:
        known = Known(server)
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with ThreadPoolExecutor(8) as pool:
                waiting = [pool.submit(known.write, timeout=HANGS) for _ in range(8)]
                while not all(request.done() for request in waiting):
                    assert_the_rest_answers(server)
                    assert known.token().status_code == 200
                for request in waiting:
                    assert_unavailable(request.result())
            assert_unavailable(known.login(timeout=HANGS))
            other.rollback()
        known.is_back()


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("then", ["gone", "another"])
def test_a_moved_sqlite_file_is_503_and_not_replaced(what: str, then: str, tmp_path: Path) -> None:
    """As when its disk is no longer mounted, or a backup is put in place below the server."""
    folder = tmp_path / "data"
    with LiveServer(f"sqlite:///{folder}/keyosk.db", tmp_path, workers="2") as server:
        known = Known(server)
        place = folder if what == "folder" else folder / "keyosk.db"
        away = place.with_name("away")
        place.rename(away)
        if then == "another":
            shutil.copytree(away, place) if what == "folder" else shutil.copy(away, place)
        before = sorted(folder.parent.rglob("*"))
        assert_unavailable(known.write())  # whatever the connections of its threads would write to
        # Each worker looks for itself, once in a second while it only reads.
        until(lambda: {known.token().status_code for _ in range(16)} == {503})
        assert_unavailable(server.client().get("/health/ready"))
        assert_the_rest_answers(server)
        kill_workers(server)
        client = server.client()
        until(lambda: client.get("/health/live").status_code == 200)
        for ask in known.requests():
            assert_unavailable(ask())
        assert sorted(folder.parent.rglob("*")) == before
        assert re.search("(is not there|is another file).*restart Keyosk", server.log.read_text())
        if what == "folder" and then == "another":
            shutil.rmtree(place)
        away.rename(place)
        until(lambda: known.token().status_code == 200)
        known.is_back()


def test_readiness_looks_for_the_sqlite_file_each_time(tmp_path: Path) -> None:
    """Right after a worker that only reads has looked for it, too."""
    path = tmp_path / "keyosk.db"
    with LiveServer(f"sqlite:///{path}", tmp_path) as server:
        known = Known(server)
        ready = server.client()
        assert ready.get("/health/ready").status_code == 200
        path.rename(path.with_name("away"))
        assert_unavailable(ready.get("/health/ready"))
        path.with_name("away").rename(path)
        known.is_back()


def test_a_relative_path_is_found_in_a_folder_that_was_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By new connections, too; a name may have what a URI writes in another way."""
    (tmp_path / "before").mkdir()
    monkeypatch.chdir(tmp_path / "before")
    database = Database("sqlite:///a folder/100%41.db")
    database.create_file()
    database.ping()
    (tmp_path / "before").rename(tmp_path / "after")
    database.close()
    database.ping()
    database.close()


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int = 8) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir()
    folder.parent.chmod(0o755)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        # Lazily, because an installation in this process has the folder open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_sqlite_file_that_can_be_written_again_is_written_without_a_restart(
    tmp_path: Path,
) -> None:
    """As after its owner or its disk was corrected."""
    with small_disk(tmp_path / "disk", 24) as disk:
        url = f"sqlite:///{disk}/keyosk.db"
        server = LiveServer(url, tmp_path)
        server.start()
        server.kill()  # SQLite reads a file in a read-only folder only beside its other two
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with installed(url) as keyosk:
            assert keyosk.accounts.get("admin").username == "admin"
            with pytest.raises(Unavailable, match="cannot be used"):
                keyosk.roles.create(OPERATOR, name="editor")
            assert keyosk.accounts.get("admin").username == "admin"  # over another connection
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            keyosk.roles.create(OPERATOR, name="editor")


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def assert_whole(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []


def write_until_refused(known: Known) -> list[str]:
    """The names that were acknowledged until a write was refused."""
    names: list[str] = []
    while True:
        name = unique("kept")
        response = known.write(name)
        if response.status_code != 201:
            assert_unavailable(response)
            return names
        names.append(name)


def test_a_full_disk_is_503_for_what_writes_and_no_more(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "keyosk.db"
        with LiveServer(f"sqlite:///{path}", tmp_path, workers="2") as server:
            known = Known(server)
            fill(disk)
            names = write_until_refused(known)
            for _ in range(3):
                assert_unavailable(known.write())
                assert known.token().status_code == 200
                # Each is counted before its password is looked at.
                assert_unavailable(known.login())
                assert_unavailable(server.client("admin", "a wrong password").post("/auth/token"))
                assert known.admin.get("/accounts").status_code == 200
                assert_the_rest_answers(server)
            told = server.log.read_text()
            assert (told.count("disk is full"), told.count(BACK_LINE)) == (1, 0)
            (disk / "filler").unlink()
            known.is_back()
            until(lambda: server.log.read_text().count(BACK_LINE) == 1)
            for name in names:
                assert known.admin.get(f"/roles/{name}").status_code == 200
            server.kill()
            server.start()
            for name in names:
                assert known.admin.get(f"/roles/{name}").status_code == 200
        assert_whole(path)


def test_a_limit_of_file_sizes_is_503_for_what_writes_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "keyosk.db"
    with LiveServer(f"sqlite:///{path}", tmp_path, workers="2") as server:
        known = Known(server)
        assert server.process is not None
        limit = max(Path(f"{path}-wal").stat().st_size, path.stat().st_size) + 200_000
        for worker in psutil.Process(server.process.pid).children():
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (limit, limit))
        names = write_until_refused(known)
        assert names
        assert known.token().status_code == 200
        assert_the_rest_answers(server)
        server.kill()
        server.start()
        known.is_back()
        for name in names:
            assert known.admin.get(f"/roles/{name}").status_code == 200
    assert_whole(path)
