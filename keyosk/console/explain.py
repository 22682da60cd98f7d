"""The page that explains which token a login would get, and which scopes it would lack."""

from typing import Any, Final

from flask import Response, request

from keyosk.console.api import Refused, segment
from keyosk.console.pages import Page, Visit, render

#: Reasons that a grant removes, and reasons that a request for the scope removes.
_GRANTED: Final = frozenset({"not_granted", "expired", *("password_only", "api_key_only")})
_ASKED: Final = frozenset({"on_request_only", "other_format", "other_audience"})
#: In place of a key's id, for a login by a workload's token.
_WORKLOAD: Final = "workload"
_KEYS: Final = 100


def explain(visit: Visit) -> Response:
    """Explain the token of an account, with or without an audience and a scope."""
    query = {
        name: request.args.get(name, "").strip()[:1000]
        for name in ("account", "api_key", "audience", "scope")
    }
    explanation, fault = None, None
    if "account" in request.args:
        body: dict[str, Any] = {"account": query["account"] or visit.principal.account_id}
        if query["api_key"] == _WORKLOAD:
            body["credential"] = _WORKLOAD
        elif query["api_key"]:
            body |= {"credential": "api_key", "api_key": query["api_key"]}
        if query["audience"]:
            body["audience"] = [query["audience"]]
        if query["scope"]:
            body["scope"] = query["scope"]
        try:
            explanation = visit.api.send("POST", "/auth/explain", body).body
        except Refused as error:
            if error.status not in (404, 422):
                raise
            fault = error.problem.get("detail")
    return render(
        "explain.html",
        query=query,
        found=explanation,
        fault=fault,
        granted=_GRANTED,
        asked=_ASKED,
        keys=_keys(visit, query["account"]),
        account=query["account"] or "me",
        api_key=query["api_key"] if query["api_key"] != _WORKLOAD else "",
    )


def _keys(visit: Visit, account: str) -> list[dict[str, Any]]:
    """Return the API keys of the account, to choose from."""
    path = f"/accounts/{segment(account or 'me')}/api-keys"
    try:
        keys: list[dict[str, Any]] = visit.api.get(path, limit=_KEYS).body["items"]
    except Refused:  # there is no such account, or they may not see it
        return []
    return keys


PAGES: Final = (Page("GET", "/console/explain", explain),)
