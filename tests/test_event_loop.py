"""What may wait leaves the server's event loop: nothing else is answered by it meanwhile.

The hook of the server stands in for the loop: it raises. Whether a request may wait is decided
where it would, so a route that is not in this list leaves as well.
"""

import base64
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import pytest
from flask.testing import FlaskClient

from event_loops import EventLoop
from installed import Clock, installed, rows_of, with_todo
from keyosk import app, delays
from keyosk.credentials import api_key_format
from keyosk.installation import Installation
from keyosk.metrics import SharedCounts
from keyosk.model import OPERATOR, Grant
from keyosk.storage import pipeline
from keyosk.web.application import is_instant, runs_in_loop
from keyosk.web.middleware import LEAVE_LOOP
from live import ADMIN_PASSWORD
from people import PASSWORD
from tables import table


class Left(BaseException):
    """What the server's hook raises."""


def leave() -> NoReturn:
    raise Left


IN_LOOP = {LEAVE_LOOP: leave}


@pytest.fixture
def keyosk(prepared_url: str) -> Iterator[Installation]:
    # The clock stands still: the signing keys are not read again by a request.
    with with_todo(prepared_url, Clock(time.time())) as made:
        made.grants.create_account(
            OPERATOR, [Grant("todo:read")], username="alice", password=PASSWORD
        )
        yield made
    delays.leave_loop.set(None)


@pytest.fixture
def client(keyosk: Installation) -> FlaskClient:
    return app.create_app(keyosk).test_client()


@pytest.fixture
def key(keyosk: Installation, client: FlaskClient) -> str:
    """An API key whose first use is recorded."""
    secret = keyosk.api_keys.create(OPERATOR, "alice", name="k").secret
    with pytest.raises(Left):  # that is a write, after the response
        client.post("/auth/token", auth=("alice", secret), environ_overrides=IN_LOOP)
    response = client.post("/auth/token", auth=("alice", secret))
    response.close()
    assert response.status_code == 200
    return secret


@pytest.mark.every_database
def test_a_token_by_key_is_answered_in_the_loop_where_that_reads_a_file(
    keyosk: Installation, client: FlaskClient, key: str
) -> None:
    asked: dict[str, Any] = {"auth": ("alice", key), "environ_overrides": IN_LOOP}
    if not keyosk.database.is_sqlite:
        with pytest.raises(Left):
            client.post("/auth/token", **asked)
        return
    for form in ({}, {"audience": "todo"}, {"scope": "todo:read"}, {"audience": "nothing"}):
        response = client.post("/auth/token", data=form, **asked)
        assert response.status_code == (400 if form == {"audience": "nothing"} else 200)
    assert client.get("/auth/token", **asked).get_json()["token_type"] == "Bearer"


WRONG = api_key_format.generate()


@pytest.mark.parametrize(
    ("form", "login"),
    [
        ({}, ("alice", WRONG)),  # it is counted
        ({}, ("alice", PASSWORD)),
        ({"scope": "offline_access todo:read"}, None),
        ({"grant_type": "refresh_token", "refresh_token": "there"}, None),
        ({"client_id": "alice", "client_secret": PASSWORD}, None),
    ],
)
def test_what_writes_leaves_the_loop_and_has_done_nothing(
    keyosk: Installation,
    client: FlaskClient,
    key: str,
    form: dict[str, str],
    login: tuple[str, str] | None,
) -> None:
    options: dict[str, Any] = {"auth": login} if login else {}
    if form.get("scope") or form.get("refresh_token"):
        options["auth"] = ("alice", key)
    if "refresh_token" in form:
        data = {"scope": "offline_access todo:read"}
        session = client.post("/auth/token", data=data, auth=("alice", key)).get_json()
        form = {**form, "refresh_token": session["refresh_token"]}
    before = state(keyosk)
    with pytest.raises(Left):
        client.post("/auth/token", data=form, environ_overrides=IN_LOOP, **options)
    assert state(keyosk) == before
    assert client.post("/auth/token", data=form, **options).status_code in (200, 401)
    assert state(keyosk) != before


def state(keyosk: Installation) -> list[Any]:
    tables = ("allowance", "login_failure", "waiting_audit_row", "known_source")
    counts: list[Any] = [rows_of(keyosk, f"SELECT count(*) FROM {table}") for table in tables]
    return [*counts, rows_of(keyosk, "SELECT id, digest FROM session ORDER BY id")]


