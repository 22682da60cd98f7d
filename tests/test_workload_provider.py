"""Workloads that log in by the ID tokens of oidc-provider, a real issuer of others."""

import base64
import hashlib
import html
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
import requests

import node_modules
from live import Client, LiveServer, free_port, unique
from people import ok
from shops import Shop, issued_claims

pytestmark = pytest.mark.slow

_REDIRECT: Final = "https://app.example/callback"
_VERIFIER: Final = "v" * 43
_FIELD: Final = re.compile(r'<input [^>]*name="([^"]+)"(?: value="([^"]*)")?')


@dataclass(frozen=True)
class Provider:
    """oidc-provider on a port, with one application."""

    issuer: str
    client: str

    def id_token(self, login: str) -> str:
        """Log in as a person does, in a browser without scripts; for the application."""
        with requests.Session() as browser:
            digest = hashlib.sha256(_VERIFIER.encode()).digest()
            query = {
                "client_id": self.client,
                "response_type": "code",
                "scope": "openid",
                "redirect_uri": _REDIRECT,
                "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
                "code_challenge_method": "S256",
            }
            page = browser.get(f"{self.issuer}/auth", params=query, allow_redirects=False)
            for _ in range(10):
                if page.status_code != 303:
                    page = self._submit(browser, page, login)
                place = urljoin(page.url, page.headers["Location"])
                if place.startswith(_REDIRECT):
                    (code,) = parse_qs(urlsplit(place).query)["code"]
                    return self._redeem(code)
                page = browser.get(place, allow_redirects=False)
        raise AssertionError("the provider never came to an end")

    def _submit(
        self, browser: requests.Session, page: requests.Response, login: str
    ) -> requests.Response:
        """Send the form of a page: to log in, or to consent."""
        assert page.status_code == 200, page.text
        fields = {name: html.unescape(value) for name, value in _FIELD.findall(page.text)}
        fields |= {name: login for name in ("login", "password") if name in fields}
        (action,) = re.findall(r'<form [^>]*action="([^"]+)"', page.text)
        place = urljoin(page.url, html.unescape(action))
        return browser.post(place, data=fields, allow_redirects=False)

    def _redeem(self, code: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "client_id": self.client,
            "code": code,
            "code_verifier": _VERIFIER,
            "redirect_uri": _REDIRECT,
        }
        response = requests.post(f"{self.issuer}/token", data=form, timeout=60)
        token: str = ok(response)["id_token"]
        return token


@contextmanager
def provider(port: int, kid: str, client: str = "shop") -> Iterator[Provider]:
    """A provider that runs; each has a key of its own."""
    given: dict[str, Any] = {"port": port, "kid": kid, "client": client, "redirect": _REDIRECT}
    with node_modules.conversation("provider.mjs", given) as ask:
        assert ask("") == "ready"
        yield Provider(f"http://127.0.0.1:{port}", client)


class _Trusting(Shop):
    """A shop that trusts a provider, by its metadata, and lets one of its people log in."""

    def trust(self, **fields: Any) -> None:
        body = {"name": self.issuer, "allow_private": True, "algorithms": ["ES256"], **fields}
        ok(self.admin.post("/issuers", json=body), 201)


def test_its_tokens_log_in_and_go_on_with_another_key(server: LiveServer, admin: Client) -> None:
    port, subject = free_port(), unique("robot")
    with provider(port, "first") as op:
        shop = _Trusting(
            server,
            admin,
            None,  # type: ignore[arg-type]  # there is a provider in place of a platform
            claims={"sub": subject},
            issuer=op.issuer,
            audience=op.client,
        )
        token = op.id_token(subject)
        assert issued_claims(shop.present(token))["preferred_username"] == shop.account
        assert "rule" in shop.refusal(op.id_token(unique("stranger")))
    with provider(port, "second") as op:
        again = op.id_token(subject)
        # Keys are fetched for an unknown key id twice a minute at the most.
        deadline = time.monotonic() + 60
        while (response := shop.present(again)).status_code != 200:
            assert time.monotonic() < deadline, response.text
            time.sleep(0.5)
        assert issued_claims(response)["preferred_username"] == shop.account
        # What the key before signed is signed by nobody now.
        assert shop.refusal(token)
    with provider(free_port(), "second") as elsewhere:
        assert shop.refusal(elsewhere.id_token(subject))


@pytest.mark.attack
def test_a_token_for_another_application_does_not_log_in(server: LiveServer, admin: Client) -> None:
    subject = unique("robot")
    with provider(free_port(), "only", client="other-application") as op:
        shop = _Trusting(
            server,
            admin,
            None,  # type: ignore[arg-type]
            claims={"sub": subject},
            issuer=op.issuer,
            audience="shop",
        )
        assert shop.refusal(op.id_token(subject))
