"""The console's sessions: how one begins and ends, and what another site cannot do with one."""

import html
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from werkzeug.test import Client as InProcess
from werkzeug.test import TestResponse

from installed import Clock, installed, rows_of
from keyosk import app
from keyosk.accounts import accounts
from keyosk.accounts.console_sessions import IDLE, LIFETIME
from keyosk.console import accounts as views
from keyosk.console.application import create
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from live import ADMIN_PASSWORD, Client, LiveServer, unique
from pages import Browser, Page, logged_in
from people import NEW_PASSWORD, PASSWORD, Person, make_key, make_person, ok
from tables import table

pytestmark = pytest.mark.every_database

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.fixture
def alice(admin: Client) -> Person:
    return make_person(admin)


def test_a_login_begins_a_session_in_a_cookie_that_no_script_or_other_site_has(
    server: LiveServer, alice: Person
) -> None:
    browser = Browser(server)
    response = browser.log_in(alice.username)
    assert response.status_code == 303
    (cookie,) = [c for c in _set_cookies(response) if "-session=" in c and "Max-Age=0" not in c]
    assert re.fullmatch(
        r"keyosk-\d+-session=[\w-]{43}; HttpOnly; Path=/; SameSite=Strict", cookie
    )  # plain HTTP on loopback: a browser would not keep a Secure one everywhere
    assert alice.username in browser.get("/me").text


@pytest.mark.parametrize(
    "issuer",
    ["https://id.example.org", "https://ID.Example.org", "https://id.example.org:443/auth"],
)
def test_the_origin_is_that_of_the_issuer_as_browsers_write_it(
    prepared_url: str, issuer: str
) -> None:
    with served(prepared_url, issuer=issuer) as (_, client):
        # A proxy that passes on a host of its own.
        headers = {"Origin": "https://id.example.org", "Host": "keyosk.internal"}
        log_in(client, base_url="https://keyosk.internal", headers=headers)


def test_over_https_the_cookie_is_bound_to_the_host(prepared_url: str) -> None:
    with served(prepared_url, issuer="https://id.example.org/auth") as (_, client):
        page = client.get("/console/login", base_url="http://10.0.0.1:8080")
        assert "__Host-keyosk-login=" in page.headers["Set-Cookie"]
        response = log_in(client, base_url="https://id.example.org")
        (cookie,) = [c for c in response.headers.getlist("Set-Cookie") if "keyosk-session" in c]
        assert re.fullmatch(
            r"__Host-keyosk-session=[\w-]{43}; Secure; HttpOnly; Path=/; SameSite=Strict", cookie
        )
        assert response.headers["Location"] == "/auth/console"
        assert 'href="/auth/console/accounts"' in client.get(
            "/console", base_url="https://id.example.org"
        ).get_data(as_text=True)


@table("host", ["keyosk.example:8080", "192.0.2.1:8080", "localhost.example", "[::2]:80", "", "%"])
def test_plain_http_to_a_network_gets_no_cookie(installation: Installation, host: str) -> None:
    client = app.create_app(installation).test_client()
    response = client.get("/console/login", headers={"Host": host})
    assert (response.status_code, response.headers.getlist("Set-Cookie")) == (403, [])
    assert "needs HTTPS" in response.get_data(as_text=True)


@table("host", ["localhost:8080", "127.0.0.1", "[::1]:8080", "keyosk.localhost"])
def test_plain_http_on_loopback_may_have_one(installation: Installation, host: str) -> None:
    client = app.create_app(installation).test_client()
    assert client.get("/console/login", headers={"Host": host}).status_code == 200


def test_the_database_has_no_secret_of_a_session(installation: Installation) -> None:
    response = log_in(app.create_app(installation).test_client())
    secret = re.search(r"session=([\w-]{43})", str(response.headers.getlist("Set-Cookie")))
    assert secret is not None
    ((row),) = rows_of(installation, "SELECT * FROM console_session")
    assert all(secret[1] not in str(value) and secret[1].encode() != value for value in row)
    assert ADMIN_PASSWORD not in str(row)


def test_an_api_key_logs_nobody_in(server: LiveServer, admin: Client, alice: Person) -> None:
    _, secret = make_key(admin, alice)
    browser = Browser(server)
    for username in (alice.username, "", secret):
        assert browser.log_in(username, secret).status_code in (401, 400)
    assert not browser.is_logged_in()


