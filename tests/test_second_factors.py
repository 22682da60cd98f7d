"""Second factors of the console: apps, recovery codes, and what neither of them lets through."""

import dataclasses
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from installed import Clock, installed, rows_of, settings
from keyosk import app
from keyosk.accounts.pending_logins import LIFETIME
from keyosk.console.application import create
from keyosk.credentials import one_time_codes
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant
from live import ADMIN_PASSWORD, Client, LiveServer, unique
from pages import Browser, Page, enrol, logged_in
from people import NEW_PASSWORD, PASSWORD, Person, assert_refused, make_person, ok

pytestmark = pytest.mark.every_database

_CODE: Final = re.compile(r"\b[a-z2-7]{4}(?:-[a-z2-7]{4}){5}\b")
_SECOND: Final = "/console/login/second-factor"
_MINE: Final = "/me/second-factors"
_HOME: Final = "192.0.2.1"


@dataclasses.dataclass
class Node:
    """One node of an installation, with a clock that the test sets."""

    keyosk: Installation
    clock: Clock
    flask: Flask

    def tab(self, address: str = _HOME) -> "Tab":
        return Tab(self, address)


class Tab:
    """A browser of one person, in this process."""

    def __init__(self, node: Node, address: str) -> None:
        self.client = node.flask.test_client()
        self._options: dict[str, Any] = {"environ_overrides": {"REMOTE_ADDR": address}}

    def get(self, path: str) -> Page:
        return Page(self.client.get(path, **self._options))

    def post(self, path: str, fields: dict[str, str]) -> TestResponse:
        return self.client.post(path, data=fields, **self._options)

    def send(self, page: Page | str, action: str, **fields: str) -> TestResponse:
        """Send the form of a page whose action ends so."""
        form = (self.get(page) if isinstance(page, str) else page).form(action)
        return self.post(form.action, form.fields | fields)

    def log_in(self, username: str = "alice", password: str = PASSWORD) -> TestResponse:
        return self.send("/console/login", "/login", username=username, password=password)

    def show(self, code: str) -> TestResponse:
        return self.send(_SECOND, _SECOND, code=code)

    def is_logged_in(self) -> bool:
        return self.client.get("/me", **self._options).status_code == 200

    def enrol(self, node: Node) -> tuple[pyotp.TOTP, list[str]]:
        """Add an app; returns it and the recovery codes."""
        offer = Page(self.send(_MINE, "/app", name="Phone", current_password=PASSWORD))
        match = re.search(r"Secret: ([A-Z2-7 ]+[A-Z2-7]) ", offer.text)
        assert match is not None, offer.text
        totp = pyotp.TOTP(match[1].replace(" ", ""))
        page = Page(self.send(offer, "/app/confirm", code=totp.at(int(node.clock.now))))
        return totp, _CODE.findall(page.text)


@contextmanager
def noded(url: str, clock: Clock | None = None, **fields: Any) -> Iterator[Node]:
    clock = clock or Clock()
    with installed(url, clock=clock) as keyosk:
        vars(keyosk).update(fields)
        yield Node(keyosk, clock, app.create_app(keyosk))


@pytest.fixture
def node(prepared_url: str) -> Iterator[Node]:
    with noded(prepared_url) as made:
        add_alice(made)
        yield made


def add_alice(node: Node, *scopes: str) -> str:
    grants = [Grant(scope=scope) for scope in scopes]
    account = node.keyosk.grants.create_account(
        OPERATOR, grants, username="alice", password=PASSWORD
    )
    return account.id


def enrolled(node: Node) -> tuple[pyotp.TOTP, list[str]]:
    """Alice with an app; the code of this moment is used."""
    tab = node.tab()
    tab.log_in()
    return tab.enrol(node)


def test_whoever_has_an_app_logs_in_by_password_and_code(node: Node) -> None:
    other, tab = node.tab(), node.tab()
    other.log_in()
    tab.log_in()
    phone, codes = tab.enrol(node)
    assert len(set(codes)) == 10
    assert (tab.is_logged_in(), other.is_logged_in()) == (True, False)
    node.clock.now += 30
    response = other.log_in()
    assert (response.status_code, response.headers["Location"]) == (
        303,
        f"{_SECOND}?next=%2Fconsole",
    )
    assert not other.is_logged_in()
    response = other.show(phone.at(int(node.clock.now)))
    assert (response.status_code, response.headers["Location"]) == (303, "/console")
    assert other.is_logged_in()
    listed = Page(other.client.get(_MINE)).text
    assert "Phone authenticator app" in listed
    assert "10 codes left" in listed
    assert [amr for (amr,) in rows_of(node.keyosk, "SELECT amr FROM console_session")] == [
        "pwd otp mfa"
    ] * 2


