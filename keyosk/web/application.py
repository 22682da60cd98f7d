"""The Flask application: the pipeline that every request passes."""

import logging
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication

import flask_restful
from flask import Flask, Response, after_this_request, g, request
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from keyosk import api_key_form
from keyosk.errors import BadCredentials, RefusedByRule
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.web import basic, browsers, documentation, errors, forward, metadata
from keyosk.web.access import ANYONE, Gate
from keyosk.web.answers import nothing
from keyosk.web.routes import ROUTES
from keyosk.web.source import Network, address_of

#: Bytes; larger bodies are refused unread, except where they stream.
MAX_BODY: Final = 64 * 1024
_STREAMING: Final = frozenset(route.path for route in ROUTES if route.streams)
#: The requests, as "METHOD /path", whose bodies the server must not read for the application.
STREAMS: Final = frozenset(
    f"{method} {route.path}"
    for route in ROUTES
    if route.streams
    for method in route.access.keys() & {"POST", "PUT", "PATCH"}
)

_REQUEST_ID: Final = "keyosk.request_id"
_ADDRESS: Final = "keyosk.address"
_METHOD: Final = "keyosk.method"  # as it was sent
_log = logging.getLogger("keyosk.access")
_POLICY: Final = "Content-Security-Policy"
#: What every answer has, those of the server itself included.
SECURITY_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    (_POLICY, "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Strict-Transport-Security", "max-age=31536000"),
)


class _Api(flask_restful.Api):
    """Flask-RESTful without its own error answers.

    SECURITY: those return ``error.data``, which for a marshmallow error is the raw input, passwords
    included, and only where ``TESTING`` is off.
    """

    def error_router(self, original_handler: Callable[[Exception], Any], e: Exception) -> Any:
        return original_handler(e)

    def unauthorized(self, response: Response) -> Response:
        return response


class _App(Flask):
    """Flask without what it does for others at every request."""

    def log_exception(self, *_: Any) -> None:
        """Nothing: ``errors`` keeps the log of failures.

        SECURITY: Flask's own has the text of the exception, which may hold a secret.
        """

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself: no view here is a coroutine, and asking costs at every call."""
        return func


class _Envelope:
    """What surrounds the application: a request id, the headers of every answer, a log line."""

    def __init__(self, application: WSGIApplication, trusted: Sequence[Network]) -> None:
        """``trusted``: the proxies whose word on the client's address counts."""
        self._application = application
        self._trusted = trusted

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        request_id = environ[_REQUEST_ID] = new_id()
        environ[_ADDRESS] = address_of(environ, self._trusted)
        environ[_METHOD] = environ["REQUEST_METHOD"]
        forward.prepare(environ)

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            if _log.isEnabledFor(logging.INFO):
                _log.info("request", extra=_entry(environ, status, started))
            all_headers = [*headers, *SECURITY_HEADERS, ("X-Request-Id", request_id)]
            if documentation.CONTENT_POLICY in environ:
                policy = environ[documentation.CONTENT_POLICY]
                all_headers = [(name, policy if name == _POLICY else v) for name, v in all_headers]
            return start_response(status, all_headers, exc_info)

        return self._application(environ, start)


def create(installation: Installation) -> Flask:
    """The web application of an installation."""
    app = _App("keyosk", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY, MAX_FORM_MEMORY_SIZE=MAX_BODY)
    app.url_map.merge_slashes = False  # its redirects are HTML
    routes = {f"{number} {route.path}": route for number, route in enumerate(ROUTES)}
    gate = Gate(installation, {name: route.access for name, route in routes.items()})
    api = _Api(app)
    for endpoint, route in routes.items():
        api.add_resource(
            route.resource,
            route.path,
            endpoint=endpoint,
            resource_class_kwargs={"installation": installation},
        )
    app.extensions[documentation.EXTENSION] = documentation.Description(ROUTES, installation.issuer)
    app.extensions[metadata.EXTENSION] = metadata.Metadata(ROUTES, installation.issuer)
    oauth = frozenset(route.path for route in ROUTES if route.oauth)
    _add_pipeline(app, installation, gate, oauth)
    if installation.cors_origins:
        public = {name for name, route in routes.items() if {*route.access.values()} == {ANYONE}}
        _add_sharing(app, installation.cors_origins, public)
    return app


def _add_pipeline(
    app: Flask, installation: Installation, gate: Gate, oauth: frozenset[str]
) -> None:
    @app.before_request
    def before() -> Response | None:
        g.request_id = request.environ[_REQUEST_ID]
        g.address = request.environ[_ADDRESS]
        g.oauth_errors = request.path in oauth  # by path: a 405 has no endpoint
        if f"{request.method} {request.path}" in STREAMS:
            request.max_content_length = sys.maxsize  # None would be the application's own limit
        elif request.content_length is not None and request.content_length > MAX_BODY:
            raise RequestEntityTooLarge
        if "\0" in request.path:
            raise NotFound  # no name has one, and PostgreSQL knows no text that has
        if request.routing_exception is not None:
            return None  # Flask raises it next: 404 and 405 come before any login
        if request.method == "OPTIONS":
            return _options()
        gate.check()
        if "caller" in g and request.method not in ("GET", "HEAD"):
            after_this_request(seal)
        return None

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        if isinstance(error, RefusedByRule) and "caller" in g:
            with installation.database.transaction():
                installation.audit.record(
                    g.caller,
                    "rule.refused",
                    request.path,
                    outcome="refused",
                    after={"method": request.method, "reason": error.detail},
                )
        return errors.answer(error)

    def seal(response: Response) -> Response:
        # After the answer has been sent: nobody waits for the chain.
        response.call_on_close(installation.audit.seal_quietly)
        response.call_on_close(installation.idempotency.forget_quietly)
        return response

    app.wsgi_app = _Envelope(  # type: ignore[method-assign]  # as Flask documents it
        app.wsgi_app, installation.trusted_proxies
    )


def _add_sharing(app: Flask, origins: Collection[str], public: Collection[str]) -> None:
    """``public``: the endpoints that need no login whatever the method."""

    @app.after_request
    def shared(response: Response) -> Response:
        browsers.share(response, origins, is_public=request.endpoint in public)
        return response


def _options() -> Response:
    if request.url_rule is None:
        raise NotFound
    methods = sorted(request.url_rule.methods or ())
    response = nothing()
    response.headers["Allow"] = ", ".join(methods)
    return response


def _entry(environ: Mapping[str, Any], status: str, started: float) -> dict[str, Any]:
    """What the log says of a request: never its query, its headers or its body."""
    return {
        "method": environ[_METHOD],
        # WSGI gives the bytes of the path as Latin-1 (PEP 3333).
        "path": environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
        "status": int(status[:3]),
        "milliseconds": round((time.perf_counter() - started) * 1000, 2),
        "request_id": environ[_REQUEST_ID],
        "address": environ[_ADDRESS],
    }


def is_slow(environ: Mapping[str, Any]) -> bool:
    """Whether a request takes long, so that the server keeps it out of the others' way.

    It streams, or it will hash a password: one that logs in or one that is set. ``environ``: as
    WSGI has it (PEP 3333). Decides by what the header says, before any look-up.
    """
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if path in _STREAMING or (method, path) == ("POST", "/accounts"):
        return True
    if method == "PUT" and path.endswith("/password"):
        return True
    header = environ.get("HTTP_AUTHORIZATION", "")
    if header[:6].lower() != "basic ":
        return False
    try:
        pairs = basic.candidates(header)
        return not all(api_key_form.is_well_formed(secret) for _, secret in pairs)
    except BadCredentials:
        return False
