"""POST and GET /auth/token: a credential in, a token out.

This is the path that all speed depends on: no schema and no write stands on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Response, request

from keyosk import permissions
from keyosk.errors import InvalidRequest, InvalidScope, InvalidTarget, UnsupportedGrantType
from keyosk.model import Login
from keyosk.tokens import Token
from keyosk.web import access, bodies
from keyosk.web.answers import json_answer
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import rfc3339
from keyosk.web.operations import operation
from keyosk.web.standard_schemas import FORMATS, TokenRequest, TokenShape

_FORM: Final = "application/x-www-form-urlencoded"
_JWT: Final = "application/jwt"
_SINGLE: Final = ("grant_type", "scope", "lifetime", "format")
_TEXTS: Final = {
    _JWT: "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl\n",
    "text/plain": "Authorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2ln\n",
}
_REFUSALS: Final = (InvalidRequest, InvalidScope, InvalidTarget, UnsupportedGrantType)
#: Credentials come by Basic only; these in a query would be in every log on the way.
_SECRETS: Final = frozenset(
    {"client_secret", "password", "client_assertion", "refresh_token", "subject_token"}
)


@dataclass(frozen=True, slots=True)
class _Parameters:
    """The parameters of a token request, read; those that nobody knows are ignored (RFC 6749)."""

    scopes: tuple[str, ...] | None
    targets: tuple[str, ...]
    lifetime: int | None
    format: str


class TokenResource(Endpoint):
    """The token endpoint (RFC 6749 section 3.2)."""

    @operation(query=TokenRequest, gives=TokenShape, texts=_TEXTS, raises=_REFUSALS)
    def get(self) -> Response:
        """As POST, with the parameters in the query."""
        return self._answer(_query())

    @operation(
        takes=TokenRequest,
        takes_as=(_FORM, "application/json"),
        optional=True,
        gives=TokenShape,
        texts=_TEXTS,
        raises=_REFUSALS,
    )
    def post(self) -> Response:
        """Issue a token for the login of the request."""
        return self._answer(_body())

    def _answer(self, values: Mapping[str, Sequence[str]]) -> Response:
        installation = self.installation
        login = access.login(installation)
        parameters = _read(values)
        entitlement = permissions.entitlement(
            login,
            now=int(installation.clock()),
            scopes=parameters.scopes,
            targets=parameters.targets,
            find_terms=installation.services.terms_for,
        )
        token = installation.tokens.issue(login, entitlement, lifetime=parameters.lifetime)
        response = _render(token, login, parameters.format)
        response.headers["Cache-Control"] = "no-store"
        # After the answer has been sent: a use is not worth a wait.
        response.call_on_close(lambda: installation.authentication.note(login))
        return response


def _render(token: Token, login: Login, form: str) -> Response:
    if form == "token":
        return Response(f"{token.text}\n", mimetype=_JWT)
    if form == "header":
        return Response(f"Authorization: Bearer {token.text}\n", mimetype="text/plain")
    body = {
        "access_token": token.text,
        "token_type": "Bearer",
        "expires_in": token.expires_in,
        "scope": token.scope,
    }
    if login.successor is not None:  # a newer key exists: time to change over
        body["api_key_successor"] = login.successor
        if login.expires_at is not None:
            body["api_key_expires_at"] = rfc3339(login.expires_at)
    return json_answer(body)


def _query() -> dict[str, list[str]]:
    if not request.query_string:
        return {}
    values = dict(request.args.lists())
    if values.keys() & _SECRETS:
        raise InvalidRequest("A credential must never stand in a URL: change it now.")
    return values


def _body() -> dict[str, list[str]]:
    values = _query()
    if not (request.content_length or request.headers.get("Transfer-Encoding")):
        return values
    if request.mimetype == _FORM:
        given = dict(request.form.lists())
    elif request.mimetype == "application/json":
        given = _members(bodies.parse(request.get_data()))
    elif request.get_data():
        raise InvalidRequest(f"The body must be {_FORM} or application/json.")
    else:
        return values
    for name, items in given.items():
        values[name] = [*values.get(name, []), *items]
    return values


def _members(document: Any) -> dict[str, list[str]]:
    if not isinstance(document, dict):
        raise InvalidRequest("The JSON body must be an object.")
    members = {}
    for name, value in document.items():
        items = value if isinstance(value, list) else [value]
        if name == "lifetime":
            items = [str(item) if type(item) is int else item for item in items]
        if not all(isinstance(item, str) for item in items):
            raise InvalidRequest("A parameter must be text, or a list of texts.")
        members[name] = items
    return members


def _read(values: Mapping[str, Sequence[str]]) -> _Parameters:
    if not values:
        return _Parameters(None, (), None, _format(None))
    for name in _SINGLE:
        if len(values.get(name, ())) > 1:
            raise InvalidRequest(f"The parameter {name} is given twice.")
    # A parameter without a value counts as absent (RFC 6749 section 3.1).
    single = {name: values[name][0] for name in _SINGLE if values.get(name) and values[name][0]}
    grant_type = single.get("grant_type", "client_credentials")
    if grant_type != "client_credentials":
        raise UnsupportedGrantType("The grant_type must be client_credentials.")
    scope = single.get("scope")
    return _Parameters(
        scopes=None if scope is None else permissions.parse_scope(scope),
        targets=tuple(
            target for name in ("audience", "resource") for target in values.get(name, ()) if target
        ),
        lifetime=_lifetime(single.get("lifetime")),
        format=_format(single.get("format")),
    )


def _lifetime(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) > 0):
        raise InvalidRequest("The lifetime must be a whole number of seconds above 0.")
    return int(text)


def _format(text: str | None) -> str:
    if text is None:
        return "token" if _JWT in request.headers.get("Accept", "") else "json"
    if text not in FORMATS:
        raise InvalidRequest("The format must be one of " + ", ".join(FORMATS) + ".")
    return text
