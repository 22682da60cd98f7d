"""Dangerous acts in the console take a second factor too, from whoever has one."""

import re
import threading
from collections.abc import Iterator
from typing import Any, Final

import pyotp
import pytest
from werkzeug.test import TestResponse

from installed import rows_of
from keyosk.errors import BadCredentials
from keyosk.model import OPERATOR, ConsoleSession, Grant, ListQuery
from pages import Page
from people import NEW_PASSWORD, PASSWORD
from test_passkeys import _LIES, Authenticator, Site, _lying, options_of
from test_passkeys import node as _passkey_node
from test_second_factors import Node, Tab, noded

pytestmark = pytest.mark.every_database

_MINE: Final = "/me/second-factors"
_HOME: Final = "192.0.2.1"
#: Longer than a confirmation lasts.
_LATER: Final = 301
key_node = _passkey_node


@pytest.fixture
def node(prepared_url: str) -> Iterator[Node]:
    with noded(prepared_url) as made:
        add_people(made)
        yield made


def add_people(node: Node) -> None:
    create = node.keyosk.grants.create_account
    if not rows_of(node.keyosk, "SELECT id FROM account WHERE username = 'alice'"):
        create(OPERATOR, [], username="alice", password=PASSWORD)
    change(node, "alice", "keyosk:admin")
    create(OPERATOR, [], username="bob", password=PASSWORD)


def change(node: Node, username: str, scope: str) -> None:
    node.keyosk.grants.change(OPERATOR, username, add=[Grant(scope=scope)])


def later(node: Node, tab: Tab, phone: pyotp.TOTP) -> str:
    """Log Alice in, let the confirmation of that end, and return the code of that moment."""
    node.clock.now += 60
    tab.log_in()
    assert tab.show(code(node, phone)).status_code == 303
    node.clock.now += _LATER
    return code(node, phone)


def code(node: Node, phone: pyotp.TOTP) -> str:
    return phone.at(int(node.clock.now))


def enrolled(node: Node) -> tuple[Tab, pyotp.TOTP, list[str]]:
    """Alice with an app, logged in five minutes ago."""
    tab = node.tab()
    tab.log_in()
    phone, codes = tab.enrol(node)
    later(node, tab, phone)
    return tab, phone, codes


def id_of(node: Node, username: str) -> str:
    return node.keyosk.accounts.get(username).id


def grant(node: Node, tab: Tab, **fields: str) -> TestResponse:
    """Make Bob an admin: the act of most tests."""
    token = tab.get("/me").form("/logout").fields["csrf_token"]
    given = {"csrf_token": token, "kind": "scope", "name": "keyosk:admin", **fields}
    return tab.post(f"/console/accounts/{id_of(node, 'bob')}/grant", given)


def granted(node: Node) -> bool:
    return bool(node.keyosk.grants.of("bob")[1])


_CONFIRMED: Final = {"confirm": "yes", "password_again": PASSWORD}
_OWN: Final = {"confirm": "yes", "current_password": PASSWORD}


def acts(node: Node) -> dict[str, dict[str, str]]:
    """Dangerous acts by their address: what their forms say."""
    bob = f"/console/accounts/{id_of(node, 'bob')}"
    ((factor,),) = rows_of(node.keyosk, "SELECT id FROM second_factor WHERE kind = 'totp'")
    return {
        f"{bob}/grant": _CONFIRMED | {"kind": "scope", "name": "keyosk:admin"},
        f"{bob}/password": _CONFIRMED | {"password": NEW_PASSWORD},
        f"{bob}/disable": _CONFIRMED,
        f"{bob}/delete": _CONFIRMED,
        f"{bob}/api-keys": _CONFIRMED | {"name": "key"},
        "/console/signing-keys/rotate": _CONFIRMED | {"now": "yes"},
        "/console/accounts/bulk": _CONFIRMED | {"act": "disable", "account": id_of(node, "bob")},
        "/console/accounts/me/api-keys": _OWN | {"name": "key"},
        "/console/accounts/me/password": _OWN | {"password": NEW_PASSWORD},
        f"/console/accounts/me/second-factors/{factor}/remove": _OWN,
        f"{_MINE}/app": _OWN | {"name": "Mine"},
        f"{_MINE}/passkey": _OWN | {"name": "Mine"},
        f"{_MINE}/recovery-codes": _OWN,
    }


