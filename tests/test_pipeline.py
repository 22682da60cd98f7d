"""What the event loop reads from PostgreSQL: all over one connection, and without waiting."""

import random
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import jwt
import peewee
import psycopg
import pytest
import requests

from event_loops import EventLoop, Left
from installed import Clock, installed
from keyosk import app
from keyosk.model import OPERATOR, Grant, Scope
from keyosk.storage import pipeline
from keyosk.storage.compiled import Compiled, parameter
from keyosk.storage.database import Database
from live import ADMIN_PASSWORD, LiveServer, unique
from people import PASSWORD
from postgres import PostgresServer
from waiting import until


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def loop(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventLoop]:
    """A loop that can read it."""
    monkeypatch.setattr(pipeline, "_PAUSE", 0)
    with EventLoop() as loop:
        make_ready(loop, database)
        yield loop


def make_ready(loop: EventLoop, database: Database) -> None:
    """Have a thread read something, as the server's do, after the loop wanted a connection."""
    assert not loop.is_ready(database)
    echo(database)(value="from a thread")
    assert loop.is_ready(database)


def echo(database: Database) -> Compiled:
    """A statement that returns what it is given, and when its transaction began, and where."""
    called = (peewee.fn.transaction_timestamp(), peewee.fn.pg_backend_pid())
    return database.compile(peewee.Select(columns=[parameter("value"), *called]))


def select(database: Database, sql: str) -> Compiled:
    return database.compile(peewee.Select(columns=[peewee.SQL(sql)]))


def test_all_read_over_one_connection_and_each_gets_its_own(
    database: Database, loop: EventLoop
) -> None:
    same = echo(database)

    def read(number: int) -> list[Any]:
        return [same(value=f"{number}.{step}")[0] for step in range(3)]

    responses: list[Any] = loop.at_once(*(partial(read, number) for number in range(40)))
    for number, rows in enumerate(responses):
        assert [value for value, _, _ in rows] == [f"{number}.{step}" for step in range(3)]
    assert len({pid for rows in responses for _, _, pid in rows}) == 1
    # What they read at the same time was sent together.
    assert len({moment for rows in responses for _, moment, _ in rows}) == 3


def test_values_come_back_as_they_were_given(database: Database, loop: EventLoop) -> None:
    same = echo(database)
    values = ("Zoë", "", None, True, False, -1, 0, 70_000, 1 << 40, 1.5, b"\0\xff")
    responses: list[Any] = loop.at_once(*(partial(same, value=value) for value in values))
    assert [rows[0][0] for rows in responses] == list(values)


@pytest.mark.parametrize("wrong", ["a\0b", "\udc80"])
def test_a_value_that_no_statement_can_have_leaves_and_closes_nothing(
    database: Database, loop: EventLoop, wrong: str
) -> None:
    same = echo(database)
    asked = [partial(same, value=value) for value in ("before", wrong, "after")]
    before, left, after = loop.at_once(*asked)
    assert isinstance(left, Left)
    assert (before[0][0], after[0][0]) == ("before", "after")  # type: ignore[index]
    assert loop.is_ready(database)


@pytest.mark.parametrize("sql", ["1 / 0", "pg_terminate_backend(pg_backend_pid())"])
def test_after_an_error_all_begin_again_in_threads_and_the_next_ones_do_not(
    database: Database, loop: EventLoop, sql: str
) -> None:
    same, wrong = echo(database), select(database, sql)
    before, *others = loop.at_once(partial(same, value=1), wrong, partial(same, value=2))
    assert all(isinstance(each, Left) for each in others)
    assert isinstance(before, (Left, list))
    make_ready(loop, database)
    assert loop.at_once(partial(same, value=3))[0][0][0] == 3  # type: ignore[index]


def test_a_session_that_ended_while_nobody_used_it_is_replaced(
    database: Database, loop: EventLoop
) -> None:
    responses: list[Any] = loop.at_once(select(database, "pg_backend_pid()"))
    [[(pid,)]] = responses
    select(database, f"pg_terminate_backend({pid}, 10000)")()
    # The loop sees it at once, or by the next who asks.
    loop.at_once(partial(echo(database), value=1))
    make_ready(loop, database)


