"""Ends that lie in the past, and times that are none: refused by name on every way in."""

import json
import time
from typing import Any

import pytest
import requests

from installed import Clock, installed
from keyosk.errors import Conflict
from keyosk.model import OPERATOR
from live import Client, LiveServer, unique
from people import make_account, make_service, ok
from tables import table

PAST = "2020-01-01T00:00:00Z"
FAR = "2090-01-01T00:00:00Z"


def assert_refused(response: requests.Response, field: str, sentence: str = "future") -> None:
    assert response.status_code == 422, (response.status_code, response.text)
    (fault,) = response.json()["errors"]
    assert fault["field"].split(".")[-1] == field
    assert sentence in fault["message"]


def test_an_end_in_the_past_is_refused_wherever_given(admin: Client, server: LiveServer) -> None:
    name, held = make_account(admin)["username"], f"{make_service(admin, 'a')}:a"
    ended = {"name": held, "until": PAST}
    path = f"/accounts/{name}"
    assert_refused(
        admin.post("/accounts", json={"username": unique("late"), "expires_at": PAST}), "expires_at"
    )
    assert_refused(admin.patch(path, json={"expires_at": PAST}), "expires_at")
    assert_refused(
        admin.post(f"{path}/api-keys", json={"name": "late", "expires_at": PAST}), "expires_at"
    )
    assert_refused(admin.put(f"{path}/grants", json={"scopes": [ended]}), "until")
    assert_refused(admin.patch(f"{path}/grants", json={"add": {"scopes": [ended]}}), "until")
    assert_refused(
        admin.post("/accounts", json={"username": unique("late"), "grants": {"scopes": [ended]}}),
        "until",
    )
    for field, body in (
        ("expires_at:", {"accounts": [{"username": unique("late"), "expires_at": PAST}]}),
        ("expires_at:", {"accounts": [{"username": name, "expires_at": PAST}]}),
        (
            f"until: the end of {ended['name']}",
            {"accounts": [{"username": name, "grants": {"scopes": [ended]}}]},
        ),
    ):
        for option in ((), ("--plan",)):
            result = server.run("apply", "-", *option, text=json.dumps(body))
            assert result.returncode == 1
            assert f".{field} must be in the future" in result.stderr
    assert admin.get(path).json()["expires_at"] is None
    assert admin.get(f"{path}/grants").json()["scopes"] == []