def test_wrong_logins_are_told_the_same(server: LiveServer, admin: Client, alice: Person) -> None:
    off = make_person(admin)
    ok(admin.patch(off.path, json={"enabled": False}))
    responses = {
        (response.status_code, Page(response).text.replace(name, ""))
        for name, password in (
            (alice.username, "not the password at all"),
            (unique("nobody"), PASSWORD),
            (off.username, PASSWORD),
        )
        for response in [Browser(server).log_in(name, password)]
    }
    assert len(responses) == 1
    assert {status for status, _ in responses} == {401}


@pytest.mark.attack
def test_guesses_here_and_at_the_token_count_together(server: LiveServer, alice: Person) -> None:
    browser = Browser(server)
    for _ in range(6):
        assert browser.log_in(alice.username, "a wrong guess, no. 1").status_code == 401
    browser.client.session.cookies.clear()
    login = (alice.username, "a wrong guess, no. 2")
    statuses = [browser.client.post("/auth/token", auth=login).status_code for _ in range(7)]
    assert statuses == [401] * 6 + [429]
    response = browser.log_in(alice.username)
    assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (429, True)
    assert Page(response).h1 == "Log in"


def test_the_cursor_stands_in_the_field_to_fill_in_next(server: LiveServer, alice: Person) -> None:
    def focused(page: Page) -> list[str | None]:
        return [attributes["name"] for _, attributes in page.tags if "autofocus" in attributes]

    browser = Browser(server)
    assert focused(browser.get("/console/login")) == ["username"]
    assert focused(Page(browser.log_in(alice.username, "a wrong guess"))) == ["password"]


@pytest.mark.attack
def test_a_session_that_somebody_else_chose_is_none(server: LiveServer, alice: Person) -> None:
    browser = Browser(server)
    name = f"keyosk-{server.port}-session"
    chosen = "A" * 43
    browser.client.session.cookies.set(name, chosen, domain="127.0.0.1", path="/")
    assert not browser.is_logged_in()
    browser.log_in(alice.username)
    first = browser.client.session.cookies[name]
    assert first != chosen
    thief = Browser(server)
    thief.client.session.cookies.set(name, first, domain="127.0.0.1", path="/")
    assert thief.is_logged_in()
    browser.log_in(alice.username)  # a login anew ends the session before
    assert (browser.is_logged_in(), thief.is_logged_in()) == (True, False)


def test_password_fields_are_masked_and_open_to_password_managers(
    server: LiveServer, alice: Person, root: Browser
) -> None:
    pages = [Browser(server).get("/console/login"), root.get("/me"), root.get("/console/accounts")]
    pages.append(root.get(f"/console/accounts/{alice.id}"))
    fields = [
        attributes
        for page in pages
        for tag, attributes in page.tags
        if tag == "input" and "password" in (attributes.get("name") or "")
    ]
    assert len(fields) == 5
    for attributes in fields:
        assert attributes["type"] == "password"
        assert attributes["autocomplete"] in ("current-password", "new-password")


# --- How one ends ---------------------------------------------------------------------------------


def test_a_session_ends_by_logout(server: LiveServer, alice: Person) -> None:
    browser = logged_in(server, alice.username)
    kept = browser.client.session.cookies.copy()
    response = browser.post("/console/logout", {})
    assert (response.status_code, response.headers["Location"]) == (303, "/console/login")
    assert not browser.is_logged_in()
    browser.client.session.cookies.update(kept)
    assert not browser.is_logged_in()


@table(
    "change",
    ["password", "no password", "disabled", "disabled and enabled", "tokens", "session", "deleted"],
)
def test_a_session_ends_when_its_account_loses_what_it_rests_on(
    server: LiveServer, admin: Client, change: str
) -> None:
    person = make_person(admin)
    browser = logged_in(server, person.username)
    match change:
        case "password":
            admin.put(f"{person.path}/password", json={"password": NEW_PASSWORD})
        case "no password":
            admin.delete(f"{person.path}/password")
        case "disabled" | "disabled and enabled":
            ok(admin.patch(person.path, json={"enabled": False}))
            if change.endswith("enabled"):
                ok(admin.patch(person.path, json={"enabled": True}))
        case "tokens":
            ok(admin.delete(f"{person.path}/tokens"))
        case "session":
            (session,) = ok(admin.get(f"{person.path}/console-sessions"))["items"]
            ok(admin.delete(f"{person.path}/console-sessions/{session['id']}"), 204)
        case "deleted":
            ok(admin.delete(person.path), 204)
    assert not browser.is_logged_in()


