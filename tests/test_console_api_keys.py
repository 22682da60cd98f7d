"""The API keys of everybody in the console, and how the owner of a leaked key is found."""

import re

import pytest

from keyosk.console import ages
from keyosk.credentials import api_key_format
from live import Client, LiveServer
from pages import Browser, Page, logged_in
from people import can_log_in, make_key, make_person, ok
from tables import table

pytestmark = pytest.mark.every_database


def forged(secret: str) -> str:
    """Another secret, whole, that begins like this one."""
    body = secret[:12] + "0" * 25
    return body + api_key_format._checksum(body)


def test_the_keys_of_everybody_are_listed_and_filtered(admin: Client, root: Browser) -> None:
    alice, bob = make_person(admin), make_person(admin)
    for number in range(51):
        make_key(admin, alice, name=f"laptop {number}")
    _, secret = make_key(admin, bob, name="ci", networks=["10.0.0.0/8"])
    page = root.get("/console/api-keys", params={"owner": alice.username})
    assert ("laptop 0" in page.text, "laptop 50" in page.text) == (True, False)
    (more,) = [given["href"] for _, given in page.tags if given.get("rel") == "next"]
    assert "laptop 50" in root.get(more or "").text
    page = root.get("/console/api-keys", params={"prefix": secret[:12]})
    assert f"{bob.username} ci" in page.text
    assert "all scopes; 10.0.0.0/8" in page.text
    assert alice.username not in page.text
    for filters in ({"networks": "any"}, {"enabled": "false"}, {"expires_before": "2000-01-01"}):
        page = root.get("/console/api-keys", params={"owner": bob.username, **filters})
        assert "No API key matches." in page.text or page.status == 422


def test_a_leaked_key_is_found_and_ended(server: LiveServer, admin: Client, root: Browser) -> None:
    alice = make_person(admin)
    key, secret = make_key(admin, alice, name="laptop")
    response = root.post("/console/api-keys/find", {"secret": f"  {secret}\n"})
    page = Page(response)
    assert re.search(rf"This is a key of {alice.username} ?: laptop", page.text)
    assert "It works." in page.text
    assert secret not in response.text
    (form,) = [form for form in page.forms if form.action.endswith(f"{key}/end")][:1]
    page = root.act(form.action)
    assert "no longer works" in page.text
    assert not can_log_in(server, alice.username, secret)
    page = Page(root.post("/console/api-keys/find", {"secret": secret}))
    assert "No API key has this secret" in page.text
    rows = ok(admin.get("/audit", params={"target": f"account/{alice.id}/api-key/{key}"}))
    assert secret[12:] not in str(rows)
    assert secret[12:] not in server.log.read_text()


@pytest.mark.attack
def test_a_secret_that_only_begins_like_a_key_is_told_so(admin: Client, root: Browser) -> None:
    alice = make_person(admin)
    _, secret = make_key(admin, alice)
    page = Page(root.post("/console/api-keys/find", {"secret": forged(secret)}))
    assert "No API key has this secret. Another one begins like it:" in page.text
    assert alice.username in page.text
    assert "It works." not in page.text
    page = Page(root.post("/console/api-keys/find", {"secret": secret[:30]}))
    assert "it is not a whole key" in page.text
    assert alice.username in page.text
    assert root.post("/console/api-keys/find", {"secret": "a password"}).status_code == 422
    assert root.client.get("/console/api-keys", params={"prefix": secret}).status_code == 422


@table("body", [{}, {"digest": "ab" * 32}, {"secret": "kysk_1", "prefix": "kysk_1"}, {"secret": 1}])
def test_a_search_names_a_secret_or_a_prefix(admin: Client, body: dict[str, str]) -> None:
    assert admin.post("/api-keys/find", json=body).status_code == 422


def test_a_search_says_whether_it_is_this_very_secret_and_whether_it_works(admin: Client) -> None:
    alice = make_person(admin)
    key, secret = make_key(admin, alice)

    def find(**body: str) -> tuple[str, bool, list[tuple[str, bool]]]:
        result = ok(admin.post("/api-keys/find", json=body))
        assert secret not in str(result)
        keys = [(item["id"], item["works"]) for item in result["items"]]
        return result["matches"], result["is_whole"], keys

    assert find(secret=secret) == ("secret", True, [(key, True)])
    digest = api_key_format.digest(secret).hex()
    assert find(digest=digest, prefix=secret[:12]) == ("secret", True, [(key, True)])
    assert find(secret=forged(secret)) == ("prefix", True, [(key, True)])
    assert find(secret=secret[:-1]) == ("prefix", False, [(key, True)])
    assert find(prefix=secret[:12]) == ("prefix", True, [(key, True)])
    assert find(secret="kysk_" + "0" * 38) == ("none", False, [])
    ok(admin.patch(f"{alice.path}/api-keys/{key}", json={"enabled": False}))
    ok(admin.patch(alice.path, json={"enabled": False}))
    (item,) = ok(admin.post("/api-keys/find", json={"secret": secret}))["items"]
    assert item["faults"] == ["account_disabled", "key_disabled"]


@pytest.mark.attack
def test_nobody_without_the_scope_learns_whose_a_key_is(server: LiveServer, admin: Client) -> None:
    alice = make_person(admin)
    _, secret = make_key(admin, alice)
    response = logged_in(server, alice.username).post("/console/api-keys/find", {"secret": secret})
    assert response.status_code == 403
    assert secret not in response.text


@table(
    "seconds, words",
    [(0, "over"), (1, "in 1 second"), (3_600, "in 1 hour"), (90_061, "in 1 day 1 hour")],
)
def test_the_time_until_something_is_said_in_two_units(seconds: int, words: str) -> None:
    assert ages.left("2030-01-31T12:00:00Z", 1_896_091_200 - seconds) == words
