"""The first page: activity, and what needs attention."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from flask import Response

from keyosk.console.charts import chart
from keyosk.console.pages import Page, Visit, render
from keyosk.console.signing_keys import newest_keys
from keyosk.times import rfc3339, seconds

_STEP: Final = 600
_DAY: Final = 86_400
#: Days before its expiry for which an API key is shown, and days after which it is unused.
_SOON: Final = 14
_UNUSED: Final = 90
_KEYS: Final = 5


def overview(visit: Visit) -> Response:
    """Show what the admin may see of the activity and of what needs attention."""
    keys = newest_keys(visit) if visit.can("keyosk:keys:read") else []
    total, ending, unused = None, None, None
    if visit.can("keyosk:accounts:read"):
        total = visit.api.get("/accounts", limit=1, total="capped").total
        ending, unused = _keys(visit)
    recent, refused = [], []
    if visit.can("keyosk:audit:read"):
        recent = visit.api.get("/audit", sort="-sequence", limit=10).body["items"]
        refused = visit.api.get("/audit", sort="-sequence", limit=10, outcome="refused").body[
            "items"
        ]
    active = [key for key in keys if key["state"] == "active"]
    return render(
        "overview.html",
        active=active,
        coming=[key for key in keys if key["state"] == "next"],
        may_audit=visit.can("keyosk:audit:read"),
        recent=recent,
        refused=refused,
        total=total,
        ending=ending,
        unused=unused,
        soon=_SOON,
        unused_days=_UNUSED,
        **_activity(visit),
        **_state(visit, active),
    )


def _keys(visit: Visit) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first API keys that expire soon or are unused, with links to all."""
    now = int(visit.installation.clock())
    keys = []
    for query in (
        {
            "expires_after": rfc3339(now),
            "expires_before": rfc3339(now + _SOON * _DAY),
        },
        {"unused_since": rfc3339(now - _UNUSED * _DAY)},
    ):
        items = visit.api.get("/api-keys", limit=2 * _KEYS, **query).body["items"]
        # Without disabled keys. They are removed here, because a second filter would double the
        # cost.
        enabled = [key for key in items if key["enabled"]][:_KEYS]
        keys.append({"items": enabled, "query": query})
    return keys[0], keys[1]


def _activity(visit: Visit) -> dict[str, Any]:
    """Return the charts of the last day, their numbers by hour, and the nodes."""
    if not visit.can("keyosk:audit:read"):
        return {"charts": [], "hours": [], "nodes": []}
    items = visit.api.get("/activity", step=_STEP).body["items"]
    rows = [
        (
            item["time"],
            item["tokens_issued"],
            sum(item["tokens_refused"].values()),
            sum(item["logins_refused"].values()),
        )
        for item in items
    ]
    minutes = _STEP // 60
    return {
        "charts": [
            chart("tokens", "Tokens issued per minute", [row[1] for row in rows], minutes=minutes),
            chart(
                "refused",
                "Token requests refused per minute",
                [row[2] for row in rows],
                minutes=minutes,
            ),
            chart("logins", "Logins refused per minute", [row[3] for row in rows], minutes=minutes),
        ],
        "hours": _by_hour(rows),
        "nodes": visit.api.get("/nodes").body["items"],
    }


def _by_hour(rows: Iterable[tuple[str, int, int, int]]) -> list[tuple[str, int, int, int]]:
    """Return the numbers of each hour, latest first, without empty hours."""
    hours: dict[str, list[int]] = {}
    for time, *counts in rows:
        totals = hours.setdefault(f"{time[:13]}:00:00Z", [0, 0, 0])
        for place, count in enumerate(counts):
            totals[place] += count
    return [
        (hour, counts[0], counts[1], counts[2])
        for hour, counts in reversed(hours.items())
        if any(counts)
    ]


def _state(visit: Visit, active: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the findings of the diagnosis, the database, and the schedule of rotations."""
    if not visit.can("keyosk:admin"):
        return {"database": None, "findings": [], "rotation": None}
    checks = visit.api.get("/diagnosis").body["checks"]
    settings = {row["name"]: row["value"] for row in visit.api.get("/settings").body["items"]}
    days = int(settings["KEYOSK_KEY_ROTATION_DAYS"])
    began = [key["active_from"] for key in active if key["active_from"]]
    return {
        "database": next((check["found"] for check in checks if check["part"] == "database"), None),
        "findings": [check for check in checks if check["status"] in ("warning", "wrong")],
        "rotation": rfc3339(seconds(min(began)) + days * _DAY) if began and days else None,
    }


PAGES: Final = (Page("GET", "/console", overview),)
