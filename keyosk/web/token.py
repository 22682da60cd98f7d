"""POST and GET /auth/token: a credential in, a token out.

This is the hot path of Keyosk: it needs no schema and no write.
"""

from collections.abc import Callable, Mapping
from typing import Final

from flask import Response, g

from keyosk.errors import (
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    UnauthorizedClient,
    UnsupportedGrantType,
)
from keyosk.installation import Installation
from keyosk.permissions import entitlements
from keyosk.times import rfc3339
from keyosk.tokens.issuing import IssuedToken, TokenRequest
from keyosk.web import access, access_log, client_authentication, negotiation, parameters
from keyosk.web.current import current_g, current_request
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import WholeResponse, json_response
from keyosk.web.standard_schemas import FORMATS, TokenRequestSchema, TokenSchema

_JWT: Final = "application/jwt"
_TARGETS: Final = ("audience", "resource")
_TEXTS: Final = {
    _JWT: "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl\n",
    "text/plain": "Authorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2ln\n",
}
_REFUSALS: Final = (
    *(InvalidRequest, InvalidScope, InvalidTarget, InvalidGrant),
    *(UnauthorizedClient, UnsupportedGrantType),
)
_DEFAULT: Final = "client_credentials"
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  # its type
_JWT_TYPE: Final = "urn:ietf:params:oauth:token-type:jwt"
_ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105  # its type
#: RFC 8693 section 3; ours are both.
_TOKEN_TYPES: Final = (_ACCESS_TOKEN, _JWT_TYPE)
_ASSERTION: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class TokenResource(Endpoint):
    """The token endpoint (RFC 6749 section 3.2)."""

    conditional = False  # each response has a new token

    @operation(query=TokenRequestSchema, response=TokenSchema, media_types=_TEXTS, raises=_REFUSALS)
    def get(self) -> Response:
        """Issue a token, with the parameters in the query.

        Clients of container registries send ``service`` and ``scope``, as the token specification
        of distribution says. If ``service`` names a service that has ``registry_version``, the
        token's claim ``access`` lists what the account may do of the request, and the response
        has ``token`` and ``issued_at`` as well.
        """
        values = parameters.query(current_request())
        if "service" in values:
            issued = self._for_registry(values)
            if issued is not None:
                return _for_registry_client(issued)
        return self._response(values)

    def _for_registry(self, values: parameters.Parameters) -> IssuedToken | None:
        """Return a token for the registry that ``service`` names; ``None`` if it is no registry."""
        repeatable = (*_TARGETS, "scope")
        params = parameters.singles(values, repeatable=repeatable)
        installation = self.installation
        registry = installation.services.policy_for(params.get("service", ""))
        if registry is None or registry.registry_version is None:
            return None
        # Their ``client_id`` names the program, such as "docker"; ``account`` repeats the username.
        login = access.login(installation)
        token_request = TokenRequest(lifetime=_lifetime(params.get("lifetime")))
        return installation.token_issuer.for_registry(
            login, registry, values.get("scope", ()), token_request=token_request
        )

    @operation(
        body=TokenRequestSchema,
        body_types=(parameters.FORM, "application/json"),
        optional=True,
        response=TokenSchema,
        media_types=_TEXTS,
        raises=_REFUSALS,
    )
    def post(self) -> Response:
        """Issue a token."""
        return self._response(parameters.body())

    def _response(self, values: parameters.Parameters) -> Response:
        params = parameters.singles(values, repeatable=_TARGETS) if values else {}
        form = _format(params.get("format"))
        issued = _GRANT_TYPES.get(params.get("grant_type", _DEFAULT), _unknown)(
            self.installation, params, _requested(params, values)
        )
        access_log.note(**access.name_of(issued.principal), jti=issued.token.id)
        response = _render(issued, form, exchanged=params.get("grant_type") == _EXCHANGE)
        response.headers["Pragma"] = "no-cache"  # RFC 6749 section 5.1
        return response


# ---- Grant types ---------------------------------------------------------------------------------


def _by_login(
    installation: Installation, params: Mapping[str, str], token_request: TokenRequest
) -> IssuedToken:
    assertion = client_authentication.assertion(params)
    if assertion is not None:
        return _by_token_of(installation, assertion, params=params, token_request=token_request)
    login = client_authentication.login(installation, params)
    return installation.token_issuer.by_login(login, token_request, address=current_g().address)


def _by_assertion(
    installation: Installation, params: Mapping[str, str], token_request: TokenRequest
) -> IssuedToken:
    if "assertion" not in params:
        raise InvalidRequest("The parameter assertion is missing.")
    client_authentication.refuse_any(params)
    return _by_token_of(
        installation, params["assertion"], params=params, token_request=token_request
    )


def _by_token_of(
    installation: Installation,
    assertion: str,
    *,
    params: Mapping[str, str],
    token_request: TokenRequest,
) -> IssuedToken:
    return installation.token_issuer.by_assertion(
        assertion,
        token_request,
        client_id=params.get("client_id"),
        address=g.address,
        request_id=g.request_id,
    )


