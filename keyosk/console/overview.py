"""The first page: what needs attention."""

from typing import Final

from flask import Response

from keyosk.console.pages import Page, Visit, show


def overview(visit: Visit) -> Response:
    """Show what an admin looks at first, as far as they may see it."""
    keys = visit.api.get("/signing-keys").body["items"] if visit.can("keyosk:keys:read") else []
    may_audit = visit.can("keyosk:audit:read")
    recent, refused = [], []
    if may_audit:
        recent = visit.api.get("/audit", sort="-sequence", limit=10).body["items"]
        refused = visit.api.get("/audit", sort="-sequence", limit=10, outcome="refused").body[
            "items"
        ]
    total = None
    if visit.can("keyosk:accounts:read"):
        total = visit.api.get("/accounts", limit=1, total="capped").total
    return show(
        "overview.html",
        active=[key for key in keys if key["state"] == "active"],
        coming=[key for key in keys if key["state"] == "next"],
        may_audit=may_audit,
        recent=recent,
        refused=refused,
        total=total,
    )


PAGES: Final = (Page("GET", "/console", overview),)
