"""Client authentication at OAuth endpoints: by header, or by form body (``client_secret_post``).

RFC 6749 section 2.3.1. One request uses one way (section 2.3), and a secret never stands in a URL.
"""

from collections.abc import Mapping
from typing import Final

from flask import request

from keyosk.credentials import api_key_format, presented, usernames
from keyosk.errors import InvalidRequest
from keyosk.installation import Installation
from keyosk.model import Principal
from keyosk.tokens import refresh_token_format
from keyosk.web import access, authorization, browsers, parameters

SECRET: Final = "client_secret"  # noqa: S105  # the parameter's name
_ASSERTION: Final = "client_assertion"
_ASSERTION_TYPE: Final = "client_assertion_type"
_JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: Unsupported ways to log in, which are refused, so that nobody believes that they are verified.
_NOT_TAKEN: Final = frozenset({"password", _ASSERTION, _ASSERTION_TYPE})

_OF_ASSERTION: Final = frozenset({_ASSERTION, _ASSERTION_TYPE})

_API_KEY: Final = api_key_format.PREFIX.encode()
_REFRESH_TOKEN: Final = refresh_token_format.PREFIX.encode()


def needs_no_hash(body: bytes) -> bool:
    """Return whether a body seems to have an API key or a refresh token, by a quick look."""
    return _API_KEY in body or has_refresh_token(body)


def has_refresh_token(body: bytes) -> bool:
    """Return whether a body seems to have a refresh token, by a quick look."""
    return _REFRESH_TOKEN in body


def login(installation: Installation, params: Mapping[str, str]) -> Principal:
    """Return the login of a request with these parameters.

    Raises ``BadCredentials``, ``Forbidden``, ``InvalidRequest``.
    """
    _check(params)
    if SECRET in params:
        pair = (params["client_id"], params[SECRET])
        return access.by_secret(installation, presented.candidates([pair]))
    principal = access.login(installation)
    client_id = params.get("client_id")
    if client_id is not None and not usernames.is_same(client_id, principal.username):
        raise InvalidRequest("The client_id is not the username of the account that logs in.")
    return principal


def login_if_any(installation: Installation, params: Mapping[str, str]) -> Principal | None:
    """Return the login as ``login`` does, or ``None`` if the request has none."""
    if SECRET in params or authorization.credentials().scheme is not None:
        return login(installation, params)
    _check(params)
    return None


def is_attempted(params: Mapping[str, str]) -> bool:
    """Return whether a request contains credentials, valid or not."""
    return (
        bool({SECRET, _ASSERTION} & params.keys()) or authorization.credentials().scheme is not None
    )


def refuse_any(params: Mapping[str, str]) -> None:
    """Raise ``InvalidRequest`` if a request that logs in by a token has other credentials."""
    if is_attempted(params) or _NOT_TAKEN & params.keys():
        raise InvalidRequest("The token is the login: send no other credential with it.")


def assertion(params: Mapping[str, str]) -> str | None:
    """Return the token that a request logs in with (RFC 7523 section 2.2); ``None`` if none.

    Raises ``InvalidRequest`` if the request logs in another way too.
    """
    if _ASSERTION not in params:
        return None
    if params.get(_ASSERTION_TYPE) != _JWT_BEARER:
        raise InvalidRequest(f"The {_ASSERTION_TYPE} must be {_JWT_BEARER}.")
    rest = {name: value for name, value in params.items() if name not in _OF_ASSERTION}
    refuse_any(rest)
    return params[_ASSERTION]


def _check(params: Mapping[str, str]) -> None:
    if _NOT_TAKEN & params.keys():
        raise InvalidRequest(
            "Log in by HTTP Basic, or by client_id and client_secret in a form body."
        )
    if SECRET not in params:
        return
    if authorization.credentials().scheme is not None:
        raise InvalidRequest(
            "The request has both an Authorization header and a client_secret; send only one."
        )
    if request.mimetype != parameters.FORM or not request.form.get("client_id"):
        raise InvalidRequest(
            f"A client_secret comes with its client_id, in a body of the type {parameters.FORM}."
        )
    # SECURITY: otherwise a page could make the browsers of its visitors guess passwords.
    browsers.check_login()