def test_a_wrong_key_that_leaves_the_loop_is_counted_once(prepared_url: str) -> None:
    with installed(prepared_url, counts=SharedCounts(1)) as keyosk:
        client = app.create_app(keyosk).test_client()
        with pytest.raises(Left):
            client.post("/auth/token", auth=("admin", WRONG), environ_overrides=IN_LOOP)
        assert client.post("/auth/token", auth=("admin", WRONG)).status_code == 401
        _, page = keyosk.metrics.page("", {})
    assert b'keyosk_logins_refused_total{reason="wrong"} 1.0' in page


def test_a_transaction_and_a_closed_connection_leave_the_loop(keyosk: Installation) -> None:
    keyosk.database.ping()
    delays.leave_loop.set(leave)
    keyosk.database.ping()
    with pytest.raises(Left), keyosk.database.transaction():
        pass
    keyosk.database.close()
    with pytest.raises(Left):
        keyosk.database.ping()


@table(
    ("method", "path", "header", "expected"),
    [
        ("POST", "/auth/token", "basic", True),
        ("POST", "/auth/token", "bearer", True),
        ("POST", "/auth/token", "password", False),
        ("POST", "/auth/token", "nonsense", False),
        ("POST", "/auth/token", None, False),
        ("POST", "/auth/introspect", "basic", True),
        ("GET", "/auth/jwks", None, True),
        ("GET", "/auth/jwks", "bearer", True),
        ("GET", "/auth/jwks", "password", True),
        ("POST", "/auth/jwks", "bearer", False),
        ("GET", "/auth/forward/todo", "bearer", True),
        ("GET", "/accounts/alice", "bearer", True),
        ("PATCH", "/accounts/alice", "bearer", False),
        ("GET", "/accounts/alice/api-keys", "bearer", False),
        ("GET", "/accounts/export", "bearer", False),
        ("GET", "/accounts/", "bearer", False),
        ("GET", "/accounts", "bearer", False),
        ("GET", "/audit", "bearer", False),
    ],
)
def test_which_requests_the_loop_answers(
    method: str, path: str, header: str | None, expected: bool
) -> None:
    key = f"kysk_{'x' * 38}"
    headers = {
        "basic": f"Basic {base64.b64encode(f'alice:{key}'.encode()).decode()}",
        "bearer": f"bearer {key}",
        "password": f"Basic {base64.b64encode(b'alice:a password').decode()}",
        "nonsense": "Basic \xe9===",
    }
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method}
    if header is not None:
        environ["HTTP_AUTHORIZATION"] = headers[header]
    assert runs_in_loop(environ, b"", reads_files=True, reads=lambda: True) is expected
    # Without a login, requests on PostgreSQL wait for each other's question. The key set waits no
    # longer than for a moment, and the loop has no limit.
    in_pipeline = expected and header is not None and path != "/auth/jwks"
    assert runs_in_loop(environ, b"", reads_files=False, reads=lambda: True) is in_pipeline
    assert runs_in_loop(environ, b"", reads_files=False, reads=lambda: False) is False
    # A long body takes long to read.
    long = {**environ, "CONTENT_LENGTH": "65536"}
    assert not runs_in_loop(long, b"", reads_files=True, reads=lambda: True)


@table(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/auth/token", f"client_id=alice&client_secret=kysk_{'x' * 38}", True),
        ("POST", "/auth/token", f"grant_type=refresh_token&refresh_token=kysr_{'x' * 86}", True),
        ("POST", "/auth/token", f'{{"refresh_token": "kysr_{"x" * 86}"}}', True),
        ("POST", "/auth/token", "client_id=alice&client_secret=a+password", False),
        (
            "POST",
            "/auth/token",
            "grant_type=urn%3Aietf&assertion=eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
            False,
        ),
        ("POST", "/auth/introspect", f"client_secret=kysk_{'x' * 38}&token=eyJ", True),
        ("POST", "/auth/jwks", f"client_secret=kysk_{'x' * 38}", False),
        ("PUT", "/auth/token", f"client_secret=kysk_{'x' * 38}", False),
        ("POST", "/accounts", f"client_secret=kysk_{'x' * 38}", False),
    ],
)
def test_a_login_in_a_body_is_answered_in_the_loop_where_nothing_is_hashed(
    method: str, path: str, body: str, expected: bool
) -> None:
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method}
    for reads_files in (True, False):
        answers = partial(runs_in_loop, environ, body.encode(), reads_files=reads_files)
        assert answers(reads=lambda: True) is expected
        assert answers(reads=lambda: False) is False
    assert not runs_in_loop(
        {**environ, "HTTP_AUTHORIZATION": "Basic eDp5"},
        body.encode(),
        reads_files=True,
        reads=lambda: True,
    )


