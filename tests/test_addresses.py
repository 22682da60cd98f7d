"""Every URL that Keyosk gives out begins with its issuer, the issuer's path included."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from keyosk import app, config
from keyosk.installation import Installation
from keyosk.web.routes import ROUTES
from live import ADMIN_PASSWORD, SECRET_KEY
from people import claims_of

ISSUER = "https://login.example.org/keyosk"
#: What may be named although it is no address of ours.
FOREIGN = ("https://spec.openapis.org/", "http://json-schema.org/", "https://json-schema.org/")
URL = re.compile(r"[a-z]+://[^\s\"'<>;,]+|(?<=[\"'<=(])/[^/\s\"'<>;,)][^\s\"'<>;,)]*")


@pytest.fixture
def client(prepared_url: str) -> Iterator[FlaskClient]:
    settings = config.load(
        {
            "KEYOSK_DATABASE_URL": prepared_url,
            "KEYOSK_SECRET_KEY": SECRET_KEY,
            "KEYOSK_ISSUER": ISSUER,
        }
    )
    installation = Installation(settings)
    yield app.create_app(installation).test_client()
    installation.database.close()


def strings(value: Any) -> Iterator[str]:
    """The strings in a JSON document that are URLs or paths as a whole; not a member's name."""
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str) and re.fullmatch(r"(?:https?:/)?/\S*", value):
        yield value


def given_out(response: TestResponse) -> list[str]:
    """The URLs and absolute paths in the headers and the body."""
    addresses = []
    for name, value in response.headers:
        if name == "Location":
            addresses.append(value)
        elif not name.startswith(("Content-", "Strict-")):
            addresses += URL.findall(f'"{value}"')
    if (response.mimetype or "").endswith("json"):
        document = json.loads(response.data)
        if "openapi" in document:  # what it names else is told as below one of its servers
            document = [
                urljoin(f"{ISSUER}/openapi.json", each["url"]) for each in document["servers"]
            ]
        addresses += strings(document)
    elif response.mimetype == "application/jwt" and response.status_code == 200:
        claims = claims_of(response.data.strip())
        addresses += [url for url in strings(claims) if url != claims["iss"]]
        assert claims["iss"] == ISSUER
    elif response.mimetype == "text/html":
        links = re.findall(r"""(?:href|src|action)=["']([^"']*)""", response.text)
        addresses += [urljoin(f"{ISSUER}/docs", link) for link in links if link != "data:,"]
    return addresses


def log_in(client: FlaskClient) -> dict[str, str]:
    response = client.post(
        "/auth/token", data={"audience": "keyosk"}, auth=("admin", ADMIN_PASSWORD)
    )
    assert response.status_code == 200, response.text
    return {"Authorization": f"Bearer {response.get_json()['access_token']}"}


def test_location_and_link_keep_the_path_of_the_issuer(client: FlaskClient) -> None:
    headers = log_in(client)
    created = {
        path: client.post(path, json=body, headers={**headers, "Idempotency-Key": path})
        for path, body in (
            ("/accounts", {"username": "alice"}),
            ("/services", {"name": "todo", "scopes": ["todo:read"]}),
            ("/roles", {"name": "reader", "scopes": []}),
            ("/accounts/alice/api-keys", {"name": "a key"}),
            ("/signing-keys/rotate", {}),
        )
    }
    for path, response in created.items():
        if response.status_code == 403:
            continue  # one's own proof is asked for; the address is the same function's
        assert response.status_code == 201, (path, response.text)
        location = response.headers["Location"]
        assert location.startswith(f"{ISSUER}/"), path
        followed = client.get(location.removeprefix(ISSUER), headers=headers)
        assert followed.status_code == 200, location
    again = client.post(
        "/accounts", json={"username": "alice"}, headers={**headers, "Idempotency-Key": "/accounts"}
    )
    assert again.headers["Location"] == created["/accounts"].headers["Location"]
    for path in ("/accounts", "/services", "/audit"):
        link = client.get(f"{path}?limit=1", headers=headers).headers["Link"]
        assert link.startswith(f"<{ISSUER}{path}?"), link


def test_no_address_that_is_given_out_lacks_the_issuer(client: FlaskClient) -> None:
    headers = log_in(client)
    kid = client.get("/auth/jwks").get_json()["keys"][0]["kid"]
    known = {"account": "admin", "service": "keyosk", "kid": kid, "file": "start.js"}
    seen, urls = 0, 0
    for route in ROUTES:
        path = re.sub(r"<(\w+)>", lambda match: known.get(match[1], "nothing"), route.path)
        for method in ("GET", "OPTIONS", "POST", "TRACE"):
            # With a login POST would make and destroy things.
            for caller in (headers, {}) if method == "GET" else ({},):
                for accept in ("*/*", "application/jwt"):
                    query = "?limit=1" if caller and method == "GET" else ""
                    for asked in {path, path + query}:
                        response = client.open(
                            asked, method=method, headers={**caller, "Accept": accept}
                        )
                        seen += 1
                        for url in given_out(response):
                            urls += 1
                            assert url.startswith((f"{ISSUER}/", *FOREIGN)) or url == ISSUER, (
                                method,
                                asked,
                                url,
                            )
    assert seen > 200
    assert urls > 20


def test_no_header_of_a_request_names_an_address(client: FlaskClient) -> None:
    headers = {
        **log_in(client),
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
        "X-Script-Name": "/evil",
        "Forwarded": "host=evil.example;proto=http",
    }
    for path in (
        "/.well-known/openid-configuration",
        "/accounts?limit=1",
        "/openapi.json",
        "/docs",
    ):
        response = client.get(path, headers=headers)
        assert response.status_code == 200
        assert "evil" not in response.text + str(response.headers), path
