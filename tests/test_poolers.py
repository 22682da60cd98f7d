"""PgBouncer between Keyosk and PostgreSQL, whichever connection a transaction gets there."""

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
import requests

from keyosk.storage import schema
from keyosk.storage.database import Database
from live import ADMIN_PASSWORD, LiveServer, unique
from people import ok
from poolers import pgbouncer
from postgres import PostgresServer
from waiting import until

pytestmark = pytest.mark.slow

MODES = ("session", "transaction")
# Fewer than Keyosk's connections, where they can be shared.
SIZES = {"session": 40, "transaction": 4}

both_modes = pytest.mark.parametrize("mode", MODES)


def execute(url: str, *statements: str) -> list[Any]:
    rows: list[Any] = []
    with psycopg.connect(url, autocommit=True) as session:
        for statement in statements:
            cursor = session.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
    return rows


def in_parallel(number: int, action: Callable[[int], requests.Response]) -> Counter[int]:
    """How ``number`` requests end, 12 at a time, by status."""
    with ThreadPoolExecutor(12) as pool:
        return Counter(response.status_code for response in pool.map(action, range(number)))


def signer(response: requests.Response) -> str:
    """The key that signed a token."""
    header: dict[str, str] = jwt.get_unverified_header(response.json()["access_token"])
    return header["kid"]


@both_modes
def test_all_works_behind_a_pooler_from_the_start(
    postgresql_url: str, tmp_path: Path, mode: str
) -> None:
    with (
        pgbouncer(postgresql_url, mode, size=SIZES[mode]) as pooler,
        LiveServer(pooler.url, tmp_path, workers="2") as server,
    ):
        admin, name = server.admin(), unique("behind")
        person = {"username": name, "password": "a password behind a pooler"}
        ok(admin.post("/accounts", json=person), 201)
        response = admin.post(f"/accounts/{name}/api-keys", json={"name": "ci"})
        assert response.status_code == 201
        by_key = server.client(name, response.json()["secret"])
        by_password = server.client(name, person["password"])
        assert in_parallel(60, lambda _: by_key.post("/auth/token")) == {200: 60}
        assert in_parallel(12, lambda _: by_password.post("/auth/token")) == {200: 12}

        def change(number: int) -> requests.Response:
            return admin.patch(f"/accounts/{name}", json={"display_name": f"Zoë {number}"})

        assert in_parallel(40, change) == {200: 40}
        assert admin.get(f"/accounts/{name}").json()["display_name"].startswith("Zoë ")

        # Enough to be sent by COPY.
        names = [unique("imported") for _ in range(60)]
        body = "\n".join(json.dumps({"username": each}) for each in [*names, name])
        imported = admin.post(
            "/accounts/import", data=body, headers={"Content-Type": "application/jsonl"}
        )
        *results, _ = [json.loads(line) for line in imported.text.splitlines()]
        assert [each["status"] for each in results] == ["created"] * 60 + ["exists"]

        rotated = admin.post("/signing-keys/rotate", json={"now": True})
        assert rotated.status_code == 201
        kid = rotated.json()["kid"]
        until(lambda: signer(by_key.post("/auth/token")) == kid, pause=0.2)

        names = [unique("imported") for _ in range(300)]
        lines = "".join(json.dumps({"username": each}) + "\n" for each in names)
        headers = {"Content-Type": "application/jsonl"}
        sent = admin.post("/accounts/import", data=lines, headers=headers)
        assert json.loads(sent.text.splitlines()[-1])["summary"]["created"] == 300, sent.text

        def twice(_: int) -> requests.Response:
            return admin.post("/roles", json=role, headers={"Idempotency-Key": name})

        role = {"name": unique("role")}
        assert in_parallel(8, twice)[500] == 0
        assert len(admin.get("/roles", params={"limit": 200}).json()["items"]) == 1

        wrong = server.client(name, "not the password at all")
        assert set(in_parallel(40, lambda _: wrong.post("/auth/token"))) == {401, 429}
        assert server.run("database", "check").returncode == 0
        assert server.run("audit", "verify").returncode == 0


@both_modes
def test_nothing_stays_in_a_session_for_others_to_get(
    postgresql_url: str, tmp_path: Path, mode: str
) -> None:
    execute(postgresql_url, "CREATE SCHEMA auth")
    ask = (
        "SELECT current_schema(), current_setting('statement_timeout'),"
        " (SELECT count(*) FROM pg_prepared_statements),"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
    )
    with pgbouncer(postgresql_url, mode, size=1 if mode == "transaction" else 40) as pooler:
        database = Database(pooler.url, schema="auth")
        for _ in range(10):
            database.ping()
        with database.transaction():
            database.lock("anything")
            database.ping()
        assert execute(pooler.url, ask) == [("public", "0", 0, 0)]
        database.close()


def test_two_installations_share_a_pool_by_schema(postgresql_url: str, tmp_path: Path) -> None:
    execute(postgresql_url, "CREATE SCHEMA auth")
    (tmp_path / "other").mkdir()
    with (
        pgbouncer(postgresql_url, "transaction", size=3) as pooler,
        LiveServer(pooler.url, tmp_path) as first,
        LiveServer(pooler.url, tmp_path / "other", database_schema="auth") as second,
    ):
        clients = {"first": first.admin(), "second": second.admin()}
        for name, client in clients.items():
            for number in range(10):
                ok(client.post("/roles", json={"name": f"{name}-{number}"}), 201)
        for name, client in clients.items():
            roles = client.get("/roles").json()["items"]
            assert {role["name"].partition("-")[0] for role in roles} == {name}


