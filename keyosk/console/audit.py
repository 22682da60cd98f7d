"""The pages of the audit log."""

from typing import Final
from urllib.parse import urlencode

from flask import Response, request

from keyosk.console.differences import difference
from keyosk.console.pages import Page, Visit, pages_of, render

_FILTERS: Final = ("actor", "action", "credential", "target", "outcome", "since", "until")
EXPORT: Final = "/console/audit/export"


def audit(visit: Visit) -> Response:
    """List rows of the audit log, the newest first."""
    query = _query()
    # With a period, read only the rows of that period.
    sort = "-time" if query["since"] or query["until"] else "-sequence"
    page = visit.api.get(
        "/audit", **query, cursor=request.args.get("cursor"), sort=sort, limit=50
    ).body
    filters = {name: value for name, value in query.items() if value}
    return render(
        "audit.html",
        query=query,
        chain=visit.api.get("/audit/chain").body,
        export=f"{EXPORT}?{urlencode(filters)}" if filters else EXPORT,
        difference=difference,
        **pages_of(page["items"], page["next"]),
    )


def export(visit: Visit) -> Response:
    """Send all rows that pass the filters."""
    body = visit.api.stream("/audit/export", **_query())
    response = Response(body, mimetype="application/jsonl")
    response.headers["Content-Disposition"] = 'attachment; filename="keyosk-audit.jsonl"'
    response.call_on_close(body.close)
    return response


def _query() -> dict[str, str]:
    return {name: request.args.get(name, "").strip()[:1000] for name in _FILTERS}


PAGES: Final = (
    Page("GET", "/console/audit", audit),
    Page("GET", EXPORT, export),
)
