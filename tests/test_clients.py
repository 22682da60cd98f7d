"""Client libraries of other projects, unmodified, against a running Keyosk."""

import asyncio
from typing import Any

import httpx
import jwt
import pytest
import requests
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session

import node_modules
from live import Client, LiveServer, unique
from people import ok

#: All that a client might encode wrongly.
PASSWORD = "p\u00e4ss: w+rd %41 & \u00e9=/?"


class Setting:
    """A service, somebody who may use it, and the metadata that a library finds."""

    def __init__(self, server: LiveServer, admin: Client) -> None:
        self.issuer = server.url
        self.service = unique("todo")
        self.scope = f"{self.service}:read"
        body = {"name": self.service, "scopes": [self.scope, f"{self.service}:write"]}
        ok(admin.post("/services", json={**body, "refresh_allowed": True}), 201)
        self.username = unique("l\u00e9a+one")
        grants = {"scopes": body["scopes"]}
        person = {"username": self.username, "password": PASSWORD, "grants": grants}
        self.account = ok(admin.post("/accounts", json=person), 201)["id"]

    def metadata(self) -> dict[str, Any]:
        document = requests.get(get_well_known_url(self.issuer, external=True), timeout=60).json()
        metadata = AuthorizationServerMetadata(document)
        for check in ("issuer", "jwks_uri", "scopes_supported", "grant_types_supported"):
            if check != "issuer":  # which must be https there; tests are on loopback
                getattr(metadata, f"validate_{check}")()
        assert document["issuer"] == self.issuer
        return document  # type: ignore[no-any-return]

    def verify(self, text: str) -> dict[str, Any]:
        key = jwt.PyJWKClient(self.metadata()["jwks_uri"]).get_signing_key_from_jwt(text)
        claims: dict[str, Any] = jwt.decode(
            text,
            key.key,
            algorithms=[key.algorithm_name],
            audience=self.service,
            issuer=self.issuer,
        )
        assert claims["sub"] == self.account
        return claims


@pytest.fixture(scope="module")
def setting(server: LiveServer, admin: Client) -> Setting:
    return Setting(server, admin)


def test_authlib_with_requests(setting: Setting) -> None:
    metadata = setting.metadata()
    session = AuthlibSession(setting.username, PASSWORD, scope=setting.scope)
    token = session.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")
    assert setting.verify(token["access_token"])["scope"] == setting.scope

    def active() -> bool:
        response = session.introspect_token(
            metadata["introspection_endpoint"], token=token["access_token"]
        )
        return bool(response.json()["active"])

    assert active()
    revoked = session.revoke_token(metadata["revocation_endpoint"], token=token["access_token"])
    assert revoked.status_code == 200
    assert not active()

    offline = AuthlibSession(setting.username, PASSWORD, scope=f"{setting.scope} offline_access")
    first = offline.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")
    second = offline.refresh_token(metadata["token_endpoint"], first["refresh_token"])
    assert second["refresh_token"] != first["refresh_token"]
    setting.verify(second["access_token"])


def test_authlib_with_httpx(setting: Setting) -> None:
    metadata = setting.metadata()
    with OAuth2Client(setting.username, PASSWORD) as client:
        token = client.fetch_token(
            metadata["token_endpoint"],
            grant_type="client_credentials",
            audience=setting.service,
        )
        assert setting.verify(token["access_token"])["aud"] == setting.service
        response = client.get(f"{setting.issuer}/accounts/me")
        assert response.status_code == 401  # a token for another service opens nothing here

    async def asked() -> dict[str, Any]:
        async with AsyncOAuth2Client(setting.username, PASSWORD) as client:
            found: dict[str, Any] = await client.fetch_token(
                metadata["token_endpoint"], grant_type="client_credentials", audience="keyosk"
            )
            me = await client.get(f"{setting.issuer}/accounts/me")
            assert me.json()["id"] == setting.account
            return found

    assert asyncio.run(asked())["token_type"] == "Bearer"


def test_requests_oauthlib(setting: Setting) -> None:
    metadata = setting.metadata()
    scope = [setting.scope, "offline_access"]
    session = OAuth2Session(client=BackendApplicationClient(setting.username, scope=scope))
    # oauthlib refuses http unless told otherwise.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
        auth = requests.auth.HTTPBasicAuth(
            setting.username.encode(),
            PASSWORD.encode(),  # as UTF-8
        )
        token = session.fetch_token(metadata["token_endpoint"], auth=auth)
        assert setting.verify(token["access_token"])["scope"].split() == scope
        again = session.refresh_token(metadata["token_endpoint"], token["refresh_token"])
        assert again["refresh_token"] != token["refresh_token"]


def test_httpx_alone(setting: Setting) -> None:
    token = httpx.post(
        setting.metadata()["token_endpoint"],
        auth=(setting.username, PASSWORD),
        data={"scope": setting.scope},
    ).json()
    setting.verify(token["access_token"])


@pytest.mark.slow
def test_openid_client_and_jose(setting: Setting) -> None:
    results = node_modules.run(
        "client.mjs",
        {
            "issuer": setting.issuer,
            "username": setting.username,
            "scope": setting.scope,
            "audience": setting.service,
        },
        SECRET=PASSWORD,
    )
    for algorithm in ("oidc", "oauth2"):
        seen = results[algorithm]
        assert seen["payload"]["sub"] == setting.account
        assert seen["payload"]["scope"] == setting.scope
        assert seen["protectedHeader"]["alg"] == "ES256"
        assert seen["before"]["active"] is True
        assert seen["after"] == {"active": False}
        assert seen["tampered"] == "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"
        assert seen["scope"] == f"{setting.scope} offline_access"
        assert seen["rotated"] is True
