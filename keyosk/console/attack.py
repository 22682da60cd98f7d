"""The page that shows attacks: failed logins and refusals, with live updates."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from flask import Response, request

from keyosk.console.pages import Page, Visit, render
from keyosk.times import rfc3339

#: The periods of the page, in seconds.
_BACK: Final = {"hour": 3_600, "day": 86_400}
#: Seconds between two updates.
_EVERY: Final = 5
#: The updates until the page pauses.
#:
#: SECURITY: each is a use of the session. Without a limit, an unattended browser would stay logged
#: in for ever.
_UPDATES: Final = 120


def attack(visit: Visit) -> Response:
    """Show failed logins by account and address, and refusals, with live updates."""
    back = request.args.get("back", "hour")
    now = int(visit.installation.clock())
    since = rfc3339(now - _BACK.get(back, _BACK["hour"]))
    failures = visit.api.get("/login-failures", since=since).body
    step = 3_600 if back == "day" else 300
    activity = visit.api.get("/activity", since=since, step=step).body["items"]
    refused = visit.api.get("/audit", action="rule.refused", sort="-sequence", limit=20).body
    return render(
        "attack.html",
        back=back if back in _BACK else "hour",
        found=failures,
        tokens=_reasons(activity, "tokens_refused"),
        logins=_reasons(activity, "logins_refused"),
        refused=refused["items"],
        at=rfc3339(now),
        every=_EVERY,
        following=_following(back),
    )


def _following(back: str) -> str | None:
    """Return the query of the next update, ``None`` once it is paused."""
    text = request.args.get("look", "1")
    look = int(text) if text.isdecimal() and len(text) < 4 else 0
    return urlencode({"back": back, "look": look + 1}) if 0 < look < _UPDATES else None


def _reasons(activity: Iterable[Mapping[str, Any]], name: str) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for item in activity:
        reasons: Mapping[str, Any] = item[name]
        counts.update(reasons)
    return counts.most_common()


PAGES: Final = (Page("GET", "/console/attack", attack),)