def test_a_statement_whose_table_was_changed_works_again(
    database: Database, loop: EventLoop
) -> None:
    database.raw.execute_sql("CREATE TABLE number (value integer)")
    database.raw.execute_sql("INSERT INTO number VALUES (1)")
    read = select(database, "value FROM number")
    assert loop.at_once(read) == [[(1,)]]
    database.raw.execute_sql("ALTER TABLE number ALTER value TYPE bigint")
    assert isinstance(loop.at_once(read)[0], Left)
    make_ready(loop, database)
    assert loop.at_once(read) == [[(1,)]]


def test_a_request_that_finds_the_connection_dead_lets_the_others_go_on(
    database: Database, loop: EventLoop
) -> None:
    same, slow = echo(database), select(database, "pg_sleep(60)")

    def wait() -> list[Any]:
        same(value=1)
        return slow()

    def find() -> list[Any]:
        same(value=1)
        database._outage.begin()  # as a thread does when it was not answered
        return same(value=2)

    assert all(isinstance(each, Left) for each in loop.at_once(wait, wait, find))


def test_a_server_that_does_not_respond_is_left_to_threads(
    database: Database, loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have connections of their own, and find out whether it responds to nobody."""
    monkeypatch.setattr(pipeline, "_PATIENCE", 0.5)
    responses = loop.at_once(select(database, "pg_sleep(60)"), partial(echo(database), value=1))
    assert all(isinstance(each, Left) for each in responses)
    assert not database._outage.is_on
    assert not loop.is_ready(database)


def test_a_slow_server_that_responds_is_waited_for(database: Database, loop: EventLoop) -> None:
    slow = select(database, f"1 FROM pg_sleep({pipeline._PATIENCE * 3 / 8})")
    assert loop.at_once(*[slow] * 4, in_one_turn=False) == [[(1,)]] * 4


def test_a_connection_from_before_an_outage_is_not_used(
    database: Database, loop: EventLoop
) -> None:
    database._outage.begin()
    assert isinstance(loop.at_once(partial(echo(database), value=1))[0], Left)


@pytest.fixture
def add(database: Database, loop: EventLoop) -> Compiled:
    """A statement that inserts a value, which must not be there before; checked at the commit."""
    database.raw.execute_sql(
        "CREATE TABLE number (value text UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    )
    returned = (peewee.SQL("value"), peewee.fn.transaction_timestamp())
    query = peewee.Table("number", ("value",)).insert(value=parameter("value"))
    add = database.compile(query.returning(*returned), writes=True)
    assert isinstance(loop.at_once(partial(add, value="wanted"))[0], Left)
    add(value="from a thread, which opens the connection")
    return add


def test_what_one_turn_writes_is_one_transaction_and_committed_before_its_requests_go_on(
    database: Database, loop: EventLoop, add: Compiled, url: str
) -> None:
    def write(value: str) -> tuple[Any, set[str]]:
        rows = add(value=value)
        with psycopg.connect(url) as other:
            seen = other.execute("SELECT value FROM number").fetchall()
        return rows, {value for (value,) in seen}

    values = [f"{number}" for number in range(20)]
    responses: list[Any] = loop.at_once(*(partial(write, value) for value in values))
    for value, (rows, seen) in zip(values, responses, strict=True):
        assert [value for value, _ in rows] == [value]
        assert seen >= set(values)
    assert len({moment for rows, _ in responses for _, moment in rows}) == 1


def test_what_fails_at_the_commit_is_nobodys_success(
    database: Database, loop: EventLoop, add: Compiled
) -> None:
    responses = loop.at_once(*(partial(add, value=value) for value in ("a", "same", "same", "b")))
    assert all(isinstance(each, Left) for each in responses)
    assert len(select(database, "value FROM number")()) == 1


def test_nothing_is_read_behind_what_is_written(
    database: Database, loop: EventLoop, add: Compiled, url: str
) -> None:
    ended: list[str] = []
    same = echo(database)

    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE number IN EXCLUSIVE MODE")

        def write() -> None:
            add(value="late")
            ended.append("write")

        def read() -> None:
            for _ in range(3):
                same(value=1)
            ended.append("read")
            other.rollback()

        loop.at_once(write, read)
    assert ended == ["read", "write"]


def test_no_more_wait_than_a_few(database: Database, loop: EventLoop) -> None:
    same = echo(database)
    responses = loop.at_once(*(partial(same, value=1) for _ in range(pipeline._MOST + 3)))
    assert [isinstance(each, Left) for each in responses].count(True) == 3
    assert all(isinstance(each, Left) for each in responses[-3:])


def test_a_second_connection_is_closed_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_PAUSE", 0)
    opened = select(database, "count(*) FROM pg_stat_activity WHERE datname = current_database()")
    with EventLoop() as loop:
        assert not loop.is_ready(database)
        for _ in range(3):  # before the loop gets to use the first
            opened()
        assert loop.is_ready(database)
        until(lambda: opened() == [(2,)])


def test_what_is_not_to_be_prepared_is_read_in_threads(url: str) -> None:
    database = Database(url, prepare_threshold="off")
    with EventLoop() as loop:
        for _ in range(2):
            assert not loop.is_ready(database)
            echo(database)(value=1)
    database.close()


@pytest.mark.every_database
def test_what_the_loop_reads_is_read_without_a_thread(
    prepared_url: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of these requests is tried in the loop only to begin again."""
    clock = Clock(time.time())  # it stands still: the signing keys are not read again
    with installed(prepared_url, clock=clock) as keyosk, EventLoop() as loop:
        scopes = [Scope("todo:read")]
        keyosk.services.create(OPERATOR, name="todo", scopes=scopes)
        grants = [Grant("todo:read")]
        keyosk.grants.create_account(OPERATOR, grants, username="alice", password=PASSWORD)
        secret = keyosk.api_keys.create(OPERATOR, "alice", name="k").secret
        keyosk.services.change(OPERATOR, "todo", {"account": "alice"})
        client = app.create_app(keyosk).test_client()

        def token(username: str, secret: str, **form: str) -> str:
            response = client.post("/auth/token", auth=(username, secret), data=form)
            response.close()
            text: str = response.get_json()["access_token"]
            return text

        mine = token("alice", secret)
        admins = token("admin", ADMIN_PASSWORD, audience="keyosk")
        if backend == "postgresql":
            make_ready(loop, keyosk.database)

        def ask(method: str, path: str, **options: Any) -> int:
            response = client.open(path, method=method, **options)
            response.close()
            return response.status_code

        assert (
            loop.at_once(
                partial(ask, "POST", "/auth/token", auth=("alice", secret)),
                partial(
                    ask, "POST", "/auth/introspect", auth=("alice", secret), data={"token": mine}
                ),
                partial(
                    ask, "GET", "/auth/forward/todo", headers={"Authorization": f"Bearer {mine}"}
                ),
                partial(
                    ask, "GET", "/accounts/alice", headers={"Authorization": f"Bearer {admins}"}
                ),
            )
            == [200] * 4
        )


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(url, tmp_path, workers="1", threads="2") as server:
        yield server


def accounts(server: LiveServer, number: int) -> list[tuple[str, str]]:
    """Accounts with their API keys, each used once."""
    admin, made = server.admin(), []
    for _ in range(number):
        username = unique("account")
        admin.post("/accounts", json={"username": username, "kind": "machine"})
        key = admin.post(f"/accounts/{username}/api-keys", json={"name": "k"}).json()["secret"]
        assert token(server, (username, key)).status_code == 200
        made.append((username, key))
    return made


def token(server: LiveServer, login: tuple[str, str], **options: Any) -> requests.Response:
    return server.client(*login).post("/auth/token", **options)


@pytest.mark.slow
def test_everybody_gets_their_own_token_while_sessions_end(server: LiveServer, url: str) -> None:
    """Each connection asks for the tokens of all at once, and ends one of the server's sessions."""
    keys = dict(accounts(server, 50))
    ending = (
        "SELECT pg_terminate_backend((SELECT pid FROM pg_stat_activity WHERE datname ="
        " current_database() AND application_name = 'keyosk' ORDER BY random() LIMIT 1))"
    )

    def ask(number: int) -> int:
        names, served = random.Random(number).sample([*keys], len(keys)), 0
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
            connection.makefile("rb") as responses,
            psycopg.connect(url, autocommit=True) as session,
        ):
            for turn in range(8):
                connection.sendall(b"".join(_asking(keys[name]) for name in names))
                if turn == number % 8:
                    session.execute(ending)
                for name in names:
                    status, body = _response(responses)
                    assert status in (200, 503), body
                    if status == 200:
                        claims = jwt.decode(body, options={"verify_signature": False})
                        assert claims["preferred_username"] == name
                        served += 1
        return served

    with ThreadPoolExecutor(16) as pool:
        served = sum(pool.map(ask, range(16)))
    assert served > 0.9 * 16 * 8 * len(keys)


