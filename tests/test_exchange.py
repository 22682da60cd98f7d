"""Token exchange (RFC 8693): a service hands a token on to the next one."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from live import Client, LiveServer, unique
from people import PASSWORD, Person, claims_of, make_key, make_person, ok
from tables import table

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


class Chain:
    """Three services that call one another, the accounts that act for them, and alice."""

    def __init__(self, admin: Client) -> None:
        self.admin = admin
        self.names = [unique(stem) for stem in ("shop", "bill", "bank")]
        self.backends: list[Person] = []
        for name in self.names:
            backend = make_person(admin)
            body = {"name": name, "scopes": [f"{name}:read", f"{name}:write"]}
            ok(admin.post("/services", json={**body, "account": backend.username}), 201)
            self.backends.append(backend)
        self.shop, self.bill, self.bank = self.names
        self.allow(self.shop, self.bill)
        self.allow(self.bill, self.bank)
        self.alice = make_person(admin, *(f"{name}:read" for name in self.names))

    def allow(self, service: str, target: str, *scopes: str) -> None:
        exchanges = [{"service": target, "scopes": list(scopes)}]
        ok(self.admin.patch(f"/services/{service}", json={"exchanges": exchanges}))

    def token(self, secret: str = PASSWORD, **parameters: Any) -> str:
        response = self.alice.login(secret).post("/auth/token", data=parameters)
        text: str = ok(response)["access_token"]
        return text

    def exchange(self, actor: Person, text: str, **parameters: Any) -> requests.Response:
        data = {
            "grant_type": EXCHANGE,
            "subject_token": text,
            "subject_token_type": ACCESS_TOKEN,
            **parameters,
        }
        return actor.login().post(
            "/auth/token", data={name: value for name, value in data.items() if value is not None}
        )


@pytest.fixture
def chain(admin: Client) -> Chain:
    return Chain(admin)


def refused(response: requests.Response, error: str) -> None:
    assert (response.status_code, response.json()["error"]) == (400, error), response.text


def test_a_token_is_exchanged_for_one_for_the_next_service(chain: Chain) -> None:
    text = chain.token()
    body = ok(chain.exchange(chain.backends[0], text, audience=chain.bill))

    before, after = claims_of(text), claims_of(body["access_token"])
    assert body["issued_token_type"] == ACCESS_TOKEN
    assert (body["token_type"], body["scope"]) == ("Bearer", f"{chain.bill}:read")
    assert "refresh_token" not in body
    assert (after["aud"], after["scope"]) == (chain.bill, f"{chain.bill}:read")
    backend = chain.backends[0]
    assert after["act"] == {"sub": backend.id, "client_id": backend.username}
    assert after["client_id"] == backend.username
    for same in ("iss", "sub", "preferred_username", "amr", "auth_time"):
        assert after[same] == before[same]
    assert after["exp"] <= before["exp"]
    assert after["jti"] != before["jti"]


def test_exchanged_again_it_names_everybody_who_acted(chain: Chain) -> None:
    once = ok(chain.exchange(chain.backends[0], chain.token(), audience=chain.bill))
    chain.allow(chain.bill, chain.bank, f"{chain.bank}:read")
    twice = ok(chain.exchange(chain.backends[1], once["access_token"], resource=chain.bank))
    acts = claims_of(twice["access_token"])["act"]
    assert acts["sub"] == chain.backends[1].id
    assert acts["act"]["sub"] == chain.backends[0].id


def test_it_is_never_wider_than_the_token_unless_an_admin_says_by_what(chain: Chain) -> None:
    narrow = chain.token(audience=chain.shop)
    backend = chain.backends[0]
    assert ok(chain.exchange(backend, narrow, audience=chain.bill))["scope"] == ""
    asked = chain.exchange(backend, narrow, audience=chain.bill, scope=f"{chain.bill}:read")
    refused(asked, "invalid_scope")

    chain.allow(chain.shop, chain.bill, f"{chain.bill}:read", f"{chain.bill}:write")

    # And never more than its account holds.
    body = ok(chain.exchange(backend, narrow, audience=chain.bill))
    assert body["scope"] == f"{chain.bill}:read"
    asked = chain.exchange(backend, narrow, audience=chain.bill, scope=f"{chain.bill}:write")
    refused(asked, "invalid_scope")


def test_it_never_lives_longer_than_the_token(chain: Chain) -> None:
    text = chain.token(lifetime=60)
    body = ok(chain.exchange(chain.backends[0], text, audience=chain.bill, lifetime=600))
    assert claims_of(body["access_token"])["exp"] <= claims_of(text)["exp"]


def test_only_the_allowed_pairs_exchange(chain: Chain, admin: Client) -> None:
    text = chain.token()
    refused(chain.exchange(chain.backends[0], text, audience=chain.bank), "invalid_target")
    refused(chain.exchange(chain.backends[0], text, audience="nowhere"), "invalid_target")
    refused(chain.exchange(chain.backends[0], text, audience=chain.shop), "invalid_target")
    refused(chain.exchange(chain.backends[2], text, audience=chain.bill), "invalid_target")
    refused(chain.exchange(make_person(admin), text, audience=chain.bill), "unauthorized_client")
    # The token must be for the service that exchanges it.
    other = chain.token(audience=chain.bank)
    refused(chain.exchange(chain.backends[0], other, audience=chain.bill), "unauthorized_client")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"subject_token": None}, "invalid_request"),
        ({"subject_token": "garbage"}, "invalid_request"),
        ({"subject_token_type": None}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
        ({"actor_token": "x", "actor_token_type": ACCESS_TOKEN}, "invalid_request"),
        ({"audience": None}, "invalid_request"),
        ({"audience": ["a", "b"]}, "invalid_request"),
        ({"scope": 'bad"scope'}, "invalid_scope"),
    ],
)
def test_wrong_requests_are_refused(chain: Chain, wrong: dict[str, Any], error: str) -> None:
    parameters = {"audience": chain.bill, **wrong}
    text = parameters.pop("subject_token", chain.token())
    refused(chain.exchange(chain.backends[0], text, **parameters), error)


def test_without_a_login_nothing_is_exchanged(chain: Chain, server: LiveServer) -> None:
    data = {
        "grant_type": EXCHANGE,
        "subject_token": chain.token(),
        "subject_token_type": ACCESS_TOKEN,
        "audience": chain.bill,
    }
    response = server.client().post("/auth/token", data=data)
    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("loss", ["revoked", "disabled", "key deleted", "service disabled"])
def test_a_token_that_is_good_no_more_is_exchanged_no_more(chain: Chain, loss: str) -> None:
    key, secret = make_key(chain.admin, chain.alice)
    text = chain.token(secret)
    ok(chain.exchange(chain.backends[0], text, audience=chain.bill))
    if loss == "revoked":
        chain.alice.login().post("/auth/revoke", data={"token": text})
    elif loss == "disabled":
        ok(chain.admin.patch(chain.alice.path, json={"enabled": False}))
    elif loss == "key deleted":
        assert chain.admin.delete(f"{chain.alice.path}/api-keys/{key}").status_code == 204
    else:
        ok(chain.admin.patch(f"/services/{chain.shop}", json={"enabled": False}))
    response = chain.exchange(chain.backends[0], text, audience=chain.bill)
    assert response.status_code == 400
    assert response.json()["error"] in ("invalid_request", "unauthorized_client")


def _entries(server: LiveServer, **of: str) -> list[dict[str, Any]]:
    """What is published of this claim."""
    listed = ok(server.client().get("/auth/revocations"))["entries"]
    return [entry for entry in listed if of.items() <= entry.items()]


def _is_active(person: Person, text: str) -> bool:
    is_active: bool = ok(person.login().post("/auth/introspect", data={"token": text}))["active"]
    return is_active


_LOSSES: dict[str, Callable[[Chain], requests.Response]] = {
    "the account that acts is disabled": lambda chain: chain.admin.patch(
        chain.backends[0].path, json={"enabled": False}
    ),
    "it is deleted": lambda chain: chain.admin.delete(chain.backends[0].path),
    "its tokens are revoked": lambda chain: chain.admin.delete(f"{chain.backends[0].path}/tokens"),
    "another acts": lambda chain: chain.admin.patch(
        f"/services/{chain.shop}", json={"account": chain.backends[1].username}
    ),
    "nobody acts": lambda chain: chain.admin.patch(
        f"/services/{chain.shop}", json={"account": None}
    ),
    "the exchange is taken back": lambda chain: chain.admin.patch(
        f"/services/{chain.shop}", json={"exchanges": []}
    ),
    "it adds less": lambda chain: chain.admin.patch(
        f"/services/{chain.shop}", json={"exchanges": [{"service": chain.bill, "scopes": []}]}
    ),
    "the service is disabled": lambda chain: chain.admin.patch(
        f"/services/{chain.shop}", json={"enabled": False}
    ),
    "the service is deleted": lambda chain: chain.admin.delete(
        f"/services/{chain.shop}?force=true"
    ),
}


@pytest.mark.every_database
@table("loss", [*_LOSSES])
def test_an_exchanged_token_ends_with_the_right_to_act(
    server: LiveServer, admin: Client, loss: str
) -> None:
    """As in https://github.com/keycloak/keycloak/issues/52691."""
    chain = Chain(admin)
    chain.allow(chain.shop, chain.bill, f"{chain.bill}:read")
    actor = chain.backends[0]
    text = ok(chain.exchange(actor, chain.token(), audience=chain.bill))["access_token"]
    assert _is_active(chain.alice, text)

    assert _LOSSES[loss](chain).status_code in (200, 204)

    assert not _is_active(chain.alice, text)
    headers = {"Authorization": f"Bearer {text}"}
    assert server.client().get(f"/auth/forward/{chain.bill}", headers=headers).status_code == 401
    [entry] = _entries(server, sub=actor.id)
    assert claims_of(text)["iat"] < entry["issued_before"]


