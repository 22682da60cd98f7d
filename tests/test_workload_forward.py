"""/auth/forward by a token that another platform signed: as by a token of Keyosk."""

import time
from typing import Any

import pytest
import requests

from live import Client, unique
from people import PASSWORD, forwarded_claims, make_person, ok
from platforms import platform
from shops import Shop

pytestmark = pytest.mark.every_database


def forward(shop: Shop, token: str, scope: str = "") -> requests.Response:
    path = f"/auth/forward?service={shop.service}" + (f"&scope={scope}" if scope else "")
    return Client(shop.server.url, token=token).get(path)


def refused(response: requests.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert not {"X-Keyosk-Account", "X-Keyosk-Scope"} & response.headers.keys()


def logins(shop: Shop) -> list[dict[str, Any]]:
    rows = ok(shop.admin.get("/audit", params={"action": "workload.login", "sort": "-sequence"}))
    return [row for row in rows["items"] if row["actor_name"] == shop.account]


def test_a_foreign_token_passes_as_the_account(shop: Shop) -> None:
    token = shop.ci.token()
    response = forward(shop, token, shop.read)
    claims = forwarded_claims(response)
    assert (claims["aud"], claims["preferred_username"]) == (shop.service, shop.account)
    assert set(claims["scope"].split()) == {shop.read, shop.write}
    assert claims["exp"] - claims["iat"] == 60
    assert claims["amr"] == ["wif"]
    assert response.headers["X-Keyosk-Account"] == shop.account
    assert token not in response.headers["Authorization"]


def test_it_is_recorded_once_for_all_of_its_requests(shop: Shop) -> None:
    token = shop.ci.token()
    for _ in range(20):
        forwarded_claims(forward(shop, token))
    [*rows] = logins(shop)
    assert 1 <= len(rows) <= 8  # once in each process of the server
    assert rows[0]["after"]["iss"] == shop.ci.issuer
    assert ok(shop.admin.get(f"/issuers/{shop.issuer}/rules/main"))["last_used_at"] is not None


@pytest.mark.attack
def test_a_service_that_does_not_say_so_takes_none(shop: Shop) -> None:
    token = shop.ci.token()
    forwarded_claims(forward(shop, token))
    for accepts in ("both", "password", ["api_key"]):
        ok(shop.admin.patch(f"/services/{shop.service}", json={"accepts": accepts}))
        refused(forward(shop, token), 401)
    ok(shop.admin.patch(f"/services/{shop.service}", json={"accepts": ["workload"]}))
    forwarded_claims(forward(shop, token))
    ok(shop.admin.patch(f"/services/{shop.service}", json={"enabled": False}))
    refused(forward(shop, token), 403)


@pytest.mark.attack
def test_a_token_for_one_service_opens_no_other(shop: Shop) -> None:
    other = unique("other")
    body = {"name": other, "scopes": [f"{other}:read"], "accepts": "any"}
    ok(shop.admin.post("/services", json=body), 201)
    client = Client(shop.server.url, token=shop.ci.token())
    refused(client.get(f"/auth/forward?service={other}"), 403)
    refused(client.get("/auth/forward?service=keyosk"), 401)
    refused(client.get(f"/auth/forward?service={unique('nothing')}"), 401)


@pytest.mark.attack
def test_what_is_no_login_does_not_pass(shop: Shop) -> None:
    now = int(time.time())
    good = shop.ci.token()
    forwarded_claims(forward(shop, good))
    with platform() as stranger:
        stranger.kid = shop.ci.kid
        wrong = {
            "another's key": stranger.signed(shop.ci.claims()),
            "another issuer": stranger.token(),
            "no rule": shop.ci.token(ref="refs/heads/x"),
            "expired": shop.ci.token(iat=now - 600, exp=now - 1),
            "another audience": shop.ci.token(aud="https://other.example.com"),
            "no signature": good.rpartition(".")[0] + ".",
            "another signature": good.rpartition(".")[0] + ".AAAA",
            "an access token": shop.ci.token(headers={"typ": "at+jwt"}),
            "nothing": "a.b.c",
        }
        for name, token in wrong.items():
            response = forward(shop, token)
            assert response.status_code == 401, name
            assert "Bearer" in response.headers["WWW-Authenticate"], name


@pytest.mark.attack
def test_what_took_the_login_away_counts_at_once(shop: Shop) -> None:
    token = shop.ci.token()
    forwarded_claims(forward(shop, token))
    ok(shop.change_rule("main", scopes=[shop.read]))
    refused(forward(shop, token, shop.write), 403)
    assert forwarded_claims(forward(shop, token))["scope"] == shop.read
    ok(shop.change_rule("main", enabled=False))
    refused(forward(shop, token), 401)
    ok(shop.change_rule("main", enabled=True))
    ok(shop.change(enabled=False))
    refused(forward(shop, token), 401)
    ok(shop.change(enabled=True))
    ok(shop.admin.patch(f"/accounts/{shop.account}", json={"enabled": False}))
    refused(forward(shop, token), 401)


@pytest.mark.attack
def test_a_token_that_logs_in_once_passes_once(shop: Shop) -> None:
    ok(shop.change_rule("main", once=True))
    token = shop.ci.token()
    refused(forward(shop, token, "nobody:knows"), 403)
    forwarded_claims(forward(shop, token))
    refused(forward(shop, token), 401)
    assert "before" in shop.refusal(token)


def test_the_new_token_does_not_outlive_the_foreign_one(shop: Shop) -> None:
    now = int(time.time())
    assert forwarded_claims(forward(shop, shop.ci.token(exp=now + 30)))["exp"] <= now + 30


def test_keyosks_own_tokens_pass_there_as_before(shop: Shop) -> None:
    own = ok(shop.present(shop.ci.token()))["access_token"]
    assert forwarded_claims(forward(shop, own))["preferred_username"] == shop.account
    person = make_person(shop.admin, shop.read)
    theirs = ok(person.login(PASSWORD).post("/auth/token", data={"audience": shop.service}))
    assert (
        forwarded_claims(forward(shop, theirs["access_token"]))["preferred_username"]
        == person.username
    )
    refused(forward(shop, theirs["access_token"][:-4] + "AAAA"), 401)