def test_a_session_ends_after_half_an_hour_without_a_request(prepared_url: str) -> None:
    clock = Clock()
    with served(prepared_url, clock=clock) as (_, client):
        log_in(client)
        for _ in range(3):
            clock.now += IDLE - 1
            assert client.get("/me").status_code == 200
        clock.now += IDLE
        assert client.get("/me").status_code == 303


def test_a_session_ends_eight_hours_after_the_login_at_the_latest(prepared_url: str) -> None:
    clock = Clock()
    with served(prepared_url, clock=clock) as (_, client):
        log_in(client)
        start = clock.now
        while clock.now + 1_000 < start + LIFETIME:
            clock.now += 1_000
            assert client.get("/me").status_code == 200
        clock.now = start + LIFETIME
        assert client.get("/me").status_code == 303


def test_a_session_of_a_clock_that_was_ahead_ends(prepared_url: str) -> None:
    clock = Clock()
    with served(prepared_url, clock=clock) as (_, client):
        log_in(client)
        clock.now -= 3_600
        assert client.get("/me").status_code == 303


def test_sessions_are_listed_for_their_owner_and_for_admins_only(
    server: LiveServer, admin: Client, alice: Person
) -> None:
    browser = logged_in(server, alice.username)
    browser.client.session.headers["User-Agent"] = "<b>Test"
    browser = logged_in(server, alice.username)
    own = alice.login()
    listed = ok(own.get("/accounts/me/console-sessions"))["items"]
    assert listed == ok(admin.get(f"{alice.path}/console-sessions"))["items"]
    assert len(listed) == 2
    assert listed[0].keys() == {
        "id", "address", "agent", "amr", "created_at", "last_used_at", "expires_at",
    }  # fmt: skip
    other = make_person(admin)
    path = f"{alice.path}/console-sessions"
    assert other.login().get(path).status_code == 403
    assert other.login().delete(f"{path}/{listed[0]['id']}").status_code == 403
    assert own.delete(f"/accounts/me/console-sessions/{listed[0]['id']}").status_code == 204
    assert own.delete(f"/accounts/me/console-sessions/{listed[0]['id']}").status_code == 404
    assert browser.is_logged_in()


def test_a_login_is_told_of_the_one_before(prepared_url: str) -> None:
    clock = Clock()
    with served(prepared_url, clock=clock) as (keyosk, client):

        def told(address: str, secret: str = ADMIN_PASSWORD) -> str:
            clock.now += 60
            options = {"environ_overrides": {"REMOTE_ADDR": address}}
            log_in(client, secret, **options)
            return client.get("/console", **options).get_data(as_text=True)

        assert "first login" in told("192.0.2.1")
        text = told("192.0.2.1")
        assert "2030-03-17 17:47 UTC from 192.0.2.1" in text
        assert "never logged in from this address" not in text
        assert "Your password was set" not in text
        assert "never logged in from this address" in told("192.0.2.2")
        assert "never logged in from this address" not in told("192.0.2.1")
        clock.now += 1
        keyosk.accounts.set_password(OPERATOR, "admin", NEW_PASSWORD)
        assert "Your password was set at" in told("192.0.2.1", NEW_PASSWORD)


# --- What another site cannot do ------------------------------------------------------------------


