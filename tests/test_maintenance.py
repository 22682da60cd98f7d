"""Backups that can be restored, and a check that finds what is broken."""

import contextlib
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from installed import rows_of
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from keyosk.storage import maintenance
from live import ADMIN_PASSWORD, LiveServer, unique
from people import ok
from postgres import PostgresServer

pytestmark = [pytest.mark.every_database, pytest.mark.slow]

SCOPES = ["kept:read", "kept:write"]
PASSWORD = "seven quiet herons wade"
PARTS = ["integrity", "references", "rows", "services", "signing keys", "audit log"]


def make(server: LiveServer, name: str) -> None:
    """An account with two grants: four rows and more, in one transaction."""
    body = {"username": name, "grants": {"scopes": SCOPES}}
    response = server.admin().post("/accounts", json=body)
    assert response.status_code == 201, response.text


@contextlib.contextmanager
def writing(server: LiveServer) -> Iterator[list[str]]:
    """While others make accounts all the time; the names of those that were acknowledged."""
    names: list[str] = []
    stop, begun = threading.Event(), threading.Event()

    def write() -> None:
        admin = server.admin()
        while not stop.is_set():
            name = unique("kept")
            body = {"username": name, "grants": {"scopes": SCOPES}}
            ok(admin.post("/accounts", json=body), 201)
            names.append(name)
            if len(names) > 10:
                begun.set()

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write) for _ in range(2)]
        assert begun.wait(60)
        try:
            yield names
        finally:
            stop.set()
        for writer in writers:
            writer.result()


def prepare(server: LiveServer) -> None:
    service = {"name": "kept", "scopes": SCOPES}
    ok(server.admin().post("/services", json=service), 201)
    body = {"username": "alice", "password": PASSWORD, "grants": {"scopes": SCOPES}}
    ok(server.admin().post("/accounts", json=body), 201)


