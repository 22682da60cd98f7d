"""/accounts/{account}/api-keys: made here, shown once, kept as digests."""

import hashlib
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyosk.credentials import api_key_format
from live import Client, LiveServer
from people import can_log_in, make_account, make_service, ok, problem
from tables import table

PASSWORD = "seven quiet herons wade"
FAR = "2090-01-01T00:00:00Z"
PAST = "2020-01-01T00:00:00Z"


def make_key(admin: Client, account: dict[str, Any], **fields: Any) -> dict[str, Any]:
    path, body = f"/accounts/{account['id']}/api-keys", {"name": "a key", **fields}
    created: dict[str, Any] = ok(admin.post(path, json=body), 201)
    return created


@pytest.fixture
def owner(admin: Client) -> dict[str, Any]:
    """An account of the test's own, with a password."""
    return make_account(admin, password=PASSWORD)


@table(
    ("asked", "network", "status"),
    [
        ("::ffff:127.0.0.0/104", "127.0.0.0/8", 200),
        ("::ffff:192.0.2.1", "192.0.2.1/32", 401),
        ("::ffff:0:0/96", "0.0.0.0/0", 200),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8", 401),
        ("::/0", "::/0", 401),
    ],
)
def test_a_network_with_ipv4_in_ipv6_is_one_with_ipv4(
    server: LiveServer,
    admin: Client,
    owner: dict[str, Any],
    *,
    asked: str,
    network: str,
    status: int,
) -> None:
    """A dual-stack socket writes addresses like that, and people copy them."""
    key = make_key(admin, owner, networks=[asked])
    assert key["networks"] == [network]
    assert server.client(owner["username"], key["secret"]).post("/auth/token").status_code == status
    other = make_key(admin, owner)
    path = f"/accounts/{owner['id']}/api-keys/{other['id']}"
    assert admin.patch(path, json={"networks": [asked]}).json()["networks"] == [network]


# --- Shown once -----------------------------------------------------------------------------------


def test_a_new_key_is_answered_whole_with_its_secret(admin: Client, owner: dict[str, Any]) -> None:
    response = admin.post(
        f"/accounts/{owner['username'].upper()}/api-keys", json={"name": "laptop"}
    )
    assert response.status_code == 201
    body = response.json()
    assert api_key_format.is_well_formed(body["secret"])
    assert body["prefix"] == body["secret"][:12]
    # No cache may keep it.
    assert response.headers["Cache-Control"] == "no-store"
    assert (
        response.headers["Location"] == f"{admin.url}/accounts/{owner['id']}/api-keys/{body['id']}"
    )
    shown = admin.get(response.headers["Location"])
    del body["secret"]
    assert shown.json() == body
    assert shown.headers["ETag"] == response.headers["ETag"]


def stored_bytes(server: LiveServer) -> bytes:
    """All that the database holds of every table, as bytes."""
    url = server.environment["KEYOSK_DATABASE_URL"]
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return b"".join(path.with_name(path.name + suffix).read_bytes() for suffix in ("", "-wal"))
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        rows = [
            connection.execute(f'SELECT t::text FROM "{name}" t').fetchall() for (name,) in names
        ]
    return repr(rows).encode()


@pytest.mark.attack
def test_a_secret_is_in_no_later_answer_nor_in_the_database_nor_in_the_log(
    server: LiveServer, admin: Client, owner: dict[str, Any]
) -> None:
    made = make_key(admin, owner, name="searched-for")
    secret = made["secret"]
    path = f"/accounts/{owner['id']}/api-keys/{made['id']}"
    assert can_log_in(server, owner["username"], secret)
    assert not can_log_in(server, "somebody-else", secret)
    me = server.client(owner["username"], secret)
    responses = [
        admin.get(path),
        admin.get(f"/accounts/{owner['id']}/api-keys"),
        admin.get(f"/accounts/{owner['id']}"),
        admin.patch(path, json={"name": "searched-for-still"}),
        admin.patch(path, json={"secret": secret[:-1] + "!"}),
        admin.post(f"/accounts/{owner['id']}/api-keys", json={"name": "another"}),
        me.get("/accounts/me/api-keys"),
        me.post("/auth/token"),
        me.post("/accounts/me/api-keys", json={"name": "x"}),
    ]
    assert "searched-for" in responses[1].text
    random_part = secret[12:-6]  # without what is shown and what can be computed
    for response in responses:
        assert random_part not in response.text.replace(secret[:-1] + "!", "")
        assert random_part not in str(response.headers)
    stored, log = stored_bytes(server), server.log.read_bytes()
    assert random_part.encode() not in stored
    assert random_part.encode() not in log
    # The search does find what is there: the name, and the digest that stands for the secret.
    digest = hashlib.sha256(secret.encode()).digest()
    assert b"searched-for-still" in stored
    assert digest in stored or digest.hex().encode() in stored
    assert b"/api-keys" in log