@pytest.mark.attack
@table(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "something new"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_a_form_of_another_site_is_refused_even_with_the_token(
    server: LiveServer, alice: Person, headers: dict[str, str]
) -> None:
    browser = logged_in(server, alice.username)
    assert browser.post("/console/logout", {}, headers=headers).status_code == 403
    assert browser.is_logged_in()
    fields = browser.get("/console/login").form("/console/login").fields
    fields |= {"username": alice.username, "password": PASSWORD}
    assert browser.client.post("/console/login", data=fields, headers=headers).status_code == 403


@table(
    "headers",
    [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "own"}, {"Origin": "localhost"}, {}],
)
def test_its_own_forms_pass(server: LiveServer, alice: Person, headers: dict[str, str]) -> None:
    browser = logged_in(server, alice.username)
    sent = dict(headers)
    if "Origin" in headers:
        host = {"own": "127.0.0.1", "localhost": "localhost"}[headers["Origin"]]
        sent = {"Origin": f"http://{host}:{server.port}", "Host": f"{host}:{server.port}"}
    assert browser.post("/console/logout", {}, headers=sent).status_code == 303


@pytest.mark.attack
def test_a_form_without_the_token_of_its_session_is_refused(
    server: LiveServer, admin: Client, alice: Person
) -> None:
    browser = logged_in(server, alice.username)
    others = logged_in(server, make_person(admin).username).token()
    for token in (None, "", others, "ä", browser.token()[:-1]):
        data = {} if token is None else {"csrf_token": token}
        response = browser.client.post("/console/logout", data=data)
        assert response.status_code == 403
        assert "another site" in Page(response).text
    assert browser.is_logged_in()


@pytest.mark.attack
def test_nobody_is_logged_in_by_a_form_not_theirs(server: LiveServer, alice: Person) -> None:
    browser, other = Browser(server), Browser(server)
    fields = other.get("/console/login").form("/console/login").fields
    fields |= {"username": alice.username, "password": PASSWORD}
    assert browser.client.post("/console/login", data=fields).status_code == 403  # no cookie at all
    browser.get("/console/login")
    assert browser.client.post("/console/login", data=fields).status_code == 403
    assert not browser.is_logged_in()


@pytest.mark.attack
def test_the_cookie_is_no_login_to_the_api_and_a_login_to_the_api_is_no_cookie(
    server: LiveServer, admin: Client
) -> None:
    person = make_person(admin, "keyosk:admin")
    browser = logged_in(server, person.username)
    assert browser.client.get("/accounts").status_code == 401
    assert browser.client.post("/auth/token").status_code == 401
    for client in (person.login(), person.bearer()):
        assert client.get("/console/accounts").status_code == 303
        response = client.post("/console/accounts", data={"username": unique("made")})
        assert response.status_code == 303
        assert response.headers["Location"].startswith("/console/login")


@pytest.mark.attack
@table(
    "wanted, place",
    [
        ("/me", "/me"),
        ("/console/audit?actor=x", "/console/audit?actor=x"),
        ("https://evil.example/", "/console"),
        ("//evil.example/console", "/console"),
        ("/\\evil.example", "/console"),
        ("/console\\@evil.example", "/console"),
        ("/console/\r\nSet-Cookie: a=b", "/console"),
        ("javascript:alert(1)", "/console"),
        ("/consoles", "/console"),
        ("/accounts", "/console"),
    ],
)
def test_a_login_leads_to_a_page_of_the_console(
    server: LiveServer, alice: Person, wanted: str, place: str
) -> None:
    browser = Browser(server)
    fields = browser.get("/console/login", params={"next": wanted}).form("/console/login").fields
    assert fields["next"] == place
    fields |= {"username": alice.username, "password": PASSWORD, "next": wanted}
    response = browser.client.post("/console/login", data=fields)
    assert (response.status_code, response.headers["Location"]) == (303, place)


def test_a_page_without_a_session_leads_to_the_login_and_back(server: LiveServer) -> None:
    browser = Browser(server)
    for path in ("/console", "/me", "/console/audit?actor=a%26b"):
        response = browser.client.get(path)
        assert response.status_code == 303
        assert (
            browser.get(response.headers["Location"]).form("/console/login").fields["next"] == path
        )
    response = browser.client.get("/console/accounts?q=a", headers={"HX-Request": "true"})
    assert (response.status_code, response.headers["HX-Redirect"][:20]) == (
        204,
        "/console/login?next=",
    )


