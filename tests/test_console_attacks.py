"""Attacks on somebody who uses the console, in a real browser: texts that run, stolen sessions."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from playwright.sync_api import Browser, Page

import cheap_passwords
import hostile_texts
import pages
from chromium import Visitor
from installed import installed
from keyosk.console.application import create
from keyosk.errors import NotFound
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from live import ADMIN_PASSWORD, LiveServer, unique
from people import PASSWORD
from test_console_walk import followed

pytestmark = [pytest.mark.slow, pytest.mark.attack]


@pytest.fixture(scope="module")
def console(
    template_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, Installation]]:
    """A console in which every text that somebody may choose is hostile."""
    folder = tmp_path_factory.mktemp("attacked")
    shutil.copy(template_url.removeprefix("sqlite:///"), folder / "keyosk.db")
    url = f"sqlite:///{folder / 'keyosk.db'}"
    server = LiveServer(url, folder)
    server.script = cheap_passwords.__file__
    with server, installed(url) as keyosk:
        hostile_texts.fill(keyosk)
        for text in hostile_texts.AGENTS:
            agent = pages.Browser(server)
            agent.client.session.headers["User-Agent"] = text
            assert agent.log_in("admin", ADMIN_PASSWORD).status_code == 303
        yield server, keyosk


@pytest.fixture
def victim(browser: Browser, console: tuple[LiveServer, Installation]) -> Iterator[Visitor]:
    """Somebody with all rights who is logged in."""
    with Visitor(browser, console[0]) as visitor:
        visitor.log_in("admin", ADMIN_PASSWORD)
        yield visitor


# --- Texts that would run -------------------------------------------------------------------------

#: What would run or lead elsewhere, where a text became a part of the page.
_ALIVE: Final = """() => [...document.querySelectorAll("*")].filter(e =>
    [...e.attributes].some(a => /^(on|hx-on|data-hx|style$|srcdoc$|formaction$)/.test(a.name)
        || /^(href|src|action|hx-get)$/.test(a.name) && !/^([/?#]|data:,)/.test(a.value)
        || /^(href|src|action|hx-get)$/.test(a.name) && a.value.startsWith("//"))
    || /^(iframe|object|embed|math|base|style|img)$/i.test(e.tagName)
).map(e => e.outerHTML.slice(0, 200))"""


def test_no_text_that_somebody_chose_runs_in_any_page(
    browser: Browser, console: tuple[LiveServer, Installation], subtests: pytest.Subtests
) -> None:
    server, keyosk = console
    paths = followed(
        pages.logged_in(server, "admin", ADMIN_PASSWORD),
        create(keyosk, lambda *_: []).url_map,
        [
            "/console",
            "/me",
            *(
                path
                for number in range(len(hostile_texts.TEXTS))
                for path in (
                    f"/console/accounts/{keyosk.accounts.get(f'user{number}').id}",
                    f"/console/services/todo{number}?scope=todo{number}:do",
                    f"/console/roles/role{number}",
                )
            ),
        ],
        examples=len(hostile_texts.TEXTS),
    )
    shown = ""
    # SECURITY: without the policy, which would stop what the templates let through.
    with Visitor(browser, server, bypass_csp=True) as visitor:
        visitor.log_in("admin", ADMIN_PASSWORD)
        for path in (path for examples in paths.values() for path in examples):
            with subtests.test(path):
                assert visitor.go(path) == 200
                visitor.page.evaluate(
                    "for (const each of document.querySelectorAll('details')) each.open = true"
                )
                shown += " ".join(visitor.page.inner_text("body").split())
                assert visitor.page.evaluate(_ALIVE) == []
                assert visitor.watch.faults == []
                visitor.watch.faults.clear()
    for text in hostile_texts.CORPUS:
        assert shown.count(" ".join(text.split())) >= 5, text


def test_no_typed_text_runs(browser: Browser, console: tuple[LiveServer, Installation]) -> None:
    with Visitor(browser, console[0], bypass_csp=True) as visitor:
        visitor.log_in("admin", ADMIN_PASSWORD)
        page = visitor.page
        for text in hostile_texts.TEXTS:
            visitor.go("/console/accounts")
            page.fill("#q", f"no {text}"[:200])  # the list follows by itself
            page.locator("#results", has_text="No account matches").wait_for()
            assert page.evaluate(_ALIVE) == []
            page.fill("#role", text)
            page.locator("#results .fault", has_text="is not").or_(
                page.locator("#results", has_text="No account matches")
            ).wait_for()
            assert page.evaluate(_ALIVE) == []
        assert visitor.watch.faults == []


# --- Another site ---------------------------------------------------------------------------------


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def another_site(host: str, body: str) -> Iterator[str]:
    """A site on this machine; yields its URL."""

    def site(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
        return [b"<!doctype html><title>Another</title>" + body.encode()]

    with make_server("127.0.0.1", 0, site, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def form(action: str, **fields: str) -> str:
    """A form that sends itself."""
    inputs = "".join(
        f'<input name="{name}" value="{escape(value)}">' for name, value in fields.items()
    )
    sending = "<script>document.forms[0].submit()</script>"
    return f'<form method="post" action="{action}">{inputs}</form>{sending}'


def token_of(page: Page) -> str:
    """The token of the forms of a session, as if it had leaked."""
    return str(page.locator("header input[name=csrf_token]").get_attribute("value"))


#: Another port of the same host, which gets its cookies; and another host, which does not.
SITES: Final = ("127.0.0.1", "localhost")


@pytest.mark.parametrize("host", SITES)
def test_a_form_of_another_site_changes_nothing(
    victim: Visitor, console: tuple[LiveServer, Installation], host: str
) -> None:
    server, keyosk = console
    name = unique("forged")
    body = form(f"{server.url}/console/accounts", username=name, csrf_token=token_of(victim.page))
    with another_site(host, body) as url:
        with victim.page.expect_response("**/console/accounts") as sent:
            victim.page.goto(url)
        assert sent.value.status == 403
    with pytest.raises(NotFound):
        keyosk.accounts.get(name)


@pytest.mark.parametrize("host", SITES)
def test_a_script_of_another_site_neither_reads_nor_writes(
    victim: Visitor, console: tuple[LiveServer, Installation], host: str
) -> None:
    server, keyosk = console
    name, token = unique("forged"), token_of(victim.page)
    with another_site(host, "") as url:
        victim.page.goto(url)
        told = victim.page.evaluate(
            """async ([url, name, token]) => {
                const body = new URLSearchParams({username: name, csrf_token: token});
                const written = await fetch(`${url}/console/accounts`,
                    {method: "POST", mode: "no-cors", credentials: "include", body})
                    .then(response => response.type, () => "refused");
                const read = await fetch(`${url}/console/accounts`, {credentials: "include"})
                    .then(response => response.text(), () => "refused");
                const script = await new Promise(resolve => {
                    const element = document.createElement("script");
                    element.onload = () => resolve("loaded");
                    element.onerror = () => resolve("refused");
                    element.src = `${url}/console`;
                    document.head.append(element);
                });
                return {written, read, script};
            }""",
            [server.url, name, token],
        )
    assert told["written"] in ("opaque", "refused")
    assert (told["read"], told["script"]) == ("refused", "refused")
    with pytest.raises(NotFound):
        keyosk.accounts.get(name)


@pytest.mark.parametrize("host", SITES)
def test_another_site_neither_frames_the_console_nor_holds_its_window(
    victim: Visitor, console: tuple[LiveServer, Installation], host: str
) -> None:
    url = console[0].url
    with another_site(host, f'<iframe src="{url}/console"></iframe>') as site:
        victim.page.goto(site)
        framed = victim.page.frames[1]
        framed.wait_for_load_state()
        assert framed.locator("h1", has_text="Overview").count() == 0
        assert any("frame-ancestors" in each for each in victim.watch.faults)
        with victim.context.expect_page() as opened:
            victim.page.evaluate(f"window.held = window.open('{url}/console'), 0")
        opened.value.locator("h1").wait_for()
        assert opened.value.evaluate("window.opener") is None
        victim.page.wait_for_function("window.held.closed")  # to whoever opened it


def test_nobody_is_logged_in_as_the_attacker(
    browser: Browser, console: tuple[LiveServer, Installation]
) -> None:
    server, keyosk = console
    mallory = keyosk.grants.create_account(
        OPERATOR, [], username=unique("mallory"), password=PASSWORD
    )
    for host in SITES:
        with Visitor(browser, server) as visitor, Visitor(browser, server) as attacker:
            attacker.go("/console/login")
            token = attacker.page.get_attribute("main input[name=csrf_token]", "value") or ""
            # The attacker's own cookie, as another port of this host could set it.
            (login,) = attacker.context.cookies()
            visitor.context.add_cookies(
                [{"name": login["name"], "value": login["value"], "url": server.url}]
            )
            body = form(
                f"{server.url}/console/login",
                username=mallory.username,
                password=PASSWORD,
                csrf_token=token,
            )
            with another_site(host, body) as url:
                with visitor.page.expect_response("**/console/login") as sent:
                    visitor.page.goto(url)
                assert sent.value.status == 403
            assert [c for c in visitor.context.cookies() if "session" in c["name"]] == []


# --- Sessions -------------------------------------------------------------------------------------


def session_cookie(visitor: Visitor) -> Any:
    (found,) = [each for each in visitor.context.cookies() if "session" in each["name"]]
    assert (found["httpOnly"], found["sameSite"]) == (True, "Strict")
    assert visitor.page.evaluate("document.cookie") == ""
    return {"name": found["name"], "value": found["value"], "url": visitor.server.url}


def is_at_login(visitor: Visitor, path: str) -> bool:
    visitor.go(path)
    return visitor.page.url.startswith(f"{visitor.server.url}/console/login")


def test_a_stolen_cookie_is_nothing_after_the_logout(browser: Browser, victim: Visitor) -> None:
    with Visitor(browser, victim.server) as thief:
        thief.context.add_cookies([session_cookie(victim)])
        assert not is_at_login(thief, "/console/accounts")
        victim.page.click("header button:has-text('Log out')")
        victim.page.wait_for_url("**/console/login**")
        for path in ("/console", "/console/accounts", "/me"):
            assert is_at_login(thief, path)
        victim.page.go_back()
        assert victim.page.locator("main table").count() == 0  # the browser kept no page


@pytest.mark.parametrize(
    "change", ["seen_at = seen_at - 1801", "expires_at = seen_at", "digest = id"]
)
def test_an_expired_session_leads_to_the_login_and_back(
    victim: Visitor, console: tuple[LiveServer, Installation], change: str
) -> None:
    keyosk = console[1]
    victim.go("/console/audit?action=account.create")
    raw = keyosk.database.raw
    if change.startswith("digest"):
        raw.execute_sql("DELETE FROM console_session")
    else:
        raw.execute_sql(f"UPDATE console_session SET {change}")
    victim.page.click("nav a:has-text('Accounts')")
    victim.page.wait_for_url("**/console/login?next=**")
    victim.page.fill("#username", "admin")
    victim.page.fill("#password", ADMIN_PASSWORD)
    victim.page.click("main button")
    victim.page.wait_for_url("**/console/accounts")
    # What htmx fetches leads there too, not into a part of the page.
    raw.execute_sql("DELETE FROM console_session")
    victim.page.fill("#q", "somebody")
    victim.page.wait_for_url("**/console/login?next=**")


def test_a_cookie_that_was_there_before_the_login_is_not_that_of_the_session(
    browser: Browser, console: tuple[LiveServer, Installation]
) -> None:
    server, keyosk = console
    mallory = keyosk.grants.create_account(
        OPERATOR, [], username=unique("mallory"), password=PASSWORD
    )
    with Visitor(browser, server) as attacker, Visitor(browser, server) as visitor:
        attacker.log_in(mallory.username)
        fixed = session_cookie(attacker)
        for value in (fixed["value"], "x" * 43):
            planted: Any = {**fixed, "value": value}
            visitor.context.add_cookies([planted])
            visitor.log_in("admin", ADMIN_PASSWORD)
            assert session_cookie(visitor)["value"] != value
            with Visitor(browser, server) as another:
                another.context.add_cookies([planted])
                assert is_at_login(another, "/me")
        assert is_at_login(attacker, "/me")
