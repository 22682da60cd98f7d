"""A database that is set up in another way than ours: it works, or one sentence says why not."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from keyosk.errors import DatabaseUnusable, Unavailable
from keyosk.storage.database import Database
from live import ADMIN_PASSWORD, Client, LiveServer, unique
from people import ok
from postgres import ROLE, PostgresServer
from tables import table

pytestmark = [pytest.mark.every_database, pytest.mark.slow]

PASSWORD = "hidden-word-of-postgres"


def refusal(server: LiveServer) -> str:
    """The one line with which ``serve`` ends instead of waiting."""
    [line] = server.refused().splitlines()
    assert line.startswith("keyosk: ")
    assert PASSWORD not in line
    return line


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as session:
        for statement in statements:
            session.execute(statement.encode())


def tables_of(url: str, schema: str) -> set[str]:
    with psycopg.connect(url) as session:
        rows = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,))
        return {name for (name,) in rows}


# --- Said, and not waited for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("keyosk@", f"guarded:{PASSWORD}@"), 'password authentication failed for user "guarded"'),
        (("keyosk@", f"nobody:{PASSWORD}@"), "no pg_hba.conf entry"),
        (("/keyosk_", "/missing_"), "does not exist"),
        (("?", "?sslmode=require&"), "server does not support SSL"),
        (("?", "?sslmode=never&"), "invalid sslmode value"),
        (("?", "?options=-csynchronous_commit%3Doff"), "options set synchronous_commit to off"),
        (("?", "?options=-cstatement_timeout%3D0"), "options set statement_timeout to 0"),
        (("?", "?options=-cdefault_transaction_read_only%3Don"), "default_transaction_read_only"),
        (("?", "?options=-cno_such%3D1"), "no_such"),
        (("?", "?options=-csearch_path%3Dmissing"), "no schema of the search path"),
    ],
)
def test_what_never_gets_better_is_refused_with_the_databases_own_reason(
    postgres_server: PostgresServer, tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    url = f"{postgres_server.create_database()}?".replace(*change)
    assert reason in refusal(LiveServer(url, tmp_path))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_is_not_utf8_is_refused(
    postgres_server: PostgresServer, tmp_path: Path, encoding: str
) -> None:
    options = f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    url = postgres_server.create_database(options=options)
    assert f"its encoding is {encoding}" in refusal(LiveServer(url, tmp_path))


def test_a_schema_that_is_missing_or_closed_is_refused(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.create_database()
    server = LiveServer(url, tmp_path, database_schema="auth")
    assert "there is no schema auth" in refusal(server)
    execute(url, "CREATE SCHEMA auth", f"REVOKE CREATE ON SCHEMA auth FROM {ROLE}")
    server.log.unlink()
    assert "permission denied for schema auth" in refusal(server)


@pytest.mark.parametrize("kind", ["folder", "file below a file", "no database"])
def test_a_sqlite_path_that_cannot_be_one_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder").mkdir(mode=0o755)
    (tmp_path / "file").write_bytes(b"anything" * 1000)
    path, reason = {
        "folder": ("folder", "is a folder"),
        "file below a file": ("file/keyosk.db", "Not a directory"),
        "no database": ("file", "file is not a database"),
    }[kind]
    assert reason in refusal(LiveServer(f"sqlite:///{tmp_path / path}", tmp_path))
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


# --- Waited for -----------------------------------------------------------------------------------


def why_it_waits(url: str) -> str:
    """The reason of a failure that passes by itself, as the database gives it."""
    database = Database(url)
    try:
        with pytest.raises(Unavailable) as caught:
            database.ping()
    finally:
        database.close()
    assert not isinstance(caught.value, DatabaseUnusable), caught.value.explanation
    return str(caught.value.reason)


def test_a_database_with_no_free_connection_is_awaited(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database(options="CONNECTION LIMIT 0")
    assert "too many connections for database" in why_it_waits(url)


def test_a_server_without_room_or_that_is_ending_is_waited_for() -> None:
    with PostgresServer() as server, contextlib.ExitStack() as sessions:
        url = server.create_database()
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                sessions.enter_context(psycopg.connect(url))
        said = why_it_waits(url)
        assert "too many clients" in said or "connection slots are reserved" in said
        server.announce_end()
        waited = time.monotonic() + 60
        while "shutting down" not in (said := why_it_waits(url)):
            assert time.monotonic() < waited, said


# --- What the URL says counts ---------------------------------------------------------------------


@pytest.mark.parametrize("by", ["URL", "PGOPTIONS", "setting"])
def test_the_tables_are_in_the_schema_that_was_asked_for(
    postgres_server: PostgresServer, tmp_path: Path, by: str
) -> None:
    url = postgres_server.create_database()
    execute(url, 'CREATE SCHEMA "au""th"')
    path = '-csearch_path="au""th"'
    options = {"database_schema": 'au"th'} if by == "setting" else {}
    asked = f"{url}?application_name=mine" + (f"&options={path}" if by == "URL" else "")
    server = LiveServer(asked, tmp_path, workers="2", **options)
    if by == "PGOPTIONS":
        server.environment["PGOPTIONS"] = path
    with server:
        ok(server.admin().post("/roles", json={"name": unique("role")}), 201)
        checked = server.run("database", "check")
        assert (checked.returncode, checked.stderr) == (0, "")
        with psycopg.connect(url) as session:
            names = session.execute(
                "SELECT DISTINCT application_name FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
        assert names == [("mine",)]
    assert "account" in tables_of(url, 'au"th')
    assert tables_of(url, "public") == set()


def test_a_search_path_beside_a_schema_is_refused(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = f"{postgres_server.create_database()}?options=-csearch_path%3Dpublic"
    server = LiveServer(url, tmp_path, database_schema="auth")
    assert "options set a search_path, and KEYOSK_DATABASE_SCHEMA" in refusal(server)


def test_two_installations_share_a_database_by_schema(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.create_database()
    execute(url, "CREATE SCHEMA auth")
    (tmp_path / "other").mkdir()
    with LiveServer(url, tmp_path) as first:
        first.admin().post("/roles", json={"name": "of-first"})
        with LiveServer(url, tmp_path / "other", database_schema="auth") as second:
            assert second.admin().get("/roles/of-first").status_code == 404
            assert first.admin().get("/roles/of-first").status_code == 200


def test_the_defaults_of_a_role_do_not_change_what_is_promised(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.create_database()
    for setting, value in {
        "default_transaction_isolation": "'serializable'",
        "synchronous_commit": "off",
        "statement_timeout": "'50ms'",
        "lock_timeout": "'1ms'",
        "idle_session_timeout": "'200ms'",
        "idle_in_transaction_session_timeout": "'1ms'",
        "client_encoding": "'LATIN1'",
    }.items():
        postgres_server.set_for(url, setting, value)
    with LiveServer(url, tmp_path, workers="2") as server:
        admin = server.admin()
        name = unique("changed")
        ok(admin.post("/accounts", json={"username": name}), 201)

        def change(number: int) -> requests.Response:
            return admin.patch(f"/accounts/{name}", json={"display_name": f"Zoë 李雷 {number}"})

        with ThreadPoolExecutor(16) as pool:
            responses = list(pool.map(change, range(80)))
        assert [response.status_code for response in responses] == [200] * 80
        time.sleep(0.3)  # longer than those sessions were to be idle
        assert change(81).status_code == 200
        unknown = "李雷".encode().decode("latin-1")  # requests sends Basic in that
        assert server.client(unknown, "a wrong password").post("/auth/token").status_code == 401


def test_of_several_servers_the_one_that_takes_writes_is_used(
    postgres_server: PostgresServer,
) -> None:
    def server_of(url: str) -> object:
        database = Database(url)
        [(port,)] = database._execute("SELECT inet_server_port()", ())
        database.close()
        return port

    with PostgresServer() as standby:
        reading, writing = standby.create_database(), postgres_server.create_database()
        execute(reading, f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
        ports = [psycopg.conninfo.conninfo_to_dict(url)["port"] for url in (reading, writing)]
        both = f"postgresql://{ROLE}@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/postgres"
        assert server_of(both) == int(str(ports[1]))
        assert server_of(f"{both}?target_session_attrs=any") == int(str(ports[0]))
        neither = f"postgresql://{ROLE}@127.0.0.1:{ports[0]},127.0.0.1:{ports[0]}/postgres"
        with pytest.raises(Unavailable) as refused:
            Database(neither).ping()
        assert refused.value.reason == (
            f'connection to server at "127.0.0.1", port {ports[0]} failed: session is read-only'
        )


# --- Values that no database can hold -------------------------------------------------------------

NUL, HALF = "a\0b", "a\ud800b"
HUGE = ("9223372036854775807", "9223372036854775808", "9" * 400)


@table("number", HUGE)
def test_a_version_beyond_64_bits_is_stale_and_not_an_error(admin: Client, number: str) -> None:
    name = unique("versioned")
    for path, body in (("/accounts", {"username": name}), ("/roles", {"name": name})):
        ok(admin.post(path, json=body), 201)
        headers = {"If-Match": f'"{number}"'}
        for method in ("PATCH", "DELETE"):
            options: dict[str, Any] = {"json": {}} if method == "PATCH" else {}
            response = admin.request(method, f"{path}/{name}", headers=headers, **options)
            assert response.status_code == 412, response.text


@table("number", [*HUGE, "-1", "1e3"])
@table("place", ["limit", "since", "cursor", "created_after", "lifetime"])
def test_a_number_that_no_database_holds_is_the_callers_fault(
    admin: Client, server: LiveServer, place: str, number: str
) -> None:
    if place == "lifetime":
        login = server.client("admin", ADMIN_PASSWORD)
        response = login.post("/auth/token", data={"lifetime": number})
    else:
        path = "/auth/revocations" if place == "since" else "/accounts"
        response = admin.get(path, params={place: number})
    assert 400 <= response.status_code < 500, response.text


@table("text", [NUL, HALF])
def test_text_that_no_database_holds_is_the_callers_fault(
    admin: Client, server: LiveServer, text: str
) -> None:
    name = unique("service")
    bodies = [
        ("/accounts", {"username": text}),
        ("/accounts", {"username": unique("u"), "display_name": text}),
        ("/accounts", {"username": unique("u"), "claims": {"a": [{text: 1}]}}),
        ("/accounts", {"username": unique("u"), "metadata": {"a": text}}),
        ("/accounts", {"username": unique("u"), "grants": {"scopes": [text]}}),
        ("/accounts", {"username": unique("u"), "grants": {"roles": [text]}}),
        ("/roles", {"name": text}),
        ("/roles", {"name": unique("r"), "description": text, "scopes": [text]}),
        ("/services", {"name": text}),
        ("/services", {"name": name, "audience": text}),
        ("/services", {"name": name, "scopes": [{"name": "a:b", "description": text}]}),
        ("/accounts/admin/api-keys", {"name": text}),
        ("/auth/explain", {"account": text}),
        ("/auth/token", {"audience": text}),
        ("/auth/token", {"scope": text}),
        ("/auth/introspect", {"token": text}),
        ("/auth/revoke", {"token": text}),
        ("/auth/token", {"grant_type": "refresh_token", "refresh_token": text}),
    ]
    login = server.client("admin", ADMIN_PASSWORD)
    for path, body in bodies:
        client = admin if not path.startswith("/auth/") else login
        response = client.post(path, json=body)
        assert 400 <= response.status_code < 500, (path, body, response.text)
    for path in ("/accounts", "/roles", "/services", "/audit", "/api-keys"):
        for parameter in ("q", "cursor", "sort", "username", "target", "prefix", "x%00y"):
            response = admin.get(f"{path}?{parameter}=a%00b")
            assert 400 <= response.status_code < 500, (path, parameter, response.text)
    for path in ("/accounts/a%00b", "/roles/a%00b", "/services/a%00b/scopes", "/signing-keys/%00"):
        assert admin.get(path).status_code == 404
