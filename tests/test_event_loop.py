"""What may wait leaves the server's event loop: nothing else is answered by it meanwhile.

The hook of the server stands in for the loop: it raises. Whether a request may wait is decided
where it would, so a route that is not in this list leaves as well.
"""

import base64
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from flask.testing import FlaskClient

from installed import installed, rows_of
from keyosk import app, delays
from keyosk.credentials import api_key_format
from keyosk.installation import Installation
from keyosk.metrics import SharedCounts
from keyosk.model import OPERATOR, Grant, Scope
from keyosk.web.application import is_answered_in_loop
from keyosk.web.middleware import LEAVE_LOOP
from people import PASSWORD


class Left(BaseException):
    """What the server's hook raises."""


def leave() -> NoReturn:
    raise Left


IN_LOOP = {LEAVE_LOOP: leave}


@pytest.fixture
def keyosk(prepared_url: str) -> Iterator[Installation]:
    with installed(prepared_url) as made:
        scopes = [Scope("todo:read")]
        made.services.create(OPERATOR, name="todo", scopes=scopes, refresh_allowed=True)
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
    answer = client.post("/auth/token", auth=("alice", secret))
    answer.close()
    assert answer.status_code == 200
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
        answer = client.post("/auth/token", data=form, **asked)
        assert answer.status_code == (400 if form == {"audience": "nothing"} else 200)
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
    again = client.post("/auth/token", data=form, **options)
    assert again.status_code in (200, 401)
    assert state(keyosk) != before


def state(keyosk: Installation) -> list[Any]:
    tables = ("allowance", "login_failure", "audit_row", "known_source")
    counts: list[Any] = [rows_of(keyosk, f"SELECT count(*) FROM {table}") for table in tables]
    return [*counts, rows_of(keyosk, "SELECT id, digest FROM session ORDER BY id")]


def test_a_wrong_key_that_leaves_the_loop_is_counted_once(prepared_url: str) -> None:
    with installed(prepared_url, counts=SharedCounts(1)) as keyosk:
        client = app.create_app(keyosk).test_client()
        with pytest.raises(Left):
            client.post("/auth/token", auth=("admin", WRONG), environ_overrides=IN_LOOP)
        assert client.post("/auth/token", auth=("admin", WRONG)).status_code == 401
        _, page = keyosk.metrics.page("")
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


@pytest.mark.parametrize(
    ("path", "header", "length", "expected"),
    [
        ("/auth/token", "basic", "0", True),
        ("/auth/token", "bearer", "", True),
        ("/auth/token", "password", "0", False),
        ("/auth/token", "nonsense", "0", False),
        ("/auth/token", "basic", "65536", False),  # a long body takes long to read
        ("/auth/introspect", "basic", "0", False),
        ("/health/live", "basic", "", False),
        ("/health/live", None, "", True),
        ("/auth/token", None, "0", False),
    ],
)
def test_which_requests_the_loop_answers(
    path: str, header: str | None, length: str, expected: bool
) -> None:
    key = f"kysk_{'x' * 38}"
    headers = {
        "basic": f"Basic {base64.b64encode(f'alice:{key}'.encode()).decode()}",
        "bearer": f"bearer {key}",
        "password": f"Basic {base64.b64encode(b'alice:a password').decode()}",
        "nonsense": "Basic \xe9===",
    }
    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET", "CONTENT_LENGTH": length}
    if header is not None:
        environ["HTTP_AUTHORIZATION"] = headers[header]
    assert is_answered_in_loop(environ, reads_files=True) is expected
    assert is_answered_in_loop(environ, reads_files=False) is (expected and header is None)
