"""Pages for issuers, their rules, and trying a token."""

import json
from collections.abc import Mapping
from typing import Any, Final

from flask import Response, request

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
from keyosk.errors import Invalid
from keyosk.workloads import claims
from keyosk.workloads.presets import PRESETS

_END_TOKENS: Final = (
    "Tokens that came by it are revoked: services that poll revocations refuse them within a "
    "minute, all others once they have expired."
)


def issuers(visit: Visit) -> Response:
    """List issuers."""
    page = visit.api.get("/issuers", cursor=request.args.get("cursor"), sort="name").body
    return render("issuers.html", presets=PRESETS, **pages_of(page["items"], page["next"]))


def create(visit: Visit) -> Response:
    """Trust an issuer."""
    body = {name: value for name, value in _issuer_fields().items() if value is not None}
    body["name"] = text("name")
    if text("preset"):
        body["preset"] = text("preset")
    page = confirmation_page(
        visit,
        f"Trust the issuer {body['name']}?",
        (
            "Whoever has its signing keys decides which workloads its tokens are for.",
            "Nobody logs in by it before it has a rule.",
        ),
        button="Trust it",
    )
    if page is not None:
        return page
    issuer = visit.api.send("POST", "/issuers", body, once=text("once")).body
    return redirect_to(f"/console{_path(issuer['name'])}", "created")


def issuer(visit: Visit, name: str) -> Response:
    """Show one issuer: what it must say, its rules, and which of them no token ever fitted."""
    return _issuer(visit, name)


def try_token(visit: Visit, name: str) -> Response:
    """Show the result of a token, which is only passed to the API, not stored or shown."""
    path = f"{_path(name)}/test"
    try:
        report = visit.api.send("POST", path, {"assertion": text("assertion")}).body
    except Refused as error:
        if error.status != 422:
            raise
        fault = error.problem.get("detail")
        report = {"error_description": fault, "verified": False, "rules": [], "claims": {}}
    return _issuer(visit, name, report)


def _issuer(visit: Visit, name: str, report: Mapping[str, Any] | None = None) -> Response:
    path = _path(name)
    response = visit.api.get(path)
    rules = visit.api.get(f"{path}/rules", cursor=request.args.get("cursor"), sort="name").body
    preset = PRESETS.get(response.body["preset"] or "")
    return render(
        "issuer.html",
        issuer=response.body,
        tag=response.tag,
        note=preset.note if preset else None,
        report=report,
        **pages_of(rules["items"], rules["next"]),
    )


def change(visit: Visit, name: str) -> Response:
    """Change an issuer."""
    page = confirmation_page(
        visit,
        f"Change the issuer {name}?",
        (
            "If this changes which tokens are accepted, all that came by its rules are revoked.",
            "Jobs get new ones by tokens that are as this page says from now on.",
        ),
        button="Change it",
    )
    if page is not None:
        return page
    return _changed(visit, _path(name), _issuer_fields(), notice_key="saved")


def switch(visit: Visit, name: str) -> Response:
    """Enable or disable an issuer."""
    effects = ("None of its tokens logs in any more.", _END_TOKENS)
    return _switched(visit, _path(name), f"Disable the issuer {name}?", effects=effects)


def delete(visit: Visit, name: str) -> Response:
    """Delete an issuer."""
    page = confirmation_page(
        visit,
        f"Delete the issuer {name}?",
        ("It is deleted for good, together with its rules.", _END_TOKENS),
        button="Delete",
    )
    if page is not None:
        return page
    visit.api.send("DELETE", _path(name), force=True)
    return redirect_to("/console/issuers", "deleted")


def create_rule(visit: Visit, name: str) -> Response:
    """Make a rule."""
    body = {field: value for field, value in _rule_fields().items() if value is not None}
    body |= {"name": text("name"), "claims": _claims()}
    page = confirmation_page(
        visit,
        f"Let workloads log in as {body.get('account', '')}?",
        (
            f"Every token of {name} with these claims logs in as that account, without a secret.",
            "A claim that is left out may have any value.",
        ),
        button="Make the rule",
    )
    if page is not None:
        return page
    path = f"{_path(name)}/rules"
    rule = visit.api.send("POST", path, body, once=text("once")).body
    return redirect_to(f"/console{path}/{segment(rule['name'])}", "created")


def rule(visit: Visit, name: str, rule_name: str) -> Response:
    """Show one rule."""
    response = visit.api.get(_rule_path(name, rule_name))
    issuer = visit.api.get(_path(name)).body
    written = claims.render(response.body["claims"])
    return render("rule.html", issuer=issuer, rule=response.body, tag=response.tag, written=written)