def test_one_at_a_time_sets_a_database_up_behind_a_pooler(postgresql_url: str) -> None:
    with pgbouncer(postgresql_url, "transaction") as pooler:
        order = []

        def second() -> None:
            other = Database(pooler.url)
            with schema.exclusive(other):
                order.append("second")
            other.close()

        first = Database(pooler.url)
        with ThreadPoolExecutor(1) as pool:
            with schema.exclusive(first):
                waiting = pool.submit(second)
                with pytest.raises(TimeoutError):
                    waiting.result(timeout=0.5)
                assert schema.upgrade(first)
                order.append("first")
            waiting.result(timeout=60)
        first.close()
        assert order == ["first", "second"]


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_stricter_isolation_by_default_fails_no_request_and_loses_no_change(
    postgres_server: PostgresServer,
    postgresql_url: str,
    tmp_path: Path,
    isolation: str,
    pooled: bool,
) -> None:
    postgres_server.set_for(postgresql_url, "default_transaction_isolation", f"'{isolation}'")
    with pgbouncer(postgresql_url, "transaction", size=12) as pooler:
        used = pooler.url if pooled else postgresql_url
        with LiveServer(used, tmp_path, workers="2") as server:
            admin, name = server.admin(), unique("strict")
            ok(admin.post("/accounts", json={"username": name}), 201)

            def change(number: int) -> requests.Response:
                return admin.patch(f"/accounts/{name}", json={"claims": {f"of-{number}": number}})

            assert in_parallel(60, change) == {200: 60}
            response = admin.get(f"/accounts/{name}")
            assert response.json()["claims"] == {f"of-{number}": number for number in range(60)}
            login = server.client("admin", ADMIN_PASSWORD)
            scope = {"scope": "offline_access", "audience": "keyosk"}
            assert admin.patch("/services/keyosk", json={"refresh_allowed": True}).ok
            session = login.post("/auth/token", data=scope).json()["refresh_token"]
            form = {"grant_type": "refresh_token", "refresh_token": session}
            anyone = server.client()
            ended = in_parallel(12, lambda _: anyone.post("/auth/token", data=form))
            assert set(ended) <= {200, 400}
            names = [unique("key") for _ in range(24)]
            statuses = in_parallel(
                24, lambda n: admin.post(f"/accounts/{name}/api-keys", json={"name": names[n]})
            )
            assert statuses == {201: 24}


@both_modes
def test_a_failing_connection_costs_at_most_one_answer(
    postgresql_url: str, tmp_path: Path, mode: str
) -> None:
    with (
        pgbouncer(postgresql_url, mode, size=SIZES[mode]) as pooler,
        LiveServer(pooler.url, tmp_path, workers="2") as server,
    ):
        admin = server.admin()
        execute(
            postgresql_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        assert_back(server, admin)
        pooler.kill()
        response = admin.get("/accounts")
        assert response.status_code == 503, response.text
        assert server.client().get("/auth/jwks").status_code == 200
        pooler.start()
        assert_back(server, admin)


def assert_back(server: LiveServer, admin: Any) -> None:
    """All is answered again soon, and whatever was not has said that it may be tried again."""
    deadline, good = time.monotonic() + 60, 0
    while good < 20:
        response = admin.post("/roles", json={"name": unique("back")})
        assert response.status_code in (201, 503), response.text
        good = good + 1 if response.status_code == 201 else 0
        assert time.monotonic() < deadline, server.log.read_text()[-3000:]
        if not good:
            time.sleep(0.1)


def test_a_pooler_without_transactions_is_refused(postgresql_url: str, tmp_path: Path) -> None:
    with pgbouncer(postgresql_url, "statement") as pooler:
        server = LiveServer(pooler.url, tmp_path)
        assert "pool_mode = transaction or session" in server.refused()
        result = server.run("account", "list")
        assert (result.returncode, result.stdout) == (1, "")
        assert "pool_mode = transaction or session" in result.stderr


def test_a_parameter_that_a_pooler_does_not_know_is_named(
    postgresql_url: str, tmp_path: Path
) -> None:
    with pgbouncer(postgresql_url, "session") as pooler:
        line = LiveServer(f"{pooler.url}?options=-csearch_path%3Dpublic", tmp_path).refused()
        assert "a connection pooler refuses it" in line
        assert "unsupported startup parameter: options" in line


@pytest.mark.parametrize(
    ("threshold", "pooled", "is_prepared"),
    [
        ("auto", False, True),
        ("auto", True, False),
        ("off", False, False),
        (0, False, True),
        (0, True, True),
    ],
)
def test_statements_are_prepared_as_the_setting_says(
    postgresql_url: str, threshold: int | str, pooled: bool, is_prepared: bool
) -> None:
    with pgbouncer(postgresql_url, "session") as pooler:
        database = Database(pooler.url if pooled else postgresql_url, prepare_threshold=threshold)
        for _ in range(8):
            database.ping()
        [(prepared,)] = database.raw.execute_sql(
            "SELECT count(*) > 0 FROM pg_prepared_statements WHERE statement = 'SELECT 1'"
        ).fetchall()
        assert prepared == is_prepared
        database.close()
