"""Sessions and revocations in force: of whom, until when, and by whom."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from flask import Response, request

from keyosk.console.api import segment
from keyosk.console.pages import Page, Visit, go, query_with, show, text
from keyosk.web.fields import rfc3339

_SHOWN: Final = 25
_REVOCATIONS: Final = 100
#: Claims of a revocation, and how the targets of their changes end or begin in the audit log.
_TARGETS: Final = {
    "sub": ("account/{}",),
    "key_id": ("/api-key/{}", "/rules/{}"),
    "kid": ("signing-key/{}",),
}


def sessions(visit: Visit) -> Response:
    """List the refresh sessions and console sessions of everybody."""
    owner = request.args.get("owner", "").strip()[:500]
    lists = {}
    for name in ("refresh", "console"):
        cursor = request.args.get(name)
        found = visit.api.get(f"/{name}-sessions", owner=owner, cursor=cursor, limit=_SHOWN).body
        lists[name] = {"items": found["items"], "next_query": query_with(**{name: found["next"]})}
    return show("sessions.html", owner=owner, lists=lists)


def end(visit: Visit) -> Response:
    """End one session."""
    kind = "console-sessions" if text("kind") == "console" else "tokens"
    path = f"/accounts/{segment(text('account'))}/{kind}/{segment(text('session'))}"
    changed = visit.api.send("DELETE", path)
    return go("/console/sessions", "session-ended", at=changed.effective_at)


def revocations(visit: Visit) -> Response:
    """List the revocations in force, the newest first."""
    entries = visit.api.get("/auth/revocations").body["entries"]
    shown = entries[: -_REVOCATIONS - 1 : -1]
    return show(
        "revocations.html",
        entries=[(entry, maker) for entry, maker in zip(shown, _makers(visit, shown), strict=True)],
        total=len(entries),
    )


def _makers(visit: Visit, entries: Collection[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    """The row of the audit log about the change that revoked: what it did, and who."""
    moments = [entry["issued_before"] for entry in entries if "issued_before" in entry]
    if not visit.can("keyosk:audit:read") or not entries:
        return [None] * len(entries)
    since = rfc3339(min(moments) - 2) if moments else None
    rows = visit.api.get(
        "/audit", since=since, outcome="done", sort="-time" if since else "-sequence", limit=200
    ).body["items"]
    return [_maker(entry, rows) for entry in entries]


def _maker(
    entry: Mapping[str, Any], rows: Collection[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    before = entry.get("issued_before")
    for claim, patterns in _TARGETS.items():
        if claim not in entry:
            continue
        ends = [pattern.format(entry[claim]) for pattern in patterns]
        for row in rows:
            is_about = (row["target"] or "").endswith(tuple(ends))
            if is_about and (before is None or 0 <= before - _seconds(row["time"]) <= 2):
                return row
    return None


def _seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).astimezone(UTC).timestamp())


PAGES: Final = (
    Page("GET", "/console/sessions", sessions),
    Page("POST", "/console/sessions/end", end),
    Page("GET", "/console/revocations", revocations),
)