def test_the_page_after_the_login_is_that_which_was_wanted(node: Node) -> None:
    phone, _ = enrolled(node)
    node.clock.now += 30
    tab = node.tab()
    fields = tab.get("/console/login?next=/console/audit").form("/login").fields
    fields |= {"username": "alice", "password": PASSWORD}
    response = tab.post("/console/login", fields)
    page = tab.get(response.headers["Location"])
    response = tab.send(page, _SECOND, code=phone.at(int(node.clock.now)))
    assert response.headers["Location"] == "/console/audit"


@pytest.mark.attack
def test_between_password_and_code_no_page_opens(node: Node) -> None:
    enrolled(node)
    tab = node.tab()
    tab.log_in()
    pending = tab.client.get_cookie("keyosk-80-pending")
    assert pending is not None
    tab.client.set_cookie("keyosk-80-session", pending.value)
    seen = 0
    for rule in create(node.keyosk, lambda *_: []).url_map.iter_rules():
        if rule.rule.startswith(("/console/login", "/console/static")):
            continue
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        response = tab.client.open(path, method=method)
        assert (response.status_code, response.headers["Location"][:14]) == (303, "/console/login")
        seen += 1
    assert seen > 25


@pytest.mark.attack
def test_a_second_step_without_the_first_leads_to_the_first(node: Node) -> None:
    phone, codes = enrolled(node)
    node.clock.now += 30
    first, tab = node.tab(), node.tab()
    first.log_in()
    fields = first.get(_SECOND).form(_SECOND).fields | {"code": phone.at(int(node.clock.now))}
    response = tab.post(_SECOND, fields)  # another browser
    assert (response.status_code, response.headers["Location"]) == (303, "/console/login")
    tab.log_in()
    assert tab.post(_SECOND, fields).status_code == 403  # with the token of another login
    assert tab.post(_SECOND, {"code": codes[0]}).status_code == 403
    assert not tab.is_logged_in()
    assert first.post(_SECOND, fields).status_code == 303
    assert first.is_logged_in()


@pytest.mark.attack
def test_only_a_right_password_is_told_of_a_second_factor(node: Node) -> None:
    enrolled(node)
    node.keyosk.grants.create_account(OPERATOR, [], username="bob", password=PASSWORD)
    responses = {
        (response.status_code, Page(response).text, tuple(response.headers.keys()))
        for name in ("alice", "bob", "nobody")
        for response in [node.tab().log_in(name, "not the password at all")]
    }
    assert len(responses) == 1


@pytest.mark.parametrize(
    ("offset", "status"), [(-61, 401), (-30, 303), (0, 303), (30, 303), (61, 401)]
)
def test_the_clock_of_a_phone_may_be_a_step_off(node: Node, offset: int, status: int) -> None:
    phone, _ = enrolled(node)
    node.clock.now += 3_600
    tab = node.tab()
    tab.log_in()
    assert tab.show(phone.at(int(node.clock.now) + offset)).status_code == status


@pytest.mark.attack
def test_a_code_works_once_on_all_nodes(node: Node, prepared_url: str) -> None:
    phone, _ = enrolled(node)
    used_to_confirm = phone.at(int(node.clock.now))
    with noded(prepared_url, node.clock) as other:
        for each in (node, other):
            tab = each.tab()
            tab.log_in()
            assert tab.show(used_to_confirm).status_code == 401
        node.clock.now += 60
        now = int(node.clock.now)
        assert [_shown(each, phone.at(now)) for each in (node, other)] == [303, 401]
        assert _shown(other, phone.at(now - 30)) == 401  # an earlier one than the last
        assert _shown(other, phone.at(now + 30)) == 303


def _shown(node: Node, code: str) -> int:
    tab = node.tab()
    tab.log_in()
    return tab.show(code).status_code


