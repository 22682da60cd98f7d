"""The page with the matrix of a service's scopes and the roles or accounts that hold them."""

from collections.abc import Mapping
from typing import Any, Final

from flask import Response, request

from keyosk.console.api import Api, segment
from keyosk.console.pages import Page, Visit, pages_of, query_with, render
from keyosk.errors import Forbidden
from keyosk.web.accounts import SHORTEST

#: The most scopes in a row, and accounts in a column.
_COLUMNS: Final = 8
_ROWS: Final = 12
_ACCOUNTS_READ: Final = "keyosk:accounts:read"
_BY: Final[Mapping[str, str]] = {
    "password": "by password",
    "api_key": "by API key",
    "workload": "by a workload's token",
}


def matrix(visit: Visit) -> Response:
    """Show which roles, or which accounts, have which scopes of a service."""
    query = {
        name: request.args.get(name, "").strip()[:1000]
        for name in ("service", "rows", "scope", "q", "cursor", "first")
    }
    if not query["service"]:
        page = visit.api.get("/services", cursor=query["cursor"], sort="name").body
        return render(
            "matrix.html", query=query, service=None, **pages_of(page["items"], page["next"])
        )
    service = visit.api.get(f"/services/{segment(query['service'])}").body
    scopes = [scope["name"] for scope in service["scopes"]]
    first = int(query["first"][:6]) if query["first"].isdecimal() else 0
    columns = scopes[first : first + _COLUMNS]
    of_accounts = query["rows"] == "accounts"
    if of_accounts and not visit.can(_ACCOUNTS_READ):
        raise Forbidden(f"This takes the scope {_ACCOUNTS_READ}.")
    rows, following = (_accounts if of_accounts else _roles)(visit.api, query, columns)
    more_columns = first + _COLUMNS if len(scopes) > first + _COLUMNS else None
    return render(
        "matrix.html",
        query=query,
        service=service,
        of_accounts=of_accounts,
        scopes=columns,
        total=len(scopes),
        columns=query_with(first=more_columns),
        **pages_of(rows, following),
    )


def _roles(
    api: Api, query: Mapping[str, str], scopes: list[str]
) -> tuple[list[dict[str, Any]], str | None]:
    page = api.get("/roles", cursor=query["cursor"], sort="name", scope=query["scope"]).body
    rows = [
        {
            "path": f"/console/roles/{segment(role['name'])}",
            "name": role["name"],
            "cells": [["yes"] if scope in role["scopes"] else [] for scope in scopes],
        }
        for role in page["items"]
    ]
    return rows, page["next"]


def _accounts(
    api: Api, query: Mapping[str, str], scopes: list[str]
) -> tuple[list[dict[str, Any]], str | None]:
    name = "contains" if len(query["q"]) >= SHORTEST else "q"
    filters = {"scope": query["scope"], name: query["q"], "cursor": query["cursor"]}
    page = api.get("/accounts", **filters, limit=_ROWS).body
    grants_of = {
        account["id"]: api.get(f"/accounts/{account['id']}/grants").body
        for account in page["items"]
    }
    by_role = _by_role(api, scopes) if any(grants["roles"] for grants in grants_of.values()) else {}
    rows = []
    for account in page["items"]:
        through = _through(grants_of[account["id"]], by_role)
        rows.append(
            {
                "path": f"/console/accounts/{account['id']}",
                "name": account["username"],
                "cells": [through.get(scope, []) for scope in scopes],
            }
        )
    return rows, page["next"]


def _by_role(api: Api, scopes: list[str]) -> dict[str, list[str]]:
    """Return the scopes of each role that has any of them."""
    scopes_by_role: dict[str, list[str]] = {}
    for scope in scopes:
        cursor = None
        while True:
            page = api.get("/roles", scope=scope, limit=200, cursor=cursor).body
            for role in page["items"]:
                scopes_by_role.setdefault(role["name"], []).append(scope)
            cursor = page["next"]
            if cursor is None:
                break
    return scopes_by_role


def _through(grants: Mapping[str, Any], by_role: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the grant or role through which each scope is held."""
    sources: dict[str, list[str]] = {}
    for kind in ("scopes", "roles"):
        for grant in grants[kind]:
            limited = {"name": grant} if isinstance(grant, str) else grant
            name = limited["name"]
            words = [name if kind == "roles" else "grant"]
            if limited.get("with"):
                words.append(_BY.get(limited["with"], limited["with"]))
            if limited.get("until"):
                words.append(f"until {limited['until'][:10]}")
            for scope in by_role.get(name, ()) if kind == "roles" else (name,):
                sources.setdefault(scope, []).append(" ".join(words))
    return sources


PAGES: Final = (Page("GET", "/console/matrix", matrix),)
