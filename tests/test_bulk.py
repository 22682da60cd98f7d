"""Accounts by the thousand: import and export over HTTP and by command, on both databases."""

import base64
import hashlib
import io
import json
import os
import pty
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import requests
import werkzeug.security
from hypothesis import given
from hypothesis import strategies as st
from passlib.context import CryptContext

import cpu_times
from cheap_passwords import STORED_AS
from keyosk import app, errors
from keyosk.bulk.records import Status
from keyosk.credentials.password_hashing import Passwords
from keyosk.installation import Installation
from keyosk.storage.accounts import AccountStore
from keyosk.storage.database import Database
from keyosk.web import lines
from keyosk.web.schemas import grants_of
from live import ADMIN_PASSWORD, Client, LiveServer, command, unique
from processes import execute
from waiting import until

# Part of `make test-long`.
pytestmark = [pytest.mark.slow, pytest.mark.every_database]

GOOD = "correct horse battery staple"
JSONL = "application/jsonl"
Lines = list[dict[str, Any]]


def jsonl(*shapes: Any) -> bytes:
    return b"".join(json.dumps(shape).encode() + b"\n" for shape in shapes)


def send(client: Client, body: Any, query: str = "", content_type: str = JSONL) -> Any:
    return client.post(
        f"/accounts/import{query}", data=body, headers={"Content-Type": content_type}, timeout=120
    )


def imported(client: Client, body: Any, query: str = "") -> tuple[Lines, dict[str, Any]]:
    """The results of an import and its summary."""
    response = send(client, body, query)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == JSONL
    *results, last = [json.loads(line) for line in response.text.splitlines()]
    return results, last["summary"]


def exported(client: Client, query: str = "") -> Lines:
    response = client.get(f"/accounts/export{query}")
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def statuses(results: Lines) -> list[str]:
    return [result["status"] for result in results]


def total(client: Client) -> int:
    return int(client.get("/accounts?limit=1&total=true").headers["X-Total-Count"])


@pytest.fixture
def scope(admin: Client) -> str:
    """A scope of a service of this test's own."""
    service = unique("service")
    name = f"{service}:read"
    response = admin.post("/services", json={"name": service, "scopes": [name]})
    assert response.status_code == 201, response.text
    return name


def account(admin: Client, *scopes: str) -> str:
    """A new account with these scopes and the password ``GOOD``."""
    username = unique("importer")
    shape = {"username": username, "password": GOOD, "grants": {"scopes": list(scopes)}}
    response = admin.post("/accounts", json=shape)
    assert response.status_code == 201, response.text
    return username


def by_key(admin: Client, *scopes: str) -> Client:
    """A caller with an API key, of an account with these scopes."""
    username = account(admin, *scopes)
    response = admin.post(f"/accounts/{username}/api-keys", json={"name": "a key"})
    return Client(admin.url, auth=(username, response.json()["secret"]))


# --- What a line becomes --------------------------------------------------------------------------


def test_each_line_becomes_an_account_with_all_that_it_says(admin: Client, scope: str) -> None:
    plain, full = unique("Plain"), unique("full")
    shape: dict[str, Any] = {
        "username": full,
        "kind": "machine",
        "display_name": "A machine — naïve",
        "enabled": False,
        "claims": {"team": ["a", {"b": None}]},
        "metadata": {"employee": 7},
        "expires_at": "2099-01-31T12:00:00Z",
        "password": GOOD,
        "grants": {
            "scopes": [{"name": scope, "with": "password", "until": "2098-01-01T00:00:00Z"}],
        },
    }
    results, summary = imported(admin, jsonl({"username": plain}, shape))

    assert [(r["line"], r["status"]) for r in results] == [(1, "created"), (2, "created")]
    assert summary["lines"] == summary["created"] == 2
    assert summary["complete"] is True
    assert summary["dry_run"] is False
    account = admin.get(f"/accounts/{results[0]['id']}").json()
    assert (account["username"], account["kind"], account["has_password"]) == (
        plain.lower(),
        "person",
        False,
    )
    account = admin.get(f"/accounts/{full}").json()
    assert account["id"] == results[1]["id"]
    assert account["has_password"] is True
    for name in ("kind", "display_name", "enabled", "claims", "metadata", "expires_at"):
        assert account[name] == shape[name]
    assert admin.get(f"/accounts/{full}/grants").json()["scopes"] == shape["grants"]["scopes"]


def test_an_imported_account_logs_in_and_has_what_it_was_granted(
    server: LiveServer, admin: Client, scope: str
) -> None:
    role = unique("role")
    admin.post("/roles", json={"name": role, "scopes": [scope]})
    username = unique("alice")
    imported(admin, jsonl({"username": username, "password": GOOD, "grants": {"roles": [role]}}))

    assert server.client(username, GOOD).post("/auth/token").json()["scope"] == scope


def test_the_audit_log_has_a_row_for_each_account_and_the_chain_holds(
    server: LiveServer, admin: Client, scope: str
) -> None:
    username = unique("audited")
    line = {"username": username, "metadata": {"a": 1}, "grants": {"scopes": [scope]}}
    results, _ = imported(admin, jsonl(line))

    rows = admin.get(f"/audit?target=account/{results[0]['id']}").json()["items"]
    assert [row["action"] for row in rows] == ["account.create", "grants.change"]
    assert rows[0]["after"]["username"] == username
    assert rows[0]["actor_name"] == "admin"
    assert rows[1]["after"] == {"grants": [{"scope": scope}]}
    assert server.run("audit", "verify").returncode == 0


# --- What an import takes -------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [*lines.TYPES, "application/jsonl; charset=utf-8"])
def test_json_lines_are_known_by_several_names(admin: Client, content_type: str) -> None:
    response = send(admin, jsonl({"username": unique("u")}), content_type=content_type)
    assert response.status_code == 200


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_other_bodies_are_refused(admin: Client, content_type: str) -> None:
    refused = send(admin, jsonl({"username": "u"}), content_type=content_type)
    assert refused.status_code == 415
    # It may be JSON: to ask for JSON would lead nowhere.
    assert "must be JSON Lines" in refused.json()["detail"]
    assert "application/jsonl" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?dry_run=yes", "dry_run"),
        ("?on_conflict=ignore", "on_conflict"),
        ("?limit=1", "limit"),
        ("?dry_run=true&dry_run=false", "dry_run"),
    ],
)
def test_other_parameters_are_refused(admin: Client, query: str, field: str) -> None:
    response = send(admin, jsonl({"username": unique("u")}), query)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == field


def test_a_body_may_be_empty_and_have_any_line_ends(admin: Client) -> None:
    first, second, third = (unique("u") for _ in range(3))
    assert imported(admin, b"")[1]["lines"] == 0
    text = (
        f'\ufeff{{"username": "{first}"}}\r\n\r\n \n{{"username": "{second}"}}\n'
        f'{{"username": "{third}"}}'
    )
    results, _ = imported(admin, text.encode())
    assert [(r["line"], r["status"]) for r in results] == [
        (1, "created"),
        (4, "created"),
        (5, "created"),
    ]


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with a length"])
def test_a_body_may_be_larger_than_others_may(admin: Client, *, chunked: bool) -> None:
    stem = unique("large")
    body = jsonl(*({"username": f"{stem}-{n}", "metadata": {"a": "x" * 10_000}} for n in range(40)))
    _, summary = imported(admin, iter([body[:1000], body[1000:]]) if chunked else body)
    assert summary["created"] == 40


