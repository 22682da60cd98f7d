"""The table that maps errors to HTTP responses, in two formats.

OAuth endpoints use RFC 6749 section 5.2, all others problem details (RFC 9457). An exception that
is not in the table is a defect: it is logged, and the response says nothing about it.
"""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from flask import Response, g
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)

from keyosk import errors, masking
from keyosk.web import authorization
from keyosk.web.bodies import CodedBody, MalformedBody, WrongMediaType
from keyosk.web.current import current_request
from keyosk.web.operator import is_operator
from keyosk.web.responses import json_response

_log = logging.getLogger(__name__)

REALM: Final = 'realm="keyosk"'
BASIC_CHALLENGE: Final = f'Basic {REALM}, charset="UTF-8"'
#: Seconds to wait for something that is unavailable.
RETRY_AFTER: Final = "2"

#: The most specific class of an error decides.
STATUS: Final[Mapping[type[errors.KeyoskError], HTTPStatus]] = {
    errors.Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.InvalidScope: HTTPStatus.BAD_REQUEST,
    errors.InvalidTarget: HTTPStatus.BAD_REQUEST,
    errors.UnsupportedGrantType: HTTPStatus.BAD_REQUEST,
    errors.UnsupportedResponseType: HTTPStatus.BAD_REQUEST,
    errors.InvalidGrant: HTTPStatus.BAD_REQUEST,
    errors.UnauthorizedClient: HTTPStatus.BAD_REQUEST,
    errors.BadCredentials: HTTPStatus.UNAUTHORIZED,
    errors.BadToken: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.InsufficientScope: HTTPStatus.FORBIDDEN,
    errors.RefusedByRule: HTTPStatus.FORBIDDEN,
    errors.ProofRequired: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.InUse: HTTPStatus.CONFLICT,
    errors.Stale: HTTPStatus.PRECONDITION_FAILED,
    errors.Throttled: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DatabaseUnusable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DatabaseDamaged: HTTPStatus.SERVICE_UNAVAILABLE,
}

#: The error codes of RFC 6749 section 5.2 and RFC 8707 section 2; others by status.
OAUTH_CODES: Final[Mapping[type[Exception], str]] = {
    errors.BadCredentials: "invalid_client",
    errors.InvalidScope: "invalid_scope",
    errors.InvalidTarget: "invalid_target",
    errors.UnsupportedGrantType: "unsupported_grant_type",
    errors.UnsupportedResponseType: "unsupported_response_type",
    errors.InvalidGrant: "invalid_grant",
    errors.UnauthorizedClient: "unauthorized_client",
}
OAUTH_STATUS_CODES: Final = {
    429: "temporarily_unavailable",
    503: "temporarily_unavailable",
    500: "server_error",
}


def response_to(error: Exception) -> Response:
    """Return the response to an exception that ended a request."""
    status = _status(error)
    if isinstance(error, errors.KeyoskError) and status is not None:
        response = _render(status, error.code, _detail(error), faults=_faults(error), error=error)
        for challenge in _challenges(error):
            response.headers.add("WWW-Authenticate", challenge)
        if isinstance(error, errors.Unavailable):
            response.headers["Retry-After"] = RETRY_AFTER
        if isinstance(error, errors.Throttled):
            response.headers["Retry-After"] = str(error.retry_after)
        return response
    original = error.original_exception if isinstance(error, InternalServerError) else None
    if isinstance(original, Exception):
        return response_to(original)  # a failure after the resource, or in here, which Flask wraps
    if isinstance(error, HTTPException) and error.code is not None:
        status = HTTPStatus(error.code)
        code = _CODES.get(status, status.name.lower())
        is_described = isinstance(error, MalformedBody | CodedBody | WrongMediaType)
        detail = error.description if is_described else None
        if isinstance(error, NotFound):
            detail = _meant(current_request().path)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            detail = f"{_NO_METHOD}; it supports {', '.join(sorted(error.valid_methods))}."
        detail = detail or SENTENCES.get(code, status.description)
        response = _render(status, code, detail, faults=[], error=error)
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers[name] = value
        if isinstance(error, CodedBody):
            response.headers["Accept-Encoding"] = "identity"  # RFC 9110 section 15.5.16
        if isinstance(error, RequestEntityTooLarge):
            response.headers["Connection"] = "close"  # the rest of the body stays unread
        return response
    # SECURITY: the text of the exception may hold a secret; its type and place do not.
    _log.error("a request failed: %s", _place(error), extra={"request_id": g.request_id})
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _render(status, "internal_error", SENTENCES["internal_error"], faults=[], error=error)


#: The same code as the server's, which refuses most of them.
_CODES: Final = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large"}
#: The characters of a description (RFC 6749 section 5.2, RFC 6750 section 3).
_NOT_IN_DESCRIPTIONS: Final = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
_NO_METHOD: Final = "This endpoint does not support this method"
#: The sentences for failures without a ``KeyoskError``, by code.
SENTENCES: Final[Mapping[str, str]] = {
    "bad_request": "The request is malformed.",
    "not_found": "This path does not exist. None ends in a slash; /openapi.json lists them all.",
    "method_not_allowed": f"{_NO_METHOD}; see the Allow header.",
    "body_too_large": "The body is larger than this endpoint accepts.",
    "request_line_too_long": "The URL is longer than allowed.",
    "unsupported_media_type": "The body must be JSON (Content-Type: application/json).",
    "internal_error": "An internal error occurred. The log has details under this request_id.",
}

