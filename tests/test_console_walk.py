"""Every page of the console in a real browser: accessible, no wider than the screen, and quiet."""

import re
import shutil
from collections.abc import Iterator
from typing import Final

import pyotp
import pytest
from playwright.sync_api import Browser, Page
from werkzeug.routing import Map, MapAdapter

import crowded
import pages
from chromium import Visitor, violations
from installed import installed
from keyosk.console.application import create
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant
from live import ADMIN_PASSWORD, LiveServer
from people import PASSWORD

# Part of `make test-long`: it shows every page at each width, light and dark.
pytestmark = pytest.mark.slow

_WIDTHS: Final = (360, 768, 1440)
_SCHEMES: Final = ("light", "dark")
#: What no link leads to, except a download.
_UNLINKED: Final = {
    "/console/login",
    "/console/login/second-factor",
    "/console/static/<file>",
    "/console/audit/export",
    # Only from a page whose owner proved who they are too long ago.
    "/console/confirm",
}
_HEAVIEST: Final = 100_000  # bytes of a page, however much there is to show


@pytest.fixture(scope="module")
def keyosk(template_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    file = tmp_path_factory.mktemp("crowded") / "keyosk.db"
    shutil.copy(template_url.removeprefix("sqlite:///"), file)
    with installed(f"sqlite:///{file}") as made:
        crowded.fill(made)
        yield made


@pytest.fixture(scope="module")
def crowd(keyosk: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose lists are all long."""
    url = f"sqlite:///{keyosk.database.path}"
    with LiveServer(url, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def rules(keyosk: Installation) -> Map:
    return create(keyosk, lambda *_: []).url_map


@pytest.fixture(scope="module")
def paths(keyosk: Installation, crowd: LiveServer, rules: Map) -> dict[str, list[str]]:
    """Where the links of the console lead an admin, by rule."""
    plain = keyosk.accounts.get(crowded.PLAIN).id
    starts = [
        f"/console/accounts/{plain}",
        "/console",
        f"/console/services/{crowded.LONG}?scope={crowded.LONG}:read-0",
        f"/console/explain?account={plain}&audience={crowded.LONG}",
    ]
    return followed(pages.logged_in(crowd, "admin", ADMIN_PASSWORD), rules, starts)


def followed(
    browser: pages.Browser, rules: Map, starts: list[str], *, examples: int = 1
) -> dict[str, list[str]]:
    """The pages that links lead to: some of each rule with a query, and without."""
    adapter = rules.bind("127.0.0.1")
    pages_by_path: dict[str, list[str]] = {}
    waiting = [*starts]
    seen = set(starts)
    for path in waiting:
        those = pages_by_path.setdefault(_rule_of(adapter, path), [])
        if [("?" in each) == ("?" in path) for each in those].count(True) >= examples:
            continue
        those.append(path)
        page = browser.get(path)
        assert page.status == 200, path
        for tag, given in page.tags:
            place = given.get("href") or ""
            if "download" in given:
                continue
            if tag == "a" and place.startswith("?"):
                place = path.partition("?")[0] + place
            if tag == "a" and place.startswith("/") and place not in seen:
                seen.add(place)
                waiting.append(place)  # the loop comes to it
    return pages_by_path


def _rule_of(adapter: MapAdapter, path: str) -> str:
    rule, _ = adapter.match(path.partition("?")[0], return_rule=True)
    return str(rule.rule)


def faults_of(visitor: Visitor) -> list[str]:
    """What is wrong with the page that is open, and with all since the last call."""
    page = visitor.page
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    faults = []
    for scheme in _SCHEMES:
        page.emulate_media(color_scheme=scheme)
        for width in _WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            faults += [f"at {width}: {each}" for each in page.evaluate(_TOO_WIDE)]
    # What is true of the first rows is true of all, and axe-core takes its time.
    page.evaluate(_SHORTEN)
    faults += violations(page, "color-contrast")
    page.emulate_media(color_scheme="light")
    faults += violations(page)
    page.set_viewport_size({"width": _WIDTHS[0], "height": 900})
    faults += violations(page, "target-size", "color-contrast")
    faults += _keyboard_faults(page)
    faults += visitor.watch.faults
    visitor.watch.faults.clear()
    return faults


#: What is wider than the page, except in a part that scrolls by itself.
_TOO_WIDE: Final = """() => {
    const width = document.documentElement.clientWidth;
    const scrolls = e => e && e !== document.body && (
        ["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    // A word of ours on two lines; in a name that is better than a page that is too wide.
    const isBroken = e => {
        if (width < 700 || !e.matches("button, .word") || /\\s|.{24}/.test(e.innerText.trim()))
            return false;
        const range = document.createRange();
        range.selectNodeContents(e);
        return new Set([...range.getClientRects()].map(box => box.top)).size > 1;
    };
    return [...document.querySelectorAll("body, body *")].filter(e => {
        if (isBroken(e)) return true;
        const box = e.getBoundingClientRect();
        return box.width > 1 && (box.right > width + 1 || box.left < -1)
            && !e.closest(".skip, .unseen") && !scrolls(e.parentElement);
    }).slice(0, 3).map(e => e.outerHTML.slice(0, 200));
}"""
_SHORTEN: Final = """() => {
    for (const list of document.querySelectorAll("tbody, ul, ol, dl"))
        for (const row of [...list.children].slice(12)) row.remove();
}"""
_FOCUSED: Final = """() => {
    const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
    if (!e.dataset.stop) e.dataset.stop = ++window.stops;
    return {
        name: e.outerHTML.slice(0, 120), isBody: e === document.body, stop: +e.dataset.stop,
        isSeen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        isHere: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    };
}"""
#: Has the Tab key begin at the top, on pages with a field that has the focus as well.
_BEGIN: Final = """() => {
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute("tabindex");
}"""
_STOPS: Final = """() => {
    window.stops = 0;
    const all = "a[href], button, input, select, textarea, summary, [tabindex='0']";
    return [...document.querySelectorAll(all)].filter(e => e.checkVisibility() && !e.disabled
        && e.type !== "hidden" && !(e.type === "radio" && !e.checked)).length;
}"""


def _keyboard_faults(page: Page) -> list[str]:
    """What the Tab key does not come to, or comes to without being seen."""
    page.evaluate(_BEGIN)
    found, stops = [], 0
    expected: int = page.evaluate(_STOPS)
    for _ in range(expected + 5):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        if focused["isBody"] or focused["stop"] <= stops:
            break
        stops += 1
        if not focused["isSeen"] or not focused["isHere"]:
            found.append(f"focus not seen: {focused}")
    if stops != expected:
        found.append(f"the Tab key came to {stops} of {expected}")
    return found


def test_a_link_leads_to_every_page(rules: Map, paths: dict[str, list[str]]) -> None:
    every = {rule.rule for rule in rules.iter_rules() if "GET" in (rule.methods or ())}
    assert every - _UNLINKED == paths.keys()


def test_no_page_is_too_wide_or_closed_to_anybody(
    browser: Browser, crowd: LiveServer, paths: dict[str, list[str]], subtests: pytest.Subtests
) -> None:
    visitor = Visitor(browser, crowd)
    visitor.log_in("admin", ADMIN_PASSWORD)
    titles: dict[str, str] = {}
    for path in (path for examples in paths.values() for path in examples):
        with subtests.test(path):
            assert visitor.go(path) == 200
            assert faults_of(visitor) == []
            own, title = path.partition("?")[0], visitor.page.title()
            assert titles.setdefault(title, own) == own, "two pages have one title"
    visitor.context.close()


def test_the_pages_of_somebody_without_rights_are_as_good(
    browser: Browser, crowd: LiveServer, subtests: pytest.Subtests
) -> None:
    visitor = Visitor(browser, crowd)
    visitor.log_in(crowded.PLAIN)
    for path in ("/console", "/me", "/console/explain?account="):
        with subtests.test(path):
            assert visitor.go(path) == 200
            assert faults_of(visitor) == []
    visitor.context.close()


def test_pages_that_no_link_leads_to_are_as_good(
    browser: Browser, crowd: LiveServer, keyosk: Installation, subtests: pytest.Subtests
) -> None:
    plain = f"/console/accounts/{keyosk.accounts.get(crowded.PLAIN).id}"
    with Visitor(browser, crowd) as visitor:
        page = visitor.page

        def looks(heading: str) -> None:
            look(visitor, subtests, heading)

        visitor.go("/console/login")
        page.fill("#username", "admin")
        page.fill("#password", "not the password")
        page.click("main button")
        page.locator("#fault").wait_for()
        looks("Log in")
        visitor.log_in("admin", ADMIN_PASSWORD)
        visitor.go(f"{plain}?done=disabled&at=2030-01-01T00:00:00Z")
        page.locator("[role=status]").wait_for()
        looks(crowded.PLAIN)
        visitor.go("/console/nothing")
        looks("There is nothing here")
        visitor.go("/console/accounts")
        page.click("summary:has-text('Create an account')")
        page.fill("#new-username", f"{crowded.LONG} {crowded.LONG}")
        page.click("button:has-text('Create')")
        looks("")
        visitor.go(plain)
        page.click("button:has-text('Disable')")
        looks("Disable")
        keyosk.database.raw.execute_sql("UPDATE console_session SET confirmed_at = 0")
        visitor.go(plain)
        page.click("button:has-text('Delete'):not([aria-label])")
        page.fill("#again", "not the password")
        page.click("main button")
        page.locator("#fault").wait_for()
        looks("Delete")
        visitor.go("/me")
        page.click("summary:has-text('Make an API key')")
        page.fill("#key-name", crowded.TITLE)
        page.click("button:has-text('Make the key')")
        looks("Make the API key")
        page.fill("#again", ADMIN_PASSWORD)
        page.click("main button")
        looks("New API key")
        visitor.go("/me/second-factors")
        page.fill("main input[type=password]", ADMIN_PASSWORD)
        page.click("main button")
        looks("")


def test_what_a_form_shows_of_issuers_and_of_many_accounts_is_as_good(
    browser: Browser, crowd: LiveServer, subtests: pytest.Subtests
) -> None:
    with Visitor(browser, crowd) as visitor:
        page = visitor.page

        def looks(heading: str) -> None:
            look(visitor, subtests, heading)

        visitor.log_in("admin", ADMIN_PASSWORD)
        visitor.go("/console/accounts")
        for box in page.locator("input[name=account]").all()[:30]:
            box.check()
        page.select_option("#act", "enable")
        page.click("button:has-text('Go on')")
        looks("Enable 30 accounts?")
        page.click("main button")
        looks("Enable them")

        visitor.go("/console/issuers")
        page.click("summary:has-text('Trust an issuer')")
        page.fill("#name", f"new-{crowded.LONG}")
        page.fill("#issuer", f"{crowded.URL} no")
        page.fill("#jwks_uri", f"{crowded.URL} no")
        page.click("button:has-text('Trust it')")
        looks("Trust the issuer")
        page.click("button:has-text('Trust it')")
        looks("Something has to be corrected")

        issuer = f"/console/issuers/0-{crowded.LONG}"
        visitor.go(issuer)
        page.click("summary:has-text('Change this issuer')")
        page.fill("#own-jwks", f"{crowded.URL} no")
        page.fill("#own-lifetime", "-1")
        page.click("button:has-text('Change it')")
        looks("Change the issuer")
        page.click("main button")
        looks("Something has to be corrected")

        visitor.go(issuer)
        page.click("summary:has-text('Make a rule')")
        page.fill("#name", crowded.LONG)
        page.fill("#account", f"nobody-{crowded.LONG}")
        page.fill("#claims", f"repository_id={crowded.URL}\nref={crowded.LONG * 3}")
        page.fill("#expires_at", "tomorrow")
        page.click("button:has-text('Make the rule')")
        looks("Let workloads log in as")
        page.click("main button")
        looks("Something has to be corrected")

        visitor.go(f"{issuer}/rules/0-{crowded.LONG}")
        page.click("summary:has-text('Change this rule')")
        page.fill("#claims", "repository_id=")
        page.fill("#scopes", f"{crowded.LONG}:nothing")
        page.click("button:has-text('Change it')")
        looks("Change the rule")
        page.click("main button")
        looks("Something has to be corrected")

        visitor.go(issuer)
        page.fill("#assertion", f"{crowded.LONG}.{crowded.LONG}.{crowded.LONG}")
        page.click("button:has-text('Try it')")
        looks(crowded.LONG)


def test_what_a_second_factor_takes_is_as_good(
    browser: Browser, crowd: LiveServer, keyosk: Installation, subtests: pytest.Subtests
) -> None:
    name = f"boss.{crowded.PLAIN}"
    keyosk.grants.create_account(
        OPERATOR, [Grant(scope="keyosk:admin")], username=name, password=PASSWORD
    )
    with Visitor(browser, crowd) as visitor:
        page = visitor.page

        def looks(heading: str) -> None:
            look(visitor, subtests, heading)

        visitor.log_in(name)
        visitor.go("/me/second-factors")
        page.fill("#app-name", crowded.TITLE)
        page.fill("#app-password", PASSWORD)
        page.keyboard.press("Enter")
        page.locator("#code").fill("000000")
        secret = re.search(r"Secret: ([A-Z2-7 ]+[A-Z2-7])\s", page.inner_text("main"))
        assert secret is not None
        page.keyboard.press("Enter")
        page.locator("#fault").wait_for()
        looks("Authenticator app")
        phone = pyotp.TOTP(secret[1].replace(" ", ""))
        page.fill("#code", phone.now())
        page.keyboard.press("Enter")
        page.locator("h1", has_text="Recovery codes").wait_for()
        codes = re.findall(r"[a-z2-7]{4}(?:-[a-z2-7]{4}){5}", page.inner_text("main"))
        looks("Recovery codes")

        page.click("button:has-text('Log out')")
        page.fill("#username", name)
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        page.locator("#code").wait_for()
        looks("Second factor")
        page.fill("#code", "000000")
        page.keyboard.press("Enter")
        page.locator("#fault").wait_for()
        looks("Second factor")
        page.fill("#code", codes[0])
        page.keyboard.press("Enter")
        page.wait_for_url(f"{crowd.url}/console")

        keyosk.database.raw.execute_sql("UPDATE console_session SET confirmed_at = 0")
        plain = f"/console/accounts/{keyosk.accounts.get(crowded.PLAIN).id}"
        visitor.go(plain)
        page.click("button:has-text('Disable')")
        page.locator("#again").fill(PASSWORD)
        page.fill("#code", "000000")
        page.keyboard.press("Enter")
        page.locator("#fault").wait_for()
        looks("Disable")
        visitor.go(plain)
        page.click("summary:has-text('Set the password')")
        page.click("a:has-text('Confirm that it is you')")
        looks("Confirm that it is you")
        page.fill("#again", PASSWORD)
        page.fill("#code", codes[1])
        page.keyboard.press("Enter")
        page.wait_for_url(f"{crowd.url}{plain}")
        visitor.go("/me/second-factors")
        looks("My second factors")


def look(visitor: Visitor, subtests: pytest.Subtests, heading: str) -> None:
    """Look at the page that has this heading, whatever its status is."""
    visitor.page.locator("h1", has_text=heading).wait_for()
    with subtests.test(heading):
        # The browser tells of a page that is a refusal, too.
        refusal = "Failed to load resource: the server responded with a status of 4"
        assert [each for each in faults_of(visitor) if refusal not in each] == []


def test_no_page_is_heavy(crowd: LiveServer, paths: dict[str, list[str]]) -> None:
    admin = pages.logged_in(crowd, "admin", ADMIN_PASSWORD)
    weights = {
        path: len(admin.client.get(path).content) for each in paths.values() for path in each
    }
    weights["/me of others"] = len(pages.logged_in(crowd, crowded.PLAIN).client.get("/me").content)
    assert {path: size for path, size in weights.items() if size > _HEAVIEST} == {}