NO_OBJECT = 'must be one JSON object in UTF-8, such as {"username": "alice"}'
BAD_LINES: list[tuple[bytes, str, str]] = [
    (b"{", "line", NO_OBJECT),
    (b"[1]", "line", NO_OBJECT),
    (b'{"username": "a", "username": "b"}', "line", NO_OBJECT),
    (b'{"username": "a", "metadata": {"a": NaN}}', "line", NO_OBJECT),
    (b'{"username": "\xff"}', "line", NO_OBJECT),
    (b"[" * 20_000, "line", NO_OBJECT),
    (b'{"username": "' + b"a" * 70_000 + b'"}', "line", "must have at most 65536 bytes"),
    (b"{}", "username", "Missing data for required field"),
    (b'{"username": 7}', "username", "Must be text"),
    (b'{"username": "a:b"}', "username", "must not contain :"),
    (b'{"username": "import"}', "username", "is reserved"),
    (b'{"username": "\\ud800"}', "username", "Must be valid Unicode without NUL"),
    (b'{"username": "u1", "enabled": "yes"}', "enabled", "Must be true or false"),
    (b'{"username": "u1", "kind": "robot"}', "kind", "Must be one of"),
    (b'{"username": "u1", "color": "red"}', "color", "Unknown field"),
    (b'{"username": "u1", "expires_at": "soon"}', "expires_at", "Must be a time"),
    (b'{"username": "u1", "password": "short"}', "password", "must have at least 15 characters"),
    (b'{"username": "u1", "display_name": "a\\u0007"}', "display_name", "must not contain control"),
    (
        b'{"username": "u1", "metadata": {"a": "' + b"x" * 20_000 + b'"}}',
        "metadata",
        "must have at most 16384 bytes as JSON",
    ),
    (
        b'{"username": "u1", "grants": {"scopes": ["no:such"]}}',
        "scopes",
        "there is no scope no:such",
    ),
    (b'{"username": "u1", "grants": {"roles": ["none"]}}', "roles", "there is no role none"),
    (b'{"username": "u1", "password_hash": "$1$a$b"}', "password_hash", "uses MD5"),
]


def test_bad_lines_are_told_and_touch_no_other(admin: Client, subtests: pytest.Subtests) -> None:
    """Each of them stands between two good ones."""
    good = (jsonl({"username": unique("good")}) for _ in range(len(BAD_LINES) + 1))
    body = next(good) + b"".join(bad + b"\n" + next(good) for bad, _, _ in BAD_LINES)

    results, summary = imported(admin, body)

    assert set(statuses(results[::2])) == {"created"}
    assert (summary["created"], summary["invalid"]) == (len(BAD_LINES) + 1, len(BAD_LINES))
    for result, (bad, field, message) in zip(results[1::2], BAD_LINES, strict=True):
        with subtests.test(repr(bad[:60])):
            assert result["status"] == "invalid"
            (fault,) = result["errors"]
            assert fault["field"] == field
            assert fault["message"].startswith(message)
            assert "id" not in result


def test_all_that_is_wrong_with_a_line_is_told_at_once(admin: Client) -> None:
    line = {
        "username": "a:b",
        "display_name": "x" * 300,
        "password": "short",
        "password_hash": "plain",
        "grants": {"scopes": ["no:such"]},
    }
    results, _ = imported(admin, jsonl(line))
    assert {fault["field"] for fault in results[0]["errors"]} == {
        "username",
        "display_name",
        "password",
        "password_hash",
        "scopes",
    }


@pytest.mark.attack
def test_no_answer_repeats_a_secret(admin: Client, server: LiveServer) -> None:
    secret = "Sup3rSecretWord"
    body = b"".join(
        (
            b'{"username": "u1", "password": "' + secret.encode() + b'", oops',
            jsonl({"username": "u1", "password": secret[:14], "password_hash": secret}),
            jsonl({"username": "u1", "password_hash": f"$argon2id${secret}"}),
            jsonl({"username": "u1", "password_hash": f"$2b$12${secret}"}),
            jsonl({"username": "u1", "password": [secret]}),
            jsonl({"username": "u1", "password_hash": {"value": secret}}),
        )
    )
    response = send(admin, body)
    assert '"invalid":5' in response.text
    assert secret[:14] not in response.text
    assert secret[:14] not in server.log.read_text()


# --- Again, and again -----------------------------------------------------------------------------


def test_an_import_may_be_repeated(admin: Client) -> None:
    stem = unique("again")
    body = jsonl(*({"username": f"{stem}-{n}"} for n in range(5)))
    first, _ = imported(admin, body)
    longer = body + jsonl({"username": f"{stem}-9"}, {"username": f"{stem}-0".upper()})
    second, summary = imported(admin, longer)

    assert statuses(second) == [*["exists"] * 5, "created", "exists"]
    assert [result["id"] for result in second[:5]] == [result["id"] for result in first]
    assert second[6]["id"] == first[0]["id"]
    assert (summary["exists"], summary["created"]) == (6, 1)


def test_of_two_lines_with_one_username_the_first_counts(admin: Client) -> None:
    username = unique("twice")
    results, _ = imported(
        admin,
        jsonl(
            {"username": username, "display_name": "first"},
            {"username": username.upper(), "display_name": "second"},
        ),
    )
    assert statuses(results) == ["created", "exists"]
    assert results[0]["id"] == results[1]["id"]
    assert admin.get(f"/accounts/{username}").json()["display_name"] == "first"


def test_what_exists_may_count_as_a_failure(admin: Client) -> None:
    username = unique("fail")
    body = jsonl({"username": username}, {"username": unique("new")})
    imported(admin, jsonl({"username": username}))
    results, summary = imported(admin, body, "?on_conflict=fail")
    assert statuses(results) == ["conflict", "created"]
    assert results[0]["errors"][0]["field"] == "username"
    assert summary["conflict"] == 1


def test_all_but_the_password_may_be_updated(server: LiveServer, admin: Client, scope: str) -> None:
    username = unique("update")
    line = {"username": username, "metadata": {"a": 1, "b": 2}, "password": GOOD}
    results, _ = imported(admin, jsonl(line))
    changed = {
        "username": username,
        "display_name": "New",
        "metadata": {"a": 3},
        "password": "another good long password",
        "grants": {"scopes": [scope]},
    }

    second, summary = imported(admin, jsonl(changed), "?on_conflict=update")
    assert (second[0]["status"], second[0]["id"]) == ("updated", results[0]["id"])
    assert summary["updated"] == 1
    now = admin.get(f"/accounts/{username}").json()
    assert (now["display_name"], now["metadata"]) == ("New", {"a": 3, "b": 2})
    assert admin.get(f"/accounts/{username}/grants").json()["scopes"] == [scope]
    assert server.client(username, GOOD).post("/auth/token").status_code == 200

    third, _ = imported(admin, jsonl(changed), "?on_conflict=update")
    assert third[0]["status"] == "unchanged"
    assert admin.get(f"/accounts/{username}").json()["updated_at"] == now["updated_at"]


