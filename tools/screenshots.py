"""Take the pictures of the console in the documentation: make screenshots.

They are kept in ``docs/screenshots``, as not every machine that builds the documentation has a
Chromium. Keyosk runs in this process, with people, services and times that are made up, so the
pictures change only when the pages do.
"""

import base64
import math
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import Client

from keyosk import app, config
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Kind, Node, Scope

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs" / "screenshots"
_PASSWORD: Final = "amber lanterns drift slowly"  # noqa: S105 - of nobody
_HEAVIEST: Final = 100_000  # bytes
_SIZE: Final = {"width": 900, "height": 620}
#: Thursday, 31 January 2030, 8:00 UTC.
_MORNING: Final = 1_896_076_800
_DAY: Final = 86_400
_GUESSER: Final = {"REMOTE_ADDR": "198.51.100.7"}
#: The pages by the name of their picture; ``{alice}`` stands for her id.
_PAGES: Final = {
    "overview": "/console",
    "account": "/console/accounts/{alice}#what",
    "explain": "/console/explain?account=alice&scope=todo:write",
    "signing-keys": "/console/signing-keys",
    "audit": "/console/audit",
    "under-attack": "/console/attack",
}


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


class _Morning:
    """The clock of the pictures."""

    def __init__(self) -> None:
        self.now = float(_MORNING - _DAY)

    def __call__(self) -> float:
        return self.now


def main() -> int:
    """Take them; returns 1 if there is no Chromium, or if a picture is too large to be kept."""
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        print("Please install Chromium (Debian: chromium-headless-shell).", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _served(Path(folder)) as (url, alice):
        _take(chromium, url, alice)
    heavy = [file.name for file in FOLDER.iterdir() if file.stat().st_size > _HEAVIEST]
    if heavy:
        print(f"Above 100 kB: {', '.join(heavy)}", file=sys.stderr)
    return 1 if heavy else 0


def _take(chromium: str, url: str, alice: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport=_SIZE)  # type: ignore[arg-type]
        page.goto(f"{url}/console/login")
        page.fill("#username", "admin")
        page.fill("#password", _PASSWORD)
        page.click("main button")
        page.wait_for_url(f"{url}/console")
        for name, path in _PAGES.items():
            page.goto(url + path.format(alice=alice))
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                page.screenshot(path=FOLDER / f"{name}-{scheme}.png")
        browser.close()


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, str]]:
    """Run a Keyosk in this process; yields its URL and the id of alice."""
    settings = config.load(
        {
            "KEYOSK_DATABASE_URL": f"sqlite:///{folder / 'keyosk.db'}",
            "KEYOSK_ADMIN_PASSWORD": _PASSWORD,
            "KEYOSK_SECRET_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        }
    )
    clock = _Morning()
    app.prepare(settings, clock=clock)
    keyosk = Installation(settings, clock=clock)
    application = app.create_app(keyosk, write_line=lambda _: None)
    alice = _fill(keyosk, Client(application), clock)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", alice
    finally:
        server.shutdown()
        thread.join()
        keyosk.database.close()


def _fill(keyosk: Installation, client: Client, clock: _Morning) -> str:
    """Do what an admin does on a morning; returns the id of alice."""
    for name, title in (("todo", "To-do lists"), ("notes", "Notes"), ("billing", "Billing")):
        scopes = [Scope(f"{name}:read", "Read"), Scope(f"{name}:write", "Change")]
        keyosk.services.create(OPERATOR, name=name, title=title, scopes=scopes)
    keyosk.roles.create(OPERATOR, name="editor", scopes=["notes:read", "notes:write"])
    keyosk.roles.create(OPERATOR, name="reader", scopes=["billing:read", "notes:read", "todo:read"])
    alice = keyosk.grants.create_account(
        OPERATOR,
        [Grant(scope="todo:read"), Grant(role="editor", until=_MORNING + 90 * _DAY)],
        username="alice",
        display_name="Alice Adams",
        password=_PASSWORD,
    )
    for name in ("bob", "carol", "dan"):
        keyosk.grants.create_account(
            OPERATOR, [Grant(role="reader")], username=name, password=_PASSWORD
        )
    robot = keyosk.grants.create_account(
        OPERATOR,
        [Grant(scope="todo:write"), Grant(scope="billing:read")],
        username="nightly-report",
        kind=Kind.MACHINE,
    )
    api_keys = [
        keyosk.api_keys.create(OPERATOR, alice.id, name="laptop", scopes=["todo:read"]),
        keyosk.api_keys.create(OPERATOR, robot.id, name="2030", expires_at=_MORNING + 40 * _DAY),
    ]
    node = Node(name="login-1", version="1.0", started_at=_MORNING - _DAY, seen_at=_MORNING)
    for step in range(_DAY // 600):
        clock.now = _MORNING - _DAY + 600 * step
        # More by day than by night.
        for number in range(1 + round(4 + 4 * math.sin(2 * math.pi * (step - 36) / 144))):
            key = api_keys[number % 2]
            client.post("/auth/token", headers={"Authorization": f"Bearer {key.secret}"})
        if step in (100, 139, 140):
            for guess in range(3 + step % 3):
                client.post(
                    "/auth/token", auth=("bob", f"summer{guess}"), environ_overrides=_GUESSER
                )
        keyosk.activity.write(node)
    keyosk.rotation.rotate(OPERATOR)
    clock.now = _MORNING
    keyosk.accounts.change(OPERATOR, "dan", {"enabled": False})
    clock.now += 60
    return alice.id


if __name__ == "__main__":
    sys.exit(main())