def _by_refresh_token(
    installation: Installation, params: Mapping[str, str], token_request: TokenRequest
) -> IssuedToken:
    # A login is optional: the token alone proves enough, as it is used once (RFC 9700 4.14.2).
    login = client_authentication.login_if_any(installation, params)
    if "refresh_token" not in params:
        raise InvalidRequest("The parameter refresh_token is missing.")
    issued = installation.token_issuer.by_refresh_token(
        params["refresh_token"],
        token_request,
        by=login,
        client_id=params.get("client_id"),
        address=current_g().address,
    )
    if login is None:
        access.record_use_afterwards(installation, issued.principal)
    return issued


def _by_exchange(
    installation: Installation, params: Mapping[str, str], token_request: TokenRequest
) -> IssuedToken:
    if _is_of_workload(params):
        client_authentication.refuse_any(params)
        return _by_token_of(
            installation, params["subject_token"], params=params, token_request=token_request
        )
    assertion = client_authentication.assertion(params)
    workload = None
    if assertion is not None:
        workload = installation.token_issuer.workload(assertion, client_id=params.get("client_id"))
    login = workload.principal if workload else client_authentication.login(installation, params)
    for name in ("subject_token", "subject_token_type"):
        if name not in params:
            raise InvalidRequest(f"The parameter {name} is missing.")
    if params["subject_token_type"] not in _TOKEN_TYPES:
        raise InvalidRequest("The subject_token_type must be that of an access token.")
    if params.get("requested_token_type", _ACCESS_TOKEN) not in _TOKEN_TYPES:
        raise InvalidRequest("The requested_token_type must be that of an access token.")
    if {"actor_token", "actor_token_type"} & params.keys():
        raise InvalidRequest("The actor is whoever logs in here: an actor_token is not accepted.")
    return installation.token_issuer.by_exchange(
        login,
        params["subject_token"],
        token_request,
        workload=workload,
        address=g.address,
        request_id=g.request_id,
    )


def _is_of_workload(params: Mapping[str, str]) -> bool:
    """Return whether an exchange is the login of a workload: a foreign token without a login.

    With a login, the token in exchange must be one of Keyosk's.
    """
    kind = params.get("subject_token_type")
    alone = not client_authentication.is_attempted(params)
    return "subject_token" in params and (kind == _ID_TOKEN or (kind == _JWT_TYPE and alone))


def _unknown(*_: object) -> IssuedToken:
    raise UnsupportedGrantType(
        "The grant_type must be one of " + ", ".join(_GRANT_TYPES) + ". Log in by HTTP Basic, or "
        "by client_id and client_secret in a form body; no grant_type is needed for that."
    )


_GRANT_TYPES: Final[
    Mapping[str, Callable[[Installation, Mapping[str, str], TokenRequest], IssuedToken]]
] = {
    _DEFAULT: _by_login,
    "refresh_token": _by_refresh_token,
    _EXCHANGE: _by_exchange,
    _ASSERTION: _by_assertion,
}


# ---- Parameters and responses --------------------------------------------------------------------


def _for_registry_client(issued: IssuedToken) -> Response:
    token = issued.token
    access_log.note(**access.name_of(issued.principal), jti=token.id)
    response = json_response(
        {
            "token": token.text,
            "access_token": token.text,
            "token_type": "Bearer",
            "expires_in": token.expires_in,
            "issued_at": rfc3339(token.issued_at),
            "scope": token.scope,
        }
    )
    response.headers["Pragma"] = "no-cache"
    return response


def _render(issued: IssuedToken, form: str, *, exchanged: bool) -> Response:
    token, login = issued.token, issued.principal
    if form == "token":
        return WholeResponse(f"{token.text}\n", content_type=_JWT)
    if form == "header":
        return Response(f"Authorization: Bearer {token.text}\n", mimetype="text/plain")
    body = {
        "access_token": token.text,
        "token_type": "Bearer",
        "expires_in": token.expires_in,
        "scope": token.scope,
    }
    if issued.refresh_token is not None:
        body["refresh_token"] = issued.refresh_token
    if exchanged:
        body["issued_token_type"] = _ACCESS_TOKEN
    if login.successor is not None:  # a newer key exists: the client should change over
        body["api_key_successor"] = login.successor
        if login.expires_at is not None:
            body["api_key_expires_at"] = rfc3339(login.expires_at)
    return json_response(body)


def _requested(params: Mapping[str, str], values: parameters.Parameters) -> TokenRequest:
    if not values:
        return TokenRequest()
    scope = params.get("scope")
    return TokenRequest(
        scopes=None if scope is None else entitlements.parse_scope(scope),
        targets=tuple(target for name in _TARGETS for target in values.get(name, ()) if target),
        lifetime=_lifetime(params.get("lifetime")),
    )


def _lifetime(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) > 0):
        raise InvalidRequest("The lifetime must be a whole number of seconds from 1 to 9999999999.")
    return int(text)


def _format(text: str | None) -> str:
    if text is None:
        return "token" if negotiation.prefers(_JWT) else "json"
    if text not in FORMATS:
        raise InvalidRequest("The format must be one of " + ", ".join(FORMATS) + ".")
    return text