_STATE: Final = (
    "SELECT id, enabled FROM account",
    "SELECT account_id FROM grant_",
    "SELECT id, kind FROM second_factor",
    "SELECT digest FROM recovery_code",
    "SELECT id FROM api_key",
    "SELECT id, account_id FROM password",
    "SELECT kid FROM signing_key",
    "SELECT id, confirmed_at FROM console_session",
)


def state(node: Node) -> list[Any]:
    known = {name for (name,) in rows_of(node.keyosk, _TABLES[node.keyosk.database.is_sqlite])}
    asked = [each for each in _STATE if each.split(" FROM ")[1] in known]
    assert len(asked) >= 6, known
    return [sorted(rows_of(node.keyosk, each)) for each in asked]


_TABLES: Final = {
    True: "SELECT name FROM sqlite_master",
    False: "SELECT table_name FROM information_schema.tables",
}


@pytest.mark.attack
def test_a_stolen_cookie_and_the_password_do_nothing_dangerous(
    node: Node, subtests: pytest.Subtests
) -> None:
    tab, _, _ = enrolled(node)
    token = tab.get("/me").form("/logout").fields["csrf_token"]
    before = state(node)
    for path, fields in acts(node).items():
        with subtests.test(path):
            for more in ({}, {"code": ""}, {"code": "000000"}, {"passkey": "{}"}):
                node.clock.now += 150  # wrong codes are throttled
                tab.get("/me")
                response = tab.post(path, {"csrf_token": token, **fields, **more})
                leads = response.headers.get("Location", "")
                assert response.status_code == 403 or leads.startswith("/console/confirm?next=")
                assert state(node) == before


def test_a_dangerous_act_takes_the_code_as_well(node: Node) -> None:
    tab, phone, _ = enrolled(node)
    page = Page(grant(node, tab))
    assert "Code of your authenticator app, or a recovery code" in page.text
    (form,) = [form for form in page.forms if "confirm" in form.fields]
    assert {"password_again", "code"} <= form.fields.keys()
    fields = form.fields | {"password_again": PASSWORD, "code": code(node, phone)}
    wrong = Page(grant(node, tab, **fields | {"password_again": "not the password at all"}))
    assert (wrong.status, "The password is wrong." in wrong.text) == (403, True)
    assert (PASSWORD in wrong.text, fields["code"] in wrong.text) == (False, False)
    assert grant(node, tab, **fields).status_code == 303
    assert granted(node)
    events = [
        (row.action, (row.after or {}).get("amr"))
        for row in node.keyosk.audit.page(_latest())
        if row.via == "console"
    ]
    assert ("console_session.confirm", ["pwd", "otp", "mfa"]) in events
    assert events.count(("second_factor.use", None)) == 2  # at the login, and here
    # For five minutes there is no question more, and one afterwards.
    assert "Your password" not in Page(grant(node, tab)).text
    node.clock.now += _LATER
    assert "Code of your authenticator app" in Page(grant(node, tab)).text


def _latest() -> ListQuery:
    return ListQuery(limit=50, sort="sequence", descending=True)


def test_a_recovery_code_confirms_once(node: Node) -> None:
    tab, _, codes = enrolled(node)
    for status in (303, 403):
        assert grant(node, tab, **_CONFIRMED, code=codes[0]).status_code == status
        node.clock.now += _LATER
        tab.get("/me")
    assert "9 codes left" in tab.get(_MINE).text


def test_without_a_second_factor_the_password_is_enough(node: Node) -> None:
    tab = node.tab()
    tab.log_in()
    node.clock.now += _LATER
    assert "Code of" not in Page(grant(node, tab)).text
    assert grant(node, tab, **_CONFIRMED).status_code == 303
    (row,) = [row for row in node.keyosk.audit.page(_latest()) if row.action.endswith(".confirm")]
    assert (row.after or {})["amr"] == ["pwd"]


@pytest.mark.attack
def test_a_login_code_confirms_nothing_and_one_that_confirmed_logs_nobody_in(node: Node) -> None:
    tab, phone, _ = enrolled(node)
    used = code(node, phone)
    other = node.tab()
    other.log_in()
    assert other.show(used).status_code == 303
    assert grant(node, tab, **_CONFIRMED, code=used).status_code == 403
    node.clock.now += 30
    assert grant(node, tab, **_CONFIRMED, code=code(node, phone)).status_code == 303
    other.log_in()
    assert other.show(code(node, phone)).status_code == 401


