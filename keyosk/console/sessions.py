"""Pages for active sessions and revocations."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from flask import Response, request

from keyosk.console.api import segment
from keyosk.console.pages import Page, Visit, query_with, redirect_to, render, text
from keyosk.times import rfc3339, seconds

_SHOWN: Final = 25
_REVOCATIONS: Final = 100
#: Claims of a revocation, and the suffixes of their targets in the audit log.
_TARGETS: Final = {
    "sub": ("account/{}",),
    "key_id": ("/api-key/{}", "/rules/{}"),
    "kid": ("signing-key/{}",),
}
#: The actions on such an object that revoke tokens.
_REVOKING: Final = frozenset(
    {
        "account.change",
        "account.delete",
        "api_key.change",
        "api_key.delete",
        "api_key.rotate",
        "grants.change",
        "issuer.delete",
        "password.delete",
        "password.set",
        "role.change",
        "role.delete",
        "rule.change",
        "rule.delete",
        "service.change",
        "service.delete",
        "signing_key.compromise",
        "token.revoke",
        "tokens.revoke",
    }
)
#: By action: the fields whose change revokes tokens.
_FIELDS: Final = {
    "account.change": {"enabled", "expires_at"},
    "api_key.change": {"enabled", "expires_at", "scopes", "networks"},
    "role.change": {"scopes"},
    "service.change": {"enabled", "scopes", "accepts", "audience", "account", "exchanges"},
}
#: Actions that revoke the tokens of many accounts, which their row does not name.
_OF_MANY: Final = ("role.", "service.", "issuer.")


def sessions(visit: Visit) -> Response:
    """List the refresh sessions and console sessions of everybody."""
    owner = request.args.get("owner", "").strip()[:500]
    lists = {}
    for name in ("refresh", "console"):
        cursor = request.args.get(name)
        page = visit.api.get(f"/{name}-sessions", owner=owner, cursor=cursor, limit=_SHOWN).body
        lists[name] = {"items": page["items"], "next_query": query_with(**{name: page["next"]})}
    return render("sessions.html", owner=owner, lists=lists)


def end(visit: Visit) -> Response:
    """End one session."""
    kind = "console-sessions" if text("kind") == "console" else "tokens"
    path = f"/accounts/{segment(text('account'))}/{kind}/{segment(text('session'))}"
    changed = visit.api.send("DELETE", path)
    return redirect_to("/console/sessions", "session-ended", at=changed.effective_at)


def revocations(visit: Visit) -> Response:
    """List the revocations in force, the newest first."""
    entries = visit.api.get("/auth/revocations").body["entries"]
    newest = entries[: -_REVOCATIONS - 1 : -1]
    return render(
        "revocations.html",
        entries=[*zip(newest, _makers(visit, newest), strict=True)],
        total=len(entries),
    )


def _makers(visit: Visit, entries: Collection[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return, for each entry, the rows of the audit log that may have caused it.

    The log does not tell which row published an entry. Rows of one actor count as one; if there are
    several actors, it may be any of them.
    """
    moments = [entry["issued_before"] for entry in entries if "issued_before" in entry]
    if not visit.can("keyosk:audit:read") or not entries:
        return [[] for _ in entries]
    since = rfc3339(min(moments) - 2) if moments else None
    rows = visit.api.get(
        "/audit", since=since, outcome="done", sort="-time" if since else "-sequence", limit=200
    ).body["items"]
    rows = [row for row in rows if _can_revoke(row)]
    return [[*_by_actor(_about(entry, rows)).values()] for entry in entries]


def _can_revoke(row: Mapping[str, Any]) -> bool:
    action, after = row["action"], row["after"] or {}
    if action == "grants.change":  # otherwise it only added rights
        return bool((row["before"] or {}).get("grants"))
    fields = _FIELDS.get(action)
    return action in _REVOKING and (not fields or bool(fields & after.keys()))


def _about(
    entry: Mapping[str, Any], rows: Collection[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    if "jti" in entry:
        return [row for row in rows if (row["after"] or {}).get("jti") == entry["jti"]]
    before = entry.get("issued_before")
    ends = tuple(
        pattern.format(entry[claim])
        for claim, patterns in _TARGETS.items()
        if claim in entry
        for pattern in patterns
    )
    near = [row for row in rows if before is None or 0 <= before - seconds(row["time"]) <= 2]
    own = [row for row in near if ends and (row["target"] or "").endswith(ends)]
    # Only an action on the signing key itself revokes it.
    if own or "kid" in entry:
        return own
    return [row for row in near if row["action"].startswith(_OF_MANY)]


def _by_actor(rows: Collection[Mapping[str, Any]]) -> dict[tuple[str | None, str], Any]:
    """Return the newest row of each actor."""
    return {(row["actor"], row["actor_name"]): row for row in reversed([*rows])}


PAGES: Final = (
    Page("GET", "/console/sessions", sessions),
    Page("POST", "/console/sessions/end", end),
    Page("GET", "/console/revocations", revocations),
)
