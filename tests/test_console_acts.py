"""What people do in the console: by mouse, by keyboard alone, and where no script runs."""

from collections.abc import Callable, Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, Locator, Page

import cheap_passwords
import pages
from chromium import Visitor, violations
from installed import installed
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Scope
from live import ADMIN_PASSWORD, LiveServer, unique
from people import PASSWORD

Act = Callable[["Hands", Installation], None]


class Hands:
    """Somebody who uses the console by mouse."""

    has_scripts = True

    def __init__(self, browser: Browser, server: LiveServer, username: str, password: str) -> None:
        self.visitor = Visitor(
            browser,
            server,
            java_script_enabled=self.has_scripts,
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.page: Page = self.visitor.page
        self.visitor.go("/console/login")
        self.fill("Username", username)
        self.fill("Password", password)
        self.press("Log in")
        self.reads("Overview")

    def go(self, path: str) -> None:
        assert self.visitor.go(path) == 200

    def fill(self, label: str, text: str) -> None:
        """Write into a field that is empty."""
        self.reach(self.page.get_by_label(label, exact=True)).fill(text)

    def press(self, name: str) -> None:
        self.reach(self.page.locator("main, header").get_by_role("button", name=name)).click()

    def open(self, summary: str) -> None:
        self.reach(self.page.locator("summary", has_text=summary)).click()

    def choose(self, label: str) -> None:
        """Choose another one of some radio buttons."""
        self.reach(self.page.get_by_label(label, exact=True)).check()

    def reach(self, thing: Locator) -> Locator:
        return thing.first

    def reads(self, text: str) -> None:
        """Wait until the page says something."""
        self.page.locator("main", has_text=text).wait_for()


class Keys(Hands):
    """Somebody who uses the console by keyboard alone."""

    def fill(self, label: str, text: str) -> None:
        self.reach(self.page.get_by_label(label, exact=True))
        self.page.keyboard.type(text)

    def press(self, name: str) -> None:
        self.reach(self.page.locator("main, header").get_by_role("button", name=name))
        self.page.keyboard.press("Enter")

    def open(self, summary: str) -> None:
        self.reach(self.page.locator("summary", has_text=summary))
        self.page.keyboard.press("Enter")

    def choose(self, label: str) -> None:
        wanted = self.page.get_by_label(label, exact=True)
        group = wanted.locator("xpath=ancestor::fieldset")
        self.reach(group.locator("input:checked"))
        for _ in range(group.locator("input").count()):
            self.page.keyboard.press("ArrowDown")
            if wanted.is_checked():
                return
        pytest.fail(f"the arrow keys do not come to {label}")

    def reach(self, thing: Locator) -> Locator:
        """Press Tab until it has the focus, which must be seen."""
        wanted = thing.first
        for _ in range(150):
            self.page.keyboard.press("Tab")
            if wanted.evaluate("e => e === document.activeElement"):
                assert wanted.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
                return wanted
        pytest.fail(f"the Tab key does not come to {thing}")


class WithoutScripts(Hands):
    """Somebody whose browser runs no scripts."""

    has_scripts = False


HANDS: Final = {"mouse": Hands, "keyboard": Keys, "without-scripts": WithoutScripts}


# --- Acts -----------------------------------------------------------------------------------------


def create_an_account(hands: Hands, keyosk: Installation) -> None:
    name = unique("made")
    hands.go("/console/accounts")
    hands.open("Create an account")
    hands.fill("Username", name)
    hands.fill("Display name", "Somebody New")
    hands.press("Create")
    hands.reads("Created.")
    assert keyosk.accounts.get(name).display_name == "Somebody New"


def grant_a_scope(hands: Hands, keyosk: Installation) -> None:
    alice = keyosk.grants.create_account(OPERATOR, [], username=unique("alice"))
    hands.go(f"/console/accounts/{alice.id}")
    hands.open("Grant a scope or a role")
    hands.fill("Name", "keyosk:audit:read")
    hands.press("Grant")
    hands.reads("administer Keyosk itself")
    hands.press("Give it")
    hands.reads("The grants were changed.")
    assert keyosk.grants.of(alice.id)[1] == (Grant(scope="keyosk:audit:read"),)


def disable_an_account(hands: Hands, keyosk: Installation) -> None:
    alice = keyosk.grants.create_account(OPERATOR, [], username=unique("alice"))
    hands.go(f"/console/accounts/{alice.id}")
    hands.press("Disable")
    hands.reads("The account gets no new token")
    hands.press("Disable")
    hands.reads("Disabled.")
    assert not keyosk.accounts.get(alice.id).enabled


def explain_and_mend(hands: Hands, keyosk: Installation) -> None:
    todo = unique("todo")
    keyosk.services.create(OPERATOR, name=todo, scopes=[Scope(f"{todo}:write")])
    alice = keyosk.grants.create_account(OPERATOR, [], username=unique("alice"), password=PASSWORD)
    hands.go("/console/explain")
    hands.fill("Account", alice.username)
    hands.fill("Scope", f"{todo}:write")
    hands.press("Explain")
    hands.reads("No token would be issued")
    hands.press(f"Grant it {todo}:write")
    hands.reads("The grants were changed.")
    assert keyosk.grants.of(alice.id)[1] == (Grant(scope=f"{todo}:write"),)


def filter_the_audit_log(hands: Hands, keyosk: Installation) -> None:
    alice = keyosk.grants.create_account(OPERATOR, [], username=unique("alice"))
    keyosk.accounts.change(OPERATOR, alice.id, {"display_name": "Alice"})
    hands.go("/console/audit")
    hands.fill("What", "account.change")
    hands.fill("Target", f"account/{alice.id}")
    hands.press("Filter")
    hands.page.wait_for_url("**target=*")
    assert hands.page.locator("tbody tr").count() == 1
    hands.open("Changes")
    hands.reads("display_name: −")


def rotate_the_signing_key(hands: Hands, keyosk: Installation) -> None:
    hands.go("/console/signing-keys")
    hands.choose("once every service that identifies itself has it")
    keyosk.database.raw.execute_sql("UPDATE console_session SET confirmed_at = 0")
    hands.press("Rotate")
    hands.reads("it signs once every service that identifies itself has it")
    hands.fill("Your password", ADMIN_PASSWORD)
    hands.press("Rotate")
    hands.reads("A new signing key was published.")


def end_a_session(hands: Hands, keyosk: Installation) -> None:
    other = pages.logged_in(hands.visitor.server, "admin", ADMIN_PASSWORD)
    hands.go("/me")
    hands.press(f"End the session from {other.client.source}")
    hands.reads("The session was ended.")
    assert not other.is_logged_in()


def make_a_key_and_copy_its_secret(hands: Hands, keyosk: Installation) -> None:
    hands.go("/me")
    hands.open("Make an API key")
    hands.fill("Name", unique("laptop"))
    hands.press("Make the key")
    hands.fill("Your password", ADMIN_PASSWORD)
    hands.press("Make the key")
    hands.reads("the only time that the secret is shown")
    secret = hands.page.get_by_label("Secret", exact=True)
    if hands.has_scripts:
        hands.press("Copy")
        hands.page.get_by_role("button", name="Copied").wait_for()
        assert hands.page.evaluate("navigator.clipboard.readText()") == secret.input_value()
    else:
        assert not hands.page.get_by_role("button", name="Copy").is_visible()
    response = hands.visitor.server.client("admin", secret.input_value()).post("/auth/token")
    assert response.status_code == 200


def find_the_owner_of_a_leaked_key_and_end_it(hands: Hands, keyosk: Installation) -> None:
    alice = keyosk.grants.create_account(OPERATOR, [], username=unique("alice"))
    api_key = keyosk.api_keys.create(OPERATOR, alice.id, name="leaked")
    hands.go("/console/api-keys")
    hands.open("Find the owner of a leaked key")
    hands.fill("The secret", api_key.secret)
    hands.press("Find its owner")
    hands.reads(f"This is a key of {alice.username}")
    hands.press("End it")
    hands.reads("The key stops working at once")
    hands.press("Delete the key")
    hands.reads("no longer works")


def log_out(hands: Hands, keyosk: Installation) -> None:
    hands.go("/console")
    hands.press("Log out")
    hands.reads("Username")
    assert hands.visitor.go("/me") == 200
    hands.reads("Username")


ACTS: Final = (
    create_an_account,
    grant_a_scope,
    disable_an_account,
    explain_and_mend,
    filter_the_audit_log,
    rotate_the_signing_key,
    end_a_session,
    make_a_key_and_copy_its_secret,
    find_the_owner_of_a_leaked_key_and_end_it,
    log_out,
)


@pytest.mark.slow
@pytest.mark.parametrize("hands", HANDS)
def test_everything_is_done_by_mouse_by_keyboard_and_without_scripts(
    browser: Browser,
    own_console: tuple[LiveServer, Installation],
    hands: str,
    subtests: pytest.Subtests,
) -> None:
    server, keyosk = own_console
    somebody = HANDS[hands](browser, server, "admin", ADMIN_PASSWORD)
    with somebody.visitor as visitor:
        for act in ACTS:
            with subtests.test(act.__name__):
                act(somebody, keyosk)
                assert visitor.watch.faults == []
                visitor.watch.faults.clear()


@pytest.fixture
def own_console(
    prepared_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, Installation]]:
    """A console of this test's own, and what is behind it."""
    server = LiveServer(prepared_url, tmp_path_factory.mktemp("server"))
    server.script = cheap_passwords.__file__
    with server, installed(prepared_url) as keyosk:
        yield server, keyosk