@pytest.mark.every_database
def test_refreshes_of_one_turn_are_answered_in_the_loop(
    keyosk: Installation, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_PAUSE", 0)
    keyosk.services.change(OPERATOR, "todo", {"refresh_allowed": True})
    web = client.application

    def refreshed(token: str, environ: dict[str, Any]) -> str:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        with web.test_client() as own:
            response = own.post("/auth/token", data=form, environ_overrides=environ)
            response.close()
            assert response.status_code == 200, response.text
            following: str = response.get_json()["refresh_token"]
            return following

    def begun() -> str:
        form = {"scope": "offline_access"}
        response = client.post("/auth/token", data=form, auth=("alice", PASSWORD))
        response.close()  # the login is recorded then
        token: str = response.get_json()["refresh_token"]
        return token

    tokens: list[Any] = [begun() for _ in range(5)]
    with EventLoop() as loop:
        loop.is_ready(keyosk.database)
        for _ in range(3):  # on PostgreSQL threads open a connection to read, and one to write
            loop.at_once(partial(refreshed, tokens[0], IN_LOOP))
            tokens[0] = refreshed(tokens[0], {})
        for _ in range(2):
            before = set(tokens)
            tokens = loop.at_once(*(partial(refreshed, token, IN_LOOP) for token in tokens))
            assert all(isinstance(token, str) for token in tokens)
            assert before.isdisjoint(tokens)


def test_what_is_in_memory_is_answered_in_the_loop_whatever_the_database() -> None:
    live = {"PATH_INFO": "/health/live", "REQUEST_METHOD": "GET"}
    assert runs_in_loop(live, b"", reads_files=False, reads=lambda: False)
    assert runs_in_loop(
        {**live, "HTTP_AUTHORIZATION": "Basic eDp5"}, b"", reads_files=False, reads=lambda: False
    )


@table(
    "path",
    [
        *("/auth/jwks", "/auth/keys/x.pem", "/services/todo/jwks"),
        *("/openapi.json", "/docs/start.js", "/health/live", "/metrics"),
    ],
)
def test_what_is_public_has_a_thread_of_its_own_whatever_the_request_carries(path: str) -> None:
    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
    assert is_instant(environ)
    assert is_instant({**environ, "HTTP_AUTHORIZATION": "Bearer x"})


@table(
    "path",
    ["/services", "/services/todo", "/services/todo/scopes", "/services/a/b/jwks", "/auth/token"],
)
def test_what_may_hang_has_no_thread_of_its_own(path: str) -> None:
    assert not is_instant({"PATH_INFO": path, "REQUEST_METHOD": "GET"})


def test_what_a_bearer_token_reads_is_answered_in_the_loop(
    keyosk: Installation, client: FlaskClient, key: str
) -> None:
    def ask(method: str, path: str, token: str, **options: Any) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        response = client.open(
            path, method=method, headers=headers, environ_overrides=IN_LOOP, **options
        )
        response.close()
        return response.status_code

    token = client.post("/auth/token", auth=("alice", key)).get_json()["access_token"]
    assert ask("GET", "/auth/forward/todo", token) == 200
    introspected = client.post(
        "/auth/introspect",
        data={"token": token},
        auth=("alice", key),
        environ_overrides=IN_LOOP,
    )
    assert introspected.get_json()["active"] is True
    form = {"audience": "keyosk"}
    admin = client.post("/auth/token", data=form, auth=("admin", ADMIN_PASSWORD)).get_json()
    assert ask("GET", "/accounts/alice", admin["access_token"]) == 200
    with pytest.raises(Left):
        ask("PATCH", "/accounts/alice", admin["access_token"], json={"display_name": "A"})


@table("header", [None, "Bearer x", "Basic eDp5", "Digest x"])
def test_the_key_set_is_answered_in_the_loop(client: FlaskClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    assert client.get("/auth/jwks").status_code == 200  # the keys are read
    response = client.get("/auth/jwks", headers=headers, environ_overrides=IN_LOOP)
    assert response.status_code == 200
