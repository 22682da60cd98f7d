"""Pages for accounts: search, details and acts. ``/me`` is one's own account."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from flask import Response, request

from keyosk.accounts.accounts import LOOKED_AT
from keyosk.console import confirmation
from keyosk.console.api import Api, Refused, segment
from keyosk.console.pages import (
    Page,
    Visit,
    confirmation_page,
    own_password,
    pages_of,
    query_with,
    redirect_to,
    render,
    text,
)
from keyosk.errors import NotFound
from keyosk.web.accounts import SHORTEST

_FILTERS: Final = ("q", "kind", "enabled", "role", "scope", "last_login_before", "cursor")
_READ: Final = "keyosk:accounts:read"
_EVENTS: Final = 10
#: The accounts on a page of a search.
_FOUND: Final = 50
#: The items of each list on the page of an account.
_ROWS: Final = 25
#: The lists of the API, by the parameter for the next page.
_LISTS: Final = {"keys": "api-keys", "sessions": "tokens", "console_sessions": "console-sessions"}
#: The prefix of Keyosk's own scopes: their holders are admins of a kind.
_OWN: Final = "keyosk:"
_END_ALL: Final = "Every refresh session and console session of the account ends."
_EVERYWHERE: Final = (
    "Services that poll revocations refuse its tokens within a minute; all others do once the "
    "tokens have expired. The next page says when that holds everywhere."
)


def accounts(visit: Visit) -> Response:
    """List accounts, and search them."""
    query = {name: request.args.get(name, "")[:1000] for name in _FILTERS}
    filters = query
    if len(query["q"]) >= SHORTEST:  # a shorter text matches nearly everything
        filters = {**query, "q": "", "contains": query["q"]}
    page = visit.api.get("/accounts", **filters, limit=_FOUND).body
    items, following = page["items"], page["next"]
    is_cut = following is not None and len(items) < _FOUND
    if is_cut and not query["cursor"]:
        # A search by prefix is fast for any number of accounts.
        first = visit.api.get("/accounts", **query, limit=_FOUND).body["items"]
        first_ids = {account["id"] for account in first}
        items = first + [account for account in items if account["id"] not in first_ids]
    looked_at = LOOKED_AT if is_cut else None
    return render("accounts.html", query=query, looked_at=looked_at, **pages_of(items, following))


def create(visit: Visit) -> Response:
    """Create an account."""
    body: dict[str, Any] = {"username": text("username"), "kind": text("kind") or "person"}
    if text("display_name"):
        body["display_name"] = text("display_name")
    if request.form.get("password"):
        body["password"] = request.form["password"]
    account = visit.api.send("POST", "/accounts", body, once=text("once")).body
    return redirect_to(f"/console/accounts/{account['id']}", "created")


def account(visit: Visit, reference: str) -> Response:
    """Show one account: what it may do and through what, its keys and its sessions."""
    return _account(visit, reference)


def me(visit: Visit) -> Response:
    """Show one's own account."""
    return _account(visit, "me")


def _account(visit: Visit, reference: str) -> Response:
    path = _path(reference)
    response = visit.api.get(path)
    account = response.body
    own = visit.is_own(account["id"])
    direct_grants = visit.api.get(f"{path}/grants").body
    grants = [(kind, grant) for kind in ("role", "scope") for grant in direct_grants[f"{kind}s"]]
    start = _number("grants")
    shown_lists: dict[str, Any] = {}
    for name, below in _LISTS.items():
        page = visit.api.get(f"{path}/{below}", limit=_ROWS, cursor=request.args.get(name)).body
        shown_lists |= {name: page["items"], f"more_{name}": query_with(**{name: page["next"]})}
    events = []
    if visit.can("keyosk:audit:read"):
        events = visit.api.get(
            "/audit", target=f"account/{account['id']}", sort="-sequence", limit=_EVENTS
        ).body["items"]
    return render(
        "account.html",
        account=account,
        reference="me" if reference == "me" else account["id"],
        tag=response.tag,
        own=own,
        must_confirm=_must_confirm(visit, account["id"]),
        rows=_ROWS,
        grants=grants[start : start + _ROWS],
        more_grants=query_with(grants=start + _ROWS if len(grants) > start + _ROWS else None),
        uses=visit.api.get(f"{path}/scopes").body["items"],
        explained=_explained(visit.api, account["id"], has_password=account["has_password"]),
        **shown_lists,
        factors=visit.api.get(f"{path}/second-factors", limit=50).body["items"],
        events_of=events,
    )


def _number(name: str) -> int:
    text = request.args.get(name, "")[:9]
    return int(text) if text.isdecimal() else 0


def _explained(api: Api, account_id: str, *, has_password: bool) -> Mapping[str, Any] | None:
    """Return the content of a token by password; ``None`` if no login is possible."""
    if not has_password:
        return None
    try:
        return api.send("POST", "/auth/explain", {"account": account_id}).body
    except Refused:
        return None


def act(visit: Visit, reference: str, name: str) -> Response:
    """Do one thing to an account."""
    chosen = _ACTS.get(name)
    if chosen is None:
        raise NotFound("There is no such page.")
    return chosen(visit, reference)


