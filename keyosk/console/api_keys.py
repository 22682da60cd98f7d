"""Pages for API keys: all keys, the owner of a leaked one, and acts."""

from collections.abc import Mapping
from typing import Any, Final

from flask import Response, request

from keyosk.console.api import segment
from keyosk.console.pages import (
    Page,
    Visit,
    confirmation_page,
    form_words,
    own_password,
    pages_of,
    redirect_to,
    render,
    text,
)

_FILTERS: Final = (
    *("owner", "prefix", "enabled", "networks", "unused_since", "expires_before"),
    "expires_after",
    *("limits", "sort", "cursor"),
)
_SHOWN_ONCE: Final = "The next page shows the secret of the new key, this once."


def keys(visit: Visit) -> Response:
    """List the keys of all accounts."""
    return _list(visit)


def find(visit: Visit) -> Response:
    """Find the owner of a leaked key."""
    # SECURITY: the secret comes in a form and goes on in a body, so no URL, log or page has it.
    secret = request.form.get("secret", "")
    return _list(visit, visit.api.send("POST", "/api-keys/find", {"secret": secret}).body)


def _list(visit: Visit, new_key: Mapping[str, Any] | None = None) -> Response:
    query = {name: request.args.get(name, "").strip()[:1000] for name in _FILTERS}
    listed = visit.api.get("/api-keys", **query, limit=50).body
    return render(
        "api_keys.html", query=query, found=new_key, **pages_of(listed["items"], listed["next"])
    )


def create(visit: Visit, reference: str) -> Response:
    """Create a key, and show its secret once."""
    own = visit.is_own(reference)
    page = confirmation_page(
        visit, f"Make the API key {text('name')}?", (_SHOWN_ONCE,), button="Make the key", own=own
    )
    if page is not None:
        return page
    body: dict[str, Any] = {"name": text("name"), **own_password(own)}
    for name in ("scopes", "networks"):
        if form_words(name):
            body[name] = form_words(name)
    if text("expires_at"):
        body["expires_at"] = text("expires_at")
    response = visit.api.send("POST", _path(reference), body, once=text("once"))
    return render("secret.html", key=response.body, reference=reference, is_rotated=False)


def rotate(visit: Visit, reference: str, key: str) -> Response:
    """Create a successor, and show its secret once."""
    own = visit.is_own(reference)
    page = confirmation_page(
        visit,
        "Rotate this API key?",
        ("A new key like it is made.", "The old one works for 24 more hours.", _SHOWN_ONCE),
        button="Rotate",
        own=own,
    )
    if page is not None:
        return page
    path = f"{_path(reference)}/{segment(key)}/rotate"
    response = visit.api.send("POST", path, own_password(own), once=text("once"))
    return render("secret.html", key=response.body, reference=reference, is_rotated=True)


def end(visit: Visit, reference: str, key: str) -> Response:
    """Delete a key."""
    page = confirmation_page(
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
    return _back(reference, "key-ended", at=ended.effective_at)


def allow(visit: Visit, reference: str, key: str) -> Response:
    """Add a scope to those that a key is limited to."""
    scope, own = text("scope"), visit.is_own(reference)
    page = confirmation_page(
        visit,
        f"Let this API key use {scope}?",
        (
            "Tokens that it gets from now on have the scope, if the account holds it.",
            "Whoever has the secret of the key may then do what the scope permits.",
        ),
        button="Let it",
        own=own,
    )
    if page is not None:
        return page
    path = f"{_path(reference)}/{segment(key)}"
    response = visit.api.get(path)
    if response.body["scopes"] is not None:  # otherwise it would be limited to none
        body = {"scopes": [*response.body["scopes"], scope], **own_password(own)}
        visit.api.send("PATCH", path, body, tag=response.tag)
    return _back(reference, "saved")


def enable(visit: Visit, reference: str, key: str) -> Response:
    """Let a disabled key log in again."""
    own = visit.is_own(reference)
    effects = ("Whoever has the secret of the key can log in with it again.",)
    page = confirmation_page(visit, "Enable this API key?", effects, button="Enable", own=own)
    if page is not None:
        return page
    body = {"enabled": True, **own_password(own)}
    visit.api.send("PATCH", f"{_path(reference)}/{segment(key)}", body)
    return _back(reference, "enabled")


def _back(reference: str, notice_key: str, *, at: str | None = None) -> Response:
    path = "/me" if reference == "me" else f"/console/accounts/{segment(reference)}"
    return redirect_to(path, notice_key, at=at)


def _path(reference: str) -> str:
    return f"/accounts/{segment(reference)}/api-keys"


PAGES: Final = (
    Page("GET", "/console/api-keys", keys),
    Page("POST", "/console/api-keys/find", find),
    Page("POST", "/console/accounts/<reference>/api-keys", create),
    Page("POST", "/console/accounts/<reference>/api-keys/<key>/rotate", rotate),
    Page("POST", "/console/accounts/<reference>/api-keys/<key>/end", end),
    Page("POST", "/console/accounts/<reference>/api-keys/<key>/allow", allow),
    Page("POST", "/console/accounts/<reference>/api-keys/<key>/enable", enable),
)
