"""How many statements a request sends to the database: what is a promise is counted here."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from installed import EVERY_AUDIT_ROW, Clock, installed, rows_of, statements
from keyosk import app
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Scope
from live import ADMIN_PASSWORD, unique

PASSWORD = "a password for counting"


class Requests:
    """What an admin sends to an installation in this very process."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._client = app.create_app(installation).test_client()
        form = {"audience": "keyosk"}
        response = self.send("POST", "/auth/token", auth=("admin", ADMIN_PASSWORD), data=form)
        self._token = response.json["access_token"]

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        response = self.ask(method, path, body, **options)
        response.close()  # what is done after it is done now
        assert response.status_code < 300, response.text
        return response

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        if "auth" not in options:
            bearer = {"Authorization": f"Bearer {self._token}"}
            options["headers"] = bearer | options.get("headers", {})
        return self._client.open(path, method=method, json=body, **options)

    def statements(self, method: str, path: str, body: Any = None, **options: Any) -> list[str]:
        """Those that a request waits for."""
        with statements() as texts:
            response = self.ask(method, path, body, **options)
            found = list(texts)
            response.close()
        assert response.status_code < 300, response.text
        return found


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())  # it stands still: nothing is due by the second


@pytest.fixture
def admin(prepared_url: str, clock: Clock) -> Iterator[Requests]:
    with installed(prepared_url, clock=clock) as keyosk:
        keyosk.services.create(OPERATOR, name="todo", scopes=[Scope("todo:read")])
        keyosk.roles.create(OPERATOR, name="reader", scopes=["todo:read"])
        keyosk.grants.create_account(
            OPERATOR, [Grant("todo:read")], username="alice", password=PASSWORD
        )
        # The first login ever is written down.
        yield Requests(keyosk)


def test_what_a_request_asks_the_database(admin: Requests) -> None:
    keyosk = admin.installation
    secret = keyosk.api_keys.create(OPERATOR, "alice", name="job").secret
    alice = f"/accounts/{keyosk.accounts.get('alice').id}"
    for auth in (("alice", secret), ("alice", PASSWORD)):
        admin.send("POST", "/auth/token", auth=auth)  # the first use of each is noted

    asked = {
        "token by key": admin.statements("POST", "/auth/token", auth=("alice", secret)),
        "token by password": admin.statements("POST", "/auth/token", auth=("alice", PASSWORD)),
        "new display name": admin.statements("PATCH", alice, {"display_name": "Alice"}),
        "the same again": admin.statements("PATCH", alice, {"display_name": "Alice"}),
        "new title": admin.statements("PATCH", "/services/todo", {"title": "Todo"}),
        "new description": admin.statements("PATCH", "/roles/reader", {"description": "Reads"}),
        "rotation": admin.statements("POST", "/signing-keys/rotate"),
    }

    # One of each but the first two is for the token that the admin shows.
    assert {name: len(texts) for name, texts in asked.items()} == {
        "token by key": 1,
        "token by password": 4,
        "new display name": 4,
        "the same again": 2,
        "new title": 6,
        "new description": 5,
        "rotation": 5,
    }
    loads = [text for text in asked["rotation"] if '"sealed"' in text and "INSERT" not in text]
    assert len(loads) == 1
    every = [text for texts in asked.values() for text in texts]
    assert [text for text in every if "0 = 1" in text] == []


def test_the_rule_of_the_last_admin_is_asked_by_what_can_break_it_only(admin: Requests) -> None:
    def asks(method: str, path: str, body: Any = None) -> bool:
        statements = admin.statements(method, path, body)
        return any('WHERE ("t1"."scope_id" = ' in text for text in statements)

    admin.send("POST", "/roles", {"name": "chief", "scopes": ["keyosk:admin"]})
    harmless = [
        ("PATCH", "/accounts/alice", {"username": "alicia", "claims": {"team": "blue"}}),
        ("PATCH", "/accounts/alicia/grants", {"add": {"roles": ["chief"]}}),
        ("PATCH", "/services/todo", {"title": "Todo", "enabled": False}),
        ("PATCH", "/roles/reader", {"scopes": []}),
        ("DELETE", "/roles/reader", None),
    ]
    assert [each for each in harmless if asks(*each)] == []
    dangerous = [
        ("PATCH", "/accounts/alicia", {"expires_at": "2090-01-01T00:00:00Z"}),
        ("PATCH", "/accounts/alicia", {"enabled": False}),
        ("PATCH", "/accounts/alicia/grants", {"remove": {"roles": ["chief"]}}),
        ("PATCH", "/roles/chief", {"scopes": []}),
        ("DELETE", "/accounts/alicia", None),
    ]
    assert [each for each in dangerous if not asks(*each)] == []


