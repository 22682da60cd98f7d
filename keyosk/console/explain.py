"""Which token a login would get, and why it lacks what it lacks."""

from typing import Any, Final

from flask import Response, request

from keyosk.console.api import Refused
from keyosk.console.pages import Page, Visit, show

#: A missing scope that a grant mends.
MENDABLE: Final = frozenset({"not_granted", "expired", "password_only", "api_key_only"})


def explain(visit: Visit) -> Response:
    """Explain the token of an account, with or without an audience and a scope."""
    query = {
        name: request.args.get(name, "").strip()[:1000]
        for name in ("account", "api_key", "audience", "scope")
    }
    found, fault = None, None
    if "account" in request.args:
        body: dict[str, Any] = {"account": query["account"] or visit.principal.account_id}
        if query["api_key"]:
            body |= {"credential": "api_key", "api_key": query["api_key"]}
        if query["audience"]:
            body["audience"] = [query["audience"]]
        if query["scope"]:
            body["scope"] = query["scope"]
        try:
            found = visit.api.send("POST", "/auth/explain", body).body
        except Refused as error:
            if error.status not in (404, 422):
                raise
            fault = error.problem.get("detail")
    return show("explain.html", query=query, found=found, fault=fault, mendable=MENDABLE)


PAGES: Final = (Page("GET", "/console/explain", explain),)
