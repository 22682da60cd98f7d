"""What all pages share: the visit, the form, redirects, and the confirmation of acts."""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from flask import Response, g, make_response, redirect, render_template, request

from keyosk.console import browser
from keyosk.console.api import Api
from keyosk.errors import BadCredentials
from keyosk.installation import Installation
from keyosk.model import ConsoleSession, Principal

#: The sentences at the top of a page after an act, by the value in the query.
NOTICES: Final[Mapping[str, str]] = {
    "saved": "Saved.",
    "created": "Created.",
    "none-chosen": "No account was chosen.",
    "deleted": "Deleted.",
    "enabled": "Enabled.",
    "disabled": "Disabled. No new token is issued.",
    "tokens-ended": "All tokens and sessions were ended.",
    "session-ended": "The session was ended.",
    "factor-removed": "The second factor was removed. All console sessions of the account ended.",
    "password-set": "The password was set.",
    "password-removed": "The password was removed.",
    "grants-changed": "The grants were changed.",
    "key-ended": "The API key was deleted and no longer works.",
    "rotated": "A new signing key was published.",
    "retired": "The key was retired.",
    "compromised": "The key was declared compromised: no service accepts its tokens any more.",
}
#: Where a form may redirect: a page of the console, never another site.
_PLACE: Final = re.compile(r"/(?:console|me)(?:[/?][!-\[\]-~]*)?", re.ASCII)
_MOMENT: Final = re.compile(r"[0-9T:Z-]{20}", re.ASCII)
#: Fields of a form that are not data.
_OWN_FIELDS: Final = frozenset(
    {browser.TOKEN, "confirm", "password_again", "current_password", "code", "passkey"}
)


@dataclass(frozen=True, slots=True)
class Visit:
    """A request with a session: the account, its rights, and the API called as this account.

    ``needs_factor``: the account must add a second factor before anything else.
    """

    installation: Installation
    session: ConsoleSession
    principal: Principal
    scopes: frozenset[str]
    secret: str = field(repr=False)
    api: Api
    needs_factor: bool = False

    def can(self, scope: str) -> bool:
        """Return whether the account holds a scope, for what a page offers; the API decides."""
        return scope in self.scopes

    def is_own(self, reference: str) -> bool:
        """Return whether a reference in a path is the visitor's own account."""
        return reference in ("me", self.principal.account_id, self.principal.username)


View = Callable[..., Response]


@dataclass(frozen=True, slots=True)
class Page:
    """One path of the console.

    ``is_open``: it needs no session. ``for_enrolment``: it is open to a session that still lacks
    the required second factor.
    """

    method: str
    path: str
    view: View
    is_open: bool = False
    for_enrolment: bool = False


def root() -> str:
    """Return the prefix of the path of every page: the path of the issuer."""
    root_path: str = g.root
    return root_path


def render(template: str, status: int = 200, **values: Any) -> Response:
    """Render a template as a page."""
    return make_response(render_template(template, **values), status)


def redirect_to(path: str, notice_key: str = "", *, at: str | None = None) -> Response:
    """Redirect to another page.

    ``notice_key``: of its sentence in ``NOTICES``; ``at``: when the act takes effect everywhere.
    """
    query = {name: value for name, value in (("done", notice_key), ("at", at)) if value}
    suffix = f"?{urlencode(query)}" if query else ""
    response: Response = make_response(redirect(f"{root()}{path}{suffix}", 303))
    return response


def notice() -> tuple[str, str | None] | None:
    """Return the sentence about the last act, and when it takes effect everywhere."""
    # SECURITY: only sentences from the table, never text from the query.
    sentence = NOTICES.get(request.args.get("done", ""))
    if sentence is None:
        return None
    at = request.args.get("at", "")
    return sentence, at if _MOMENT.fullmatch(at) else None


def next_path() -> str:
    """Return the path that the request asks to go to next, if it is one of the console."""
    path = request.values.get("next", "")
    return path if _PLACE.fullmatch(path) else "/console"


def text(name: str) -> str:
    """Return a field of the form, without white space around it."""
    return request.form.get(name, "").strip()


def form_words(name: str) -> list[str] | None:
    """Return the words of a field of the form, ``None`` if there are none."""
    return request.form.get(name, "").replace(",", " ").split() or None


def new_idempotency_key() -> str:
    """Return an Idempotency-Key for a form, so that sending the form twice acts once."""
    return secrets.token_urlsafe(16)


def confirmation_page(
    visit: Visit, title: str, effects: Iterable[str], *, button: str, own: bool = False
) -> Response | None:
    """Return the page that asks to confirm an act, or ``None`` once the act was confirmed.

    The page asks for the password and for the second factor, if there is one, unless both were
    given within five minutes. ``own``: the act is about one's own credentials, which always need
    the password, because the API requires it in the same request.
    """
    confirmations = visit.installation.confirmations
    needs_password = own or not confirmations.is_fresh(visit.session)
    name = "current_password" if own else "password_again"
    fault = None
    if request.form.get("confirm") == "yes":
        if not needs_password:
            return None
        try:
            confirmations.confirm(
                visit.session,
                request.form.get(name, ""),
                code=text("code"),
                passkey=text("passkey"),
                address=g.address,
                request_id=g.request_id,
            )
        except BadCredentials as error:
            fault = error.detail
        else:
            return None
    needs_factor = confirmations.needs_factor(visit.session)
    return render(
        "confirm.html",
        403 if fault else 200,
        title=title,
        effects=list(effects),
        button=button,
        needs_password=needs_password,
        needs_factor=needs_factor,
        options=confirmations.challenge(visit.session) if needs_factor else None,
        password_name=name,
        fault=fault,
        fields=[
            (name, value)
            for name, value in request.form.items(multi=True)
            if name not in _OWN_FIELDS
        ],
    )


def own_password(own: bool) -> dict[str, str]:
    """Return the field with one's own password, which the API requires for acts on oneself."""
    return {"current_password": request.form.get("current_password", "")} if own else {}


def pages_of(items: Sequence[Mapping[str, Any]], following: str | None) -> dict[str, Any]:
    """Return a list, and the query of its next page for the macro ``more`` of ``parts.html``."""
    return {"items": items, "next_query": query_with(cursor=following)}


def query_with(**following: str | int | None) -> str | None:
    """Return the query of this page with the cursor of a list, ``None`` at its end."""
    ((name, value),) = following.items()
    if value is None:
        return None
    query = {key: text for key, text in request.args.items() if key not in ("done", "at")}
    return urlencode({**query, name: value})
