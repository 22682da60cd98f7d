"""The page of grants and keys that seem wider than needed."""

from typing import Any, Final
from urllib.parse import urlencode

from flask import Response, request

from keyosk.console.api import Api
from keyosk.console.pages import Page, Visit, query_with, render
from keyosk.times import rfc3339

#: Days without a use after which something counts as unused.
DAYS: Final = 90
_ROWS: Final = 20
_ADMINS: Final = 20
_DAY: Final = 86_400


def report(visit: Visit) -> Response:
    """Show keys without limits, unused keys and scopes, and the admins of Keyosk."""
    since = rfc3339(visit.installation.clock() - DAYS * _DAY)
    # One filter each, so that its index serves the list.
    unlimited, unused = {"limits": "none"}, {"unused_since": since}
    inactive = {"last_login_before": since, "enabled": "true"}
    return render(
        "least_privilege.html",
        days=DAYS,
        unlimited=visit.api.get("/api-keys", **unlimited, limit=_ROWS).body,
        all_unlimited=urlencode(unlimited),
        unused=visit.api.get("/api-keys", **unused, limit=_ROWS).body,
        unused_scopes=_unused_scopes(visit.api, DAYS),
        all_unused=urlencode(unused),
        inactive=urlencode(inactive),
        admins=_admins(visit.api, since) if visit.can("keyosk:services:read") else None,
    )


def _unused_scopes(api: Api, days: int) -> dict[str, Any]:
    """Return accounts with scopes that they do not use, and where the list goes on."""
    cursor = request.args.get("scopes", "")[:1000]
    page = api.get("/unused-scopes", days=days, limit=_ROWS, cursor=cursor).body
    return {"items": page["items"], "more": query_with(scopes=page["next"])}


def _admins(api: Api, since: str) -> list[dict[str, Any]]:
    """Return the holders of Keyosk's own scopes, with these scopes."""
    rows_by_id: dict[str, dict[str, Any]] = {}
    for scope in api.get("/services/keyosk/scopes").body["scopes"]:
        page = api.get("/accounts", scope=scope["name"], limit=_ROWS).body
        for account in page["items"]:
            row = rows_by_id.setdefault(
                account["id"], {**account, "holds": [], "is_inactive": False}
            )
            row["holds"].append(scope["name"])
            row["is_inactive"] = (account["last_login_at"] or account["created_at"]) < since
    rows = sorted(rows_by_id.values(), key=lambda row: str(row["username"]))[:_ADMINS]
    for row in rows:
        factors = api.get(f"/accounts/{row['id']}/second-factors", limit=1).body["items"]
        # A machine has no login to the console.
        row["lacks_factor"] = row["kind"] == "person" and not factors
    return rows


PAGES: Final = (Page("GET", "/console/least-privilege", report),)