def newest_change(admin: Client) -> dict[str, Any]:
    """The newest row of the audit log that tells of no login, which other tests may bring."""
    rows = admin.get("/audit?limit=200&sort=-sequence").json()["items"]
    newest: dict[str, Any] = next(
        row for row in rows if row["action"] not in ("login.failed", "api_key.first_use")
    )
    return newest


@pytest.mark.parametrize("on_conflict", ["skip", "update", "fail"])
def test_a_dry_run_says_all_and_does_nothing(admin: Client, scope: str, on_conflict: str) -> None:
    known, new = unique("known"), unique("new")
    imported(admin, jsonl({"username": known}))
    body = jsonl(
        {"username": new, "password": GOOD, "grants": {"scopes": [scope]}},
        {"username": new},
        {"username": known, "display_name": "Changed", "grants": {"scopes": [scope]}},
        {"username": "a:b"},
    )
    etag = admin.get(f"/accounts/{known}").headers["ETag"]
    before, newest = total(admin), newest_change(admin)

    results, summary = imported(admin, body, f"?dry_run=true&on_conflict={on_conflict}")

    expected = {"skip": "exists", "update": "updated", "fail": "conflict"}[on_conflict]
    assert statuses(results) == ["created", "exists", expected, "invalid"]
    assert "id" not in results[0]
    assert summary["dry_run"] is True
    assert total(admin) == before
    assert admin.get(f"/accounts/{new}").status_code == 404
    assert admin.get(f"/accounts/{known}").headers["ETag"] == etag
    assert admin.get(f"/accounts/{known}/grants").json()["scopes"] == []
    assert newest_change(admin) == newest


