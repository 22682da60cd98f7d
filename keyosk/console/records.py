"""What was done and what is in force: the audit log, revocations, and attempts to get in."""

from collections import Counter
from typing import Any, Final

from flask import Response, request

from keyosk.console.pages import Page, Visit, pages_of, show

_FILTERS: Final = ("actor", "action", "target", "outcome", "since", "until", "cursor")
_SHOWN: Final = 200


def audit(visit: Visit) -> Response:
    """List rows of the audit log, the newest first."""
    query = {name: request.args.get(name, "").strip()[:1000] for name in _FILTERS}
    found = visit.api.get("/audit", **query, sort="-sequence", limit=50).body
    return show("audit.html", query=query, **pages_of(found["items"], found["next"]))


def revocations(visit: Visit) -> Response:
    """List the revocations in force, the newest first."""
    entries = visit.api.get("/auth/revocations").body["entries"]
    return show("revocations.html", entries=entries[: -_SHOWN - 1 : -1], total=len(entries))


def attack(visit: Visit) -> Response:
    """Show who is being guessed at, from where, and what was refused."""
    guesses: list[dict[str, Any]] = []
    for action in ("login.failed", "login.throttled"):
        guesses += visit.api.get("/audit", action=action, sort="-sequence", limit=100).body["items"]
    refused = visit.api.get("/audit", outcome="refused", sort="-sequence", limit=50).body["items"]
    by_account: Counter[str] = Counter()
    by_address: Counter[str] = Counter()
    for row in guesses:
        count = (row["after"] or {}).get("count", 0)
        by_account[row["target"] or "names that no account has"] += count
        by_address[row["address"] or "unknown"] += count
    return show(
        "attack.html",
        throttled=[row for row in guesses if row["action"] == "login.throttled"][:20],
        by_account=by_account.most_common(15),
        by_address=by_address.most_common(15),
        refused=[row for row in refused if not row["action"].startswith("login.")][:20],
    )


PAGES: Final = (
    Page("GET", "/console/audit", audit),
    Page("GET", "/console/revocations", revocations),
    Page("GET", "/console/attack", attack),
)
