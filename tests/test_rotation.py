"""API keys change over without a gap, and work only from where they may."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

import live
from installed import Clock, installed
from keyosk.credentials.presented import candidates
from keyosk.errors import BadCredentials
from keyosk.model import OPERATOR
from live import Client, LiveServer
from people import Person, assert_refused, make_key, make_person, make_service, ok
from tables import table

DAY = 86_400


@pytest.fixture(scope="module")
def todo(admin: Client) -> str:
    return make_service(admin)


@pytest.fixture(scope="module")
def person(admin: Client, todo: str) -> Person:
    return make_person(admin, f"{todo}:read", f"{todo}:write")


def rotated(admin: Client, person: Person, key: str, **body: Any) -> Any:
    return ok(admin.post(f"{person.path}/api-keys/{key}/rotate", json=body or None), 201)


def shown(admin: Client, person: Person, key: str) -> Any:
    return ok(admin.get(f"{person.path}/api-keys/{key}"))


def seconds_left(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() - time.time()


def token_status(person: Person, secret: str, **headers: str) -> int:
    return person.login(secret).post("/auth/token", headers=headers).status_code


# --- Rotation -------------------------------------------------------------------------------------


@table("body", [{}, {"overlap": DAY}, {"overlap": 60}, {"overlap": 90 * DAY}])
def test_both_keys_work_during_the_overlap_a_day_unless_chosen(
    admin: Client, person: Person, body: Mapping[str, int]
) -> None:
    key, secret = make_key(admin, person)

    new = rotated(admin, person, key, **body)

    assert token_status(person, secret) == 200
    assert token_status(person, new["secret"]) == 200
    left = seconds_left(shown(admin, person, key)["expires_at"])
    overlap = body.get("overlap", DAY)
    assert overlap - 30 < left <= overlap


def test_without_overlap_the_old_key_ends_at_once(admin: Client, person: Person) -> None:
    key, secret = make_key(admin, person)

    new = rotated(admin, person, key, overlap=0)

    assert token_status(person, secret) == 401
    assert token_status(person, new["secret"]) == 200


def test_the_old_key_ends_with_the_overlap_and_the_new_one_goes_on(prepared_url: str) -> None:
    clock = Clock(float(int(time.time())))
    with installed(prepared_url, clock=clock) as installation:
        old = installation.api_keys.create(OPERATOR, "admin", name="a key")
        new = installation.api_keys.rotate(OPERATOR, "admin", old.key.id, overlap=100)
        login = installation.authentication.by_secret
        clock.now += 99
        assert login(candidates([("admin", old.secret)])).successor == new.key.id
        clock.now += 1
        with pytest.raises(BadCredentials):
            login(candidates([("admin", old.secret)]))
        assert login(candidates([("admin", new.secret)])).successor is None


def test_the_token_answer_and_get_tell_of_the_successor(admin: Client, person: Person) -> None:
    key, secret = make_key(admin, person)
    before = ok(person.login(secret).post("/auth/token"))
    new = rotated(admin, person, key, overlap=600)

    response = ok(person.login(secret).post("/auth/token"))
    old = shown(admin, person, key)

    assert not any(name.startswith("api_key") for name in before)
    assert response["api_key_successor"] == old["successor"] == new["id"]
    assert response["api_key_expires_at"] == old["expires_at"]
    assert old["last_used_at"] is not None
    assert "api_key_successor" not in ok(person.login(new["secret"]).post("/auth/token"))


def test_a_successor_is_like_the_key_save_secrets(admin: Client, person: Person, todo: str) -> None:
    fields = {
        "name": live.unique("laptop"),
        "description": "What it is for.",
        "scopes": [f"{todo}:read"],
        "networks": ["127.0.0.0/8"],
        "expires_at": "2090-01-01T00:00:00Z",
    }
    api_key = ok(admin.post(f"{person.path}/api-keys", json=fields), 201)

    response = admin.post(f"{person.path}/api-keys/{api_key['id']}/rotate")

    new = ok(response, 201)
    assert {name: new[name] for name in fields} == fields
    assert response.headers["Location"] == f"{person.url}{person.path}/api-keys/{new['id']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert (new["successor"], new["last_used_at"], new["enabled"]) == (None, None, True)
    assert len({api_key["secret"], new["secret"]}) == len({api_key["id"], new["id"]}) == 2
    assert new["secret"].startswith(new["prefix"])
    assert ok(person.login(new["secret"]).post("/auth/token"))["scope"] == f"{todo}:read"


def test_rotation_never_lengthens_the_life_of_the_old_key(admin: Client, person: Person) -> None:
    soon = datetime.fromtimestamp(int(time.time()) + 300).astimezone().isoformat()
    key, _ = make_key(admin, person, expires_at=soon)
    end = shown(admin, person, key)["expires_at"]

    rotated(admin, person, key, overlap=DAY)

    assert shown(admin, person, key)["expires_at"] == end


def test_a_key_is_rotated_once_and_then_its_successor(admin: Client, person: Person) -> None:
    key, _ = make_key(admin, person)
    new = rotated(admin, person, key)

    again = admin.post(f"{person.path}/api-keys/{key}/rotate")

    assert_refused(again, "conflict", 409)
    assert again.json()["errors"][0]["field"] == "successor"
    assert shown(admin, person, key)["successor"] == new["id"]
    newest = rotated(admin, person, new["id"])
    assert shown(admin, person, new["id"])["successor"] == newest["id"]


def test_of_rotations_at_once_one_wins(server: LiveServer, admin: Client, person: Person) -> None:
    key, _ = make_key(admin, person)
    count = len(ok(admin.get(f"{person.path}/api-keys?limit=200"))["items"])
    clients = [server.admin() for _ in range(4)]
    path = f"{person.path}/api-keys/{key}/rotate"

    with ThreadPoolExecutor(len(clients)) as pool:
        statuses = list(pool.map(lambda client: client.post(path).status_code, clients))

    assert sorted(statuses) == [201, 409, 409, 409]
    assert len(ok(admin.get(f"{person.path}/api-keys?limit=200"))["items"]) == count + 1


@table("overlap", [-1, 90 * DAY + 1, "60", 1.5, True, None])
def test_an_overlap_that_makes_no_sense_is_refused(
    admin: Client, person: Person, overlap: object
) -> None:
    key, secret = make_key(admin, person)

    refusal = admin.post(f"{person.path}/api-keys/{key}/rotate", json={"overlap": overlap})

    assert_refused(refusal, "invalid", 422)
    assert refusal.json()["errors"][0]["field"] == "overlap"
    assert (shown(admin, person, key)["successor"], token_status(person, secret)) == (None, 200)


@pytest.mark.slow
def test_the_command_rotates_too(server: LiveServer, admin: Client, person: Person) -> None:
    key, secret = make_key(admin, person)

    result = server.run("api-key", "rotate", person.username, key, "--overlap", "0", "--json")

    assert result.returncode == 0, result.stderr
    new = json.loads(result.stdout)["secret"]
    assert (token_status(person, secret), token_status(person, new)) == (401, 200)


# --- Networks -------------------------------------------------------------------------------------


@table(
    ("networks", "status"),
    [
        (None, 200),
        (["127.0.0.0/8"], 200),
        (["192.0.2.0/24", "127.0.0.0/8"], 200),
        (["192.0.2.0/24"], 401),
        (["::1", "::/0"], 401),
    ],
)
def test_a_key_works_only_from_its_networks(
    admin: Client, person: Person, networks: list[str] | None, status: int
) -> None:
    _, secret = make_key(admin, person, networks=networks)
    # No proxy is trusted here: what the header says counts for nothing.
    forwarded = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1"}

    assert token_status(person, secret) == status
    assert token_status(person, secret, **forwarded) == status
    assert person.login(secret).get("/accounts/me").status_code == status


#: Of a server that trusts 127.0.0.0/8 and 10.0.0.0/8: who the header says it was, and the response.
FORWARDED = (
    ("192.0.2.7", 200),
    ("::ffff:192.0.2.7", 200),
    ("2001:db8::1", 200),
    ("198.51.100.1, 192.0.2.7", 200),
    ("192.0.2.7, 10.1.2.3", 200),
    ("192.0.2.7, 10.1.2.3, 127.0.0.1", 200),
    ("192.0.2.7, ::ffff:10.1.2.3", 200),
    ("198.51.100.1", 401),
    ("192.0.2.7, 198.51.100.1", 401),
    ("192.0.2.7, 198.51.100.1, 10.1.2.3", 401),
    ("192.0.2.7, somebody", 401),
    ("192.0.2.7:4711", 200),
    ("198.51.100.1:4711", 401),
    # An empty element of a list is none (RFC 9110 section 5.6.1.2).
    ("192.0.2.7,", 200),
    ("", 401),
    (None, 401),
)


@pytest.mark.slow
def test_behind_a_proxy_what_it_wrote_counts_and_no_more(own_server: LiveServer) -> None:
    own_server.environment["KEYOSK_TRUSTED_PROXIES"] = "127.0.0.0/8, 10.0.0.0/8"
    own_server.start()
    admin = own_server.admin()
    person = make_person(admin)
    _, secret = make_key(admin, person, networks=["192.0.2.0/24", "2001:db8::/32"])

    answered = [
        (header, token_status(person, secret, **({"X-Forwarded-For": header} if header else {})))
        for header, _ in FORWARDED
    ]

    assert answered == list(FORWARDED)


def test_networks_are_kept_in_their_normal_form(admin: Client, person: Person) -> None:
    key, _ = make_key(admin, person, networks=["10.0.0.1", "2001:DB8:0::/32", "10.0.0.1"])
    assert shown(admin, person, key)["networks"] == ["10.0.0.1/32", "2001:db8::/32"]

    path = f"{person.path}/api-keys/{key}"
    assert ok(admin.patch(path, json={"networks": ["::1"]}))["networks"] == ["::1/128"]
    assert ok(admin.patch(path, json={"networks": None}))["networks"] is None


@table(
    "networks",
    [
        [],
        [""],
        ["example.org"],
        ["10.0.0.0/33"],
        ["10.0.0.1/8"],
        ["10.0.0.0/8", "10.0.0"],
        ["10.0.0.0/255.0.0.0.0"],
        [f"10.0.0.{number}" for number in range(51)],
        [10],
        "10.0.0.0/8",
    ],
)
def test_what_is_no_network_is_refused(admin: Client, person: Person, networks: object) -> None:
    key, _ = make_key(admin, person)
    for response in (
        admin.post(f"{person.path}/api-keys", json={"name": "a key", "networks": networks}),
        admin.patch(f"{person.path}/api-keys/{key}", json={"networks": networks}),
    ):
        assert_refused(response, "invalid", 422)
        assert response.json()["errors"][0]["field"].startswith("networks")
        if networks == ["10.0.0.1/8"]:  # the usual slip
            assert "no bit set after the prefix: 10.0.0.1/8" in response.json()["detail"]
    assert shown(admin, person, key)["networks"] is None