def test_two_imports_of_one_file_at_once_make_each_account_once(admin: Client) -> None:
    stem = unique("race")
    shapes = [{"username": f"{stem}-{n}"} for n in range(1200)]
    ways = [jsonl(*shapes), jsonl(*reversed(shapes)), jsonl(*shapes[600:], *shapes[:600])]
    responses: list[Lines] = []

    def run(body: bytes) -> None:
        client = Client(admin.url, token=admin.session.headers["Authorization"].split()[1])
        while (response := send(client, body)).status_code == 503:
            time.sleep(0.05)
        responses.append([json.loads(line) for line in response.text.splitlines()[:-1]])

    threads = [threading.Thread(target=run, args=(body,)) for body in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    every = [result for results in responses for result in results]
    assert len(every) == 3600
    assert statuses(every).count("created") == 1200
    assert statuses(every).count("exists") == 2400
    assert len({result["id"] for result in every}) == 1200


def test_a_process_has_one_import_or_export_at_a_time_and_logins_go_on(
    database_url: str, tmp_path: Path
) -> None:
    with LiveServer(database_url, tmp_path, workers="1") as server:
        admin, other = server.admin(), server.admin()
        held, ended = threading.Event(), threading.Event()

        def body() -> Iterator[bytes]:
            yield jsonl(
                *({"username": f"user-{n}", "metadata": {"a": "x" * 900}} for n in range(900))
            )
            held.set()
            ended.wait(30)

        thread = threading.Thread(target=send, args=(admin, body()))
        thread.start()
        assert held.wait(30)
        while other.get("/accounts/user-0").status_code == 404:
            time.sleep(0.05)
        for response in (send(other, jsonl({"username": "u"})), other.get("/accounts/export")):
            assert response.status_code == 503
            assert response.json()["code"] == "unavailable"
            assert "Retry-After" in response.headers
        assert server.client("admin", ADMIN_PASSWORD).post("/auth/token").status_code == 200
        ended.set()
        thread.join(30)
        for _ in range(3):  # also after a HEAD, a refusal and a bad request the place is free
            assert other.request("HEAD", "/accounts/export").status_code == 200
            assert send(other, b"", "?dry_run=perhaps").status_code == 422
            assert other.get("/accounts/export?color=red").status_code == 422
            assert len(exported(other)) == 901


def test_imports_one_after_the_other_never_get_in_each_others_way(admin: Client) -> None:
    for _ in range(100):
        assert send(admin, b"").status_code == 200
        assert admin.get("/accounts/export?q=nobody-at-all").status_code == 200


# --- Rules ----------------------------------------------------------------------------------------


@pytest.mark.attack
def test_an_api_key_imports_neither_credentials_nor_grants(admin: Client, scope: str) -> None:
    client = by_key(admin, "keyosk:accounts:write", "keyosk:grants:write", scope)
    stored = Passwords().hash(GOOD)
    names = [unique("u") for _ in range(4)]
    results, summary = imported(
        client,
        jsonl(
            {"username": names[0], "password": GOOD},
            {"username": names[1], "password_hash": stored},
            {"username": names[2], "grants": {"scopes": [scope]}},
            {"username": names[3], "password_hash": None, "grants": {"scopes": []}},
        ),
    )
    assert statuses(results) == ["refused", "refused", "refused", "created"]
    assert summary["refused"] == 3
    rows = admin.get("/audit?action=rule.refused&sort=-sequence&limit=1").json()["items"]
    assert rows[0]["after"]["lines"] == 3
    assert rows[0]["outcome"] == "refused"


@pytest.mark.attack
def test_grants_need_scope_and_what_is_given(server: LiveServer, admin: Client, scope: str) -> None:
    role = unique("role")
    admin.post("/roles", json={"name": role, "scopes": ["keyosk:admin"]})
    own = {"username": unique("own"), "grants": {"scopes": [scope]}}
    others = {"username": unique("others"), "grants": {"scopes": ["keyosk:admin"]}}
    by_role = {"username": unique("by-role"), "grants": {"roles": [role]}}

    without = server.client(account(admin, "keyosk:accounts:write", scope), GOOD)
    results, _ = imported(without, jsonl(own, {"username": unique("plain")}))
    assert statuses(results) == ["refused", "created"]
    assert "keyosk:grants:write" in results[0]["errors"][0]["message"]

    giver = account(admin, "keyosk:accounts:write", "keyosk:grants:write", scope)
    results, _ = imported(server.client(giver, GOOD), jsonl(own, others, by_role))
    assert statuses(results) == ["created", "refused", "refused"]
    for line in (others, by_role):
        assert admin.get(f"/accounts/{line['username']}").status_code == 404


@pytest.mark.attack
def test_an_update_keeps_the_rules_for_known_accounts(server: LiveServer, admin: Client) -> None:
    username = account(admin, "keyosk:accounts:write", "keyosk:grants:write")
    client = server.client(username, GOOD)
    lines_ = jsonl(
        {"username": "admin", "enabled": False},  # granted more than the caller holds
        {"username": username, "enabled": False},  # oneself
        {"username": username, "grants": {"scopes": []}},
    )
    results, _ = imported(client, lines_, "?on_conflict=update")
    assert statuses(results) == ["refused"] * 3
    assert admin.get("/accounts/admin").json()["enabled"] is True


@pytest.mark.attack
def test_who_is_disabled_in_an_upload_imports_no_more(server: LiveServer, admin: Client) -> None:
    importer = account(admin, "keyosk:accounts:write")
    stem = unique("late")

    def body() -> Iterator[bytes]:
        padding = {"metadata": {"a": "x" * 400}}
        yield jsonl(*({"username": f"{stem}-{n}", **padding} for n in range(1000)))
        while admin.get(f"/accounts/{stem}-0").status_code == 404:
            time.sleep(0.05)
        assert admin.patch(f"/accounts/{importer}", json={"enabled": False}).status_code == 200
        yield jsonl(*({"username": f"{stem}-{n}", **padding} for n in range(1000, 2000)))

    results, summary = imported(server.client(importer, GOOD), body())
    assert summary["complete"] is False
    assert 500 <= len(results) < 2000
    assert admin.get(f"/accounts/{stem}-1999").status_code == 404


# --- Hashes from elsewhere ------------------------------------------------------------------------

DJANGO_PASSWORD = "lètmein at once, please"
#: Made by Django 5.2 of DJANGO_PASSWORD.
DJANGO = {
    "pbkdf2_sha256": "pbkdf2_sha256$1000$seasalt/ü$gGD5Qgp3UZ+CgKaFFaWIMwwUeCJnpQ3CnwRH2WfeY44=",
    "argon2": "argon2$argon2id$v=19$m=102400,t=2,p=8$VVd4SWVnMHVMUWFTMVVhZWl3SXlhVw"
    "$gaKJwjM16HKE6jn+TTZFiBd7mREEQktu17u0WYVQ4R8",
    "bcrypt_sha256": "bcrypt_sha256$$2b$05$o2J5oZHrcoMpBRQUDKGpx.rOp2zFBufP8rArLN0SLHGw3EsStEGQe",
    "bcrypt": "bcrypt$$2b$05$4xmrz.JoWu3VrzNNLfJpyuZ4KvMcpTxabwMv7gNIy5IOXzaKsAefa",
    "scrypt": "scrypt$1024$seasalt$8$5$kpoAAVIThIbki5yGm1NyMKxNu+KJ1qWY2mrhZmJdtP6C7ALShM8ojZUW2y"
    "jMRGQgllMrNy0RZ3oC6ZohQARq+g==",
}
LIVE = "$argon2id$v=19$m=19456,t=2,p=1$"


def plain64(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()


def by_passlib(scheme: str, password: str = GOOD, **settings: Any) -> str:
    return str(CryptContext([scheme]).handler(scheme).using(**settings).hash(password.encode()))


def by_bcrypt(prefix: str, password: str = GOOD, cost: int = 5) -> str:
    stored = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode()
    return stored.replace("$2b$", prefix)


def by_werkzeug(method: str) -> str:
    return werkzeug.security.generate_password_hash(GOOD, method)


#: Made by Dovecot 2.3.19 (doveadm pw) of GOOD.
DOVECOT = (
    "{SSHA}tKbpG1VO5vaKr5a3BiDtFvjh/PWn+QRl",
    "{SSHA256}5DUJHivi0IGg6ERCvg/sZbJLMtK1Uk7FGALdSrbDfvGa8FQ3",
    "{SSHA512}n3rLfgN4j8yz61ebN24B8gIrbzGPJTZVeE3nPS3abfGQTEauAJbQfU1YJJnSj0nQxHV/Ky8NTbqf5R9rBEhZ1"
    "WOu2Pg=",
    "{SHA256-CRYPT}$5$SjHegGsEZfteCR58$bITSnzMixVE1U25WaVISGgqQjhtyAmXJ.QJU8l1pXGA",
    "{SHA512-CRYPT}$6$8aXnPdMiourC1xPf$DlNlAgOyt3S51jM1H85llKWqajDR2WqiX4DSxsIByTinl4TLrqMHPDnM4XT6U"
    "h2KGY4eOLrtyJmMFxvG4enEG0",
    "{BLF-CRYPT}$2y$05$J3BxWy6dAyArR2X50VvNu.fNqSrZTFuFCrluphslq2td0plQRr9G6",
    "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$erF9MZexaR8oJmkKfqLsFA"
    "$Mzmokxn1buTBwRzUgZFmIeFm7n5WxaEJX0Ojszylpks",
    "{PBKDF2}$1$iyTIkcoVr4sbxqGp$5000$1bbb861f1dc9d5366189f1d28b3523d7916012f4",
)
#: From the manual of Spring Security; the word is "password".
SPRING = (
    "{bcrypt}$2a$10$dXJ3SW6G7P50lGmMkkmwe.20cQQubK3.HZWzG3YB1tlRy.fqvM/BG",
    "{scrypt}$e0801$8bWJaSu2IKSn9Z9kM+TPXfOc/9bdYSrN1oD9qfVThWEwdRTnO7re7Ei+fUZRJ68k9lTyuTeUp4of4g24"
    "hHnazw==$OAOec05+bXxvuu/1qZ6NUR+xQYvYv7BeL1QxwRpY5Pc=",
)
#: From Ulrich Drepper's specification of crypt's SHA-2.
DREPPER = (
    ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
    (
        "Hello world!",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoE"
        "OfaS35inz1",
    ),
    (
        "Hello world!",
        "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA",
    ),
    (
        "This is just a test",
        "$5$rounds=5000$toolongsaltstrin$Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGRcvxa5",
    ),
)


HASHES: dict[str, tuple[str, str]] = {
    **{f"dovecot {text.partition('}')[0][1:]}": (GOOD, text) for text in DOVECOT},
    **{f"spring {text.partition('}')[0][1:]}": ("password", text) for text in SPRING},
    **{
        f"werkzeug {method}": (GOOD, by_werkzeug(method))
        for method in ("pbkdf2:sha1:1000", "pbkdf2:sha256:1000", "pbkdf2:sha512:1000", "scrypt")
    },
    "sha256-crypt": (GOOD, by_passlib("sha256_crypt", rounds=1000)),
    "sha512-crypt": (GOOD, by_passlib("sha512_crypt", rounds=1000)),
    "sha512-crypt with a name": (GOOD, "{crypt}" + by_passlib("sha512_crypt", rounds=1000)),
    "bcrypt with a name": (GOOD, "{CRYPT}" + by_bcrypt("$2y$")),
    "SSHA in small letters": (GOOD, by_passlib("ldap_salted_sha1").replace("SSHA", "ssha")),
    "LDAP's PBKDF2": (GOOD, by_passlib("ldap_pbkdf2_sha512", rounds=1000)),
    "pbkdf2-sha1": (GOOD, by_passlib("pbkdf2_sha1", rounds=1000)),
    "django sha1": (GOOD, by_passlib("django_pbkdf2_sha1", rounds=1000)),
    "spring argon2": (
        GOOD,
        "{argon2@SpringSecurity_v5_8}"
        + by_passlib("argon2", memory_cost=1024, rounds=1, parallelism=1),
    ),
    **{f"django {name}": (DJANGO_PASSWORD, text) for name, text in DJANGO.items()},
    "argon2id": (GOOD, by_passlib("argon2", memory_cost=1024, rounds=3, parallelism=2)),
    "argon2i": (GOOD, by_passlib("argon2", type="I", memory_cost=1024, rounds=3, parallelism=1)),
    "argon2d": (GOOD, by_passlib("argon2", type="D", memory_cost=64, rounds=1, parallelism=4)),
    "bcrypt 2a": (GOOD, by_bcrypt("$2a$")),
    "bcrypt 2b": (GOOD, by_bcrypt("$2b$")),
    "bcrypt 2y": (GOOD, by_bcrypt("$2y$")),
    "bcrypt of a long password": (GOOD * 4, by_bcrypt("$2b$", GOOD * 4)),
    "bcrypt-sha256": (GOOD, by_passlib("bcrypt_sha256", rounds=5)),
    "bcrypt-sha256 v1": (GOOD, by_passlib("bcrypt_sha256", rounds=5, version=1, ident="2a")),
    "scrypt": (GOOD, by_passlib("scrypt", rounds=8)),
    "scrypt, 64 bytes": (
        GOOD,
        f"$scrypt$ln=8,r=8,p=2${plain64(b's' * 16)}$"
        + plain64(hashlib.scrypt(GOOD.encode(), salt=b"s" * 16, n=256, r=8, p=2, dklen=64)),
    ),
    "pbkdf2-sha256": (GOOD, by_passlib("pbkdf2_sha256", rounds=1000)),
    "pbkdf2-sha512": (GOOD, by_passlib("pbkdf2_sha512", rounds=1000)),
    "pbkdf2-sha512, PHC": (
        GOOD,
        f"$pbkdf2-sha512$i=1000,l=64${plain64(b'>?' * 8)}$"
        + plain64(hashlib.pbkdf2_hmac("sha512", GOOD.encode(), b">?" * 8, 1000)),
    ),
}


def stored_hash(server: LiveServer, username: str) -> str:
    database = Database(server.environment["KEYOSK_DATABASE_URL"])
    try:
        password, _ = AccountStore(database).password(username, "")
    finally:
        database.close()
    assert password is not None
    return password.hash


@pytest.mark.parametrize("name", HASHES)
def test_an_imported_hash_logs_in_and_is_argon2id_afterwards(
    server: LiveServer, admin: Client, name: str
) -> None:
    password, text = HASHES[name]
    username = unique("hash")
    results, _ = imported(admin, jsonl({"username": username, "password_hash": text}))
    assert statuses(results) == ["created"]
    before = stored_hash(server, username)
    assert not before.startswith(STORED_AS)
    assert admin.get(f"/accounts/{username}").json()["has_password"] is True

    assert server.client(username, "wrong" + password).post("/auth/token").status_code == 401
    assert stored_hash(server, username) == before
    for _ in range(2):
        encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
        response = requests.post(
            f"{server.url}/auth/token", headers={"Authorization": f"Basic {encoded}"}, timeout=30
        )
        assert response.status_code == 200, response.text
        assert stored_hash(server, username).startswith(STORED_AS)


_SALT, _DIGEST = "c29tZXNhbHRzb21lc2FsdA", "A" * 43
_BCRYPT = by_bcrypt("$2b$")
REFUSED = {
    "no hash": ("letmein", "is not a supported hash, or is damaged"),
    "empty": ("", "is not a supported hash, or is damaged"),
    "md5-crypt": ("$1$abcdefgh$abcdefghijklmnopqrstuv", "uses MD5"),
    "md5-crypt with a name": ("{CRYPT}$1$abcdefgh$abcdefghijklmnopqrstuv", "uses MD5"),
    "htpasswd md5": ("$apr1$abcdefgh$abcdefghijklmnopqrstuv", "uses MD5"),
    "SMD5": ("{SMD5}yxgFrFIFC/YVpFRdRFFyHW8lMDw=", "uses MD5"),
    "phpass": ("$P$9IQRaTwmfeRo7ud9Fh4E2PdI0S3r.L0", "uses MD5"),
    "django md5": ("md5$salt$" + "0" * 32, "uses MD5"),
    "sha512-crypt damaged": ("$6$rounds=5000$salt$" + "a" * 86, "is not a supported hash"),
    "sha512-crypt cut": ("$6$rounds=5000$salt$" + "." * 43, "is not a supported hash"),
    "sha512-crypt salt": ("$6$rounds=5000$" + "s" * 17 + "$" + "." * 86, "is not a supported hash"),
    "sha512-crypt few": ("$6$rounds=999$salt$" + "." * 86, "is not a supported hash"),
    "sha512-crypt rounds": ("$6$rounds=900000$salt$" + "." * 86, "requires more work"),
    "sha256-crypt rounds": ("$5$rounds=999999999$salt$" + "." * 43, "requires more work"),
    "sha1-crypt": ("$sha1$40000$jtNX3nZ2$hBNaIXkt4wBI2o5rsi8KejSjNqIq", "is one round of SHA"),
    "django sha1 plain": ("sha1$salt$" + "0" * 40, "is one round of SHA"),
    "werkzeug sha256 plain": ("sha256$salt$" + "0" * 64, "is one round of SHA"),
    "des": ("{CRYPT}rl.3StKT.4T8M", "looks like crypt's DES"),
    "yescrypt": (
        "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd",
        "is yescrypt",
    ),
    "SHA": ("{SHA}q/eq1kOINtvlJqojGr3i0O73TUI=", "is a hash without a salt"),
    "sha256 hex": ("ab" * 32, "is a hash without a salt"),
    "md5 hex": ("AB" * 16, "is a hash without a salt"),
    "django unsalted": ("md5$$" + "0" * 32, "is a hash without a salt"),
    "plain": ("{PLAIN}letmein", "is a password, not a hash"),
    "spring plain": ("{noop}letmein", "is a password, not a hash"),
    "SSHA without salt": ("{SSHA}q/eq1kOINtvlJqojGr3i0O73TUI=", "is not a supported hash"),
    "SSHA of SHA256": ("{SSHA256}tKbpG1VO5vaKr5a3BiDtFvjh/PWn+QRl", "is not a supported hash"),
    "SSHA with a long salt": (
        "{SSHA}" + base64.b64encode(b"x" * 37).decode(),
        "is not a supported hash",
    ),
    "spring pbkdf2": ("{pbkdf2}5d923b44a6d129f3ddf3e3c8d2941272", "is not a supported hash"),
    "werkzeug rounds": ("pbkdf2:sha256:9999999$salt$" + "0" * 64, "requires more work"),
    "werkzeug no rounds": ("pbkdf2:sha256$salt$" + "0" * 64, "is not a supported hash"),
    "werkzeug scrypt N": ("scrypt:32767:8:1$salt$" + "0" * 128, "is not a supported hash"),
    "werkzeug scrypt rounds": ("scrypt:16777216:8:1$salt$" + "0" * 128, "requires more work"),
    "werkzeug scrypt memory": ("scrypt:262144:16:1$salt$" + "0" * 128, "requires more than"),
    "spring scrypt": ("{scrypt}$180801$c2FsdHNhbHQ=$" + "A" * 43 + "=", "requires more work"),
    "django unusable": ("!abcdefghijklmnop", "means an account without a password"),
    "bcrypt 2x": (_BCRYPT.replace("$2b$", "$2x$"), "is not a supported hash"),
    "bcrypt cut": (_BCRYPT[:-1], "is not a supported hash"),
    "bcrypt with more": (_BCRYPT + "a", "is not a supported hash"),
    "bcrypt cost 3": (_BCRYPT.replace("$05$", "$03$"), "is not a supported hash"),
    "bcrypt cost 15": (_BCRYPT.replace("$05$", "$15$"), "requires more work"),
    "bcrypt cost 31": (_BCRYPT.replace("$05$", "$31$"), "requires more work"),
    "argon2 rounds": (f"$argon2id$v=19$m=65536,t=99,p=1${_SALT}${_DIGEST}", "requires more work"),
    "argon2 memory": (f"$argon2id$v=19$m=1048576,t=1,p=1${_SALT}${_DIGEST}", "requires more than"),
    "argon2 lanes": (f"$argon2id$v=19$m=65536,t=1,p=99${_SALT}${_DIGEST}", "requires more than"),
    "argon2 version": (
        f"$argon2id$v=18$m=65536,t=1,p=1${_SALT}${_DIGEST}",
        "is not a supported hash",
    ),
    "argon2 no memory": (
        f"$argon2id$v=19$m=8,t=1,p=4${_SALT}${_DIGEST}",
        "is not a supported hash",
    ),
    "scrypt rounds": (f"$scrypt$ln=24,r=8,p=1${_SALT}${_DIGEST}", "requires more work"),
    "scrypt memory": (f"$scrypt$ln=18,r=16,p=1${_SALT}${_DIGEST}", "requires more than"),
    "scrypt lanes": (f"$scrypt$ln=14,r=8,p=999${_SALT}${_DIGEST}", "requires more work"),
    "scrypt short": (f"$scrypt$ln=14,r=8,p=1${_SALT}$AAAA", "is not a supported hash"),
    "django scrypt N": (f"scrypt$1000$salt$8$1${_DIGEST}=", "is not a supported hash"),
    "pbkdf2 rounds": (f"$pbkdf2-sha256$99999999${_SALT}${_DIGEST}", "requires more work"),
    "pbkdf2 none": (f"$pbkdf2-sha256$0${_SALT}${_DIGEST}", "is not a supported hash"),
    "pbkdf2 short": (f"$pbkdf2-sha512$1000${_SALT}${_DIGEST}", "is not a supported hash"),
    "long": (f"$argon2id$v=19$m=64,t=1,p=1${_SALT}$" + "A" * 3000, "is not a supported hash"),
}


@pytest.mark.attack
def test_hashes_that_no_scheme_knows_or_that_ask_for_too_much_are_refused(admin: Client) -> None:
    body = jsonl(*({"username": "u1", "password_hash": text} for text, _ in REFUSED.values()))
    results, _ = imported(admin, body)
    for (name, (text, message)), result in zip(REFUSED.items(), results, strict=True):
        assert result["status"] == "invalid", name
        (fault,) = result["errors"]
        assert fault["field"] == "password_hash"
        assert fault["message"].startswith(message), name
        assert not text or text not in json.dumps(result)


def test_bits_that_mean_nothing_in_a_bcrypt_hash_are_no_obstacle() -> None:
    checker = Passwords()
    odd = by_bcrypt("$2y$")
    following = chr(
        ord(odd[28]) + 1
    )  # the alphabet goes on like ASCII there: . / and O P, e f, u v
    adopted = checker.adopt(odd[:28] + following + odd[29:])
    assert adopted == odd
    assert (checker.verify(GOOD, adopted) or "").startswith(LIVE)


@pytest.mark.parametrize(("password", "text"), DREPPER)
def test_the_published_vectors_of_crypt_are_right(password: str, text: str) -> None:
    checker = Passwords()
    adopted = checker.adopt(text)
    assert (checker.verify(password, adopted) or "").startswith(LIVE)
    with pytest.raises(errors.BadCredentials):
        checker.verify(f"{password} ", adopted)


@pytest.mark.attack
def test_a_long_password_does_not_multiply_the_work_of_a_crypt_hash() -> None:
    checker = Passwords()
    # 512 bytes are the most that libxcrypt takes, so nothing longer was ever hashed so.
    for length, taken in ((512, True), (513, False)):
        stored = checker.adopt(by_passlib("sha512_crypt", "x" * length, rounds=1000))
        if taken:
            assert (checker.verify("x" * length, stored) or "").startswith(LIVE)
        else:
            with pytest.raises(errors.BadCredentials):
                checker.verify("x" * length, stored)


def test_adopting_twice_is_adopting_once() -> None:
    checker = Passwords()
    for _, text in HASHES.values():
        adopted = checker.adopt(text)
        assert checker.adopt(adopted) == adopted


@given(st.text() | st.from_regex(r"\$?[a-z0-9_-]{2,14}\$.{0,60}", fullmatch=True))
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(errors.Invalid):
        CHECKER.adopt(text)


CHECKER = Passwords()


@pytest.mark.attack
@pytest.mark.parametrize("name", ["bcrypt 2b", "bcrypt-sha256", "scrypt", "pbkdf2-sha256"])
def test_a_wrong_password_for_a_cheap_imported_hash_costs_what_a_stranger_does(name: str) -> None:
    adopted = CHECKER.adopt(HASHES[name][1])

    def wrong(stored: str | None) -> None:
        with pytest.raises(errors.BadCredentials):
            CHECKER.verify("something else entirely", stored)

    costs = cpu_times.least({"unknown": partial(wrong, None), "imported": partial(wrong, adopted)})
    assert 0.5 < costs["imported"] / costs["unknown"] < 2


# --- Streams --------------------------------------------------------------------------------------


def peak_memory(server: LiveServer) -> int:
    """The most memory that a worker has had so far, in KiB."""
    assert server.process is not None
    master = server.process.pid
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return max(
        int(line.split()[1])
        for child in children
        for line in Path(f"/proc/{child}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_long_imports_and_exports_need_no_more_memory(database_url: str, tmp_path: Path) -> None:
    def body(stem: str, count: int) -> Iterator[bytes]:
        for number in range(count):
            yield jsonl({"username": f"{stem}-{number}", "metadata": {"padding": "x" * 200}})

    with LiveServer(database_url, tmp_path, workers="1") as server:
        admin = server.admin()
        imported(admin, body("short", 2000))
        assert len(exported(admin)) == 2001
        short = peak_memory(server)
        _, summary = imported(admin, body("long", 20_000))
        assert summary["created"] == 20_000
        response = admin.get("/accounts/export", stream=True)
        assert sum(1 for _ in response.iter_lines()) == 22_001
        # 20,000 lines are 5 MB, their results 2, the export 8.
        assert peak_memory(server) - short < 16 * 1024


def connect(client: Client) -> socket.socket:
    host, port = client.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(client: Client, *fields: str) -> bytes:
    token = client.session.headers["Authorization"]
    rows = ("POST /accounts/import HTTP/1.1", "Host: keyosk", f"Authorization: {token!s}", *fields)
    return "\r\n".join((*rows, f"Content-Type: {JSONL}", "Connection: close", "", "")).encode()


def everything(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.slow
def test_a_client_may_send_all_before_it_reads_anything(admin: Client) -> None:
    # Far more results than the buffers on the way hold.
    line = json.dumps({"username": "a", **{"unknown-" + "x" * 100 + str(n): 1 for n in range(5)}})
    body = (line + "\n").encode() * 20_000
    with connect(admin) as sock:
        sock.sendall(head(admin, f"Content-Length: {len(body)}") + body)
        response = everything(sock)
    assert response.startswith(b"HTTP/1.1 200")
    assert response.count(b'"status":"invalid"') > 19_000  # the ends of chunks cut through some
    assert b'"lines":20000,' in response
    assert len(response) > 10_000_000


def test_results_come_while_the_body_is_still_sent(admin: Client) -> None:
    stem = unique("live")
    lines_ = [jsonl({"username": f"{stem}-{n}", "metadata": {"a": "x" * 300}}) for n in range(1500)]
    first, rest = b"".join(lines_[:900]), b"".join(lines_[900:])
    with connect(admin) as sock:
        sock.sendall(head(admin, f"Content-Length: {len(first) + len(rest)}") + first)
        early = sock.recv(65536)
        while b'"line":1,' not in early:
            early += sock.recv(65536)
        sock.sendall(rest)
        late = everything(sock)
    assert b'"created":1500' in late


@pytest.mark.fault
@pytest.mark.parametrize("how", ["Content-Length: 900000", "Transfer-Encoding: chunked"])
def test_an_upload_that_breaks_off_has_no_summary_but_its_effect(admin: Client, how: str) -> None:
    stem = unique("broken")
    body = jsonl(*({"username": f"{stem}-{n}", "metadata": {"a": "x" * 300}} for n in range(1000)))
    with connect(admin) as sock:
        sock.sendall(head(admin, how))
        sock.sendall(f"{900_000:x}\r\n".encode() + body if "chunked" in how else body)
        sock.shutdown(socket.SHUT_WR)
        assert b'"summary"' not in everything(sock)
    assert admin.get(f"/accounts/{stem}-0").status_code == 200
    assert admin.get(f"/accounts/{stem}-999").status_code == 404
    results, _ = imported(admin, body)
    assert set(statuses(results)) == {"exists", "created"}
    assert results[-1]["status"] == "created"


@pytest.mark.fault
@pytest.mark.slow
def test_an_import_that_was_killed_is_simply_repeated(own_server: LiveServer) -> None:
    own_server.start()
    admin = own_server.admin()
    shapes = [{"username": f"user-{n:05}", "grants": {"scopes": []}} for n in range(20_000)]

    is_killed = threading.Event()

    def body() -> Iterator[bytes]:
        for start in range(0, len(shapes), 100):
            if start == len(shapes) // 2:
                is_killed.wait(60)  # so that the kill comes in between
            yield jsonl(*shapes[start : start + 100])

    def upload() -> None:
        try:
            send(admin, body())
        except requests.RequestException:
            return

    thread = threading.Thread(target=upload)
    thread.start()
    watcher = own_server.admin()
    until(lambda: watcher.get("/accounts/user-00000").status_code == 200)
    own_server.kill()
    is_killed.set()
    thread.join(60)
    own_server.start()

    admin = own_server.admin()
    kept = total(admin) - 1
    assert 0 < kept < 20_000
    results, summary = imported(admin, jsonl(*shapes))
    assert summary["exists"] == kept
    assert summary["created"] == 20_000 - kept
    # Batches end at once or not at all, and one after the other: the first of the file.
    assert statuses(results) == ["exists"] * kept + ["created"] * (20_000 - kept)
    assert total(admin) == 20_001
    verdict = own_server.run("audit", "verify")
    assert verdict.returncode == 0, verdict.stdout


# --- Export ---------------------------------------------------------------------------------------


def test_an_export_has_all_accounts_and_grants_but_no_secret(admin: Client, scope: str) -> None:
    username = unique("exported")
    line = {
        "username": username,
        "password": GOOD,
        "claims": {"a": "ü"},
        "grants": {"scopes": [{"name": scope, "with": "api_key"}]},
    }
    imported(admin, jsonl(line))

    response = admin.get("/accounts/export")
    assert response.headers["Content-Type"] == JSONL
    assert response.headers["Cache-Control"] == "no-store"
    assert "$argon2" not in response.text
    shapes = {shape["username"]: shape for shape in map(json.loads, response.text.splitlines())}
    assert len(shapes) == total(admin)
    one = dict(shapes[username])
    assert one.pop("grants") == {"scopes": [{"name": scope, "with": "api_key"}], "roles": []}
    assert one == admin.get(f"/accounts/{username}").json()


def test_the_head_of_an_export_waits_for_no_other(installation: Installation) -> None:
    client = app.create_app(installation).test_client()
    login = ("admin", ADMIN_PASSWORD)
    end = installation.bulk.exclusive()
    try:
        assert client.get("/accounts/export", auth=login).status_code == 503
        head = client.head("/accounts/export", auth=login)
        assert (head.status_code, head.mimetype) == (200, "application/jsonl")
    finally:
        end()
    assert client.get("/accounts/export", auth=login).status_code == 200


def test_an_export_takes_the_filters_of_the_list(admin: Client) -> None:
    stem = unique("filter")
    shapes = [
        {"username": f"{stem}-{n}", "kind": "machine", "enabled": n % 2 == 0} for n in range(1200)
    ]
    imported(admin, jsonl(*shapes))
    accounts = exported(admin, f"?q={stem.upper()}-&enabled=true&kind=machine")
    assert [shape["username"] for shape in accounts] == [f"{stem}-{n}" for n in range(0, 1200, 2)]
    assert exported(admin, f"?q={stem}-nobody") == []
    for query in ("?limit=5", "?enabled=yes", "?color=red"):
        assert admin.get(f"/accounts/export{query}").status_code == 422
    assert admin.request("HEAD", "/accounts/export").status_code == 200


def test_what_an_export_gives_an_import_takes(admin: Client, scope: str) -> None:
    username = unique("round")
    line = {
        "username": username,
        "display_name": "Round Trip",
        "metadata": {"a": [1, None]},
        "expires_at": "2099-01-31T12:00:00Z",
        "grants": {"scopes": [scope]},
    }
    imported(admin, jsonl(line))
    (shape,) = exported(admin, f"?q={username}")
    admin.delete(f"/accounts/{username}")
    results, _ = imported(admin, jsonl(shape))
    assert statuses(results) == ["created"]
    (again,) = exported(admin, f"?q={username}")
    for name in ("username", "display_name", "metadata", "expires_at", "grants", "kind"):
        assert again[name] == shape[name]


# --- Commands -------------------------------------------------------------------------------------


def test_the_command_imports_a_file_and_says_how(server: LiveServer, tmp_path: Path) -> None:
    names = [unique("cli") for _ in range(3)]
    file = tmp_path / "accounts.jsonl"
    file.write_bytes(jsonl(*({"username": name} for name in names)))

    dry = server.run("account", "import", str(file), "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout == "dry run, nothing was done: 3 lines: 3 created\n"
    result = server.run("account", "import", str(file))
    assert (result.returncode, result.stdout, result.stderr) == (0, "3 lines: 3 created\n", "")
    again = server.run("account", "import", "-", text=file.read_text())
    assert (again.returncode, again.stdout) == (0, "3 lines: 3 exists\n")
    assert server.run("account", "show", names[0]).returncode == 0


def test_the_command_tells_of_bad_lines_and_exits_1(server: LiveServer) -> None:
    text = jsonl({"username": "a:b"}, {"username": unique("cli")}).decode() + "{\n" * 30
    result = server.run("account", "import", "-", text=text)
    assert result.returncode == 1
    assert result.stdout == "32 lines: 1 created, 31 invalid\n"
    told = result.stderr.splitlines()
    assert told[0] == "line 1: invalid: username: must not contain :"
    assert told[-1] == "More lines failed; --json shows each of them."
    assert len(told) == 21

    again = server.run("account", "import", "-", "--on-conflict", "fail", "--json", text=text)
    assert again.returncode == 1
    shapes = [json.loads(line) for line in again.stdout.splitlines()]
    assert shapes[1]["status"] == "conflict"
    assert shapes[-1]["summary"]["invalid"] == 31
    assert server.run("account", "import", "/no/such/file").returncode == 2


def test_the_command_updates(server: LiveServer) -> None:
    username = unique("cli")
    server.run("account", "import", "-", text=json.dumps({"username": username}))
    line = json.dumps({"username": username, "display_name": "New"})
    result = server.run("account", "import", "-", "--on-conflict", "update", text=line)
    assert result.stdout == "1 line: 1 updated\n"


def test_the_command_exports(server: LiveServer, tmp_path: Path) -> None:
    username = unique("cli-export")
    server.run("account", "import", "-", text=json.dumps({"username": username, "kind": "machine"}))
    every = server.run("account", "export")
    assert every.returncode == 0
    shapes = [json.loads(text) for text in every.stdout.splitlines()]
    assert username in {shape["username"] for shape in shapes}
    some = server.run("account", "export", "--kind", "machine", "--query", username)
    (shape,) = [json.loads(text) for text in some.stdout.splitlines()]
    assert shape["grants"] == {"scopes": [], "roles": []}

    file = tmp_path / "accounts.jsonl"
    assert server.run("account", "export", "--output", str(file)).stdout == ""
    assert file.read_text() == server.run("account", "export").stdout
    assert file.stat().st_mode & 0o077 == 0
    assert server.run("account", "export", "--output", str(tmp_path)).returncode == 2


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_the_command_shows_its_progress_on_a_terminal(
    server: LiveServer, tmp_path: Path, source: str
) -> None:
    stem = unique("tty")
    file = tmp_path / "accounts.jsonl"
    file.write_bytes(jsonl(*({"username": f"{stem}-{n}"} for n in range(3000))))
    ours, theirs = pty.openpty()
    try:
        with file.open("rb") as handle:
            reader = subprocess.Popen(["cat"], stdin=handle, stdout=subprocess.PIPE)
            process = subprocess.Popen(
                command("account", "import", str(file) if source == "file" else "-"),
                cwd=server.folder,
                env=server.environment,
                stdin=reader.stdout if source == "pipe" else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=theirs,
            )
            out, _ = process.communicate(timeout=60)
            if reader.stdout is not None:
                reader.stdout.close()
            reader.wait(timeout=60)
        assert (process.returncode, out) == (0, b"3000 lines: 3000 created\n")
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Importing" in shown
    assert ("100%" if source == "file" else "lines") in shown


# --- The documentation ----------------------------------------------------------------------------


def test_every_line_of_the_page_works_when_pasted(own_server: LiveServer) -> None:
    own_server.start()
    admin = own_server.admin()
    admin.post("/services", json={"name": "todo", "scopes": ["todo:read"]})
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "bulk.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    program = shlex.join(command())
    script = "\n".join((f'keyosk() {{ {program} "$@"; }}', *blocks))
    result = execute(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=own_server.folder,
        env={
            **own_server.environment,
            "no_proxy": "127.0.0.1",
            "KEYOSK": own_server.url,
            "ADMIN": f"Authorization: {admin.session.headers['Authorization']!s}",
        },
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert '"created":3' in result.stdout
    assert "3 lines: 3 exists\n" in result.stdout
    dave = own_server.client("dave", "letmein at once, please")
    assert dave.post("/auth/token").status_code == 200
    rows = re.findall(r"^\| `([a-z]+)`", page, re.MULTILINE)
    assert {str(status) for status in Status} - {"unchanged"} <= set(rows)


# --- How lines are read ---------------------------------------------------------------------------


class Pieces(io.RawIOBase):
    """Gives what it has in pieces of the sizes that it is told."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data = data
        self.sizes = sizes

    def read(self, size: int = -1, /) -> bytes:
        size = self.sizes.pop(0) if self.sizes else size
        piece, self.data = self.data[:size], self.data[size:]
        return piece


@given(
    texts=st.lists(
        st.binary(max_size=30).map(lambda text: text.replace(b"\n", b""))
        | st.integers(0, 3).map(lambda more: b"x" * (lines.LONGEST - 1 + more)),
        max_size=8,
    ),
    sizes=st.lists(st.integers(1, 100) | st.integers(60_000, 70_000), max_size=20),
    ended=st.booleans(),
)
def test_where_a_body_is_cut_into_pieces_makes_no_difference(
    texts: list[bytes], sizes: list[int], *, ended: bool
) -> None:
    body = b"\n".join(texts) + (b"\n" if ended else b"")
    numbered_lines = [
        (number, text) for number, text in lines._split(Pieces(body, sizes), lambda _: None)
    ]
    expected = body.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    if body[:1] != b"\xef":  # the mark at the beginning may be cut
        assert numbered_lines == [
            (number, None if len(text) > lines.LONGEST else text)
            for number, text in enumerate(expected, start=1)
        ]


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(st.characters(categories=None), max_size=3),
    st.sampled_from(["person", "machine"]),
    st.dictionaries(
        st.sampled_from(["scopes", "roles", "other"]),
        st.lists(st.one_of(st.text(st.characters(categories=None), max_size=3), st.integers())),
        max_size=3,
    ),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@given(
    st.dictionaries(
        st.sampled_from([*lines._SIMPLE, "expires_at", "grants", "other"]), _VALUES, max_size=6
    )
)
def test_the_short_way_through_a_line_finds_what_the_schema_finds(document: dict[str, Any]) -> None:
    parsed = lines._parse_simple(document)
    if parsed is not None:
        loaded = lines._SCHEMA.load(document)
        grants = loaded.pop("grants", None)
        assert parsed == (loaded, None if grants is None else tuple(grants_of(grants)))


def test_the_short_way_is_the_usual_one() -> None:
    usual = {"username": "u", "kind": "person", "enabled": True, "claims": {}, "password_hash": "x"}
    assert lines._parse_simple(usual) == (usual, None)
    assert lines._parse_simple({**usual, "expires_at": None, "grants": {"scopes": [], "roles": []}})
    assert lines._parse_simple({**usual, "grants": {"scopes": ["todo:read"]}})


def test_the_admin_password_of_these_tests_is_not_in_an_export(server: LiveServer) -> None:
    assert ADMIN_PASSWORD not in server.run("account", "export").stdout