def test_two_keys_of_one_name_are_two_keys(
    server: LiveServer, admin: Client, owner: dict[str, Any]
) -> None:
    first, second = make_key(admin, owner, name="ci"), make_key(admin, owner, name="ci")
    assert first["secret"] != second["secret"]
    assert first["id"] != second["id"]
    for key in (first, second):
        assert can_log_in(server, owner["username"], key["secret"])


# --- What a key lets in ---------------------------------------------------------------------------


def test_a_key_works_for_its_own_account_only_and_in_any_spelling_of_its_name(
    server: LiveServer, admin: Client, owner: dict[str, Any]
) -> None:
    other = make_account(admin)
    secret = make_key(admin, owner)["secret"]
    assert can_log_in(server, owner["username"], secret)
    assert can_log_in(server, owner["username"].upper(), secret)
    for username in (other["username"], owner["id"], "nobody-at-all"):
        assert not can_log_in(server, username, secret), username
    assert can_log_in(server, "", secret)  # without one it is enough


def test_a_key_with_one_character_changed_is_refused(
    server: LiveServer, admin: Client, owner: dict[str, Any]
) -> None:
    secret = make_key(admin, owner)["secret"]
    changed = [
        secret[:-1] + ("0" if secret[-1] != "0" else "1"),
        secret[:20] + ("a" if secret[20] != "a" else "b") + secret[21:],
        secret[:-1],
        secret + "0",
        secret.swapcase(),
        api_key_format.generate(),
    ]
    for wrong in changed:
        assert not can_log_in(server, owner["username"], wrong), wrong
    assert can_log_in(server, owner["username"], secret)


def test_a_disabled_key_is_refused_and_works_again_once_it_is_enabled(
    server: LiveServer, admin: Client, owner: dict[str, Any]
) -> None:
    key = make_key(admin, owner)
    path = f"/accounts/{owner['id']}/api-keys/{key['id']}"
    admin.patch(path, json={"enabled": False})
    assert not can_log_in(server, owner["username"], key["secret"])
    admin.patch(path, json={"enabled": None})
    assert can_log_in(server, owner["username"], key["secret"])
    born_disabled = make_key(admin, owner, enabled=False)
    assert not can_log_in(server, owner["username"], born_disabled["secret"])


def test_a_key_cannot_be_made_expired_but_can_be_expired_at_once(
    server: LiveServer, admin: Client, owner: dict[str, Any]
) -> None:
    path = f"/accounts/{owner['id']}/api-keys"
    body = problem(admin.post(path, json={"name": "old", "expires_at": PAST}), 422, "expires_at")
    assert "future" in body["errors"][0]["message"]
    assert admin.get(path).json()["items"] == []
    key = make_key(admin, owner, expires_at=FAR)
    assert key["expires_at"] == FAR
    assert can_log_in(server, owner["username"], key["secret"])
    ok(admin.patch(f"{path}/{key['id']}", json={"expires_at": PAST}))
    assert not can_log_in(server, owner["username"], key["secret"])


# --- Faults ---------------------------------------------------------------------------------------


def test_a_scope_that_exists_may_limit_a_key_before_its_account_holds_it(
    server: LiveServer, admin: Client, owner: dict[str, Any]
) -> None:
    service = make_service(admin, "later")
    key = make_key(admin, owner, scopes=[f"{service}:later"] * 2)
    assert key["scopes"] == [f"{service}:later"]  # twice is once
    login = server.client(owner["username"], key["secret"])
    assert ok(login.post("/auth/token"))["scope"] == ""
    admin.put(f"/accounts/{owner['id']}/grants", json={"scopes": [f"{service}:later"]})
    assert ok(login.post("/auth/token"))["scope"] == f"{service}:later"


def test_a_key_is_found_under_its_own_account_only(
    server: LiveServer, admin: Client, owner: dict[str, Any]
) -> None:
    other = make_account(admin)
    key = make_key(admin, owner)
    problem(admin.get(f"/accounts/{other['id']}/api-keys/{key['id']}"), 404)
    assert admin.get(f"/accounts/{other['id']}/api-keys").json()["items"] == []
    problem(admin.delete(f"/accounts/{other['id']}/api-keys/{key['id']}"), 404)
    assert can_log_in(server, owner["username"], key["secret"])


# --- Lists ----------------------------------------------------------------------------------------


def test_the_list_of_an_account_with_a_name_beyond_latin_1_has_a_next_page(admin: Client) -> None:
    owner = make_account(admin, "名前")
    names = [make_key(admin, owner, name=name)["name"] for name in "ab"]
    first = admin.get(f"/accounts/{owner['username']}/api-keys?limit=1")
    assert first.status_code == 200, first.text
    second = admin.get(first.links["next"]["url"])
    assert [page.json()["items"][0]["name"] for page in (first, second)] == names
