"""Passkeys: an authenticator in software, all the ways in which its word is wrong, and Chromium."""

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser
from playwright.sync_api import Page as ChromiumPage
from werkzeug.test import TestResponse

from chromium import Watch, violations
from installed import Clock, rows_of, settings
from keyosk import app
from keyosk.credentials import passkeys
from keyosk.credentials.passkeys import RelyingParty
from keyosk.errors import BadCredentials
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Passkey
from keyosk.storage.database import Database
from live import LiveServer
from pages import Page
from people import PASSWORD, make_person
from test_second_factors import Node, Tab, add_alice

pytestmark = pytest.mark.every_database

_HOST: Final = "id.example.org"
_ORIGIN: Final = f"https://{_HOST}"
_SECOND: Final = "/console/login/second-factor"
_MINE: Final = "/me/second-factors"
_SCHEMES: Final = ("light", "dark")


class Authenticator:
    """A security key in software. Its attributes are right; a test sets one to a lie."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.id = hashlib.sha256(str(id(self)).encode()).digest()
        self.host, self.origin = _HOST, _ORIGIN
        self.flags, self.count = 0x05, 0  # the user is present and verified
        self.type: str | None = None
        self.public: dict[int, Any] = {}
        self.frame: dict[str, Any] = {"crossOrigin": False}
        self.owner: bytes | None = None
        self.challenge: bytes | None = None

    def create(self, options: dict[str, Any]) -> str:
        point = self.key.public_key().public_numbers()
        public = {1: 2, 3: -7, -1: 1, -2: point.x.to_bytes(32), -3: point.y.to_bytes(32)}
        data = self._authenticator_data(0x40) + bytes(16) + len(self.id).to_bytes(2) + self.id
        data += cbor2.dumps(public | self.public)
        attested = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        client_data = self._client_data("webauthn.create", options)
        return self._response(clientDataJSON=client_data, attestationObject=attested)

    def get(self, options: dict[str, Any]) -> str:
        data = self._authenticator_data()
        client_data = self._client_data("webauthn.get", options)
        signed = data + hashlib.sha256(client_data).digest()
        signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        owner = {} if self.owner is None else {"userHandle": self.owner}
        return self._response(
            clientDataJSON=client_data, authenticatorData=data, signature=signature, **owner
        )

    def _authenticator_data(self, more_flags: int = 0) -> bytes:
        host = hashlib.sha256(self.host.encode()).digest()
        return host + bytes([self.flags | more_flags]) + self.count.to_bytes(4)

    def _client_data(self, kind: str, options: dict[str, Any]) -> bytes:
        challenge = options["challenge"] if self.challenge is None else _text(self.challenge)
        client_data = {"type": self.type or kind, "challenge": challenge, "origin": self.origin}
        return json.dumps(client_data | self.frame).encode()

    def _response(self, **response: bytes) -> str:
        encoded = {name: _text(value) for name, value in response.items()}
        own = _text(self.id)
        return json.dumps({"id": own, "rawId": own, "type": "public-key", "response": encoded})


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def node(prepared_url: str) -> Iterator[Node]:
    clock = Clock()
    config = dataclasses.replace(settings(prepared_url), issuer=_ORIGIN)
    keyosk = Installation(config, clock=clock)
    built = Node(keyosk, clock, app.create_app(keyosk))
    add_alice(built)
    yield built
    keyosk.database.close()


class Site(Tab):
    """A browser at the site that passkeys are for."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, "192.0.2.1")
        self._options["base_url"] = _ORIGIN

    def add(self, key: Authenticator, name: str = "Key") -> TestResponse:
        page = Page(self.send(_MINE, "/passkey", name=name, current_password=PASSWORD))
        return self.send(page, "/passkey/confirm", passkey=key.create(options_of(page)))

    def show(self, code: str) -> TestResponse:
        (form,) = [form for form in self.get(_SECOND).forms if "code" in form.fields]
        return self.post(form.action, form.fields | {"code": code})

    def show_key(self, key: Authenticator) -> TestResponse:
        page = self.get(_SECOND)
        return self.answer(page, key.get(options_of(page)))

    def answer(self, page: Page, response: str) -> TestResponse:
        (form,) = [form for form in page.forms if "passkey" in form.fields]
        return self.post(form.action, form.fields | {"passkey": response})


def options_of(page: Page) -> dict[str, Any]:
    (attributes,) = [attributes for _, attributes in page.tags if "data-options" in attributes]
    options: dict[str, Any] = json.loads(attributes["data-options"] or "")
    return options


def with_key(node: Node) -> tuple[Authenticator, list[str]]:
    """Alice with a passkey, and the recovery codes."""
    key, tab = Authenticator(), Site(node)
    tab.log_in()
    page = Page(tab.add(key))
    assert page.h1 == "Recovery codes", page.text
    return key, re.findall(r"\b[a-z2-7]{4}(?:-[a-z2-7]{4}){5}\b", page.text)


