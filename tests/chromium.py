"""Debian's Chromium for tests, with its console messages, and axe-core."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, sync_playwright

from live import LiveServer
from people import PASSWORD
from test_proxies import missing

LIMIT: Final = 60_000  # milliseconds: generous, because the machine may be busy
#: What axe-core looks at: all that WCAG asks for to level AA, and what it advises besides.
_RULES: Final = {
    "runOnly": [
        "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice",
    ],
    "rules": {"target-size": {"enabled": True}},
    "resultTypes": ["violations"],
}  # fmt: skip


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser, as Playwright's own would have to be downloaded."""
    executable = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable or missing("chromium"))
        yield browser
        browser.close()


class Watch:
    """Takes down what must not happen on any page of a context.

    A dialog, an error in the console (a violation of the policy is one), a script that fails, a
    request to another host.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        """``url``: of the only server that may be asked."""
        self.url = url
        self.faults: list[str] = []
        context.set_default_timeout(LIMIT)
        context.on("request", self._asked)
        context.on("dialog", self._dialog)
        context.on("weberror", lambda error: self.faults.append(f"script: {error.error}"))
        context.on(
            "console",
            lambda said: (
                self.faults.append(f"console: {said.text}")
                if said.type in ("error", "warning")
                else None
            ),
        )

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "data:,")):
            self.faults.append(f"asked: {request.url}")

    def _dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()


class Visitor:
    """Somebody with a browser of their own, in front of one server."""

    def __init__(self, browser: Browser, server: LiveServer, **options: Any) -> None:
        self.server = server
        self.context = browser.new_context(color_scheme="light", **options)
        self.watch = Watch(self.context, server.url)
        self.page = self.context.new_page()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def log_in(self, username: str, password: str = PASSWORD) -> None:
        self.go("/console/login")
        self.page.fill("#username", username)
        self.page.fill("#password", password)
        self.page.click("main button")
        self.page.wait_for_url(f"{self.server.url}/console")

    def go(self, path: str) -> int:
        """Open a page; its status."""
        response = self.page.goto(self.server.url + path)
        assert response is not None
        return response.status


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core finds on a page, in one line each; ``rules``: those alone."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    options: dict[str, Any] = {**_RULES, "runOnly": list(rules)} if rules else _RULES
    violations_found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in violations_found
        for node in each["nodes"]
    ]