@table(
    "change",
    [
        {"title": "Another"},
        {"exchanges": [{"service": "bill", "scopes": ["bill:read", "bill:write"]}]},
    ],
)
def test_what_takes_nothing_away_ends_no_exchanged_token(
    server: LiveServer, admin: Client, change: dict[str, Any]
) -> None:
    chain = Chain(admin)
    chain.allow(chain.shop, chain.bill, f"{chain.bill}:read")
    text = ok(chain.exchange(chain.backends[0], chain.token(), audience=chain.bill))
    body = json.loads(json.dumps(change).replace("bill", chain.bill))
    ok(chain.admin.patch(f"/services/{chain.shop}", json=body))
    assert _is_active(chain.alice, text["access_token"])
    assert _entries(server, sub=chain.backends[0].id) == []


def test_whoever_acts_exchanges_again_at_once_after_a_revocation(
    chain: Chain, server: LiveServer
) -> None:
    actor = chain.backends[0]
    assert chain.admin.delete(f"{actor.path}/tokens").status_code in (200, 204)
    text = ok(chain.exchange(actor, chain.token(), audience=chain.bill))["access_token"]
    assert _is_active(chain.alice, text)
    [entry] = _entries(server, sub=actor.id)
    assert claims_of(text)["iat"] >= entry["issued_before"]