def test_whoever_has_a_passkey_logs_in_by_password_and_passkey(node: Node) -> None:
    key, codes = with_key(node)
    tab = Site(node)
    response = tab.log_in()
    assert response.headers["Location"] == f"{_SECOND}?next=%2Fconsole"
    options = options_of(tab.get(_SECOND))
    assert (options["rpId"], options["userVerification"]) == (_HOST, "required")
    assert [credential["id"] for credential in options["allowCredentials"]] == [_text(key.id)]
    response = tab.show_key(key)
    assert (response.status_code, response.headers["Location"]) == (303, "/console")
    assert "Key passkey" in tab.get(_MINE).text
    assert rows_of(node.keyosk, "SELECT amr FROM console_session") == [("pwd hwk user mfa",)] * 2
    other = Site(node)
    other.log_in()
    assert other.show(codes[0]).status_code == 303


def test_a_passkey_that_several_devices_share_is_no_hardware(node: Node) -> None:
    key, _ = with_key(node)
    key.flags = 0x1D
    key.owner = node.keyosk.accounts.get("alice").id.encode()  # some authenticators tell it
    tab = Site(node)
    tab.log_in()
    assert tab.show_key(key).status_code == 303
    amr = {amr for (amr,) in rows_of(node.keyosk, "SELECT amr FROM console_session")}
    assert "pwd swk user mfa" in amr


def test_an_account_may_have_several_passkeys_with_names(node: Node) -> None:
    first, _ = with_key(node)
    tab, second = Site(node), Authenticator()
    tab.log_in()
    tab.show_key(first)
    page = Page(tab.send(_MINE, "/passkey", name="x", current_password=PASSWORD))
    assert [each["id"] for each in options_of(page)["excludeCredentials"]] == [_text(first.id)]
    response = tab.add(second, "Safe")
    assert (response.status_code, response.headers["Location"]) == (303, _MINE)
    assert "Safe passkey" in tab.get(_MINE).text
    for key in (first, second):
        other = Site(node)
        other.log_in()
        assert other.show_key(key).status_code == 303
    again = Site(node)
    again.log_in()
    again.show_key(second)
    assert again.add(first).status_code == 303  # it is there already
    ((number,),) = rows_of(node.keyosk, "SELECT count(*) FROM second_factor")
    assert number == 3


_LIES: Final[dict[str, dict[str, Any]]] = {
    "another origin": {"origin": "https://evil.example"},
    "another port": {"origin": f"{_ORIGIN}:8443"},
    "plain HTTP": {"origin": f"http://{_HOST}"},
    "another host": {"host": "evil.example"},
    "a domain above": {"host": "example.org"},
    "another challenge": {"challenge": bytes(32)},
    "no challenge": {"challenge": b""},
    "not verified": {"flags": 0x01},
    "not present": {"flags": 0x04},
    "another act": {"type": "webauthn.other"},
    "in a frame of another site": {"frame": {"crossOrigin": True}},
    "in a frame of a named site": {"frame": {"topOrigin": "https://evil.example"}},
    "a frame that is no flag": {"frame": {"crossOrigin": 0}},
    "backed up, but not to be": {"flags": 0x15},
}


@pytest.mark.attack
def test_no_lie_of_an_authenticator_logs_in(node: Node, subtests: pytest.Subtests) -> None:
    key, _ = with_key(node)
    lies = {
        **_LIES,
        "a registration": {"type": "webauthn.create"},
        "another key": {"key": ec.generate_private_key(ec.SECP256R1())},
        "an unknown passkey": {"id": bytes(32)},
        "another owner": {"owner": b"01a21d0a-4197-72a8-9688-9d247ed43940"},
    }
    for name, lie in lies.items():
        with subtests.test(name):
            node.clock.now += 3_600  # wrong ones are throttled
            tab, liar = Site(node), _lying(key, lie)
            tab.log_in()
            response = tab.show_key(liar)
            assert (response.status_code, tab.is_logged_in()) == (401, False)
            assert "not accepted" in Page(response).text
            assert tab.show_key(key).status_code == 303


def _lying(key: Authenticator, lie: dict[str, Any]) -> Authenticator:
    liar = Authenticator()
    vars(liar).update(vars(key) | lie)
    return liar


