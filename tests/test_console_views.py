"""The console's views through HTTP: what they show and do, and that nothing in one runs."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from werkzeug.test import Client as InProcess

import hostile_texts
from hostile_texts import CORPUS, TEXTS, batches
from installed import Clock, installed
from keyosk import app
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from live import ADMIN_PASSWORD, Client, LiveServer, unique
from pages import Browser, Page, logged_in
from people import NEW_PASSWORD, PASSWORD, make_key, make_person, make_role, make_service, ok
from tables import table

pytestmark = pytest.mark.every_database

_VIEWS: Final = (
    "/console",
    "/console/accounts",
    "/console/api-keys",
    "/console/services",
    "/console/roles",
    "/console/issuers",
    "/console/matrix",
    "/console/matrix?service=keyosk",
    "/console/matrix?service=keyosk&rows=accounts",
    "/console/explain",
    "/console/least-privilege",
    "/console/signing-keys",
    "/console/sessions",
    "/console/revocations",
    "/console/audit",
    "/console/attack",
    "/console/settings",
    "/me",
)


# --- What each view does --------------------------------------------------------------------------


def test_an_admin_finds_why_somebody_may_not_and_mends_it(admin: Client, root: Browser) -> None:
    todo = make_service(admin)
    alice = make_person(admin, f"{todo}:read")
    page = root.get("/console/accounts", params={"q": alice.username[2:].upper()})
    assert alice.username in page.text
    page = root.get(f"/console/accounts/{alice.id}")
    assert f"{todo}:read a grant of its own no end" in page.text
    page = root.get(
        "/console/explain", params={"account": alice.username, "scope": f"{todo}:write"}
    )
    assert "No token would be issued" in page.text
    form = page.form("/grant")
    assert form.fields["name"] == f"{todo}:write"
    page = root.act(form.action, **form.fields)
    assert "The grants were changed." in page.text
    token = ok(alice.login().post("/auth/token"))
    assert token["scope"].split() == [f"{todo}:read", f"{todo}:write"]


def test_rights_are_shown_with_what_they_come_through(admin: Client, root: Browser) -> None:
    todo = make_service(admin)
    role = make_role(admin, f"{todo}:write")
    limited = {"name": f"{todo}:read", "with": "password", "until": "2100-01-01T00:00:00Z"}
    half = [
        {"name": role, "until": "2100-01-02T00:00:00Z"},
        {"name": make_role(admin, f"{todo}:read"), "with": "api_key"},
    ]
    alice = make_person(admin, limited, roles=(role,))
    bob = make_person(admin, roles=tuple(half))
    text = root.get(f"/console/accounts/{bob.id}").text
    assert f"role {role} any login 2100-01-02 00:00" in text
    assert f"role {half[1]['name']} api_key no end" in text
    text = root.get(f"/console/accounts/{alice.id}").text
    assert f"{todo}:write the role {role} no end" in text
    assert f"scope {todo}:read password 2100-01-01 00:00" in text
    for path in (f"/console/services/{todo}", "/console/roles"):
        assert alice.username in root.get(path, params={"scope": f"{todo}:write"}).text
    assert alice.username in root.get(f"/console/roles/{role}").text
    page = root.act(f"/console/accounts/{alice.id}/take", kind="role", name=role)
    assert "No service accepts a token from before after" in page.text
    assert f"{todo}:write" not in page.text


def test_an_account_is_made_changed_disabled_and_deleted(root: Browser, admin: Client) -> None:
    name = unique("made")
    fields = {"username": name, "display_name": "Somebody", "password": PASSWORD, "once": "a" * 9}
    response = root.post("/console/accounts", fields)
    page = root.get(response.headers["Location"])
    assert ("Created." in page.text, page.h1) == (True, name)
    path = f"/console/accounts/{ok(admin.get(f'/accounts/{name}'))['id']}"
    fields = root.get(path).form("/edit").fields
    assert "Saved." in root.act(f"{path}/edit", **fields | {"display_name": "Another"}).text
    response = root.post(f"{path}/edit", fields)  # as the page was before
    assert response.status_code == 412
    page = Page(root.post(f"{path}/disable", {}))
    assert "The account gets no new token" in page.text
    page = root.act(f"{path}/disable")
    assert re.search(r"Disabled\. .* after 20\d\d-\d\d-\d\d \d\d:\d\d UTC", page.text)
    assert ok(admin.get(f"/accounts/{name}"))["enabled"] is False
    assert "Enabled." in root.act(f"{path}/enable").text
    assert "sessions were ended" in root.act(f"{path}/end-tokens").text
    response = root.post(f"{path}/password", {"password": NEW_PASSWORD})
    assert "The password was set." in root.get(response.headers["Location"]).text
    assert root.act(f"{path}/delete").h1 == "Accounts"
    assert admin.get(f"/accounts/{name}").status_code == 404


def test_a_key_is_made_once_however_often_the_form_is_sent_rotated_and_ended(
    server: LiveServer, admin: Client, root: Browser
) -> None:
    alice = make_person(admin)
    path = f"/console/accounts/{alice.id}/api-keys"
    fields = root.get(f"/console/accounts/{alice.id}").form("/api-keys").fields | {"name": "ci"}
    pages = [root.act(path, **fields) for _ in range(2)]
    secrets = [_secret(page) for page in pages]
    assert secrets[0] == secrets[1]
    assert server.client(alice.username, secrets[0]).post("/auth/token").status_code == 200
    (key,) = ok(admin.get(f"{alice.path}/api-keys"))["items"]
    page = root.act(f"{path}/{key['id']}/rotate")
    assert "works for 24 more hours" in page.text
    shown = root.get(f"/console/accounts/{alice.id}")
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d in 2[34] hours|in 1 day", shown.text)
    assert any("data-until" in given for tag, given in shown.tags if tag == "span")
    assert server.client(alice.username, _secret(page)).post("/auth/token").status_code == 200
    assert secrets[0] not in root.client.get(f"/console/accounts/{alice.id}").text
    page = root.act(f"{path}/{key['id']}/end")
    assert "stops working" in page.text
    assert server.client(alice.username, secrets[0]).post("/auth/token").status_code == 401


def test_everybody_has_a_page_of_their_own(server: LiveServer, admin: Client) -> None:
    alice = make_person(admin)
    make_key(admin, alice, name="laptop")
    browser = logged_in(server, alice.username)
    page = browser.get("/me")
    assert ("laptop" in page.text, page.h1) == (True, "My account")
    places = ["/console", "/console/explain", "/console/revocations"]
    assert _navigation(page)[:3] == places
    page = browser.act("/console/accounts/me/api-keys", PASSWORD, name="phone")
    assert server.client(alice.username, _secret(page)).post("/auth/token").status_code == 200
    (session,) = ok(alice.login().get("/accounts/me/console-sessions"))["items"]
    response = browser.post("/console/accounts/me/end-console-session", {"session": session["id"]})
    assert response.status_code == 303
    assert not browser.is_logged_in()


@pytest.mark.attack
def test_a_page_gives_nobody_more_than_the_api(
    server: LiveServer, admin: Client, subtests: pytest.Subtests
) -> None:
    alice, bob = make_person(admin), make_person(admin)
    browser = logged_in(server, alice.username)
    free = {"/console", "/console/explain", "/console/revocations", "/me"}
    for path in (*_VIEWS, f"/console/accounts/{bob.id}", "/console/services/keyosk"):
        with subtests.test(path):
            assert browser.get(path).status == (200 if path in free else 403)
    for path, fields in {
        "/console/accounts": {"username": unique("made")},
        f"/console/accounts/{bob.id}/grant": {"kind": "scope", "name": "keyosk:admin"},
        f"/console/accounts/{alice.id}/grant": {"kind": "scope", "name": "keyosk:admin"},
        "/console/accounts/me/enable": {},
        "/console/accounts/me/edit": {"display_name": "The Admin"},
        f"/console/accounts/{bob.id}/disable": {"confirm": "yes"},
        f"/console/accounts/{bob.id}/delete": {"confirm": "yes"},
        f"/console/accounts/{bob.id}/end-tokens": {},
        f"/console/accounts/{bob.id}/password": {"password": NEW_PASSWORD},
        f"/console/accounts/{bob.username}/api-keys": {"name": "x", "confirm": "yes"},
        "/console/signing-keys/rotate": {"confirm": "yes"},
        "/console/signing-keys/x/compromise": {"confirm": "yes"},
        "/console/roles": {"name": unique("role"), "scopes": "keyosk:admin"},
        "/console/services": {"name": unique("service")},
        "/console/issuers": {"name": unique("ci"), "issuer": "https://ci.example"},
        "/console/issuers/x": {"max_lifetime": "60"},
        "/console/issuers/x/switch": {"enabled": "true"},
        "/console/issuers/x/test": {"assertion": "a.b.c"},
        "/console/issuers/x/delete": {},
        "/console/issuers/x/rules": {"name": "x", "claims": "sub=x", "account": "x"},
        "/console/issuers/x/rules/x/switch": {"enabled": "true"},
        "/console/issuers/x/rules/x/delete": {},
    }.items():
        with subtests.test(path):
            assert browser.post(path, {**fields, "confirm": "yes"}).status_code == 403
    assert ok(admin.get(bob.path))["enabled"] is True


@pytest.mark.attack
def test_safeguards_against_privilege_escalation_hold(server: LiveServer, admin: Client) -> None:
    helper = make_person(admin, "keyosk:accounts:read", "keyosk:grants:write")
    bob = make_person(admin)
    browser = logged_in(server, helper.username)
    path = f"/console/accounts/{bob.id}/grant"
    response = browser.post(path, {"kind": "scope", "name": "keyosk:admin", "confirm": "yes"})
    assert response.status_code == 403
    assert "rights that you do not hold" in Page(response).text
    rows = ok(admin.get("/audit", params={"actor": helper.id, "outcome": "refused"}))["items"]
    assert [(row["action"], row["via"]) for row in rows] == [("rule.refused", "console")]


def test_services_and_roles_are_made_and_changed(root: Browser, admin: Client) -> None:
    name, role = unique("todo"), unique("role")
    page = root.act("/console/services", name=name, scopes=f"{name}:read, {name}:write")
    assert (page.h1, f"{name}:write" in page.text) == (name, True)
    assert "Disabled." in root.act(f"/console/services/{name}", enabled="false").text
    assert "Enabled." in root.act(f"/console/services/{name}", enabled="true").text
    page = root.act("/console/roles", name=role, scopes=f"{name}:read")
    fields = page.form(f"/roles/{role}").fields
    fields["scopes"] = f"{name}:read {name}:write"
    assert "Saved." in root.act(f"/console/roles/{role}", **fields).text
    assert ok(admin.get(f"/roles/{role}"))["scopes"] == [f"{name}:read", f"{name}:write"]
    fields = {**fields, "scopes": "keyosk:admin", "tag": ""}
    assert "administer Keyosk" in Page(root.post(f"/console/roles/{role}", fields)).text
    assert root.act(f"/console/roles/{role}/delete").h1 == "Roles, and who may do what"
    assert admin.get(f"/roles/{role}").status_code == 404


def test_a_signing_key_is_rotated_and_declared_compromised(prepared_url: str) -> None:
    with in_process(prepared_url) as (keyosk, client):
        page = act(client, "/console/signing-keys/rotate", mode="", confirm="yes")
        assert "A new signing key was published." in page.text
        keys = {str(key.state): key.kid for key in keyosk.rotation.all()}
        assert keys.keys() == {"active", "next"}
        path = f"/console/signing-keys/{keys['active']}/compromise"
        page = act(client, path)
        assert "Every token that it signed is refused" in page.text
        page = act(client, path, confirm="yes")
        assert "declared compromised" in page.text
        assert keys["active"] in get(client, "/console/revocations").text


def test_a_guesser_is_seen_once_the_minute_is_over(prepared_url: str) -> None:
    clock = Clock()
    with in_process(prepared_url, clock=clock) as (_, client):
        for _ in range(3):
            assert client.post("/auth/token", auth=("admin", "not the password")).status_code == 401
        clock.now += 61
        assert "admin 3" in get(client, "/console/attack").text


def test_the_audit_log_is_filtered_and_tells_what_changed(admin: Client, root: Browser) -> None:
    alice = make_person(admin)
    ok(admin.patch(alice.path, json={"display_name": "Alice Adams"}))
    query = {"target": f"account/{alice.id}", "action": "account.change"}
    page = root.get("/console/audit", params=query)
    assert 'display_name: − "" + "Alice Adams"' in page.text
    assert "account.create" not in page.text
    assert root.get("/console/audit", params={"since": "yesterday"}).status == 422


def test_a_list_goes_on_where_a_page_ends(infested: tuple[Installation, InProcess]) -> None:
    _, client = infested
    path: str | None = "/console/accounts?kind=person"
    usernames: list[str] = []
    while path:
        page = get(client, path)
        places = [given.get("href") or "" for _, given in page.tags]
        usernames += [
            each for each in places if re.fullmatch(r"/console/accounts/[0-9a-f-]{36}", each)
        ]
        path = next((given["href"] for _, given in page.tags if given.get("rel") == "next"), None)
    assert len(usernames) == len(set(usernames)) == 1 + 80


def test_the_lists_of_an_account_go_on_too(admin: Client, root: Browser) -> None:
    name = unique("todo")
    scopes = [f"{name}:{number:02}" for number in range(27)]
    ok(admin.post("/services", json={"name": name, "scopes": scopes}), 201)
    alice = make_person(admin, *scopes)
    for number in range(27):
        make_key(admin, alice, name=f"key {number:02}")
    first = root.get(f"/console/accounts/{alice.id}")
    (grants, keys) = [given["href"] or "" for _, given in first.tags if given.get("rel") == "next"]
    for place, wanted in ((grants, "scope {}:{:02}"), (keys, "{}key {:02}")):
        texts = [first.text, root.get(place).text]
        stem = name if place == grants else ""
        shown = [[wanted.format(stem, n) in text for n in range(27)] for text in texts]
        assert [sum(each) for each in shown] == [25, 2]
        assert all(one != another for one, another in zip(*shown, strict=True))


@pytest.mark.attack
@table(
    "query", [{"done": "<script>alert(1)</script>"}, {"done": "saved", "at": "<b>"}, {"done": ""}]
)
def test_a_link_puts_no_words_into_a_page(root: Browser, query: dict[str, str]) -> None:
    page = root.get("/console", params=query)
    assert "alert" not in page.text
    assert "<b>" not in page.text


# --- Nothing that somebody wrote runs -------------------------------------------------------------


@pytest.fixture(scope="module")
def infested(
    template_url: str, backend: str, request: pytest.FixtureRequest, tmp_path_factory: Any
) -> Iterator[tuple[Installation, InProcess]]:
    """An installation where every text that somebody may choose is one of the corpus."""
    if backend == "sqlite":
        copied = tmp_path_factory.mktemp("infested") / "keyosk.db"
        shutil.copy(template_url.removeprefix("sqlite:///"), copied)
        url = f"sqlite:///{copied}"
    else:
        url = request.getfixturevalue("postgres_server").create_database(template_url)
    with in_process(url) as (keyosk, client):
        hostile_texts.fill(keyosk)
        for text in hostile_texts.AGENTS:
            log_in(client, headers={"User-Agent": text})
        for number in range(80 - len(TEXTS)):
            keyosk.grants.create_account(OPERATOR, [], username=f"more{number}")
        yield keyosk, client


@pytest.mark.attack
def test_the_corpus_is_what_it_says() -> None:
    assert len(set(CORPUS)) == 120
    assert all(any(text in each for each in TEXTS) for text in CORPUS)


@pytest.mark.attack
@pytest.mark.slow
def test_no_text_that_somebody_chose_runs_in_any_view(
    infested: tuple[Installation, InProcess], subtests: pytest.Subtests
) -> None:
    keyosk, client = infested
    shown = ""
    paths = [*_VIEWS, "/console/audit?action=api_key.create", "/console/audit?action=role.create"]
    for number in range(len(TEXTS)):
        account = keyosk.accounts.get(f"user{number}").id
        paths += [
            f"/console/accounts/{account}",
            f"/console/services/todo{number}?scope=todo{number}:do",
            f"/console/roles/role{number}",
            f"/console/issuers/ci{number}",
            f"/console/issuers/ci{number}/rules/main",
            f"/console/matrix?service=todo{number}&rows=accounts",
        ]
    for path in paths:
        page = get(client, path)
        shown += page.text
        with subtests.test(path):
            assert (page.status, page.dangers()) == (200, [])
    for text in CORPUS:
        assert shown.count(" ".join(text.split())) >= 5, text


@pytest.mark.attack
@table(
    "path, names",
    [
        ("/console/accounts", "q kind enabled role scope cursor"),
        ("/console/audit", "actor action target outcome since until cursor"),
        ("/console/roles", "scope"),
        ("/console/matrix", "service rows scope q cursor first"),
        ("/console/api-keys", "owner prefix enabled networks unused_since sort cursor"),
        ("/console/services/keyosk", "scope done at"),
        ("/console/explain", "account api_key audience scope"),
        ("/console/login", "next"),
        ("/console", "done at"),
    ],
)
def test_no_text_in_a_link_runs(
    infested: tuple[Installation, InProcess], path: str, names: str
) -> None:
    _, client = infested
    for text in batches(900):
        page = get(client, path, query_string=dict.fromkeys(names.split(), text))
        assert page.dangers() == [], text
        assert page.status in (200, 400, 404, 422)


@pytest.mark.attack
@pytest.mark.slow
def test_no_text_in_a_form_or_a_path_runs(infested: tuple[Installation, InProcess]) -> None:
    _, client = infested
    form_token = token(client)
    for text in TEXTS:
        for path, name in (
            ("/console/accounts", "username"),
            ("/console/roles", "scopes"),
            ("/console/services", "name"),
            ("/console/issuers", "name"),
            ("/console/issuers", "keys"),
            ("/console/issuers/ci0", "max_lifetime"),
            ("/console/issuers/ci0/test", "assertion"),
            ("/console/issuers/ci0/rules", "claims"),
            ("/console/accounts/user1/grant", "name"),
            ("/console/accounts/user1/api-keys", "name"),
            ("/console/accounts/me/api-keys", "name"),
            ("/console/api-keys/find", "secret"),
            ("/console/roles/role1/delete", "more"),
            ("/console/login", "username"),
        ):
            response = client.post(path, data={"csrf_token": form_token, name: text})
            page = Page(response)
            assert (page.dangers(), response.status_code < 500) == ([], True), (path, text)
        for start in (
            *("/console/accounts/", "/console/services/", "/console/roles/", "/console/"),
            *("/console/issuers/", "/console/issuers/ci0/rules/"),
        ):
            page = get(client, start + text.replace("?", "").replace("#", "").replace("/", "%2F"))
            assert (page.dangers(), page.status in (404, 405)) == ([], True), (start, text)


# --- Size and speed -------------------------------------------------------------------------------


def test_no_page_is_large(infested: tuple[Installation, InProcess]) -> None:
    _, client = infested
    for path in (*_VIEWS, "/console/static/console.css"):
        response = client.get(path)
        assert len(response.get_data()) < (15_000 if path.endswith(".css") else 100_000), path


# --- What these tests are made of -----------------------------------------------------------------


@contextmanager
def in_process(
    url: str, *, clock: Callable[[], float] = time.time
) -> Iterator[tuple[Installation, InProcess]]:
    """An installation in this process, and its admin logged in to its console."""
    with installed(url, clock=clock) as keyosk:
        client = app.create_app(keyosk).test_client()
        log_in(client)
        yield keyosk, client


def log_in(client: InProcess, **options: Any) -> None:
    fields = Page(client.get("/console/login")).form("/console/login").fields
    fields |= {"username": "admin", "password": ADMIN_PASSWORD}
    assert client.post("/console/login", data=fields, **options).status_code == 303


def get(client: InProcess, path: str, **options: Any) -> Page:
    return Page(client.get(path, **options))


def token(client: InProcess) -> str:
    return get(client, "/me").form("/console/logout").fields["csrf_token"]


def act(client: InProcess, path: str, **fields: str) -> Page:
    response = client.post(path, data={"csrf_token": token(client), **fields})
    if response.status_code == 303:
        return get(client, response.headers["Location"])
    return Page(response)


def _secret(page: Page) -> str:
    (found,) = [given["value"] or "" for tag, given in page.tags if given.get("id") == "secret"]
    return found


def _navigation(page: Page) -> list[str]:
    """Where the links at the top lead, after those to the first page and to one's own."""
    links = [given["href"] or "" for tag, given in page.tags if tag == "a"]
    start = links.index("/me") + 1
    return [path for path in links[start:] if path.startswith("/console")]