def test_only_who_acts_now_counts_and_earlier_ones_are_told_of(chain: Chain) -> None:
    once = ok(chain.exchange(chain.backends[0], chain.token(), audience=chain.bill))
    chain.allow(chain.bill, chain.bank, f"{chain.bank}:read")
    twice = ok(chain.exchange(chain.backends[1], once["access_token"], audience=chain.bank))
    ok(chain.admin.patch(chain.backends[0].path, json={"enabled": False}))
    assert _is_active(chain.alice, twice["access_token"])
    ok(chain.admin.patch(chain.backends[1].path, json={"enabled": False}))
    assert not _is_active(chain.alice, twice["access_token"])


def test_whoever_acts_introspects_and_revokes_the_token_and_no_other(chain: Chain) -> None:
    subject = chain.token()
    actor, stranger = chain.backends[0], chain.backends[2]
    text = ok(chain.exchange(actor, subject, audience=chain.bill))["access_token"]
    assert _is_active(actor, text)
    assert not _is_active(stranger, text)
    refused(stranger.login().post("/auth/revoke", data={"token": text}), "invalid_grant")
    refused(actor.login().post("/auth/revoke", data={"token": subject}), "invalid_grant")
    assert actor.login().post("/auth/revoke", data={"token": text}).status_code == 200
    assert not _is_active(chain.alice, text)
    assert _is_active(chain.alice, subject)


def test_what_a_key_may_not_stays_so_after_an_exchange(chain: Chain) -> None:
    chain.allow(chain.shop, chain.bill, f"{chain.bill}:read")
    _, secret = make_key(chain.admin, chain.alice, scopes=[f"{chain.shop}:read"])
    text = chain.token(secret)
    body = ok(chain.exchange(chain.backends[0], text, audience=chain.bill))
    assert body["scope"] == ""
    assert claims_of(body["access_token"])["key_id"] == claims_of(text)["key_id"]


def test_exchanges_are_administered_like_all_else(chain: Chain, admin: Client) -> None:
    path = f"/services/{chain.shop}"
    assert ok(admin.get(path))["exchanges"] == [{"service": chain.bill, "scopes": []}]
    for wrong in ([{"service": "nowhere"}], [{"service": chain.shop}], [{"service": "keyosk"}]):
        assert admin.patch(path, json={"exchanges": wrong}).status_code == 422
    assert ok(admin.patch(path, json={"exchanges": None}))["exchanges"] == []
