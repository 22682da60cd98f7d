"""/docs as a person uses it, in a real browser: it sends what they type, and nothing else."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, Request

from chromium import LIMIT
from keyosk.web.openapi import _TAGS
from live import ADMIN_PASSWORD, LiveServer, unique

# Part of `make test-long`: it takes seconds to show a page of this size.
pytestmark = pytest.mark.slow


class DocsPage:
    """The page, under another name than the issuer's, with an admin logged in."""

    def __init__(self, page: Page, server: LiveServer) -> None:
        self.requests: list[Request] = []
        self.faults: list[str] = []
        page.set_default_timeout(LIMIT)
        page.on("request", self._keep)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "console", lambda said: self.faults.append(said.text) if said.type == "error" else None
        )
        self.url = f"http://localhost:{server.port}"
        self.page = page
        page.goto(f"{self.url}/docs")
        page.locator(".auth-wrapper .authorize").click()
        login = page.locator(".auth-container").filter(has=page.locator("#auth-basic-username"))
        login.locator("#auth-basic-username").fill("admin")
        login.locator("#auth-basic-password").fill(ADMIN_PASSWORD)
        login.locator("button.authorize").click()
        page.locator("button.close-modal").click()

    def _keep(self, request: Request) -> None:
        # A bound method of a list cannot be given to Playwright, which marks what it gets.
        self.requests.append(request)

    def try_out(self, tag: str, operation: str) -> Locator:
        """Open an operation for input."""
        block = self.page.locator(f"#operations-{tag}-{operation}")
        block.locator(".opblock-summary-control").click()
        block.locator(".try-out__btn").click()
        return block

    def send(self, block: Locator) -> tuple[str, Request]:
        """Send an operation; returns the status, or what the page says in its place."""
        block.locator("button.execute").click()
        status = block.locator(
            ".live-responses-table tbody .response-col_status"
        ).first.inner_text()
        return status, self.requests[-1]


@pytest.fixture(scope="module")
def docs(browser: Browser, server: LiveServer) -> Iterator[DocsPage]:
    page = DocsPage(browser.new_page(viewport={"width": 1200, "height": 2000}), server)
    yield page
    assert page.faults == []


def test_objects_are_made_and_changed_as_often_as_somebody_likes(docs: DocsPage) -> None:
    post = docs.try_out("accounts", "post_accounts")
    names = [unique("page"), unique("page")]
    for name in names:
        post.locator("textarea").fill(json.dumps({"username": name}))
        status, request = docs.send(post)
        assert (status, request.url) == ("201", f"{docs.url}/accounts")
        post.locator("button.btn-clear").click()
    patch = docs.try_out("accounts", "patch_accounts_account")
    patch.locator("tr[data-param-name=account] input").fill(names[0])
    status, request = docs.send(patch)
    assert status == "200"
    assert not {"if-match", "if-none-match", "idempotency-key"} & request.all_headers().keys()


def test_a_list_is_read_without_filters(docs: DocsPage) -> None:
    status, request = docs.send(docs.try_out("accounts", "get_accounts"))
    assert (status, request.url.partition("?")[0]) == ("200", f"{docs.url}/accounts")
    assert "q=" not in request.url


def test_what_somebody_types_is_sent(docs: DocsPage) -> None:
    block = docs.try_out("accounts", "get_accounts_account")
    block.locator("tr[data-param-name=account] input").fill("me")
    block.locator("tr[data-param-name=If-None-Match] input").fill('"0"')
    status, request = docs.send(block)
    assert (status, request.all_headers()["if-none-match"]) == ("200", '"0"')


def test_its_parts_stand_in_the_order_of_tasks(docs: DocsPage) -> None:
    shown = docs.page.locator(".opblock-tag").evaluate_all("all => all.map(e => e.dataset.tag)")
    assert shown == [*_TAGS]
