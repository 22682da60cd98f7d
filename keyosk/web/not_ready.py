"""Responses while Keyosk is alive but not ready.

It is not ready before its database is available, after a newer version has upgraded the database,
and while it is about to stop.
"""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

from werkzeug.wrappers import Response

from keyosk.errors import Unavailable
from keyosk.ids import new_id
from keyosk.web.errors import OAUTH_STATUS_CODES, RETRY_AFTER
from keyosk.web.middleware import SECURITY_HEADERS

_LIVE, _READY = "/health/live", "/health/ready"


class Starting:
    """Wraps an application, and refuses requests while that is not ready."""

    def __init__(self) -> None:
        self._application: WSGIApplication | None = None
        self._is_leaving = False
        self._why = "Keyosk is waiting for its database."
        self._reads_in_loop: Callable[[], bool] | None = None

    def begin(self, application: WSGIApplication, *, reads_in_loop: Callable[[], bool]) -> None:
        """Pass all further requests to this application."""
        self._application, self._reads_in_loop = application, reads_in_loop

    def reads_in_loop(self) -> bool:
        """Return whether the event loop can read the database without waiting."""
        return self._reads_in_loop is not None and self._reads_in_loop()

    def has_begun(self) -> bool:
        """Return whether requests are passed to the application."""
        return self._application is not None

    @property
    def is_serving(self) -> bool:
        """Whether requests are served, and Keyosk is not about to stop."""
        return self._application is not None and not self._is_leaving

    def refuse(self, why: str) -> None:
        """Pass no further requests to the application, and say why."""
        self._why, self._application = why, None

    def leave(self) -> None:
        """Report that it is not ready, but still serve requests."""
        self._is_leaving = True
        application = self._application
        if application is None:
            return

        def leaving(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] != _READY:
                return application(environ, start_response)
            return _sent(_unavailable("Keyosk is about to stop."), environ, start_response)

        self._application = leaving

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        application = self._application
        if application is not None:
            return application(environ, start_response)
        if environ["PATH_INFO"] == _LIVE:
            return _sent(_live(), environ, start_response)
        return _sent(_unavailable(self._why), environ, start_response)


def _sent(
    response: Response, environ: dict[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    response.headers["Cache-Control"] = "no-store"
    response.headers.extend(SECURITY_HEADERS)
    return response(environ, start_response)


def _live() -> Response:
    return Response('{"status":"ok"}', mimetype="application/json")


def _unavailable(detail: str) -> Response:
    """Return a problem (RFC 9457) that also has the members of an OAuth error."""
    status, request_id = HTTPStatus.SERVICE_UNAVAILABLE, new_id()
    body = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "code": Unavailable.code,
        "request_id": request_id,
        "error": OAUTH_STATUS_CODES[status],
        "error_description": detail,
    }
    response = Response(json.dumps(body), status, mimetype="application/problem+json")
    response.headers["Retry-After"] = RETRY_AFTER
    response.headers["X-Request-Id"] = request_id
    return response