@pytest.mark.attack
@pytest.mark.parametrize("kind", ["app", "recovery code"])
def test_of_all_who_confirm_by_one_code_at_once_one_does(node: Node, kind: str) -> None:
    first, phone, codes = enrolled(node)
    tabs = [first, *(node.tab() for _ in range(4))]
    for number, tab in enumerate(tabs[1:]):
        tab.log_in()
        assert tab.show(codes[number]).status_code == 303
    node.clock.now += _LATER
    shown = codes[9] if kind == "recovery code" else code(node, phone)
    tokens = [tab.get("/me").form("/logout").fields["csrf_token"] for tab in tabs]
    path, statuses = f"/console/accounts/{id_of(node, 'bob')}/grant", []
    gate = threading.Barrier(len(tabs))

    def act(tab: Tab, token: str) -> None:
        gate.wait(60)
        fields = {"csrf_token": token, "kind": "scope", "name": "keyosk:admin", "code": shown}
        statuses.append(tab.post(path, fields | _CONFIRMED).status_code)
        node.keyosk.database.close()

    threads = [threading.Thread(target=act, args=each) for each in zip(tabs, tokens, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [303, 403, 403, 403, 403]


@pytest.mark.attack
def test_codes_are_throttled_as_at_the_login_and_together_with_it(node: Node) -> None:
    tab, phone, codes = enrolled(node)
    node.clock.now += 3_600 - _LATER
    thief = node.tab("198.51.100.1")
    cookie = tab.client.get_cookie("keyosk-80-session")
    assert cookie is not None
    node.clock.now -= 2_000  # not idle
    thief.client.set_cookie("keyosk-80-session", cookie.value)
    login = node.tab("198.51.100.1")
    login.log_in()
    statuses = []
    for number in range(4):
        statuses.append(grant(node, thief, **_CONFIRMED, code=f"00000{number}").status_code)
        statuses.append(login.show(f"10000{number}").status_code)
    assert statuses == [403, 401] * 3 + [429, 429]
    for more in ({"code": codes[0]}, {"passkey": "{}"}, {"code": code(node, phone)}):
        response = grant(node, thief, **_CONFIRMED, **more)
        assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (429, True)
    # Who shows none is told so, and it counts as none.
    assert grant(node, thief, **_CONFIRMED).status_code == 403
    assert grant(node, tab, **_CONFIRMED, code=codes[1]).status_code == 303
    failed = [row for row in node.keyosk.audit.page(_latest()) if "failed" in row.action]
    assert {row.action for row in failed} == {"second_factor.failed"}
    assert len(failed) == 6


@pytest.mark.attack
def test_a_password_alone_never_lengthens_what_a_second_factor_confirmed(node: Node) -> None:
    tab, phone, _ = enrolled(node)
    own = "/console/accounts/me/api-keys"
    token = tab.get("/me").form("/logout").fields["csrf_token"]
    fields = {"csrf_token": token, "name": "one", **_OWN}
    response = tab.post(own, fields | {"code": code(node, phone)})
    assert Page(response).h1 == "New API key: one"
    node.clock.now += 200
    assert Page(tab.post(own, fields | {"name": "two"})).h1 == "New API key: two"
    for step in ("/app", "/passkey", "/recovery-codes"):
        tab.post(f"{_MINE}{step}", fields | {"current_password": "not the password at all"})
    node.clock.now += 200
    response = tab.post(own, fields | {"name": "three"})
    assert response.status_code == 403
    assert "second factor" in Page(response).text


def test_the_password_of_another_takes_a_confirmation_before_its_form(node: Node) -> None:
    tab, phone, _ = enrolled(node)
    path = f"/console/accounts/{id_of(node, 'bob')}"
    page = tab.get(path)
    assert not [form for form in page.forms if form.action.endswith("/password")]
    (href,) = [
        given["href"] for tag, given in page.tags if "/console/confirm" in (given.get("href") or "")
    ]
    form = next(form for form in tab.get(href or "").forms if "confirm" in form.fields)
    given = {"password_again": PASSWORD, "code": code(node, phone)}
    response = tab.post(href or "", form.fields | given)
    assert (response.status_code, response.headers["Location"]) == (303, path)
    response = tab.send(path, "/password", password=NEW_PASSWORD)
    assert response.headers["Location"].startswith(f"{path}?done=password-set")
    assert node.tab().log_in("bob", NEW_PASSWORD).status_code == 303
    assert tab.client.get(href or "").headers["Location"] == path  # there is no question


@pytest.mark.attack
@pytest.mark.parametrize("place", ["https://evil.example", "//evil.example", "/\\evil", "/auth"])
def test_a_confirmation_leads_to_no_other_site(node: Node, place: str) -> None:
    tab = node.tab()
    tab.log_in()
    response = tab.client.get("/console/confirm", query_string={"next": place})
    assert response.headers["Location"] == "/console"


@pytest.mark.attack
def test_no_other_site_confirms(node: Node) -> None:
    tab, phone, _ = enrolled(node)
    path = "/console/confirm"
    fields = _CONFIRMED | {"code": code(node, phone)}
    token = tab.get("/me").form("/logout").fields["csrf_token"]
    assert tab.post(path, fields).status_code == 403
    assert tab.post(path, fields | {"csrf_token": "0" * 64}).status_code == 403
    for header in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        response = tab.client.post(path, data={**fields, "csrf_token": token}, headers=header)
        assert response.status_code == 403
    response = tab.post(path, fields | {"csrf_token": token})
    assert (response.status_code, response.headers["Location"]) == (303, "/console")


@pytest.mark.attack
@pytest.mark.parametrize("happened", ["disabled", "password", "tokens", "factor", "ended"])
def test_a_question_ends_with_its_session(node: Node, happened: str) -> None:
    tab, phone, codes = enrolled(node)
    (form,) = [form for form in Page(grant(node, tab)).forms if "confirm" in form.fields]
    accounts = node.keyosk.accounts
    match happened:
        case "disabled":
            node.keyosk.grants.create_account(OPERATOR, [], username="root", password=PASSWORD)
            change(node, "root", "keyosk:admin")
            accounts.change(OPERATOR, "alice", {"enabled": False})
        case "password":
            accounts.set_password(OPERATOR, "alice", NEW_PASSWORD)
        case "tokens":
            accounts.revoke_tokens(OPERATOR, "alice")
        case "factor":
            for (factor,) in rows_of(node.keyosk, "SELECT id FROM second_factor"):
                node.keyosk.second_factors.remove(OPERATOR, "alice", factor)
                break
        case "ended":
            ((session,),) = rows_of(node.keyosk, "SELECT id FROM console_session")
            node.keyosk.console_sessions.end(OPERATOR, "alice", session)
    path = f"/console/accounts/{id_of(node, 'bob')}/grant"
    for shown in (code(node, phone), codes[0]):
        response = tab.post(path, form.fields | {"password_again": PASSWORD, "code": shown})
        assert response.headers["Location"].startswith("/console/login")
    assert not granted(node)


# --- Passkeys -------------------------------------------------------------------------------------


def with_key(node: Node) -> tuple[Site, Authenticator]:
    """Alice with a passkey, logged in more than five minutes ago."""
    add_people(node)
    key, tab = Authenticator(), Site(node)
    tab.log_in()
    tab.add(key)
    node.clock.now += _LATER
    return tab, key


def asked(node: Node, tab: Tab) -> Page:
    page = Page(grant(node, tab))
    assert page.status == 200
    return page


def answer(node: Node, tab: Tab, page: Page, response: str) -> TestResponse:
    (form,) = [form for form in page.forms if "passkey" in form.fields]
    given = {"password_again": PASSWORD, "passkey": response}
    return tab.post(f"/console/accounts/{id_of(node, 'bob')}/grant", form.fields | given)


def test_a_dangerous_act_takes_a_passkey(key_node: Node) -> None:
    node = key_node
    tab, key = with_key(node)
    page = asked(node, tab)
    options = options_of(page)
    assert (options["userVerification"], len(options["allowCredentials"])) == ("required", 1)
    assert answer(node, tab, page, key.get(options)).status_code == 303
    assert granted(node)
    amr = [
        (row.after or {})["amr"]
        for row in node.keyosk.audit.page(_latest())
        if row.action == "console_session.confirm"
    ]
    assert ["pwd", "hwk", "user", "mfa"] in amr


@pytest.mark.attack
def test_no_lie_of_an_authenticator_confirms(key_node: Node, subtests: pytest.Subtests) -> None:
    node = key_node
    tab, key = with_key(node)
    for name, lie in {**_LIES, "an unknown passkey": {"id": bytes(32)}}.items():
        with subtests.test(name):
            node.clock.now += 900  # wrong ones are throttled
            tab.get("/me")
            page = asked(node, tab)
            refused = answer(node, tab, page, _lying(key, lie).get(options_of(page)))
            assert (refused.status_code, granted(node)) == (403, False)


@pytest.mark.attack
def test_a_challenge_of_a_session_is_answered_once_in_it_and_soon(key_node: Node) -> None:
    node = key_node
    tab, key = with_key(node)
    other = Site(node)
    other.log_in()
    login = options_of(other.get("/console/login/second-factor"))
    page = asked(node, tab)
    for_login = answer(node, tab, page, key.get(login))
    assert for_login.status_code == 403  # signed for a login
    assert other.show_key(key).status_code == 303
    node.clock.now += _LATER
    page, theirs = asked(node, tab), asked(node, other)
    assert answer(node, tab, page, key.get(options_of(theirs))).status_code == 403
    page = asked(node, tab)
    right = key.get(options_of(page))
    newer = asked(node, tab)  # earlier challenges no longer count
    assert answer(node, tab, page, right).status_code == 403
    assert answer(node, tab, newer, key.get(options_of(newer))).status_code == 403  # used up
    node.clock.now += 900
    tab.get("/me")
    page = asked(node, tab)
    node.clock.now += 300
    assert answer(node, tab, page, key.get(options_of(page))).status_code == 403
    page = asked(node, tab)
    right = key.get(options_of(page))
    assert not granted(node)
    assert answer(node, tab, page, right).status_code == 303
    node.clock.now += _LATER
    page = asked(node, tab)
    assert answer(node, tab, page, right).status_code == 403  # the one from before


@pytest.mark.attack
def test_any_answer_uses_a_challenge_up_though_no_page_asks_again(key_node: Node) -> None:
    node = key_node
    tab, key = with_key(node)
    cookie = tab.client.get_cookie("__Host-keyosk-session", domain="id.example.org")
    assert cookie is not None
    for is_right in (False, True):
        options = options_of(asked(node, tab))
        session, _ = node.keyosk.console_sessions.resume(cookie.value)
        wrong, right = _lying(key, {"flags": 1}).get(options), key.get(options)
        assert confirms(node, session, right if is_right else wrong) == is_right
        assert not confirms(node, session, right)


def confirms(node: Node, session: ConsoleSession, passkey: str) -> bool:
    try:
        node.keyosk.confirmations.confirm(
            session, PASSWORD, code="", passkey=passkey, address=_HOME, request_id=None
        )
    except BadCredentials:
        return False
    return True


@pytest.mark.attack
def test_of_all_who_answer_one_challenge_at_once_one_confirms(key_node: Node) -> None:
    node = key_node
    tab, key = with_key(node)
    page = asked(node, tab)
    response = key.get(options_of(page))
    statuses: list[int] = []
    gate = threading.Barrier(4)
    tabs = [tab, *(Site(node) for _ in range(3))]
    cookie = tab.client.get_cookie("__Host-keyosk-session", domain="id.example.org")
    assert cookie is not None
    for each in tabs[1:]:
        each.client.set_cookie(
            "__Host-keyosk-session", cookie.value, domain="id.example.org", secure=True
        )

    def send(each: Tab) -> None:
        gate.wait(60)
        statuses.append(answer(node, each, page, response).status_code)
        node.keyosk.database.close()

    threads = [threading.Thread(target=send, args=(each,)) for each in tabs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    confirmed = [
        row for row in node.keyosk.audit.page(_latest()) if row.action == "console_session.confirm"
    ]
    assert len(confirmed) == 2  # when the passkey was added by password, and here
    assert 303 in statuses
    assert not re.findall(r"5\d\d", str(statuses))