@pytest.mark.attack
def test_no_lie_of_an_authenticator_makes_a_passkey(node: Node, subtests: pytest.Subtests) -> None:
    tab = Site(node)
    tab.log_in()
    lies = {
        **_LIES,
        "a login": {"type": "webauthn.get"},
        # With these nobody could log in any more.
        "no point of the curve": {"public": {-2: b"\1" * 32}},
        "a short point": {"public": {-2: b"\1"}},
        "an unknown curve": {"public": {-1: 99}},
        "an unknown algorithm": {"public": {3: -99}},
        "a shared secret": {"public": {1: 4, 3: 5}},
    }
    for name, lie in lies.items():
        with subtests.test(name):
            assert tab.add(_lying(Authenticator(), lie)).status_code == 422
    for response in ("", "{", "[]", "1", "{}", "x" * 20_001, '{"id": 1}', "[" * 5_000):
        page = Page(tab.send(_MINE, "/passkey", name="Key", current_password=PASSWORD))
        assert tab.send(page, "/passkey/confirm", passkey=response).status_code == 422
    assert rows_of(node.keyosk, "SELECT id FROM second_factor") == []
    refused = tab.send(_MINE, "/passkey", name="Key", current_password="not the password at all")
    assert refused.status_code == 403


@pytest.mark.attack
def test_a_challenge_is_answered_once_by_the_login_that_asked(node: Node) -> None:
    key, _ = with_key(node)
    tab, other = Site(node), Site(node)
    tab.log_in()
    other.log_in()
    response = key.get(options_of(tab.get(_SECOND)))
    assert other.answer(other.get(_SECOND), response).status_code == 401
    old = tab.get(_SECOND)
    assert tab.answer(tab.get(_SECOND), key.get(options_of(old))).status_code == 401
    shown = tab.get(_SECOND)
    right = key.get(options_of(shown))
    assert tab.answer(shown, _lying(key, {"flags": 1}).get(options_of(shown))).status_code == 401
    assert tab.answer(shown, right).status_code == 401  # the wrong one has used it up
    shown = tab.get(_SECOND)
    right = key.get(options_of(shown))
    fields = next(form.fields for form in shown.forms if "passkey" in form.fields)
    assert tab.post(_SECOND, fields | {"passkey": right}).status_code == 303
    assert other.post(_SECOND, fields | {"passkey": right}).status_code == 403
    assert other.answer(other.get(_SECOND), right).status_code == 401
    assert not other.is_logged_in()


@pytest.mark.attack
def test_a_wrong_answer_uses_a_challenge_up_though_no_page_asks_again(node: Node) -> None:
    key, _ = with_key(node)
    tab = Site(node)
    tab.log_in()
    options = options_of(tab.get(_SECOND))
    cookie = tab.client.get_cookie("__Host-keyosk-pending", domain=_HOST)
    assert cookie is not None
    for response in (_lying(key, {"flags": 1}).get(options), key.get(options)):
        with pytest.raises(BadCredentials):
            node.keyosk.pending_logins.finish(
                cookie.value, code="", passkey=response, address=None, agent="", request_id=None
            )


@pytest.mark.attack
def test_a_challenge_is_answered_within_five_minutes(node: Node) -> None:
    key, _ = with_key(node)
    tab = Site(node)
    tab.log_in()
    page = tab.get(_SECOND)
    node.clock.now += 300
    response = tab.answer(page, key.get(options_of(page)))
    assert (response.status_code, response.headers["Location"]) == (303, "/console/login")
    assert not tab.is_logged_in()


@pytest.mark.attack
def test_a_passkey_that_was_copied_is_refused(node: Node) -> None:
    key = Authenticator()
    key.count = 5
    tab = Site(node)
    tab.log_in()
    tab.add(key)
    for count, status in ((6, 303), (6, 401), (3, 401), (0, 401), (9, 303)):
        key.count = count
        tab = Site(node)
        tab.log_in()
        assert tab.show_key(key).status_code == status


@pytest.mark.attack
def test_a_passkey_of_another_account_logs_nobody_in(node: Node) -> None:
    with_key(node)
    node.keyosk.grants.create_account(OPERATOR, [], username="mallory", password=PASSWORD)
    theirs, tab = Authenticator(), Site(node)
    tab.log_in("mallory")
    tab.add(theirs)
    tab = Site(node)
    tab.log_in()
    assert tab.show_key(theirs).status_code == 401


def test_there_are_no_passkeys_for_an_ip_address(node: Node, prepared_url: str) -> None:
    keyosk = Installation(settings(prepared_url), clock=node.clock)
    local = Node(keyosk, node.clock, app.create_app(keyosk))
    tab = local.tab()
    tab.log_in()
    page = tab.get(_MINE)
    assert [form.action for form in page.forms if "passkey" in form.action] == []
    fields = page.form("/app").fields | {"current_password": PASSWORD, "name": "Key"}
    assert tab.post(f"{_MINE}/passkey", fields).status_code == 404
    keyosk.database.close()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("AAAA"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "rawId", "type", "response", "clientDataJSON", "signature", "x"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.binary(max_size=200))
