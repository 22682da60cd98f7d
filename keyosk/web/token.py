"""POST and GET /auth/token: a credential in, a token out.

This is the path that all speed depends on: no schema and no write stands on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flask import Response

from keyosk import permissions
from keyosk.errors import InvalidRequest, InvalidScope, InvalidTarget, UnsupportedGrantType
from keyosk.model import Login
from keyosk.tokens import Token
from keyosk.web import access, negotiation, parameters
from keyosk.web.answers import json_answer
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import rfc3339
from keyosk.web.operations import operation
from keyosk.web.standard_schemas import FORMATS, TokenRequest, TokenShape

_JWT: Final = "application/jwt"
_TARGETS: Final = ("audience", "resource")
_TEXTS: Final = {
    _JWT: "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl\n",
    "text/plain": "Authorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2ln\n",
}
_REFUSALS: Final = (InvalidRequest, InvalidScope, InvalidTarget, UnsupportedGrantType)


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
        return self._answer(parameters.query())

    @operation(
        takes=TokenRequest,
        takes_as=(parameters.FORM, "application/json"),
        optional=True,
        gives=TokenShape,
        texts=_TEXTS,
        raises=_REFUSALS,
    )
    def post(self) -> Response:
        """Issue a token for the login of the request."""
        return self._answer(parameters.body())

    def _answer(self, values: Mapping[str, Sequence[str]]) -> Response:
        installation = self.installation
        login = access.login(installation)
        asked = _read(values)
        entitlement = permissions.entitlement(
            login,
            now=int(installation.clock()),
            scopes=asked.scopes,
            targets=asked.targets,
            find_terms=installation.services.terms_for,
        )
        token = installation.tokens.issue(login, entitlement, lifetime=asked.lifetime)
        response = _render(token, login, asked.format)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Pragma"] = "no-cache"  # RFC 6749 section 5.1
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


def _read(values: Mapping[str, Sequence[str]]) -> _Parameters:
    if not values:
        return _Parameters(None, (), None, _format(None))
    single = parameters.singles(values, repeatable=_TARGETS)
    grant_type = single.get("grant_type", "client_credentials")
    if grant_type != "client_credentials":
        raise UnsupportedGrantType("The grant_type must be client_credentials.")
    scope = single.get("scope")
    return _Parameters(
        scopes=None if scope is None else permissions.parse_scope(scope),
        targets=tuple(target for name in _TARGETS for target in values.get(name, ()) if target),
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
        return "token" if negotiation.prefers(_JWT) else "json"
    if text not in FORMATS:
        raise InvalidRequest("The format must be one of " + ", ".join(FORMATS) + ".")
    return text