@pytest.mark.parametrize(
    ("path", "patches"),
    [
        (
            "/accounts/alice",
            [
                {},
                {"username": "ALICE", "display_name": None, "enabled": True, "expires_at": None},
                {"claims": {"level": 1, "gone": None}, "metadata": {}},
            ],
        ),
        ("/accounts/alice/grants", [{}, {"add": {"scopes": ["todo:read"]}}]),
        ("/services/todo", [{}, {"title": "", "audiences": None, "accepts": None}]),
        ("/roles/reader", [{}, {"scopes": ["todo:read", "todo:read"], "description": None}]),
        ("key", [{}, {"name": "job", "scopes": None, "enabled": None}]),
    ],
)
def test_an_empty_patch_writes_nothing(admin: Requests, path: str, patches: list[Any]) -> None:
    keyosk = admin.installation
    keyosk.accounts.change(OPERATOR, "alice", {"claims": {"level": 1}})
    key = keyosk.api_keys.create(OPERATOR, "alice", name="job").key
    path = f"/accounts/alice/api-keys/{key.id}" if path == "key" else path
    before = admin.send("GET", path)
    rows = len(rows_of(keyosk, f"SELECT id FROM {EVERY_AUDIT_ROW}"))
    keyosk.audit.seal()

    for patch in patches:
        with statements() as texts:
            response = admin.send(
                "PATCH", path, patch, headers={"If-Match": before.headers["ETag"]}
            )
        assert response.json == before.json
        assert response.headers["ETag"] == before.headers["ETag"]
        assert [text for text in texts if not text.startswith("SELECT")] == []
        assert admin.ask("PATCH", path, patch, headers={"If-Match": '"4711"'}).status_code == 412
    assert len(rows_of(keyosk, f"SELECT id FROM {EVERY_AUDIT_ROW}")) == rows
    # To JSON, true and 1 are two values.
    if path == "/accounts/alice":
        response = admin.send("PATCH", path, {"claims": {"level": True}})
        assert response.headers["ETag"] != before.headers["ETag"]


def test_what_is_done_after_a_change_does_not_grow_with_the_audit_log(admin: Requests) -> None:
    for number in range(3):
        admin.installation.audit.prune(OPERATOR, 0)  # each leaves a checkpoint
        admin.send("PATCH", "/accounts/alice", {"display_name": f"Alice {number}"})
    with statements() as texts:
        admin.send("PATCH", "/accounts/alice", {"display_name": "Alice"})
    unbounded = [
        text
        for text in texts
        if text.startswith("SELECT") and ' FROM "checkpoint"' in text and "LIMIT" not in text
    ]
    assert unbounded == []


def test_answers_are_looked_through_only_where_one_is_kept(admin: Requests, clock: Clock) -> None:
    def asks() -> bool:
        with statements() as texts:
            admin.send("POST", "/roles", {"name": unique("role")})
        return any("idempotency" in text for text in texts)

    def kept() -> int:
        query = "SELECT count(*) FROM idempotency WHERE sealed IS NOT NULL"
        return int(rows_of(admin.installation, query)[0][0])

    assert not asks()
    headers = {"Idempotency-Key": "one"}
    admin.send("POST", "/accounts/alice/api-keys", {"name": "a"}, headers=headers)
    assert kept() == 1
    assert not asks()
    clock.now += 601
    assert asks()
    assert kept() == 0
    assert not asks()
