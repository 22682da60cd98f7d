"""The page for signing keys: their lives, missing fetches, rotation and compromise."""

from typing import Any, Final

from flask import Response

from keyosk.console import drawing
from keyosk.console.api import segment
from keyosk.console.pages import Page, Visit, confirmation_page, redirect_to, render, text


def newest_keys(visit: Visit) -> list[dict[str, Any]]:
    """Return the newest signing keys, oldest first."""
    keys = visit.api.get("/signing-keys", sort="-created_at", limit=200).body["items"]
    return list(reversed(keys))


def keys(visit: Visit) -> Response:
    """Show the signing keys, past ones last."""
    items = newest_keys(visit)
    order = {"next": 0, "active": 1, "retired": 2}
    return render(
        "signing_keys.html",
        keys=sorted(items, key=lambda key: order.get(key["state"], 3)),
        line=drawing.time_line(items, visit.installation.clock()),
    )


def rotate(visit: Visit) -> Response:
    """Publish the next signing key."""
    mode = text("mode")
    effects = {
        "now": (
            "A new key is published and signs as soon as every Keyosk process has it.",
            "A service that keeps its keys for longer refuses new tokens until it fetches again.",
        ),
        "when_seen": (
            "A new key is published; it signs once every service that identifies itself has it.",
        ),
    }
    chosen = effects.get(
        mode, ("A new key is published; it signs after the usual time, so nobody is left behind.",)
    )
    page = confirmation_page(visit, "Rotate the signing key?", chosen, button="Rotate")
    if page is not None:
        return page
    body: dict[str, Any] = {mode: True} if mode in effects else {}
    visit.api.send("POST", "/signing-keys/rotate", body, once=text("once"))
    return redirect_to("/console/signing-keys", "rotated")


def compromise(visit: Visit, kid: str) -> Response:
    """Declare a key compromised."""
    page = confirmation_page(
        visit,
        "Declare this signing key compromised?",
        (
            f"The key {kid} leaves the published set at once and never signs again.",
            "Every token that it signed is refused: everybody has to log in again, and calls fail "
            "until they did.",
            "Another key signs from now on. Services that keep their key set refuse its tokens "
            "until they fetch it.",
            "This cannot be undone.",
        ),
        button="Declare it compromised",
    )
    if page is not None:
        return page
    path = f"/signing-keys/{segment(kid)}/compromise"
    changed = visit.api.send("POST", path, {}, once=text("once"))
    return redirect_to("/console/signing-keys", "compromised", at=changed.effective_at)


PAGES: Final = (
    Page("GET", "/console/signing-keys", keys),
    Page("POST", "/console/signing-keys/rotate", rotate),
    Page("POST", "/console/signing-keys/<kid>/compromise", compromise),
)
