"""A SQLite database moves to PostgreSQL with all that is in it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from live import ADMIN_PASSWORD, LiveServer
from people import ok
from postgres import PostgresServer
from terminal import Done, keyosk

pytestmark = pytest.mark.slow

PASSWORD = "seven quiet herons wade"
OTHER_SECRET_KEY = "b" * 43
#: As its issuer, which tokens name, the database's place is the only thing that changes.
ISSUER = "https://login.example.org"


@pytest.fixture
def empty(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


def loading(url: str, server: LiveServer, file: Path, **settings: str) -> Done:
    """How "keyosk database load" ends with the settings of a server, but for the database."""
    environment = {**server.environment, "KEYOSK_DATABASE_URL": url, **settings}
    return keyosk(environment, file.parent, "database", "load", str(file))


def made(folder: Path) -> Path:
    """The file of a Keyosk that was set up."""
    file = folder / "keyosk.db"
    server = LiveServer(f"sqlite:///{file}", folder)
    assert keyosk(server.environment, folder, "database", "upgrade").code == 0
    return file


def test_everything_is_there_after_a_move_to_postgresql(empty: str, tmp_path: Path) -> None:
    file = tmp_path / "keyosk.db"
    with LiveServer(f"sqlite:///{file}", tmp_path, issuer=ISSUER) as server:
        admin = server.admin()
        scopes = ["todo:read", "todo:write"]
        body = {"name": "todo", "scopes": scopes, "refresh_allowed": True}
        assert admin.post("/services", json=body).ok
        assert admin.post("/roles", json={"name": "editor", "scopes": scopes}).ok
        body = {"username": "alice", "password": PASSWORD, "claims": {"team": "bl\u00fce"}}
        assert admin.post("/accounts", json=body).ok
        grants = {"scopes": [{"name": "todo:read", "with": "password"}], "roles": ["editor"]}
        assert admin.put("/accounts/alice/grants", json=grants).ok
        key = admin.post("/accounts/alice/api-keys", json={"name": "laptop"}).json()["secret"]
        alice = server.client("alice", PASSWORD)
        asked = {"scope": "todo:read offline_access"}
        issued = alice.post("/auth/token", data=asked).json()
        revoked = alice.post("/auth/token").json()["access_token"]
        assert alice.post("/auth/revoke", data={"token": revoked}).ok
        account = admin.get("/accounts/alice").json()
        kept = admin.get("/accounts/alice/grants").json()

    result = loading(empty, server, file)
    assert result.code == 0, result.err
    assert "keyosk database check" in result.out
    folder = tmp_path / "moved"
    folder.mkdir()
    with LiveServer(empty, folder, issuer=ISSUER) as moved:
        assert keyosk(moved.environment, folder, "database", "check").code == 0
        assert keyosk(moved.environment, folder, "audit", "verify").code == 0
        assert moved.client("alice", key).post("/auth/token").status_code == 200
        alice = moved.client("alice", PASSWORD)
        for text, is_active in ((issued["access_token"], True), (revoked, False)):
            introspected = alice.post("/auth/introspect", data={"token": text}).json()
            assert introspected["active"] is is_active
        asked = {"grant_type": "refresh_token", "refresh_token": issued["refresh_token"]}
        assert moved.client().post("/auth/token", data=asked).status_code == 200
        admin = moved.admin()
        shown = admin.get("/accounts/alice").json()
        assert {**shown, "last_login_at": None} == {**account, "last_login_at": None}
        assert admin.get("/accounts/alice/grants").json() == kept
        # What PostgreSQL numbers goes on.
        more = {"add": {"scopes": ["keyosk:audit:read"]}}
        ok(admin.patch("/accounts/alice/grants", json=more))


def test_nothing_is_copied_under_another_secret_key(empty: str, tmp_path: Path) -> None:
    file = made(tmp_path)
    server = LiveServer(f"sqlite:///{file}", tmp_path)
    said = loading(empty, server, file, KEYOSK_SECRET_KEY=OTHER_SECRET_KEY).refused()
    assert "KEYOSK_SECRET_KEY" in said
    assert loading(empty, server, file).code == 0


def test_a_database_that_is_in_use_is_left_alone(empty: str, tmp_path: Path) -> None:
    file = made(tmp_path)
    server = LiveServer(f"sqlite:///{file}", tmp_path)
    assert loading(empty, server, file).code == 0
    assert "is in use already" in loading(empty, server, file).refused()
    # Neither is one of an older Keyosk upgraded, as others may be using it.
    newest = "(SELECT max(name) FROM schema_migration)"
    with psycopg.connect(empty, autocommit=True) as database:
        database.execute(f"DELETE FROM schema_migration WHERE name = {newest}")
        [known] = database.execute(newest).fetchall()
        assert "is in use already" in loading(empty, server, file).refused()
        assert database.execute(newest).fetchall() == [known]
    assert "copy the file" in loading(f"sqlite:///{tmp_path / 'other.db'}", server, file).refused()
    assert not (tmp_path / "other.db").exists()


def test_a_file_that_is_no_database_of_this_version_is_refused(empty: str, tmp_path: Path) -> None:
    file = made(tmp_path)
    server = LiveServer(f"sqlite:///{file}", tmp_path)
    assert "there is no file" in loading(empty, server, tmp_path / "no.db").refused()
    (tmp_path / "text.db").write_text("no database, " * 1000)
    assert "not a database" in loading(empty, server, tmp_path / "text.db").refused()
    with closing(sqlite3.connect(file)) as database:
        [(name,)] = database.execute("SELECT max(name) FROM schema_migration").fetchall()
        database.execute("DELETE FROM schema_migration WHERE name = ?", (name,))
        database.commit()
    assert "upgrade it first" in loading(empty, server, file).refused()
    assert ADMIN_PASSWORD not in loading(empty, server, file).err
