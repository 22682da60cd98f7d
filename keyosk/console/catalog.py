"""Pages for services and roles, and their holders."""

from collections.abc import Mapping
from typing import Any, Final

from flask import Response, request

from keyosk.console import drawing, protection
from keyosk.console.api import Refused, segment
from keyosk.console.pages import (
    Page,
    Visit,
    confirmation_page,
    form_words,
    pages_of,
    redirect_to,
    render,
    text,
)

_HOLDERS: Final = 50
_ACCEPTS: Final[Mapping[str, str]] = {
    "password": "passwords",
    "api_key": "API keys",
    "workload": "tokens of workloads",
    "both": "passwords and API keys",
    "any": "passwords, API keys and tokens of workloads",
}


def services(visit: Visit) -> Response:
    """List services."""
    page = visit.api.get("/services", cursor=request.args.get("cursor"), sort="name").body
    return render("services.html", **pages_of(page["items"], page["next"]))


def create_service(visit: Visit) -> Response:
    """Create a service."""
    body: dict[str, Any] = {"name": text("name"), "scopes": form_words("scopes") or []}
    if text("audience"):
        body["audience"] = text("audience")
    service = visit.api.send("POST", "/services", body, once=text("once")).body
    return redirect_to(f"/console/services/{segment(service['name'])}", "created")


def service(visit: Visit, name: str) -> Response:
    """Show one service: its scopes and who holds them, and its token settings."""
    response = visit.api.get(f"/services/{segment(name)}")
    scope = request.args.get("scope", "")
    named = response.body["name"]
    incoming = visit.api.get("/services", exchanges_for=named, sort="name", limit=_HOLDERS).body
    before = [exchange["name"] for exchange in incoming["items"]]
    after = [exchange["service"] for exchange in response.body["exchanges"]]
    issuer = visit.installation.issuer
    return render(
        "service.html",
        service=response.body,
        accepts=_accepted(response.body["accepts"]),
        exchanged_from=before,
        picture=drawing.exchanges(named, before, after),
        guides=[
            (guide.name, protection.filled(guide, issuer, response.body))
            for guide in protection.GUIDES
        ],
        tag=response.tag,
        verification=_verification(visit, named),
        scope=scope,
        holders=_holders(visit, scope) if scope else None,
    )


def _accepted(accepts: str | list[str]) -> str:
    kinds = [accepts] if isinstance(accepts, str) else accepts
    return ", ".join(_ACCEPTS[kind] for kind in kinds)


def switch_service(visit: Visit, name: str) -> Response:
    """Enable or disable a service."""
    enabled = text("enabled") == "true"
    if not enabled:
        page = confirmation_page(
            visit,
            f"Disable the service {name}?",
            ("No token for it is issued any more, and those that exist are revoked.",),
            button="Disable",
        )
        if page is not None:
            return page
    path = f"/services/{segment(name)}"
    changed = visit.api.send("PATCH", path, {"enabled": enabled})
    notice_key = "enabled" if enabled else "disabled"
    return redirect_to(f"/console{path}", notice_key, at=changed.effective_at)


def roles(visit: Visit) -> Response:
    """List roles, and find who may do what."""
    scope = request.args.get("scope", "")
    page = visit.api.get("/roles", cursor=request.args.get("cursor"), sort="name", scope=scope).body
    return render(
        "roles.html",
        scope=scope,
        holders=_holders(visit, scope) if scope else None,
        **pages_of(page["items"], page["next"]),
    )


def create_role(visit: Visit) -> Response:
    """Create a role."""
    body = {"name": text("name"), "scopes": form_words("scopes") or []}
    if text("description"):
        body["description"] = text("description")
    role = visit.api.send("POST", "/roles", body, once=text("once")).body
    return redirect_to(f"/console/roles/{segment(role['name'])}", "created")


def role(visit: Visit, name: str) -> Response:
    """Show one role: its scopes, and who has it."""
    response = visit.api.get(f"/roles/{segment(name)}")
    holders = None
    if visit.can("keyosk:accounts:read"):
        holders = visit.api.get("/accounts", role=response.body["name"], limit=_HOLDERS).body[
            "items"
        ]
    return render("role.html", role=response.body, tag=response.tag, holders=holders)


def change_role(visit: Visit, name: str) -> Response:
    """Change the scopes of a role."""
    scopes = form_words("scopes") or []
    if any(scope.startswith("keyosk:") for scope in scopes):
        page = confirmation_page(
            visit,
            f"Let everybody with the role {name} administer Keyosk?",
            ("The role gives scopes of Keyosk's own to every account that has it.",),
            button="Change the role",
        )
        if page is not None:
            return page
    path = f"/roles/{segment(name)}"
    body = {"description": text("description"), "scopes": scopes}
    changed = visit.api.send("PATCH", path, body, tag=text("tag"))
    return redirect_to(f"/console{path}", "saved", at=changed.effective_at)


def delete_role(visit: Visit, name: str) -> Response:
    """Delete a role that nobody has."""
    page = confirmation_page(
        visit,
        f"Delete the role {name}?",
        ("It is deleted for good. A role that accounts still have is not deleted.",),
        button="Delete",
    )
    if page is not None:
        return page
    visit.api.send("DELETE", f"/roles/{segment(name)}")
    return redirect_to("/console/roles", "deleted")


def _verification(visit: Visit, name: str) -> dict[str, Any] | None:
    """Return the result of the last verify-service; ``None`` if it never ran."""
    try:
        return visit.api.get(f"/services/{segment(name)}/verification").body
    except Refused as refused:
        if refused.status != 404:
            raise
        return None


def _holders(visit: Visit, scope: str) -> list[dict[str, Any]] | None:
    if not visit.can("keyosk:accounts:read"):
        return None
    accounts: list[dict[str, Any]] = visit.api.get("/accounts", scope=scope, limit=_HOLDERS).body[
        "items"
    ]
    return accounts


PAGES: Final = (
    Page("GET", "/console/services", services),
    Page("POST", "/console/services", create_service),
    Page("GET", "/console/services/<name>", service),
    Page("POST", "/console/services/<name>", switch_service),
    Page("GET", "/console/roles", roles),
    Page("POST", "/console/roles", create_role),
    Page("GET", "/console/roles/<name>", role),
    Page("POST", "/console/roles/<name>", change_role),
    Page("POST", "/console/roles/<name>/delete", delete_role),
)
