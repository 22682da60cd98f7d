"""The report of rights that nobody needs."""

from datetime import UTC, datetime
from typing import Any

import pytest

from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Scope
from live import Client, LiveServer
from pages import logged_in
from people import make_key, make_person, ok
from test_console_views import get, in_process

pytestmark = pytest.mark.every_database

_PAGE = "/console/least-privilege"
_DAY = 86_400


def test_a_key_without_any_limit_is_found_and_one_with_a_limit_is_not(admin: Client) -> None:
    alice = make_person(admin)
    free, _ = make_key(admin, alice, name="free")
    limits: tuple[dict[str, Any], ...] = (
        {"scopes": []},
        {"networks": ["10.0.0.0/8"]},
        {"expires_at": "2100-01-01T00:00:00Z"},
    )
    for limit in limits:
        make_key(admin, alice, name="limited", **limit)
    query = {"limits": "none", "owner": alice.username, "enabled": "true"}
    items = ok(admin.get("/api-keys", params=query))["items"]
    assert [each["id"] for each in items] == [free]
    others = ok(admin.get("/api-keys", params={**query, "limits": "some"}))["items"]
    assert [each["name"] for each in others] == ["limited"] * 3
    of_one = ok(admin.get(f"{alice.path}/api-keys", params={"limits": "none"}))["items"]
    assert [each["id"] for each in of_one] == [free]
    assert admin.get("/api-keys", params={"limits": "all"}).status_code == 422


def test_what_was_not_used_for_90_days_is_in_the_report(prepared_url: str) -> None:
    with in_process(prepared_url) as (keyosk, client):
        now = int(keyosk.clock())
        people = {}
        for name in ("asleep", "awake"):
            grants = [Grant(scope="keyosk:audit:read")]
            people[name] = keyosk.grants.create_account(OPERATOR, grants, username=name).id
            keyosk.api_keys.create(OPERATOR, name, name=f"key of {name}", networks=["10.0.0.0/8"])
        past = now - 91 * _DAY
        write(keyosk, "UPDATE account SET created_at = ? WHERE id = ?", past, people["asleep"])
        write(
            keyosk, "UPDATE api_key SET created_at = ? WHERE account_id = ?", past, people["asleep"]
        )
        page = get(client, _PAGE)
        assert page.h1 == "Least privilege"
        assert "key of asleep" in page.text
        assert "key of awake" not in page.text
        assert "Every API key has an end, scopes or networks." in page.text
        assert "asleep keyosk:audit:read none never over 90 days ago" in page.text
        assert "awake keyosk:audit:read none never" in page.text
        links = [given["href"] or "" for tag, given in page.tags if tag == "a"]
        (asleep,) = [link for link in links if "last_login_before=" in link]
        text = get(client, asleep).text
        assert ("asleep" in text, "awake" in text) == (True, False)


def write(keyosk: Installation, sql: str, *values: object) -> None:
    database = keyosk.database
    with database.transaction():
        database.raw.execute_sql(sql.replace("?", database.raw.param), values)


def test_scopes_that_no_token_had_for_90_days_are_in_the_report(prepared_url: str) -> None:
    with in_process(prepared_url) as (keyosk, client):
        scopes = [Scope("todo:read"), Scope("todo:write")]
        keyosk.services.create(OPERATOR, name="todo", scopes=scopes)
        grants = [Grant(scope=scope.name) for scope in scopes]
        alice = keyosk.grants.create_account(OPERATOR, grants, username="alice").id
        assert "todo:write" not in get(client, _PAGE).text  # she holds it for a moment only
        write(keyosk, 'UPDATE "grant" SET granted_at = ?', int(keyosk.clock()) - 91 * _DAY)
        keyosk.scope_uses.note(alice, ["todo:read"], named=True)
        keyosk.scope_uses.write()
        page = get(client, _PAGE)
        assert "alice todo:write" in page.text
        assert "todo:read" not in page.text
        text = get(client, f"/console/accounts/{alice}").text
        today = datetime.fromtimestamp(int(keyosk.clock()), UTC).strftime("%Y-%m-%d")
        assert f"todo:read {today} {today}" in text
        assert "todo:write – –" in text


@pytest.mark.attack
def test_nobody_without_the_scope_has_the_report(server: LiveServer, admin: Client) -> None:
    assert logged_in(server, make_person(admin).username).get(_PAGE).status == 403
    page = logged_in(server, make_person(admin, "keyosk:accounts:read").username).get(_PAGE)
    assert (page.status, "Who administers Keyosk" in page.text) == (200, False)
