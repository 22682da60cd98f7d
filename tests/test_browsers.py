"""What pages of other sites can do through a browser: nothing, unless an origin is listed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live import ADMIN_PASSWORD, Client, LiveServer
from people import PASSWORD, Person, make_person
from tables import table

OURS = "https://app.example.org"
ALSO_OURS = "http://localhost:3000"
FOREIGN = (
    *("https://evil.example", "null", "*", "", f"{OURS}/", f"{OURS}.evil.example", f"x{OURS}"),
    *(f"{OURS}:444", "http://app.example.org", OURS.upper(), f"{OURS}, https://evil.example"),
)
ELSEWHERE = ("cross-site", "same-site", "Cross-Site", "none, cross-site", "unheard-of", "")
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-User": "?1"}
PREFLIGHT = {
    "Access-Control-Request-Method": "PATCH",
    "Access-Control-Request-Headers": "authorization",
}
PUBLIC = (
    *("/auth/jwks", "/.well-known/jwks.json", "/.well-known/openid-configuration"),
    *("/.well-known/oauth-authorization-server", "/auth/revocations", "/openapi.json"),
    "/health/live",
)


@pytest.fixture(scope="module")
def person(admin: Client) -> Person:
    return make_person(admin, "keyosk:accounts:read")


@pytest.fixture
def sharing(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(database_url, tmp_path, cors_origins=f"{OURS},{ALSO_OURS}") as started:
        yield started


def asked_by_basic(person: Person, secret: str = PASSWORD) -> list[tuple[Client, str, str, Any]]:
    client = person.login(secret)
    return [
        (client, "GET", "/auth/token", {}),
        (client, "POST", "/auth/token", {"data": {"scope": ""}}),
        (client, "POST", "/auth/introspect", {"data": {"token": "x"}}),
        (client, "POST", "/auth/revoke", {"data": {"token": "x"}}),
        (client, "POST", "/auth/explain", {"json": {}}),
        (client, "GET", "/auth/forward?service=keyosk", {}),
        (client, "GET", "/accounts/me", {}),
        (client, "HEAD", "/accounts/me", {}),
        (client, "DELETE", "/accounts/me/tokens", {}),
        (client, "POST", "/accounts/me/api-keys", {"json": {"name": "stolen"}}),
        (client, "POST", "/accounts/import", {"data": b"{}"}),
    ]


@pytest.mark.attack
@table("site", ELSEWHERE)
def test_a_request_from_another_site_never_logs_in_by_basic(person: Person, site: str) -> None:
    for client, method, path, options in asked_by_basic(person):
        headers = {"Sec-Fetch-Site": site, **(NAVIGATION if method == "GET" else {})}
        response = client.request(method, path, headers=headers, **options)
        assert response.status_code == 403, (method, path, response.text)
        if method == "HEAD":
            continue
        is_oauth = path in ("/auth/token", "/auth/introspect", "/auth/revoke")
        assert ("error" if is_oauth else "code") in response.json(), path
        assert PASSWORD not in response.text


@pytest.mark.attack
def test_a_page_of_another_site_cannot_use_up_the_guesses(person: Person) -> None:
    client = person.login("not the password")
    for _ in range(20):
        response = client.get("/accounts/me", headers={"Sec-Fetch-Site": "cross-site"})
        assert response.status_code == 403
    client.session.auth = (person.username, PASSWORD)
    assert client.get("/accounts/me").status_code == 200


def test_the_own_page_and_the_address_bar_log_in(person: Person) -> None:
    for site in ("same-origin", "none"):
        headers = {"Sec-Fetch-Site": site}
        assert person.login().get("/accounts/me", headers=headers).status_code == 200


def test_tokens_are_not_ambient_documents_are_for_all(server: LiveServer, person: Person) -> None:
    bearer, headers = person.bearer(), {"Sec-Fetch-Site": "cross-site"}
    assert bearer.get("/accounts/me", headers=headers).status_code == 200
    for path in PUBLIC:
        assert server.client().get(path, headers=headers).status_code == 200
        assert person.login().get(path, headers=headers).status_code == 200


@pytest.mark.attack
def test_no_origin_is_let_in_unless_it_is_listed(admin: Client) -> None:
    for path in (*PUBLIC, "/accounts", "/accounts/me", "/nowhere"):
        for headers in ({"Origin": OURS}, {"Origin": OURS, **PREFLIGHT}):
            for method in ("GET", "OPTIONS"):
                response = admin.request(method, path, headers=headers)
                named = [name for name in response.headers if name.lower().startswith("access-con")]
                assert named == [], (method, path)


@pytest.mark.slow
@pytest.mark.attack
def test_a_listed_origin_reads_public_documents_and_calls_by_bearer(sharing: LiveServer) -> None:
    admin, anybody = sharing.admin(), sharing.client()
    basic = sharing.client("admin", ADMIN_PASSWORD)
    allowed = "Access-Control-Allow-Origin"
    for origin in (OURS, ALSO_OURS):
        for path in PUBLIC:
            response = anybody.get(path, headers={"Origin": origin})
            assert response.headers[allowed] == origin
            assert "X-Request-Id" in response.headers["Access-Control-Expose-Headers"]
            assert "Origin" in response.headers["Vary"]
        for path, status in (("/accounts", 200), ("/accounts?x=y", 422), ("/nowhere", 404)):
            response = admin.get(path, headers={"Origin": origin})
            assert (response.status_code, response.headers.get(allowed)) == (status, origin), path
        late = Client(sharing.url, token="expired").get("/accounts", headers={"Origin": origin})
        assert (late.status_code, late.headers.get(allowed)) == (401, origin)
        asked = anybody.request("OPTIONS", "/accounts/me", headers={"Origin": origin, **PREFLIGHT})
        assert (asked.status_code, asked.content) == (204, b"")
        assert asked.headers[allowed] == origin
        assert "PATCH" in asked.headers["Access-Control-Allow-Methods"].split(", ")
        sent = asked.headers["Access-Control-Allow-Headers"].split(", ")
        assert {"Authorization", "Content-Type"} <= {*sent}
        for client in (basic, anybody):
            for path in ("/accounts", "/auth/token", "/auth/forward?service=keyosk"):
                response = client.get(path, headers={"Origin": origin})
                assert allowed not in response.headers, path
        # A proxy may send it on as another service's, which is not for these scripts.
        response = admin.get("/auth/forward?service=keyosk", headers={"Origin": origin})
        assert (response.status_code, response.headers.get(allowed)) == (200, None)
    for origin in FOREIGN:
        for method in ("GET", "OPTIONS"):
            for path in ("/auth/jwks", "/accounts/me"):
                response = admin.request(method, path, headers={"Origin": origin, **PREFLIGHT})
                assert allowed not in response.headers, origin
                assert "Access-Control-Allow-Methods" not in response.headers
                assert "Origin" in response.headers["Vary"]
    for client in (admin, anybody, basic):
        for method in ("GET", "OPTIONS"):
            response = client.request(method, "/accounts", headers={"Origin": OURS, **PREFLIGHT})
            assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Origin" in anybody.get("/auth/jwks").headers["Vary"]
    signed = anybody.get("/auth/revocations", headers={"Origin": OURS}).headers["Vary"]
    assert {*signed.split(", ")} == {"Accept", "Accept-Encoding", "Origin"}