@pytest.mark.attack
def test_every_page_but_the_login_needs_a_session_and_every_change_its_token(
    server: LiveServer, installation: Installation, root: Browser, subtests: pytest.Subtests
) -> None:
    pages = create(installation, lambda *_: []).url_map.iter_rules()
    seen = 0
    for rule in pages:
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if path.startswith(("/console/login", "/console/static")):
            continue
        seen += 1
        with subtests.test(f"{method} {path}"):
            response = Client(server.url).request(method, path)
            assert (response.status_code, response.headers["Location"][:14]) == (
                303,
                "/console/login",
            )
            if method == "POST":
                assert root.client.post(path).status_code == 403
            response = root.client.request("OPTIONS", path)
            assert (response.status_code, method in response.headers["Allow"]) == (204, True)
            assert root.client.request("PUT", path).status_code == 405
    assert seen > 25


def test_no_page_is_kept_framed_or_sent_elsewhere(server: LiveServer, root: Browser) -> None:
    for path in ("/console/login", "/console", "/console/nothing", "/me", "/console/accounts"):
        headers = root.client.get(path).headers
        assert headers["Content-Security-Policy"] == _POLICY
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
    response = root.client.get("/console/static/htmx.min.js")
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "public, max-age=300")
    tag = {"If-None-Match": response.headers["ETag"]}
    assert root.client.get("/console/static/htmx.min.js", headers=tag).status_code == 304
    for file in ("htmx.LICENSE", "..%2fapi.py", "nothing.js"):
        assert root.client.get(f"/console/static/{file}").status_code == 404
    assert Client(server.url).get("/accounts").headers["Referrer-Policy"] == "no-referrer"


def test_what_is_done_here_is_so_in_the_audit_log(server: LiveServer, admin: Client) -> None:
    person = make_person(admin, "keyosk:admin")
    browser = logged_in(server, person.username)
    name = unique("made")
    assert browser.act("/console/accounts", username=name, kind="machine").h1 == name
    rows = ok(admin.get("/audit", params={"actor": person.id, "sort": "sequence"}))["items"]
    assert [(row["action"], row["via"], row["credential"]) for row in rows] == [
        ("console_session.begin", "console", "password"),
        ("account.create", "console", "password"),
    ]
    assert all(row["address"] == browser.client.source for row in rows)
    assert server.run("audit", "verify").returncode == 0


@pytest.mark.attack
def test_a_row_that_says_which_way_it_came_is_proven(installation: Installation) -> None:
    log_in(app.create_app(installation).test_client())
    assert installation.audit_verifier.verify().fault is None
    installation.database.raw.execute_sql("UPDATE audit_row SET via = NULL")
    assert "was changed" in (installation.audit_verifier.verify().fault or "")


@table("path", ["/console/accounts/export", "/console/accounts/import", "/console/services/export"])
def test_what_is_called_as_an_address_of_the_api_is_nobody(root: Browser, path: str) -> None:
    assert root.get(path).status == 404


def test_it_can_be_turned_off(prepared_url: str) -> None:
    with served(prepared_url, has_console=False) as (_, client):
        for path in ("/console", "/console/login", "/me", "/console/static/console.css"):
            response = client.get(path)
            assert (response.status_code, response.mimetype) == (404, "application/problem+json")
        assert "console" not in client.get("/").get_json()["links"]


def test_the_first_page_of_keyosk_leads_to_it(server: LiveServer) -> None:
    links = server.client().get("/", headers={"Accept": "application/json"}).json()["links"]
    assert links["console"] == f"{server.url}/console"