# --- What scripts add -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_keyboard_has_short_ways(
    browser: Browser, own_console: tuple[LiveServer, Installation]
) -> None:
    server, keyosk = own_console
    for name in ("anna", "berta"):
        keyosk.grants.create_account(OPERATOR, [], username=name)
    with Keys(browser, server, "admin", ADMIN_PASSWORD).visitor as visitor:
        page = visitor.page
        visitor.go("/console")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "search"
        page.keyboard.type("a/n")  # a slash in a field is a slash
        assert page.locator("#search").input_value() == "a/n"
        page.keyboard.press("Backspace")
        page.keyboard.press("Backspace")
        page.keyboard.press("Enter")
        page.wait_for_url("**/console/accounts?q=a")
        assert page.locator("#results tbody tr").count() == 2
        # The list follows while somebody types, who goes on typing.
        page.evaluate("window.is_still_here = true")
        page.locator("#q").focus()
        page.keyboard.press("End")
        page.keyboard.type("nn")
        page.locator("#results", has_not_text="admin").wait_for()
        assert page.locator("#results tbody tr").count() == 1
        assert page.evaluate("[document.activeElement.id, window.is_still_here]") == ["q", True]
        page.keyboard.type("a")
        page.wait_for_url("**q=anna**")
        page.go_back()
        page.go_back()
        page.locator("#results", has_text="admin").wait_for()
        assert visitor.watch.faults == []