@pytest.fixture
def over(admin: Client) -> tuple[str, str]:
    """An account that has ended, with a grant that has; and the grant's scope."""
    scope = f"{make_service(admin, 'a')}:a"
    name = unique("over")
    line = {
        "username": name,
        "expires_at": PAST,
        "grants": {"scopes": [{"name": scope, "until": PAST}]},
    }
    response = admin.post(
        "/accounts/import",
        data=json.dumps(line) + "\n",
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert json.loads(response.text.splitlines()[0])["status"] == "created", response.text
    return name, scope


def test_an_end_that_is_only_repeated_is_taken(
    admin: Client, server: LiveServer, over: tuple[str, str]
) -> None:
    name, scope = over
    path = f"/accounts/{name}"
    shown = admin.get(path).json()
    body = {field: shown[field] for field in ("display_name", "expires_at", "claims")}
    ok(admin.patch(path, json={**body, "display_name": "Other"}))
    assert_refused(admin.patch(path, json={"expires_at": "2020-01-02T00:00:00Z"}), "expires_at")
    ok(admin.put(f"{path}/grants", json=admin.get(f"{path}/grants").json()))
    ended = {"name": scope, "until": PAST}
    ok(admin.patch(f"{path}/grants", json={"add": {"scopes": [ended]}}))
    more = {"name": scope, "with": "password", "until": PAST}
    assert_refused(admin.put(f"{path}/grants", json={"scopes": [more]}), "until")
    manifest = {"accounts": [{"username": name, "expires_at": PAST, "display_name": "Third"}]}
    assert server.run("apply", "-", text=json.dumps(manifest)).returncode == 0
    ok(admin.patch(path, json={"expires_at": None}))
    ok(admin.patch(path, json={"expires_at": FAR}))


def test_an_import_warns_of_what_is_over_line_by_line(
    admin: Client, server: LiveServer, over: tuple[str, str]
) -> None:
    _, scope = over
    lines: list[dict[str, Any]] = [
        {"username": unique("fresh")},
        {"username": unique("old"), "expires_at": PAST},
        {"username": unique("old"), "grants": {"scopes": [{"name": scope, "until": PAST}]}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    for query in ("?dry_run=true", "", "?on_conflict=update"):
        response = admin.post(
            f"/accounts/import{query}",
            data=text,
            headers={"Content-Type": "application/x-ndjson"},
        )
        results = [json.loads(line) for line in response.text.splitlines()]
        assert results[-1]["summary"]["complete"] is True
        if query != "?on_conflict=update":
            fields = [[w["field"] for w in each.get("warnings", [])] for each in results[:3]]
            assert fields == [[], ["expires_at"], ["grants"]]
    for line in lines:
        line["username"] = unique("by-command")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done_here = server.run("account", "import", "-", text=text)
    assert done_here.returncode == 0, done_here.stderr
    assert [line.split(":")[:2] for line in done_here.stderr.splitlines()] == [
        ["line 2", " warning"],
        ["line 3", " warning"],
    ]


def test_the_command_refuses_an_end_in_the_past(admin: Client, server: LiveServer) -> None:
    name, held = make_account(admin)["username"], f"{make_service(admin, 'a')}:a"
    for arguments, field in (
        (("account", "create", unique("late"), "--expires-at", "2020-01-01"), "expires_at:"),
        (("api-key", "create", name, "late", "--expires-at", PAST), "expires_at:"),
        (("grant", "add", name, held, "--until", PAST), f"until: the end of {held}"),
    ):
        result = server.run(*arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == f"keyosk: {field} must be in the future\n"


def test_a_key_that_has_expired_is_not_rotated_into_one_that_has(prepared_url: str) -> None:
    """Its successor would have been dead at once."""
    clock = Clock(time.time())
    with installed(prepared_url, clock=clock) as installation:
        keys = installation.api_keys
        api_key = keys.create(OPERATOR, "admin", name="short", expires_at=int(clock.now) + 60)
        clock.now += 61
        with pytest.raises(Conflict, match="expired"):
            keys.rotate(OPERATOR, "admin", api_key.key.id)
        # An end that is only repeated is taken here as well.
        changed = keys.change(
            OPERATOR, "admin", api_key.key.id, {"expires_at": api_key.key.expires_at, "name": "old"}
        )
        assert changed.name == "old"


BAD_TIMES = {
    "9999-12-31T23:59:59-01:00": "1970 to 9999",
    "1969-12-31T23:59:59Z": "1970 to 9999",
    "0001-01-01T00:00:00+01:00": "",
    "2090-01-01T00:00:00+23:59": "",
    "2090-01-01T00:00:00+14:60": "",
    "2090-01-01T00:00:00": "",
    "2090-01-01": "",
    "20900101T000000Z": "",
    "2090-W01-1": "",
    "2090-02-30T00:00:00Z": "",
    "2090-01-01T24:00:00Z": "",
    "2090-01-01T00:00:60Z": "",
    "10000-01-01T00:00:00Z": "",
    "٢٠٩٠-01-01T00:00:00Z": "",
}


@table(("text", "sentence"), BAD_TIMES.items())
def test_a_time_that_is_none_is_refused_everywhere(admin: Client, text: str, sentence: str) -> None:
    name = make_account(admin)["username"]
    assert_refused(
        admin.patch(f"/accounts/{name}", json={"expires_at": text}), "expires_at", sentence
    )
    assert_refused(admin.get("/accounts", params={"created_after": text}), "created_after", "")
    assert admin.get("/audit", params={"since": text}).status_code == 422


def test_the_command_takes_the_same_times_and_dates(admin: Client, server: LiveServer) -> None:
    for text in ("2090-W01-1", "20900101T000000Z", "2090-01-01T00:00:00", "1960-01-01"):
        result = server.run("account", "create", unique("late"), "--expires-at", text)
        assert result.returncode == 2
        assert "Usage" in result.stderr
    name = unique("dated")
    assert server.run("account", "create", name, "--expires-at", "2090-01-01").returncode == 0
    assert admin.get(f"/accounts/{name}").json()["expires_at"] == FAR


@table(
    ("text", "shown"),
    [
        ("2090-01-01T00:00:00+14:00", "2089-12-31T10:00:00Z"),
        ("2090-01-01T02:00:00.999+02:00", "2090-01-01T00:00:00Z"),
        ("2090-01-01 00:00:00-00:00", "2090-01-01T00:00:00Z"),
        ("2090-01-01t00:00:00.999z", "2090-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
    ],
)
def test_a_time_of_another_place_is_taken(admin: Client, text: str, shown: str) -> None:
    name = make_account(admin)["username"]
    assert admin.patch(f"/accounts/{name}", json={"expires_at": text}).json()["expires_at"] == shown
