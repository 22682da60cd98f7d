"""The metadata documents: what they say, to whom, and that they need nothing to say it."""

from dataclasses import replace
from typing import Any

import pytest

from installed import settings
from keyosk import app
from keyosk.installation import Installation
from live import LiveServer

PLAIN = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"


@pytest.fixture
def document(server: LiveServer) -> dict[str, Any]:
    metadata: dict[str, Any] = server.client().get(PLAIN).json()
    return metadata


def test_the_issuer_is_that_of_the_tokens_whatever_the_host_header_says(
    server: LiveServer, document: dict[str, Any]
) -> None:
    assert server.client().get(PLAIN, headers={"Host": "evil.example.com"}).json() == document
    assert document["issuer"] == server.url


def test_every_address_that_it_names_exists(server: LiveServer, document: dict[str, Any]) -> None:
    named = [value for name, value in document.items() if name.endswith(("_endpoint", "_uri"))]

    assert document["token_endpoint"] in named
    for address in named:
        response = server.client().get(address.removeprefix(document["issuer"]))
        assert response.status_code != 404, address


def test_it_has_what_both_standards_require(document: dict[str, Any]) -> None:
    # RFC 8414 section 3.2 has no empty lists; this type gives neither a code nor a token.
    assert document["response_types_supported"] == ["none"]
    assert all(value for value in document.values())
    assert document["authorization_endpoint"] == f"{document['issuer']}/auth/authorize"
    assert document["subject_types_supported"] == ["public"]
    assert "ES256" in document["id_token_signing_alg_values_supported"]
    for name in ("token", "introspection", "revocation"):
        methods = document[f"{name}_endpoint_auth_methods_supported"]
        assert methods == ["client_secret_basic", "client_secret_post"]
    assert "client_credentials" in document["grant_types_supported"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_authorization_endpoint_refuses_and_says_why(
    method: str, server: LiveServer, document: dict[str, Any]
) -> None:
    asked = {
        "response_type": "code",
        "client_id": "alice",
        "redirect_uri": "https://evil.example.com/",
        "scope": "openid",
        "state": "x",
    }
    where = document["authorization_endpoint"].removeprefix(document["issuer"])
    sent = {"params": asked} if method == "GET" else {"data": asked}
    for options in ({}, sent, {"headers": {"Authorization": "Bearer nonsense"}}):
        response = server.client().request(method, where, allow_redirects=False, **options)

        assert response.status_code == 400
        assert response.headers["Content-Type"] == "application/json"
        assert "Location" not in response.headers
        assert response.headers["Cache-Control"] == "no-store"
        assert response.json()["error"] == "unsupported_response_type"
        assert "/auth/token" in response.json()["error_description"]
    assert server.client().request("PUT", where).status_code == 405


@pytest.mark.parametrize("path", [PLAIN, OPENID])
def test_it_may_be_kept_and_asked_for_again(
    path: str, server: LiveServer, document: dict[str, Any]
) -> None:
    first = server.client().get(path)
    again = server.client().get(path, headers={"If-None-Match": first.headers["ETag"]})

    assert first.json() == document
    assert first.headers["Cache-Control"] == "public, max-age=300"
    assert (again.status_code, again.content) == (304, b"")


def test_it_needs_no_database(tmp_path: Any) -> None:
    config = settings(f"sqlite:///{tmp_path / 'there' / 'is' / 'none.db'}")
    client = app.create_app(Installation(config)).test_client()

    assert client.get("/health/ready").status_code == 503
    assert client.get(PLAIN).status_code == client.get(OPENID).status_code == 200


def test_an_issuer_with_a_path_stands_before_every_address(tmp_path: Any) -> None:
    config = replace(
        settings(f"sqlite:///{tmp_path / 'none.db'}"), issuer="https://example.com/keyosk"
    )
    told = app.create_app(Installation(config)).test_client().get(PLAIN).get_json()

    assert told["issuer"] == "https://example.com/keyosk"
    assert told["token_endpoint"] == "https://example.com/keyosk/auth/token"


@pytest.mark.parametrize("path", [PLAIN, OPENID])
@pytest.mark.parametrize("issuer", ["https://example.com/keyosk", "https://example.com/a/b%20c"])
def test_it_is_where_rfc_8414_looks_below_a_path(path: str, issuer: str, tmp_path: Any) -> None:
    config = replace(settings(f"sqlite:///{tmp_path / 'none.db'}"), issuer=issuer)
    client = app.create_app(Installation(config)).test_client()
    inserted = f"{path}{issuer.removeprefix('https://example.com')}"

    assert client.get(inserted).get_json() == client.get(path).get_json()
    assert client.get(inserted).headers["ETag"] == client.get(path).headers["ETag"]
    assert client.options(inserted).status_code == 204
    assert client.post(inserted).status_code == 405
    for other in (f"{inserted}/x", f"{inserted}/", f"{path}/other", f"{path}/"):
        assert client.get(other).status_code == 404, other


def test_an_issuer_whose_path_looks_like_a_rule_is_at_no_other_address(tmp_path: Any) -> None:
    config = replace(
        settings(f"sqlite:///{tmp_path / 'none.db'}"), issuer="https://example.com/%3Cpath:any%3E"
    )
    client = app.create_app(Installation(config)).test_client()

    assert client.get(PLAIN).get_json()["issuer"] == config.issuer
    for path in (f"{PLAIN}/x", f"{PLAIN}/%3Cpath:any%3E"):
        assert client.get(path).status_code == 404
