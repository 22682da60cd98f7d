"""Pages for the audit log and for attacks."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from flask import Response, request

from keyosk.console.differences import difference
from keyosk.console.pages import Page, Visit, pages_of, show
from keyosk.web.fields import rfc3339

_FILTERS: Final = ("actor", "action", "credential", "target", "outcome", "since", "until")
#: The periods of the page for attacks, in seconds.
_BACK: Final = {"hour": 3_600, "day": 86_400}
#: Seconds between two looks, and how many looks there are until somebody says to go on.
#:
#: SECURITY: each look is a use of the session. For ever, an unattended browser would never log out.
_EVERY: Final = 5
_LOOKS: Final = 120
EXPORT: Final = "/console/audit/export"


def audit(visit: Visit) -> Response:
    """List rows of the audit log, the newest first."""
    query = _query()
    # With a period, read only the rows of that period.
    sort = "-time" if query["since"] or query["until"] else "-sequence"
    found = visit.api.get(
        "/audit", **query, cursor=request.args.get("cursor"), sort=sort, limit=50
    ).body
    given = {name: value for name, value in query.items() if value}
    return show(
        "audit.html",
        query=query,
        chain=visit.api.get("/audit/chain").body,
        export=f"{EXPORT}?{urlencode(given)}" if given else EXPORT,
        difference=difference,
        **pages_of(found["items"], found["next"]),
    )


def export(visit: Visit) -> Response:
    """Send all rows that pass the filters."""
    body = visit.api.stream("/audit/export", **_query())
    response = Response(body, mimetype="application/jsonl")
    response.headers["Content-Disposition"] = 'attachment; filename="keyosk-audit.jsonl"'
    response.call_on_close(body.close)
    return response


def attack(visit: Visit) -> Response:
    """Show failed logins by account and address, and refusals, with live updates."""
    back = request.args.get("back", "hour")
    now = int(visit.installation.clock())
    since = rfc3339(now - _BACK.get(back, _BACK["hour"]))
    found = visit.api.get("/login-failures", since=since).body
    step = 3_600 if back == "day" else 300
    activity = visit.api.get("/activity", since=since, step=step).body["items"]
    refused = visit.api.get("/audit", action="rule.refused", sort="-sequence", limit=20).body
    return show(
        "attack.html",
        back=back if back in _BACK else "hour",
        found=found,
        tokens=_reasons(activity, "tokens_refused"),
        logins=_reasons(activity, "logins_refused"),
        refused=refused["items"],
        at=rfc3339(now),
        every=_EVERY,
        following=_following(back),
    )


def _following(back: str) -> str | None:
    """Return the query of the next update, ``None`` once it is paused."""
    given = request.args.get("look", "1")
    look = int(given) if given.isdecimal() and len(given) < 4 else 0
    return urlencode({"back": back, "look": look + 1}) if 0 < look < _LOOKS else None


def _reasons(activity: Iterable[Mapping[str, Any]], name: str) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for item in activity:
        reasons: Mapping[str, Any] = item[name]
        counts.update(reasons)
    return counts.most_common()


def _query() -> dict[str, str]:
    return {name: request.args.get(name, "").strip()[:1000] for name in _FILTERS}


PAGES: Final = (
    Page("GET", "/console/audit", audit),
    Page("GET", EXPORT, export),
    Page("GET", "/console/attack", attack),
)
