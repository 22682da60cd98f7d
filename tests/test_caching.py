"""What may be kept: public documents for a while, everything else by nobody."""

import re
from typing import Any

import pytest
import requests

from keyosk.web.routes import ROUTES
from live import Client, LiveServer
from people import PASSWORD, Person, make_key, make_person

#: The routes that anyone may read, and what an address of them looks like.
PUBLIC = {
    "/auth/revocations": "/auth/revocations",
    "/auth/jwks": "/auth/jwks",
    "/.well-known/jwks.json": "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server": "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration": "/.well-known/openid-configuration",
    "/services/<service>/jwks": "/services/keyosk/jwks",
    "/openapi.json": "/openapi.json",
    "/": "/",
    "/docs": "/docs",
    "/docs/<file>": "/docs/start.js",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")


@pytest.fixture(scope="module")
def alice(admin: Client) -> Person:
    return make_person(admin)


def kept(response: requests.Response) -> str:
    return str(response.headers.get("Cache-Control"))


def addresses(alice: Person, key: str) -> list[str]:
    """An address of each route that is there, and one that is not."""
    known = {"account": alice.id, "service": "keyosk", "key": key, "file": "start.js"}
    paths = set()
    for route in ROUTES:
        paths.add(re.sub(r"<(\w+)>", lambda match: known.get(match[1], "nothing"), route.path))
        paths.add(re.sub(r"<(\w+)>", "nothing", route.path))
    return sorted({*paths, "/nowhere", "/accounts/me", "/accounts?limit=0", "/accounts?limit=1"})


@pytest.mark.slow
@pytest.mark.attack
def test_nothing_that_is_not_public_may_be_kept(
    server: LiveServer, admin: Client, alice: Person
) -> None:
    key, _ = make_key(admin, alice)
    anybody, wrong = server.client(), Client(server.url, token="wrong")
    callers = (anybody, wrong, alice.bearer(), admin)  # by password it would take minutes
    seen = set()
    for path in addresses(alice, key):
        for caller in callers:
            for method in METHODS:
                if method in ("POST", "PUT", "PATCH", "DELETE") and caller is admin:
                    continue  # it would change what others use
                response = caller.request(method, path, json={})
                seen.add(response.status_code)
                public = path in PUBLIC.values() and method in ("GET", "HEAD")
                if not public or response.status_code != 200:
                    assert kept(response) == "no-store", (method, path, response.status_code)
                else:
                    assert "no-store" not in kept(response), path
                    assert "private" not in kept(response), path
    assert {200, 204, 401, 403, 404, 405, 422} <= seen


def test_a_route_is_public_only_if_it_is_listed_here() -> None:
    uncached = {"/health/live", "/health/ready", "/auth/keys/<kid>.pem", "/auth/authorize"}
    public = {
        route.path for route in ROUTES for access in route.access.values() if access.is_public
    }
    assert public == PUBLIC.keys() | uncached


def test_personal_data_is_not_for_a_browser_to_store(admin: Client, alice: Person) -> None:
    key, _ = make_key(admin, alice)
    kid = admin.get("/auth/jwks").json()["keys"][0]["kid"]
    for path in (alice.path, f"{alice.path}/grants", f"{alice.path}/api-keys/{key}",
                 f"{alice.path}/api-keys", f"{alice.path}/tokens", "/accounts", "/audit",
                 "/accounts/export", "/signing-keys", f"/signing-keys/{kid}", "/services", "/roles",
                 "/services/keyosk"):  # fmt: skip
        head, response = (admin.request(method, path) for method in ("HEAD", "GET"))
        assert (head.status_code, kept(head)) == (200, "no-store"), path
        assert (response.status_code, kept(response)) == (200, "no-store"), path
        tag = response.headers.get("ETag")
        if tag is not None:  # a client that keeps it by itself may still ask whether it is current
            known = admin.get(path, headers={"If-None-Match": tag})
            assert (known.status_code, kept(known)) == (304, "no-store"), path


def test_changes_tokens_and_replays_are_not_kept(admin: Client, alice: Person) -> None:
    once: dict[str, Any] = {"headers": {"Idempotency-Key": alice.id}, "json": {"name": "once"}}
    responses = [
        admin.patch(alice.path, json={"display_name": "x"}),
        admin.put(f"{alice.path}/grants", json={"scopes": [], "roles": []}),
        admin.post(f"{alice.path}/api-keys", **once),
        admin.post(f"{alice.path}/api-keys", **once),
        alice.login().post("/auth/token"),
        alice.login().get("/auth/token"),
        alice.login().post("/auth/introspect", data={"token": "x"}),
        alice.login().post("/auth/revoke", data={"token": "x"}),
        alice.login().post("/auth/explain", json={}),
        alice.login("wrong").post("/auth/token"),
        admin.request("OPTIONS", alice.path),
        admin.delete(f"{alice.path}/tokens"),
    ]
    assert {kept(response) for response in responses} == {"no-store"}
    assert PASSWORD not in "".join(response.text for response in responses)