@pytest.mark.slow
def test_a_list_that_cannot_follow_says_why(
    browser: Browser, own_console: tuple[LiveServer, Installation]
) -> None:
    server, _ = own_console
    with Hands(browser, server, "admin", ADMIN_PASSWORD).visitor as visitor:
        page = visitor.page
        visitor.go("/console/accounts")
        fault = page.locator("#results [role=alert]")
        page.fill("#asleep", "yesterday")
        fault.wait_for()
        assert "last_login_before: " in fault.inner_text()
        assert page.evaluate("document.activeElement.id") == "asleep"
        page.fill("#asleep", "")
        page.locator("#results tbody tr").wait_for()
        visitor.context.set_offline(True)
        page.fill("#q", "adm")
        page.locator("#results [role=alert]", has_text="cannot be reached").wait_for()


@pytest.mark.slow
def test_somebody_creates_an_account_by_keyboard(browser: Browser, server: LiveServer) -> None:
    """The short one of all these, for each run of the tests."""
    hands = Keys(browser, server, "admin", ADMIN_PASSWORD)
    with hands.visitor as visitor:
        assert violations(visitor.page) == []
        name = unique("made")
        hands.go("/console/accounts")
        hands.open("Create an account")
        hands.fill("Username", name)
        hands.press("Create")
        hands.reads("Created.")
        for path in ("/console/accounts", "/me"):
            visitor.go(path)
            assert violations(visitor.page) == []
        assert visitor.watch.faults == []