def _asking(key: str) -> bytes:
    # By the key alone, as rows of another account would be refused beside a username.
    head = f"GET /auth/token?format=token HTTP/1.1\r\nHost: keyosk\r\nAuthorization: Bearer {key}"
    return f"{head}\r\n\r\n".encode()


def _response(responses: BinaryIO) -> tuple[int, bytes]:
    """The status and body of the next response of a connection."""
    head = b"".join(iter(responses.readline, b"\r\n")).decode()
    [length] = re.findall(r"(?im)^content-length: (\d+)", head)
    return int(head.split()[1]), responses.read(int(length)).strip()


@pytest.mark.slow
def test_a_refresh_waits_for_no_other_session(server: LiveServer, url: str) -> None:
    """The loop's transaction has several of them: it never waits for one that is locked."""
    admin = server.admin()
    service = {"name": "todo", "scopes": ["todo:read"], "refresh_allowed": True}
    admin.post("/services", json=service).raise_for_status()
    account = {"username": "alice", "password": PASSWORD, "grants": {"scopes": ["todo:read"]}}
    admin.post("/accounts", json=account).raise_for_status()

    def refreshed(token: str) -> str:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        response = server.client().post("/auth/token", data=form)
        assert response.status_code == 200, response.text
        following: str = response.json()["refresh_token"]
        return following

    def begun() -> str:
        asked = {"scope": "offline_access"}
        response = server.client("alice", PASSWORD).post("/auth/token", data=asked)
        token: str = response.json()["refresh_token"]
        for _ in range(3):  # the loop has its connections then
            token = refreshed(token)
        return token

    tokens = [begun() for _ in range(3)]
    with psycopg.connect(url) as session, ThreadPoolExecutor(1) as pool:
        [[locked]] = session.execute("SELECT max(id) FROM session").fetchall()  # the last one
        session.execute("SELECT 1 FROM session WHERE id = %s FOR UPDATE", (locked,))
        waiting = pool.submit(refreshed, tokens.pop())
        with psycopg.connect(url, autocommit=True) as looking:
            queries = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            [[query]] = until(lambda: looking.execute(queries).fetchall())
        assert query.startswith("SELECT")  # a thread, which locks the session first
        for _ in range(5):
            tokens = [refreshed(token) for token in tokens]
        assert not waiting.done()
        session.rollback()
        refreshed(waiting.result())


@pytest.mark.slow
def test_what_waits_for_postgresql_holds_up_nothing_else(server: LiveServer, url: str) -> None:
    [login] = accounts(server, 1)
    waiting = pipeline._MOST + 20
    with ThreadPoolExecutor(waiting) as pool:
        with psycopg.connect(url) as session:
            session.execute("LOCK TABLE api_key IN ACCESS EXCLUSIVE MODE")
            asked = [pool.submit(token, server, login) for _ in range(waiting)]
            # All that can be sent are, and threads have the others.
            query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            with psycopg.connect(url, autocommit=True) as looking:
                until(lambda: looking.execute(query).fetchall()[0][0] >= 2)
            for path in ("/health/live", "/auth/jwks"):
                assert server.client().get(path, timeout=5).status_code == 200
            assert not any(each.done() for each in asked)
        assert [each.result().status_code for each in asked] == [200] * waiting