@pytest.mark.attack
@pytest.mark.parametrize("kind", ["app", "recovery code", "one login"])
def test_of_all_who_show_a_code_at_once_one_gets_in(node: Node, kind: str) -> None:
    phone, codes = enrolled(node)
    node.clock.now += 60
    code = codes[3] if kind == "recovery code" else phone.at(int(node.clock.now))
    tabs = [node.tab() for _ in range(5)]
    for tab in tabs:
        tab.log_in()
    if kind == "one login":
        pending = tabs[0].client.get_cookie("keyosk-80-pending")
        assert pending is not None
        for tab in tabs:
            tab.client.set_cookie("keyosk-80-pending", pending.value)
    shown = [codes[at] if kind == "one login" else code for at in range(len(tabs))]
    forms = [tab.get(_SECOND).form(_SECOND).fields for tab in tabs]
    gate, places = threading.Barrier(len(tabs)), []

    def show(tab: Tab, fields: dict[str, str]) -> None:
        gate.wait(60)
        # Who comes after a login was finished is led to its begin.
        places.append(tab.post(_SECOND, fields).headers.get("Location"))
        node.keyosk.database.close()

    threads = [
        threading.Thread(target=show, args=(tab, form | {"code": each}))
        for tab, form, each in zip(tabs, forms, shown, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places.count("/console") == 1
    sessions = rows_of(node.keyosk, "SELECT id FROM console_session")
    assert len(sessions) == 2  # the one that enrolled, and one of these
    ((left,),) = rows_of(node.keyosk, "SELECT count(*) FROM recovery_code")
    assert left == (10 if kind == "app" else 9)


def test_a_recovery_code_works_once_however_it_is_typed(node: Node) -> None:
    _, codes = enrolled(node)
    for code in (codes[0], codes[1].upper(), codes[2].replace("-", ""), f" {codes[3]} "):
        assert _shown(node, code) == 303
        assert _shown(node, code) == 401
    tab = node.tab()
    tab.log_in()
    tab.show(codes[4])
    assert "5 codes left" in tab.get(_MINE).text
    new = _CODE.findall(Page(tab.send(_MINE, "/recovery-codes", current_password=PASSWORD)).text)
    assert len(set(new)) == 10
    assert _shown(node, codes[5]) == 401
    assert _shown(node, new[0]) == 303


@pytest.mark.attack
def test_codes_are_throttled_and_the_owner_at_home_is_not_delayed(node: Node) -> None:
    phone, codes = enrolled(node)
    node.clock.now += 60
    assert _shown(node, codes[0]) == 303  # home is known from now on
    thief = node.tab("198.51.100.1")
    thief.log_in()
    assert [thief.show("000000").status_code for _ in range(7)] == [401] * 6 + [429]
    response = thief.show(codes[1])  # a right one neither
    assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (429, True)
    assert "Too many wrong codes" in Page(response).text
    for number in range(2, 8):
        thief = node.tab(f"198.51.100.{number}")
        thief.log_in()
        thief.show("000000")
    assert thief.show("000000").status_code == 429  # all sources together
    assert _shown(node, phone.at(int(node.clock.now))) == 303
    assert _shown(node, "000000") == 401
    # Passwords are not counted with codes, nor codes with passwords.
    assert node.tab("198.51.100.1").log_in().status_code == 303


@pytest.mark.attack
def test_whoever_has_the_password_makes_no_source_known_for_codes(node: Node) -> None:
    _, codes = enrolled(node)
    statuses = []
    for number in range(14):
        tab = node.tab(f"198.51.100.{number}")
        tab.log_in()  # the password is right, so passwords are not throttled from here
        statuses.append(tab.show("000000").status_code)
    assert statuses == [401] * 10 + [429] * 4
    node.clock.now += 120
    owner = node.tab("203.0.113.9")  # from elsewhere: two minutes at the most
    owner.log_in()
    assert owner.show(codes[0]).status_code == 303


def test_who_is_guessed_at_by_second_factors_is_seen_at_once(node: Node) -> None:
    enrolled(node)
    node.clock.now += 60
    thief = node.tab("198.51.100.1")
    thief.log_in()
    assert [thief.show("000000").status_code for _ in range(7)] == [401] * 6 + [429]
    node.tab("203.0.113.5").log_in("alice", "not the password at all")
    for pause in (0, 60):  # also when the counts of the minute are rows
        node.clock.now += pause
        failures = node.keyosk.login_failures.since(int(node.clock.now) - 3_600)
        assert [(each.username, each.count, each.second_factors) for each in failures.accounts] == [
            ("alice", 1, 6)
        ]
        assert [(each.address, each.second_factors) for each in failures.addresses] == [
            ("198.51.100.1", 6),
            ("203.0.113.5", 0),
        ]
        kinds = {(each.kind, each.username, each.source) for each in failures.throttled}
        assert ("second_factor_and_source", "alice", "198.51.100.1") in kinds
        assert not [kind for kind, _, _ in kinds if not kind.startswith("second_factor")]
    for number in range(2, 8):
        other = node.tab(f"198.51.100.{number}")
        other.log_in()
        other.show("000000")
    failures = node.keyosk.login_failures.since(int(node.clock.now) - 3_600)
    assert ("second_factor", "alice", None) in {
        (each.kind, each.username, each.source) for each in failures.throttled
    }
    node.keyosk.grants.create_account(OPERATOR, [], username="root", password=PASSWORD)
    node.keyosk.grants.change(OPERATOR, "root", add=[Grant(scope="keyosk:audit:read")])
    admin = node.tab()
    admin.log_in("root")
    page = admin.get("/console/attack")
    assert "alice second factor 198.51.100.1" in page.text
    assert "somebody knows the password" in page.text


@pytest.mark.parametrize("jump", [86_400, 40 * 365 * 86_400])
def test_a_code_of_a_clock_that_was_ahead_locks_nobody_out(node: Node, jump: int) -> None:
    phone, _ = enrolled(node)
    node.clock.now += jump
    assert _shown(node, phone.at(int(node.clock.now))) == 303
    node.clock.now -= jump - 60
    code = phone.at(int(node.clock.now))
    assert _shown(node, code) == 303
    assert _shown(node, code) == 401


def test_a_login_without_its_second_factor_ends_after_five_minutes(node: Node) -> None:
    phone, _ = enrolled(node)
    node.clock.now += 60
    for passed, status in ((LIFETIME - 1, 303), (LIFETIME, None), (-3_600, None)):
        tab = node.tab()
        tab.log_in()
        fields = tab.get(_SECOND).form(_SECOND).fields
        node.clock.now += passed
        response = tab.post(_SECOND, fields | {"code": phone.at(int(node.clock.now))})
        assert response.status_code == 303
        assert (response.headers["Location"] == "/console") == (status is not None)
        assert tab.is_logged_in() == (status is not None)
        node.clock.now += 3_600


@pytest.mark.attack
@pytest.mark.parametrize(
    "change", ["password", "disabled", "disabled and enabled", "tokens", "factor"]
)
def test_a_login_without_its_second_factor_ends_with_its_account(node: Node, change: str) -> None:
    phone, codes = enrolled(node)
    node.clock.now += 60
    tab = node.tab()
    tab.log_in()
    fields = tab.get(_SECOND).form(_SECOND).fields
    accounts = node.keyosk.accounts
    match change:
        case "password":
            accounts.set_password(OPERATOR, "alice", NEW_PASSWORD)
        case "disabled" | "disabled and enabled":
            accounts.change(OPERATOR, "alice", {"enabled": False})
            if change.endswith("enabled"):
                accounts.change(OPERATOR, "alice", {"enabled": True})
        case "tokens":
            accounts.revoke_tokens(OPERATOR, "alice")
        case "factor":
            for (factor,) in rows_of(
                node.keyosk, "SELECT id FROM second_factor WHERE kind = 'recovery_codes'"
            ):
                node.keyosk.second_factors.remove(OPERATOR, "alice", factor)
    for code in (phone.at(int(node.clock.now)), codes[0]):
        response = tab.post(_SECOND, fields | {"code": code})
        assert (response.status_code, response.headers["Location"]) == (303, "/console/login")
    assert not tab.is_logged_in()


@pytest.mark.attack
def test_the_database_and_the_audit_log_have_no_secret(node: Node) -> None:
    phone, codes = enrolled(node)
    _shown(node, codes[0])
    _shown(node, "000000")
    dump = "".join(
        str([bytes(each) if isinstance(each, memoryview) else each for each in row])
        for name in ("second_factor", "recovery_code", "waiting_audit_row", "audit_row")
        for row in rows_of(node.keyosk, f"SELECT * FROM {name}")
    )
    assert phone.secret not in dump
    assert phone.byte_secret().hex() not in dump
    assert not [code for code in codes if code in dump or code.replace("-", "") in dump]


def test_what_happens_to_second_factors_is_in_the_audit_log(node: Node) -> None:
    phone, codes = enrolled(node)
    node.clock.now += 60
    _shown(node, phone.at(int(node.clock.now)))
    _shown(node, codes[0])
    _shown(node, "000000")
    for (factor,) in rows_of(node.keyosk, "SELECT id FROM second_factor WHERE kind = 'totp'"):
        node.keyosk.second_factors.remove(OPERATOR, "alice", factor)
    rows = rows_of(
        node.keyosk,
        "SELECT id, action, before, after, outcome FROM (SELECT id, action, before, after, outcome"
        " FROM audit_row UNION ALL SELECT id, action, before, after, outcome"
        " FROM waiting_audit_row) AS every_row WHERE action LIKE ? ORDER BY id",
        "second_factor.%",
    )
    app_shown, codes_shown = (
        '{"kind":"totp","name":"Phone"}',
        '{"kind":"recovery_codes","name":"Recovery codes"}',
    )
    assert [row[1:] for row in rows] == [
        ("second_factor.create", None, app_shown, "done"),
        ("second_factor.create", None, codes_shown, "done"),
        ("second_factor.use", None, app_shown, "done"),
        ("second_factor.use", None, codes_shown, "done"),
        ("second_factor.failed", None, "{}", "refused"),
        ("second_factor.delete", app_shown, None, "done"),
        ("second_factor.delete", codes_shown, None, "done"),
    ]
    assert node.keyosk.audit_verifier.verify().fault is None


@pytest.mark.attack
def test_adding_takes_the_password_and_a_code_in_the_same_session(node: Node) -> None:
    tab, other = node.tab(), node.tab()
    tab.log_in()
    other.log_in()
    response = tab.send(_MINE, "/app", name="Phone", current_password="not the password at all")
    assert (response.status_code, "The password is wrong" in Page(response).text) == (403, True)
    offer = Page(tab.send(_MINE, "/app", name="Phone", current_password=PASSWORD))
    match = re.search(r"Secret: ([A-Z2-7 ]+[A-Z2-7]) ", offer.text)
    assert match is not None
    phone = pyotp.TOTP(match[1].replace(" ", ""))
    again = Page(tab.send(offer, "/app/confirm", code="000000"))
    assert (again.status, match[1] in again.text) == (422, True)
    code = {"code": phone.at(int(node.clock.now))}
    fields = offer.form("/app/confirm").fields | code
    stolen = other.get(_MINE).form("/app").fields["csrf_token"]
    response = other.post(f"{_MINE}/app/confirm", fields | {"csrf_token": stolen})
    assert (response.status_code, "another session" in Page(response).text) == (422, True)
    for sealed in ("", "00", "zz", fields["offer"][:-2] + "00"):
        response = tab.post(f"{_MINE}/app/confirm", fields | {"offer": sealed})
        assert response.status_code == 422
    node.clock.now += 601
    late = fields | {"code": phone.at(int(node.clock.now))}
    assert tab.post(f"{_MINE}/app/confirm", late).status_code == 422
    node.clock.now -= 601
    assert tab.post(f"{_MINE}/app/confirm", fields).status_code == 200
    response = tab.post(f"{_MINE}/app/confirm", fields)  # the form is sent twice
    assert (
        response.status_code == 403
    )  # the session has another secret since, and so have its forms
    fields["csrf_token"] = tab.get(_MINE).form("/logout").fields["csrf_token"]
    response = tab.post(f"{_MINE}/app/confirm", fields)
    assert (response.status_code, response.headers["Location"]) == (303, _MINE)
    ((number,),) = rows_of(node.keyosk, "SELECT count(*) FROM second_factor")
    assert number == 2
    response = tab.send(_MINE, "/recovery-codes", current_password="not the password at all")
    assert response.status_code == 403


@pytest.mark.attack
def test_names_of_factors_are_shown_as_they_are(node: Node) -> None:
    tab = node.tab()
    tab.log_in()
    name = "<script>alert(1)</script>\"'{{7*7}}"
    page = Page(tab.send(_MINE, "/app", name=name, current_password=PASSWORD))
    assert page.dangers() == []
    match = re.search(r"Secret: ([A-Z2-7 ]+[A-Z2-7]) ", page.text)
    assert match is not None
    code = pyotp.TOTP(match[1].replace(" ", "")).at(int(node.clock.now))
    assert Page(tab.send(page, "/app/confirm", code=code)).dangers() == []
    for path in (_MINE, "/me"):
        page = tab.get(path)
        assert (name in page.text, page.dangers()) == (True, [])
    for bad in ("", "x" * 201, "a\0b"):
        assert tab.send(_MINE, "/app", name=bad, current_password=PASSWORD).status_code == 422


def test_why_there_are_no_passkeys_is_told(node: Node) -> None:
    tab = node.tab()
    tab.log_in()
    said = "Passkeys need a Keyosk that is reached by a name, not by a number: its issuer is "
    assert f"{said}{node.keyosk.issuer}." in tab.get(_MINE).text


@pytest.mark.attack
def test_a_session_from_before_the_second_factor_ends(node: Node) -> None:
    tab, slow = node.tab(), node.tab()
    slow.log_in()
    tab.log_in()
    rows = rows_of(node.keyosk, "SELECT digest, id FROM console_session")
    tab.enrol(node)
    # As if it had begun in the very moment in which the factor was added.
    session = rows_of(node.keyosk, "SELECT id FROM console_session")
    (lost,) = [row for row in rows if row[1:] not in session]
    raw = node.keyosk.database.raw
    raw.execute_sql(
        "INSERT INTO console_session SELECT '01a20916-48f0-7622-b362-34f7b264a7f0', account_id,"
        f" password_id, {raw.param}, address, agent, created_at, seen_at, confirmed_at,"
        " expires_at, notice, 'pwd', NULL, NULL FROM console_session",
        (lost[0],),
    )
    assert not slow.is_logged_in()
    assert tab.is_logged_in()


@pytest.mark.attack
def test_a_cookie_from_before_the_second_factor_opens_nothing(node: Node) -> None:
    tab, thief = node.tab(), node.tab("198.51.100.1")
    tab.log_in()
    cookie = tab.client.get_cookie("keyosk-80-session")
    assert cookie is not None
    thief.client.set_cookie("keyosk-80-session", cookie.value)
    assert thief.is_logged_in()
    tab.enrol(node)
    assert (thief.is_logged_in(), tab.is_logged_in()) == (False, True)
    ((number,),) = rows_of(node.keyosk, "SELECT count(*) FROM console_session")
    assert number == 1


# --- What ends with a change ----------------------------------------------------------------------


@pytest.mark.attack
@pytest.mark.parametrize(
    "change",
    ["add", "renew codes", "remove", "admin's API", "admin's command", "admin's console"],
)
def test_a_change_of_second_factors_ends_logins_to_the_console_and_no_other(
    server: LiveServer, admin: Client, change: str
) -> None:
    name = unique("calendar")
    service = {"name": name, "audience": name, "refresh_allowed": True}
    ok(admin.post("/services", json=service | {"scopes": [{"name": f"{name}:read"}]}), 201)
    person = make_person(admin, f"{name}:read")
    asked = {"scope": f"offline_access {name}:read"}
    refresh = ok(person.login().post("/auth/token", data=asked))["refresh_token"]
    browser = logged_in(server, person.username)
    phone = enrol(browser)
    used, codes = _factors(admin, person)
    pending = Browser(server)
    assert pending.log_in(person.username).headers["Location"].startswith(_SECOND)
    assert pending.client.get(_SECOND).status_code == 200
    own = {"confirm": "yes", "current_password": PASSWORD}
    match change:
        case "add":
            enrol_another(browser, phone)
        case "renew codes":
            assert Page(browser.post(f"{_MINE}/recovery-codes", own)).h1 == "Recovery codes"
        case "remove":
            path = f"/console/accounts/me/second-factors/{codes}/remove"
            assert browser.post(path, own).status_code == 303
        case "admin's API":
            ok(admin.delete(f"{person.path}/second-factors/{used}"), 204)
        case "admin's command":
            result = server.run("account", "remove-second-factors", person.username, "--yes")
            assert result.returncode == 0, result.stderr
        case "admin's console":
            root = logged_in(server, make_person(admin, "keyosk:admin").username)
            path = f"/console/accounts/{person.id}/second-factors/{used}/remove"
            assert root.post(path, {"confirm": "yes"}).status_code == 303
            assert root.is_logged_in()
    # The session that changed them goes on, unless a factor was taken away.
    assert browser.is_logged_in() == (change in ("add", "renew codes"))
    listed = ok(admin.get(f"{person.path}/console-sessions"))["items"]
    assert len(listed) == (1 if browser.is_logged_in() else 0)
    assert pending.client.get(_SECOND).headers["Location"] == "/console/login"
    data = {"grant_type": "refresh_token", "refresh_token": refresh}
    assert server.client().post("/auth/token", data=data).status_code == 200


def _factors(admin: Client, person: Person) -> tuple[str, str]:
    app, codes = ok(admin.get(f"{person.path}/second-factors"))["items"]
    assert (app["kind"], codes["kind"]) == ("totp", "recovery_codes")
    return app["id"], codes["id"]


def enrol_another(browser: Browser, phone: pyotp.TOTP) -> None:
    fields = {"name": "Tablet", "confirm": "yes", "current_password": PASSWORD}
    offer = Page(browser.post(f"{_MINE}/app", fields))
    match = re.search(r"Secret: ([A-Z2-7 ]+[A-Z2-7]) ", offer.text)
    assert match is not None, offer.text
    assert match[1] != phone.secret
    tablet = pyotp.TOTP(match[1].replace(" ", ""))
    fields = offer.form("/app/confirm").fields | {"code": tablet.now()}
    response = browser.client.post(f"{_MINE}/app/confirm", data=fields)
    assert (response.status_code, response.headers["Location"]) == (303, _MINE)


# --- Removing -------------------------------------------------------------------------------------


@pytest.mark.attack
def test_a_password_alone_removes_no_second_factor(server: LiveServer, admin: Client) -> None:
    person = make_person(admin, "keyosk:admin")
    browser = logged_in(server, person.username)
    enrol(browser)
    own = person.login()
    listed = ok(own.get("/accounts/me/second-factors"))["items"]
    assert [each["kind"] for each in listed] == ["totp", "recovery_codes"]
    assert listed[0].keys() == {"id", "kind", "name", "remaining", "created_at", "last_used_at"}
    for path in ("/accounts/me", person.path):
        factor = f"{path}/second-factors/{listed[0]['id']}"
        assert_refused(own.delete(factor), "refused_by_rule")
        proof = {"current_password": PASSWORD}
        assert_refused(person.bearer().delete(factor, json=proof), "refused_by_rule")
        assert_refused(person.bearer().delete(factor), "proof_required")
    path = f"/console/accounts/me/second-factors/{listed[0]['id']}/remove"
    wrong = {"confirm": "yes", "current_password": "not the password at all"}
    assert browser.post(path, wrong).status_code == 403
    assert browser.is_logged_in()
    assert browser.act(path, PASSWORD).h1 == "Log in"
    assert not browser.is_logged_in()
    assert ok(own.get("/accounts/me/second-factors"))["items"] == []
    assert logged_in(server, person.username).is_logged_in()


def test_an_admin_lists_and_removes_factors_of_others(server: LiveServer, admin: Client) -> None:
    person, other = make_person(admin), make_person(admin)
    browser = logged_in(server, person.username)
    enrol(browser)
    path = f"{person.path}/second-factors"
    listed = ok(admin.get(path))["items"]
    assert [each["remaining"] for each in listed] == [None, 10]
    assert other.login().get(path).status_code == 403
    assert other.login().delete(f"{path}/{listed[0]['id']}").status_code == 403
    root = logged_in(server, make_person(admin, "keyosk:admin").username)
    page = root.get(f"/console/accounts/{person.id}")
    assert "Phone authenticator app" in page.text
    page = root.act(f"/console/accounts/{person.id}/second-factors/{listed[0]['id']}/remove")
    assert "second factor was removed" in page.text
    assert ok(admin.get(path))["items"] == []
    assert_refused(admin.delete(f"{path}/{listed[0]['id']}"), "not_found", 404)
    assert not browser.is_logged_in()
    assert logged_in(server, person.username).is_logged_in()


def test_commands_list_and_remove_second_factors(server: LiveServer, admin: Client) -> None:
    person = make_person(admin)
    enrol(logged_in(server, person.username))
    shown = server.run("account", "second-factors", person.username).stdout
    assert ("Phone" in shown, "Recovery codes" in shown) == (True, True)
    result = server.run("account", "remove-second-factors", person.username, "--yes")
    assert result.returncode == 0, result.stderr
    enrol(logged_in(server, person.username))  # the password alone is enough again
    (factor, _) = ok(admin.get(f"{person.path}/second-factors"))["items"]
    result = server.run("account", "remove-second-factors", person.username, factor["id"], "--yes")
    assert result.returncode == 0, result.stderr
    assert ok(admin.get(f"{person.path}/second-factors"))["items"] == []


def test_logins_to_the_api_are_by_password_alone(server: LiveServer, admin: Client) -> None:
    person = make_person(admin)
    enrol(logged_in(server, person.username))
    assert person.login().get("/auth/token").status_code == 200


# --- Who needs one --------------------------------------------------------------------------------


@pytest.mark.attack
def test_an_admin_without_a_second_factor_reaches_only_the_way_to_one(prepared_url: str) -> None:
    with noded(prepared_url, admins_need_second_factor=True) as node:
        add_alice(node, "keyosk:accounts:read")
        tab = node.tab()
        assert tab.log_in().status_code == 303
        allowed = set()
        token = tab.get(_MINE).form("/logout").fields["csrf_token"]
        for rule in create(node.keyosk, lambda *_: []).url_map.iter_rules():
            path = re.sub(r"<[^>]+>", "x", rule.rule)
            (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            if path.startswith(("/console/login", "/console/static")) or "logout" in path:
                continue
            response = tab.client.open(path, method=method, data={"csrf_token": token})
            if (response.status_code, response.headers.get("Location")) != (303, _MINE):
                allowed.add(path)
        # Sent without an offer, what confirms leads there too.
        ways = {f"{_MINE}/{kind}{step}" for kind in ("app", "passkey") for step in ("", "/confirm")}
        assert allowed == {_MINE} | ways
        page = tab.get(_MINE)
        assert "needs a second factor" in page.text
        assert [form.action for form in page.forms] == ["/console/logout", f"{_MINE}/app"]
        tab.enrol(node)
        assert tab.client.get("/console/accounts").status_code == 200


def test_the_first_admin_gets_in_where_admins_need_a_second_factor(prepared_url: str) -> None:

    config = dataclasses.replace(settings(prepared_url), console_second_factor="admins")
    keyosk = Installation(config)
    tab = Node(keyosk, Clock(), app.create_app(keyosk)).tab()
    tab.log_in("admin", ADMIN_PASSWORD)
    assert tab.client.get("/console").headers["Location"] == _MINE
    keyosk.database.close()


def test_who_administers_nothing_needs_no_second_factor_until_they_do(prepared_url: str) -> None:
    with noded(prepared_url, admins_need_second_factor=True) as node:
        add_alice(node)
        tab = node.tab()
        tab.log_in()
        assert tab.is_logged_in()
        node.keyosk.grants.change(OPERATOR, "alice", add=[Grant(scope="keyosk:audit:read")])
        assert tab.client.get("/me").headers["Location"] == _MINE


def test_what_an_admins_password_does_by_rest_is_what_the_guide_says(prepared_url: str) -> None:
    with noded(prepared_url, admins_need_second_factor=True) as node:
        add_alice(node, "keyosk:admin")
        enrolled(node)
        node.keyosk.grants.create_account(OPERATOR, [], username="bob", password=PASSWORD)
        client, alice = node.flask.test_client(), ("alice", PASSWORD)

        def refused_in_the_console() -> bool:
            tab = node.tab()
            tab.log_in()
            return tab.client.get("/console/accounts").status_code == 303

        def ask(method: str, path: str, who: tuple[str, str], **options: Any) -> int:
            return client.open(path, method=method, auth=who, **options).status_code

        assert refused_in_the_console()
        grant = {"json": {"add": {"scopes": ["keyosk:admin"]}}}
        patch = grant | {"content_type": "application/merge-patch+json"}
        assert ask("PATCH", "/accounts/bob/grants", alice, **patch) == 200
        listed = client.get("/accounts/alice/second-factors", auth=alice).get_json()["items"]
        app_, codes = (each["id"] for each in listed)
        # One's own is not removed by the password alone; another admin's is.
        own = {"json": {"current_password": PASSWORD}}
        for path in ("/accounts/me", "/accounts/alice"):
            assert ask("DELETE", f"{path}/second-factors/{codes}", alice, **own) == 403
        assert ask("DELETE", f"/accounts/alice/second-factors/{app_}", ("bob", PASSWORD)) == 204


# --- Codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("issuer", ["Keyosk login.example.org", "Keyosk 2001:db8::1"])
def test_the_label_for_an_app_has_no_colon_but_that_before_the_username(issuer: str) -> None:
    uri = one_time_codes.uri(one_time_codes.new_secret(), username="alice", issuer=issuer)
    parts = urlsplit(uri)
    before, after = unquote(parts.path).removeprefix("/").split(":")
    assert (before, after) == (parse_qs(parts.query)["issuer"][0], "alice")


@given(now=st.integers(60, 2**36), offset=st.integers(-300, 300))
def test_a_code_fits_its_own_step_and_one_either_way(now: int, offset: int) -> None:
    secret = one_time_codes.new_secret()
    step = one_time_codes.step_at(max(0, now + offset))
    code = pyotp.TOTP(secret).generate_otp(step)
    found = one_time_codes.matching_step(secret, f" {code[:3]} {code[3:]}", now)
    if abs(step - one_time_codes.step_at(now)) <= 1:
        assert found is not None
        assert pyotp.TOTP(secret).generate_otp(found) == code
    elif found is not None:  # one in a million is a code of two steps
        assert pyotp.TOTP(secret).generate_otp(found) == code


@given(st.text())
def test_no_text_of_another_form_is_a_code(text: str) -> None:
    compact = one_time_codes.compact(text)
    step = one_time_codes.matching_step(one_time_codes.new_secret(), text, 1_900_000_000)
    assert step is None or re.fullmatch("[0-9]{6}", compact)
    assert len(one_time_codes.digest(text, "a factor")) == 32


@given(st.lists(st.sampled_from(["", " ", "-", "\t"]), min_size=24, max_size=24), st.booleans())
def test_a_recovery_code_is_the_same_however_it_is_typed(gaps: list[str], upper: bool) -> None:
    code = one_time_codes.new_recovery_codes()[0]
    typed = "".join(a + b for a, b in zip(code.replace("-", ""), gaps, strict=True))
    typed = typed.upper() if upper else typed
    assert one_time_codes.digest(typed, "x") == one_time_codes.digest(code, "x")
    assert one_time_codes.digest(typed, "y") != one_time_codes.digest(code, "x")
    assert _CODE.fullmatch(code)


def test_a_code_is_that_of_the_standard() -> None:
    """RFC 6238 appendix B, with six digits."""
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    for now, code in ((59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")):
        assert one_time_codes.matching_step(secret, code, now) == now // 30


def test_secrets_are_encrypted_anew_under_the_first_secret_key(node: Node) -> None:
    phone, _ = enrolled(node)
    sealed = rows_of(node.keyosk, "SELECT sealed FROM second_factor WHERE kind = 'totp'")
    assert node.keyosk.second_factors.rewrap() == 1
    assert rows_of(node.keyosk, "SELECT sealed FROM second_factor WHERE kind = 'totp'") != sealed
    node.clock.now += 60
    assert _shown(node, phone.at(int(node.clock.now))) == 303