def test_a_search_says_how_far_it_looked_inside_names_and_goes_on(
    prepared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (accounts, views):
        monkeypatch.setattr(module, "LOOKED_AT", 5)
    with served(prepared_url) as (keyosk, client):
        for number in range(12):
            name = f"late{number}" if number > 8 else f"early-{number}"
            shown = "Related" if number in (2, 9) else ""
            keyosk.grants.create_account(OPERATOR, [], username=name, display_name=shown)
        log_in(client)
        first = client.get("/console/accounts?q=late").get_data(as_text=True)
        usernames = re.findall(r">(late\d+|early-\d)</a>", first)
        # Of all accounts by their beginnings, and of the first five by what is inside.
        assert usernames == ["late10", "late11", "late9", "early-2"]
        assert "inside the names of the first 5 accounts, and at the beginnings of all" in first
        following = re.search(r'<a rel="next" href="([^"]+)">Look at more accounts</a>', first)
        assert following is not None
        second = client.get(html.unescape(following[1])).get_data(as_text=True)
        assert "inside the names of 5 more accounts. No account matches so far." in second
        following = re.search(r'<a rel="next" href="([^"]+)">Look at more accounts</a>', second)
        assert following is not None
        last = client.get(html.unescape(following[1])).get_data(as_text=True)
        assert re.findall(r">(late\d+|early-\d)</a>", last) == ["late9", "late10", "late11"]
        assert "inside the names" not in last
        nobody = client.get("/console/matrix?service=keyosk&rows=accounts&q=nobody")
        assert "Nobody so far." in nobody.get_data(as_text=True)
        assert "More accounts" in nobody.get_data(as_text=True)


# --- Dangerous acts -------------------------------------------------------------------------------


@pytest.mark.attack
def test_a_dangerous_act_is_shown_first_and_takes_the_password_after_five_minutes(
    prepared_url: str,
) -> None:
    clock = Clock()
    with served(prepared_url, clock=clock) as (keyosk, client):
        log_in(client)
        bob = keyosk.grants.create_account(OPERATOR, [], username="bob").id
        path, fields = f"/console/accounts/{bob}/grant", {"kind": "scope", "name": "keyosk:admin"}

        def send(**more: str) -> TestResponse:
            return client.post(path, data={"csrf_token": token(client), **fields, **more})

        def granted() -> bool:
            return bool(keyosk.grants.of("bob")[1])

        page = send().get_data(as_text=True)
        assert "may then administer Keyosk" in page
        assert "Your password" not in page  # it was shown just now, at the login
        assert not granted()
        clock.now += 301
        assert "Your password" in send().get_data(as_text=True)
        response = send(confirm="yes")
        assert (response.status_code, granted()) == (403, False)
        response = send(confirm="yes", password_again="not the password at all")
        assert (response.status_code, granted()) == (403, False)
        response = send(confirm="yes", password_again=ADMIN_PASSWORD)
        assert (response.status_code, granted()) == (303, True)
        assert "Your password" not in send().get_data(as_text=True)
        clock.now += 301
        assert "Your password" in send().get_data(as_text=True)


@pytest.mark.attack
def test_ones_own_credentials_take_the_password_always(server: LiveServer, alice: Person) -> None:
    browser = logged_in(server, alice.username)
    page = browser.act("/console/accounts/me/api-keys", PASSWORD, name="laptop")
    assert page.h1 == "New API key: laptop"
    for given in ("", "not the password at all"):
        fields = {"name": "another", "confirm": "yes", "current_password": given}
        assert browser.post("/console/accounts/me/api-keys", fields).status_code == 403
    assert len(ok(alice.login().get("/accounts/me/api-keys"))["items"]) == 1
    fields = {"password": NEW_PASSWORD, "current_password": "not the password at all"}
    assert browser.post("/console/accounts/me/password", fields).status_code == 403
    fields["current_password"] = PASSWORD
    assert browser.post("/console/accounts/me/password", fields).status_code == 303
    assert not browser.is_logged_in()
    assert logged_in(server, alice.username, NEW_PASSWORD).is_logged_in()


# --- What these tests are made of -----------------------------------------------------------------


@contextmanager
def served(
    url: str, *, clock: Callable[[], float] = time.time, **fields: Any
) -> Iterator[tuple[Installation, InProcess]]:
    """An installation with its console, in this process; ``fields`` of it may be others."""
    with installed(url, clock=clock) as keyosk:
        vars(keyosk).update(fields)
        yield keyosk, app.create_app(keyosk).test_client()


def log_in(client: InProcess, secret: str = ADMIN_PASSWORD, **options: Any) -> TestResponse:
    page = client.get("/console/login", **options).get_data(as_text=True)
    match = re.search(r'name="csrf_token" value="(\w+)"', page)
    assert match is not None
    fields = {"csrf_token": match[1], "username": "admin", "password": secret}
    response = client.post("/console/login", data=fields, **options)
    assert response.status_code == 303, response.get_data(as_text=True)
    return response


def token(client: InProcess) -> str:
    match = re.search(r'name="csrf_token" value="(\w+)"', client.get("/me").get_data(as_text=True))
    assert match is not None
    return match[1]


def _set_cookies(response: Any) -> list[str]:
    return list(response.raw.headers.getlist("Set-Cookie"))