def _edit(visit: Visit, reference: str) -> Response:
    body = {"display_name": text("display_name"), "expires_at": text("expires_at") or None}
    changed = visit.api.send("PATCH", _path(reference), body, tag=text("tag"))
    return _back(reference, "saved", at=changed.effective_at)


def _enable(visit: Visit, reference: str) -> Response:
    visit.api.send("PATCH", _path(reference), {"enabled": True})
    return _back(reference, "enabled")


def _disable(visit: Visit, reference: str) -> Response:
    page = confirmation_page(
        visit,
        f"Disable {_name(visit, reference)}?",
        ("The account gets no new token, by password or by API key.", _END_ALL, _EVERYWHERE),
        button="Disable",
    )
    if page is not None:
        return page
    changed = visit.api.send("PATCH", _path(reference), {"enabled": False})
    return _back(reference, "disabled", at=changed.effective_at)


def _end_tokens(visit: Visit, reference: str) -> Response:
    changed = visit.api.send("DELETE", f"{_path(reference)}/tokens")
    return _back(reference, "tokens-ended", at=changed.effective_at)


def _delete(visit: Visit, reference: str) -> Response:
    page = confirmation_page(
        visit,
        f"Delete {_name(visit, reference)}?",
        (
            "The account, its password, its API keys and its grants are deleted for good.",
            _END_ALL,
            _EVERYWHERE,
        ),
        button="Delete",
    )
    if page is not None:
        return page
    visit.api.send("DELETE", _path(reference))
    return redirect_to("/console/accounts", "deleted")


def _set_password(visit: Visit, reference: str) -> Response:
    own = visit.is_own(reference)
    if _must_confirm(visit, reference):
        return confirmation.redirect(_page(reference))
    body = {"password": request.form.get("password", ""), **own_password(own)}
    changed = visit.api.send("PUT", f"{_path(reference)}/password", body)
    return _back(reference, "password-set", at=changed.effective_at)


def _must_confirm(visit: Visit, reference: str) -> bool:
    """Return whether setting the password needs a confirmation; one's own form has it already."""
    confirmations = visit.installation.confirmations
    if visit.is_own(reference):
        return confirmations.needs_factor(visit.session)
    return not confirmations.is_fresh(visit.session)


def _grant(visit: Visit, reference: str) -> Response:
    kind = "roles" if text("kind") == "role" else "scopes"
    grant: dict[str, Any] = {"name": text("name")}
    if text("with"):
        grant["with"] = text("with")
    if text("until"):
        grant["until"] = text("until")
    if _makes_admin(visit, kind, grant["name"]):
        page = confirmation_page(
            visit,
            f"Give {grant['name']} to {_name(visit, reference)}?",
            (
                "The account may then administer Keyosk itself, as far as this scope or role goes.",
                "keyosk:admin stands for every scope of Keyosk's own: all accounts, keys and "
                "grants.",
            ),
            button="Give it",
        )
        if page is not None:
            return page
    visit.api.send("PATCH", f"{_path(reference)}/grants", {"add": {kind: [grant]}})
    return _back(reference, "grants-changed")


def _makes_admin(visit: Visit, kind: str, name: str) -> bool:
    if kind == "scopes":
        return name.startswith(_OWN)
    try:
        scopes = visit.api.get(f"/roles/{segment(name)}").body["scopes"]
    except Refused:
        return True  # if its content is not visible, always ask
    return any(scope.startswith(_OWN) for scope in scopes)


def _take(visit: Visit, reference: str) -> Response:
    kind = "roles" if text("kind") == "role" else "scopes"
    body = {"remove": {kind: [text("name")]}}
    changed = visit.api.send("PATCH", f"{_path(reference)}/grants", body)
    return _back(reference, "grants-changed", at=changed.effective_at)


def _end_session(visit: Visit, reference: str) -> Response:
    changed = visit.api.send("DELETE", f"{_path(reference)}/tokens/{segment(text('session'))}")
    return _back(reference, "session-ended", at=changed.effective_at)


def _end_console_session(visit: Visit, reference: str) -> Response:
    visit.api.send("DELETE", f"{_path(reference)}/console-sessions/{segment(text('session'))}")
    return _back(reference, "session-ended")


def _name(visit: Visit, reference: str) -> str:
    name: str = visit.api.get(_path(reference)).body["username"]
    return name


def _path(reference: str) -> str:
    return f"/accounts/{segment(reference)}"


def _page(reference: str) -> str:
    return "/me" if reference == "me" else f"/console/accounts/{segment(reference)}"


def _back(reference: str, notice_key: str, *, at: str | None = None) -> Response:
    return redirect_to(_page(reference), notice_key, at=at)


_ACTS: Final[Mapping[str, Callable[[Visit, str], Response]]] = {
    "edit": _edit,
    "enable": _enable,
    "disable": _disable,
    "end-tokens": _end_tokens,
    "delete": _delete,
    "password": _set_password,
    "grant": _grant,
    "take": _take,
    "end-session": _end_session,
    "end-console-session": _end_console_session,
}

PAGES: Final = (
    Page("GET", "/me", me),
    Page("GET", "/console/accounts", accounts),
    Page("POST", "/console/accounts", create),
    Page("GET", "/console/accounts/<reference>", account),
    Page("POST", "/console/accounts/<reference>/<name>", act),
)