def test_whatever_a_browser_says_a_refusal_is_a_refusal(said: Any, data: bytes) -> None:
    party = RelyingParty(_HOST, _ORIGIN)
    known = [Passkey(credential_id=b"\0\0\0", public_key=data, sign_count=0)]
    shape = {
        "id": "AAAA", "rawId": "AAAA", "type": "public-key",
        "response": {
            "clientDataJSON": _text(data), "attestationObject": _text(data),
            "authenticatorData": _text(data), "signature": _text(data),
        },
    }  # fmt: skip
    for response in (json.dumps(said), json.dumps(shape)):
        with pytest.raises(BadCredentials):
            passkeys.verify_new(party, response, challenge=bytes(32))
        with pytest.raises(BadCredentials):
            passkeys.verify_shown(
                party, response, challenge=bytes(32), registered=known, account_id="a"
            )


# --- In Chromium ----------------------------------------------------------------------------------


@pytest.fixture
def named(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    """A server whose issuer has a name, as browsers make no passkeys for an IP address."""
    server = LiveServer(database_url, tmp_path, workers="1")
    server.environment["KEYOSK_ISSUER"] = f"http://localhost:{server.port}"
    with server:
        yield server


def _log_in(page: ChromiumPage, username: str) -> None:
    page.fill("#username", username)
    page.fill("#password", PASSWORD)
    page.keyboard.press("Enter")


@pytest.mark.slow
def test_chromium_makes_and_shows_a_passkey(named: LiveServer, browser: Browser) -> None:
    person = make_person(named.admin())
    url = f"http://localhost:{named.port}"
    context = browser.new_context()
    watch = Watch(context, url)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    authenticator = {"protocol": "ctap2", "transport": "internal", "hasUserVerification": True}
    authenticator |= {"isUserVerified": True, "automaticPresenceSimulation": True}
    key = session.send("WebAuthn.addVirtualAuthenticator", {"options": authenticator})
    page.goto(f"{url}/me/second-factors")
    _log_in(page, person.username)
    page.fill("#passkey-name", "Laptop")
    page.fill("#passkey-password", PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Make the passkey").wait_for()
    assert violations(page) == []
    page.get_by_role("button", name="Make the passkey").press("Enter")
    page.get_by_role("heading", name="Recovery codes").wait_for()
    assert violations(page) == []
    page.goto(f"{url}/me/second-factors")
    assert "Laptop" in page.inner_text("table")
    page.set_viewport_size({"width": 360, "height": 800})
    page.fill("#app-password", PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("img", name="QR code with the secret below").wait_for()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Log out").click()
    _log_in(page, person.username)
    button = page.get_by_role("button", name="Log in with a passkey")
    button.wait_for()
    assert violations(page) == []
    verified = {"authenticatorId": key["authenticatorId"], "isUserVerified": False}
    session.send("WebAuthn.setUserVerified", verified)
    button.press("Enter")
    page.locator("#passkey-fault:not([hidden])").wait_for()
    assert "Try again" in page.inner_text("#passkey-fault")
    session.send("WebAuthn.setUserVerified", verified | {"isUserVerified": True})
    button.press("Enter")
    page.get_by_role("link", name=person.username).wait_for()
    assert page.url.startswith(f"{url}/console")

    database = Database(named.environment["KEYOSK_DATABASE_URL"])
    database.raw.execute_sql("UPDATE console_session SET confirmed_at = 0")
    database.close()
    page.goto(f"{url}/console/confirm?next=/me")
    button = page.get_by_role("button", name="Confirm with a passkey")
    button.wait_for()
    for scheme in _SCHEMES:
        page.emulate_media(color_scheme=scheme)
        for width in (360, 768, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
    page.fill("#again", PASSWORD)
    button.press("Enter")
    page.wait_for_url(f"{url}/me")
    page.goto(f"{url}/console/confirm?next=/me")
    assert page.url == f"{url}/me"  # there is no question again
    assert watch.faults == []
    context.close()


@pytest.mark.slow
def test_without_javascript_there_is_the_code(named: LiveServer, browser: Browser) -> None:
    person = make_person(named.admin())
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://localhost:{named.port}/me/second-factors")
    _log_in(page, person.username)
    page.fill("#passkey-password", PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_text("Passkeys need JavaScript").wait_for()
    assert page.get_by_role("button", name="Make the passkey").count() == 0
    context.close()


@pytest.mark.parametrize("port", ["", ":443"])
def test_the_origin_of_passkeys_is_written_as_browsers_do(port: str) -> None:
    party = passkeys.relying_party(f"https://Login.Example.org{port}/keyosk")
    assert party == passkeys.RelyingParty("login.example.org", "https://login.example.org")
    other = passkeys.relying_party("https://login.example.org:8443")
    assert other is not None
    assert other.origin == "https://login.example.org:8443"