#: All codes of problems. A status without a code of its own has its name as the code.
CODES: Final = tuple(sorted({kind.code for kind in STATUS} | SENTENCES.keys()))
#: Headers for /openapi.json.
HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "Retry-After": {
        "description": "The seconds to wait before the next request.",
        "schema": {"type": "integer"},
    },
    "WWW-Authenticate": {
        "description": "How to log in (RFC 7617), or what is wrong with the token (RFC 6750)."
    },
}

#: Paths of other servers, by their last part, and what is here in their place.
MEANT: Final[Mapping[str, str]] = {
    "token": "/auth/token",
    "tokens": "/auth/token",
    "login": "/auth/token",
    "introspect": "/auth/introspect",
    "introspection": "/auth/introspect",
    "revoke": "/auth/revoke",
    "revocation": "/auth/revoke",
    "revocations": "/auth/revocations",
    "jwks": "/auth/jwks",
    "jwks.json": "/auth/jwks",
    "certs": "/auth/jwks",
    "keys": "/auth/jwks",
    "authorize": "/auth/authorize",
    "oauth-authorization-server": "/.well-known/oauth-authorization-server",
    "openid-configuration": "/.well-known/openid-configuration",
    "swagger.json": "/openapi.json",
    "health": "/health/ready",
    "healthz": "/health/ready",
    "ready": "/health/ready",
    "readyz": "/health/ready",
    "live": "/health/live",
    "livez": "/health/live",
    "ping": "/health/live",
    "user": "/accounts",
    "users": "/accounts",
    "userinfo": "/accounts/me",
    "clients": "/accounts",
    "groups": "/roles",
}
_NO_METRICS: Final = "The metrics have an address of their own (KEYOSK_METRICS_BIND)."


def _meant(path: str) -> str | None:
    """Return the detail for a path that does not exist, if another one is likely meant."""
    last = path.rstrip("/").rpartition("/")[2].lower()
    if last == "metrics":
        return _NO_METRICS
    meant = MEANT.get(last)
    return meant and f"This path does not exist. You may mean {meant}."


def _status(error: Exception) -> HTTPStatus | None:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


def _render(
    status: HTTPStatus, code: str, detail: str, *, faults: list[dict[str, str]], error: Exception
) -> Response:
    # SECURITY: a sentence may quote the request, which may have a secret in the wrong place.
    detail = masking.mask(detail)
    if g.get("oauth_errors", False):
        body: dict[str, Any] = {
            "error": oauth_code(status.value, type(error)),
            "error_description": description(detail),
        }
        response = json_response(body, status)
    else:
        body = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "detail": detail,
            "code": code,
            "request_id": g.request_id,
        }
        if faults:
            body["errors"] = faults
        response = json_response(body, status)
        response.mimetype = "application/problem+json"
    return response


def _detail(error: errors.KeyoskError) -> str:
    """Return the sentence of an error, with names for callers who may see them.

    An operator sees everything. A caller who may see accounts learns from whom a change would take
    rights away.
    """
    if isinstance(error, errors.InUse):
        caller = g.get("caller")
        sees = is_operator(current_request()) or (
            caller is not None and caller.has("keyosk:accounts:read")
        )
        return error.named if sees else error.detail
    return error.explanation if is_operator(current_request()) else error.detail


def oauth_code(status: int, kind: type[Exception]) -> str:
    """Return the OAuth error code for an error with this status."""
    for ancestor in kind.__mro__:
        if ancestor in OAUTH_CODES:
            return OAUTH_CODES[ancestor]
    return OAUTH_STATUS_CODES.get(status, "invalid_request")


def description(sentence: str) -> str:
    """Return a sentence in the characters that an ``error_description`` may have.

    It may quote the name of a parameter of the request.
    """
    return _NOT_IN_DESCRIPTIONS.sub("?", sentence.replace('"', "'"))


def _faults(error: errors.KeyoskError) -> list[dict[str, str]]:
    if isinstance(error, errors.Invalid):
        return [
            {"field": masking.mask(fault.field), "message": masking.mask(fault.message)}
            for fault in error.faults
        ]
    if isinstance(error, errors.Conflict):
        return [{"field": error.field, "message": masking.mask(error.detail)}]
    return []


def _challenges(error: errors.KeyoskError) -> list[str]:
    """Return the ``WWW-Authenticate`` values (RFC 7617 section 2, RFC 6750 section 3)."""
    if isinstance(error, errors.BadToken):
        message = description(masking.mask(error.detail))
        return [f'Bearer {REALM}, error="invalid_token", error_description="{message}"']
    if isinstance(error, errors.BadCredentials):
        bearer = [] if g.get("oauth_errors", False) else [f"Bearer {REALM}"]
        return [BASIC_CHALLENGE, *bearer]
    if isinstance(error, errors.InsufficientScope) and _is_bearer():
        return [f'Bearer {REALM}, error="insufficient_scope", scope="{error.scope}"']
    return []


def _is_bearer() -> bool:
    return authorization.credentials().scheme == "bearer"


def _place(error: Exception) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"
