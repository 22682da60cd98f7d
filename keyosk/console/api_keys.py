"""The API keys of an account are made, rotated and ended."""

from typing import Any, Final

from flask import Response

from keyosk.console.api import segment
from keyosk.console.pages import Page, Visit, go, lines, proof, show, text, unconfirmed

_SHOWN_ONCE: Final = "The next page shows the secret of the new key, this once."


def create(visit: Visit, reference: str) -> Response:
    """Make a key, and show its secret once."""
    own = visit.is_own(reference)
    page = unconfirmed(
        visit, f"Make the API key {text('name')}?", (_SHOWN_ONCE,), button="Make the key", own=own
    )
    if page is not None:
        return page
    body: dict[str, Any] = {"name": text("name"), **proof(own)}
    for name in ("scopes", "networks"):
        if lines(name):
            body[name] = lines(name)
    if text("expires_at"):
        body["expires_at"] = text("expires_at")
    made = visit.api.send("POST", _path(reference), body, once=text("once"))
    return show("secret.html", key=made.body, reference=reference, is_rotated=False)


def rotate(visit: Visit, reference: str, key: str) -> Response:
    """Make a successor, and show its secret once."""
    own = visit.is_own(reference)
    page = unconfirmed(
        visit,
        "Rotate this API key?",
        ("A new key like it is made.", "The old one works for 24 more hours.", _SHOWN_ONCE),
        button="Rotate",
        own=own,
    )
    if page is not None:
        return page
    path = f"{_path(reference)}/{segment(key)}/rotate"
    made = visit.api.send("POST", path, proof(own), once=text("once"))
    return show("secret.html", key=made.body, reference=reference, is_rotated=True)


def end(visit: Visit, reference: str, key: str) -> Response:
    """Delete a key."""
    page = unconfirmed(
        visit,
        "Delete this API key?",
        (
            "The key stops working at once. This cannot be undone.",
            "Tokens that came from it are revoked; the next page says when that holds everywhere.",
        ),
        button="Delete the key",
    )
    if page is not None:
        return page
    ended = visit.api.send("DELETE", f"{_path(reference)}/{segment(key)}")
    path = "/me" if reference == "me" else f"/console/accounts/{segment(reference)}"
    return go(path, "key-ended", at=ended.effective_at)


def _path(reference: str) -> str:
    return f"/accounts/{segment(reference)}/api-keys"


PAGES: Final = (
    Page("POST", "/console/accounts/<reference>/api-keys", create),
    Page("POST", "/console/accounts/<reference>/api-keys/<key>/rotate", rotate),
    Page("POST", "/console/accounts/<reference>/api-keys/<key>/end", end),
)