def change_rule(visit: Visit, name: str, rule_name: str) -> Response:
    """Change a rule."""
    body: dict[str, Any] = _rule_fields()
    required = _claims()
    before = visit.api.get(_rule_path(name, rule_name)).body
    body["claims"] = dict.fromkeys(before["claims"].keys() - required.keys()) | required
    # SECURITY: an empty list of scopes limits the rule to none, and does not mean unlimited.
    if (before["scopes"] or None) == body["scopes"]:
        del body["scopes"]
    page = confirmation_page(
        visit,
        f"Change the rule {rule_name}?",
        ("Other tokens may log in than before.", _END_TOKENS),
        button="Change it",
    )
    if page is not None:
        return page
    return _changed(visit, _rule_path(name, rule_name), body, notice_key="saved")


def switch_rule(visit: Visit, name: str, rule_name: str) -> Response:
    """Enable or disable a rule."""
    effects = ("No token logs in by it any more.", _END_TOKENS)
    path = _rule_path(name, rule_name)
    return _switched(visit, path, f"Disable the rule {rule_name}?", effects=effects)


def delete_rule(visit: Visit, name: str, rule_name: str) -> Response:
    """Delete a rule."""
    page = confirmation_page(
        visit,
        f"Delete the rule {rule_name}?",
        ("No token logs in by it any more.", _END_TOKENS),
        button="Delete",
    )
    if page is not None:
        return page
    visit.api.send("DELETE", _rule_path(name, rule_name))
    return redirect_to(f"/console{_path(name)}", "deleted")


def _switched(visit: Visit, path: str, question: str, *, effects: tuple[str, ...]) -> Response:
    """Enable the object at ``path``, or disable it after a confirmation."""
    enabled = text("enabled") == "true"
    if not enabled:
        page = confirmation_page(visit, question, effects, button="Disable")
        if page is not None:
            return page
    return _changed(
        visit, path, {"enabled": enabled}, notice_key="enabled" if enabled else "disabled"
    )


def _changed(visit: Visit, path: str, body: Mapping[str, Any], *, notice_key: str) -> Response:
    changed = visit.api.send("PATCH", path, body, tag=text("tag") or None)
    return redirect_to(f"/console{path}", notice_key, at=changed.effective_at)


def _path(name: str) -> str:
    return f"/issuers/{segment(name)}"


def _rule_path(name: str, rule_name: str) -> str:
    return f"{_path(name)}/rules/{segment(rule_name)}"


def _issuer_fields() -> dict[str, Any]:
    """Return the fields of the form; ``None`` for those that were left empty."""
    return {
        "description": text("description") or None,
        "issuer": text("issuer") or None,
        "audience": text("audience") or None,
        "jwks_uri": text("jwks_uri") or None,
        "keys": _json("keys"),
        "algorithms": form_words("algorithms"),
        "max_lifetime": _number("max_lifetime"),
        "required_claims": form_words("required_claims"),
        "prefix_claims": form_words("prefix_claims"),
    } | _choice("allow_private")


def _rule_fields() -> dict[str, Any]:
    return {
        "description": text("description") or None,
        "account": text("account") or None,
        "scopes": form_words("scopes"),
        "expires_at": text("expires_at") or None,
    } | _choice("once")


def _choice(name: str) -> dict[str, Any]:
    """Return the choice of yes or no, if there was one."""
    chosen = {"yes": True, "no": False}.get(text(f"{name}_chosen"))
    return {} if chosen is None else {name: chosen}


def _claims() -> dict[str, Any]:
    try:
        return claims.parse(filter(None, map(str.strip, text("claims").splitlines())))
    except ValueError as error:
        raise Invalid.field("claims", str(error)) from None


def _json(name: str) -> Any:
    try:
        return json.loads(text(name)) if text(name) else None
    except (ValueError, RecursionError):
        raise Invalid.field(name, "must be JSON") from None


def _number(name: str) -> int | None:
    if not text(name):
        return None
    if not (text(name).isascii() and text(name).isdigit() and len(text(name)) <= 9):
        raise Invalid.field(name, "must be a number of seconds")
    return int(text(name))


_ISSUER: Final = "/console/issuers/<name>"
_RULE: Final = f"{_ISSUER}/rules/<rule_name>"

PAGES: Final = (
    Page("GET", "/console/issuers", issuers),
    Page("POST", "/console/issuers", create),
    Page("GET", _ISSUER, issuer),
    Page("POST", _ISSUER, change),
    Page("POST", f"{_ISSUER}/switch", switch),
    Page("POST", f"{_ISSUER}/test", try_token),
    Page("POST", f"{_ISSUER}/delete", delete),
    Page("POST", f"{_ISSUER}/rules", create_rule),
    Page("GET", _RULE, rule),
    Page("POST", _RULE, change_rule),
    Page("POST", f"{_RULE}/switch", switch_rule),
    Page("POST", f"{_RULE}/delete", delete_rule),
)