def assert_restored(server: LiveServer, names: list[str]) -> None:
    """All is there that was, each account whole; and it goes on from there."""
    checked = server.run("database", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    server.start()
    admin = server.admin()
    for name in names:
        assert admin.get(f"/accounts/{name}/grants").json()["scopes"] == SCOPES, name
    listed = admin.get("/accounts", params={"q": "kept", "limit": 200}).json()["items"]
    for each in listed:  # none half written, also of those that nobody had acknowledged
        assert admin.get(f"/accounts/{each['id']}/grants").json()["scopes"] == SCOPES
    assert server.client("alice", PASSWORD).post("/auth/token").status_code == 200
    make(server, unique("after"))
    assert server.run("audit", "verify").returncode == 0


def test_a_backup_made_under_load_can_be_restored(tmp_path: Path) -> None:
    """The drill of docs/how-to/backup.md, with a secret key that was kept apart."""
    first = tmp_path / "first"
    first.mkdir()
    copy = tmp_path / "backup.db"
    with LiveServer(f"sqlite:///{first / 'keyosk.db'}", first) as server:
        del server.environment["KEYOSK_SECRET_KEY"]
        server.stop()
        shutil.rmtree(first)
        first.mkdir()
        server.start()
        prepare(server)
        with writing(server) as names:
            before = list(names)
            result = server.run("database", "backup", str(copy))
        assert (result.returncode, result.stderr) == (0, "")
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert {path.name for path in tmp_path.iterdir()} == {"first", "backup.db"}
        again = server.run("database", "backup", str(copy))
        assert again.returncode == 1
        assert again.stderr == f"keyosk: {copy}: exists already; give another name\n"
    second = tmp_path / "second"
    second.mkdir(mode=0o700)
    shutil.copy(copy, second / "keyosk.db")
    shutil.copy(first / "keyosk.db.secret", second)
    restored = LiveServer(f"sqlite:///{second / 'keyosk.db'}", second)
    del restored.environment["KEYOSK_SECRET_KEY"]
    try:
        assert_restored(restored, before)
    finally:
        restored.stop()


def test_a_dump_of_postgresql_made_under_load_can_be_restored(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    dump = tmp_path / "keyosk.dump"
    url, other = postgres_server.create_database(), postgres_server.create_database()
    with LiveServer(url, tmp_path) as server:
        prepare(server)
        with writing(server) as names:
            before = list(names)
            postgres_server.tool("pg_dump", "--format=custom", f"--file={dump}", url)
        refused = server.run("database", "backup", str(tmp_path / "file"))
        assert refused.returncode == 1
        assert "pg_dump" in refused.stderr
        assert not (tmp_path / "file").exists()
    postgres_server.tool("pg_restore", "--no-owner", f"--dbname={other}", str(dump))
    restored = LiveServer(other, tmp_path)
    try:
        assert_restored(restored, before)
    finally:
        restored.stop()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing/file", "cannot be made"), (".", "is a directory"), ("-", "name a file")],
)
def test_a_backup_that_cannot_be_made_leaves_nothing(
    server: LiveServer, tmp_path: Path, name: str, reason: str
) -> None:
    result = server.run("database", "backup", name if name == "-" else str(tmp_path / name))
    assert result.returncode in (1, 2)
    assert reason in result.stderr or "pg_dump" in result.stderr
    assert list(tmp_path.iterdir()) == []


# ---- What check finds ----------------------------------------------------------------------------


def faults(installation: Installation) -> dict[str, tuple[str, ...]]:
    findings = installation.maintenance.check()
    assert [each.name for each in findings] == PARTS
    return {each.name: each.faults for each in findings if each.faults}


def change(installation: Installation, sql: str, *values: Any) -> None:
    """As somebody does who has the database."""
    if not installation.database.is_sqlite:
        sql = sql.replace("?", "%s")
    installation.database.raw.execute_sql(sql, values)


def test_a_sound_database_has_no_faults(installation: Installation) -> None:
    assert faults(installation) == {}


@pytest.mark.fault
def test_a_key_that_does_not_open_is_found(installation: Installation) -> None:
    [(kid, sealed)] = rows_of(installation, "SELECT kid, sealed FROM signing_key")
    broken = bytes(sealed)[:-1] + bytes([bytes(sealed)[-1] ^ 1])
    change(installation, "UPDATE signing_key SET sealed = ? WHERE kid = ?", broken, kid)
    assert faults(installation) == {
        "signing keys": (f"{kid} does not open with the secret key",),
        "audit log": ("cannot be proven without the signing keys",),
    }


@pytest.mark.attack
def test_a_changed_row_of_the_audit_log_is_found(installation: Installation) -> None:
    installation.audit.seal()
    change(installation, "UPDATE audit_row SET action = ? WHERE sequence = 2", "nothing.happened")
    assert faults(installation) == {"audit log": ("row 2 was changed",)}


@pytest.mark.fault
def test_a_row_that_refers_to_nothing_is_found(installation: Installation) -> None:
    if not installation.database.is_sqlite:
        pytest.skip("PostgreSQL checks references whoever writes")
    change(installation, "PRAGMA foreign_keys = 0")
    change(installation, "UPDATE \"grant\" SET scope_id = 'gone'")
    assert list(faults(installation)) == ["references"]


@pytest.mark.fault
def test_text_that_is_not_the_json_that_it_should_be_is_found(installation: Installation) -> None:
    for number in range(3):
        installation.grants.create_account(OPERATOR, [], username=f"user{number}")
    [(service,)] = rows_of(installation, "SELECT id FROM service")
    [(first,), _, (last,)] = rows_of(
        installation, "SELECT id FROM account WHERE username <> 'admin' ORDER BY id"
    )
    change(installation, "UPDATE account SET claims = ? WHERE id = ?", "{", first)
    change(installation, "UPDATE account SET metadata = ? WHERE id = ?", "null", last)
    change(installation, "UPDATE service SET claims = ?", '{"email": 1}')
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(maintenance, "_AT_ONCE", 1)  # rows of a page
        assert faults(installation) == {
            "rows": (
                f"account {first}: claims is no JSON object",
                f"account {last}: metadata is no JSON object",
                f"service {service}: claims is no JSON list",
            )
        }


@pytest.mark.fault
def test_a_broken_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "keyosk.db"
    with LiveServer(f"sqlite:///{path}", tmp_path) as server:
        prepare(server)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(page,)] = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'account_username'"
        )
        [(size,)] = database.execute("PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * size + size - 40)
        file.write(bytes(40))
    result = server.run("database", "check")
    assert result.returncode == 1, result.stdout
    assert "integrity" in result.stdout


@pytest.mark.fault
def test_a_broken_page_of_postgresql_is_found(tmp_path: Path) -> None:
    with PostgresServer(durable=True) as postgres:
        url = postgres.create_database()
        with LiveServer(url, tmp_path) as server:
            prepare(server)
        with psycopg.connect(url) as connection:
            [found] = connection.execute(
                "SELECT pg_relation_filepath('account'), pg_relation_filepath('audit_row')"
            ).fetchall()
        with postgres.halted() as data:
            for name in found:
                with (data / name).open("r+b") as file:
                    file.seek(64)
                    file.write(bytes([0xFF]) * 512)
        result = server.run("database", "check")
        assert result.returncode == 1
        # All parts are looked at, also those that such damage is in the way of.
        assert [line.split("  ")[0] for line in result.stdout.splitlines()] == ["part", *PARTS]
        integrity, audit = (
            next(line for line in result.stdout.splitlines() if line.startswith(part))
            for part in ("integrity", "audit log")
        )
        assert "account: invalid page" in integrity
        assert "audit_row: invalid page" in integrity
        assert "cannot be read: invalid page" in audit


@pytest.mark.fault
def test_an_internal_error_of_postgresql_was_told_as_an_outage(
    database_url: str, backend: str, tmp_path: Path
) -> None:
    if backend != "postgresql":
        pytest.skip("SQLite has no such error")
    with LiveServer(database_url, tmp_path) as server:
        admin = server.admin()
        with psycopg.connect(database_url) as connection:
            connection.execute(
                """CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'impossible length' USING ERRCODE = 'XX000'; END $$"""
            )
            connection.execute(
                "CREATE TRIGGER fail BEFORE INSERT ON role FOR EACH ROW EXECUTE FUNCTION fail()"
            )
        response = admin.post("/roles", json={"name": "editor", "scopes": []})
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        # Nobody else has to wait.
        assert admin.get("/roles").status_code == 200
        assert server.client().get("/health/ready").status_code == 200
    said = server.log.read_text()
    assert "The database is damaged: impossible length." in said
    assert "not available" not in said


def test_check_shows_each_part(server: LiveServer) -> None:
    result = server.run("database", "check")
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == ["part", *PARTS]
    assert server.client("admin", ADMIN_PASSWORD).post("/auth/token").status_code == 200
