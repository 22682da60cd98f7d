"""The Flask application: the pipeline that every request passes."""

import logging
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn
from wsgiref.types import WSGIApplication

import flask_restful
from flask import Flask, Request, Response, after_this_request, g, request
from flask.globals import request_ctx
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    NotFound,
    RequestEntityTooLarge,
)
from werkzeug.routing import MapAdapter, Rule
from werkzeug.wrappers import Request as BaseRequest

from keyosk.errors import KeyoskError, RefusedByRule
from keyosk.installation import Installation
from keyosk.web import (
    access_log,
    addresses,
    authorization,
    browsers,
    documentation,
    errors,
    metadata,
    metrics,
    middleware,
)
from keyosk.web.access import ANYONE, Gate
from keyosk.web.access_log import AccessLog, LineWriter
from keyosk.web.middleware import Envelope
from keyosk.web.operator import is_operator
from keyosk.web.responses import nothing
from keyosk.web.routes import ROUTES, TOKEN_PATH

if TYPE_CHECKING:
    from keyosk.traces.spans import Tracing

_log = logging.getLogger(__name__)

#: Bytes; larger bodies are refused unread, except where they stream.
MAX_BODY: Final = 64 * 1024
_STREAMING: Final = frozenset(route.path for route in ROUTES if route.streams)
_OAUTH: Final = frozenset(route.path for route in ROUTES if route.oauth)
_INSTANT: Final = {metrics.PATH, *(route.path for route in ROUTES if route.instant or route.memory)}
_INSTANT_BELOW: Final = tuple(path.partition("<")[0] for path in sorted(_INSTANT) if "<" in path)
_SHORT_LENGTH: Final = 5  # digits: a longer body takes long to read
_MEMORY: Final = frozenset(route.path for route in ROUTES if route.memory)
_READS_LITTLE: Final = frozenset(route.path for route in ROUTES if route.reads_little)
_READS_LITTLE_BELOW: Final = frozenset(
    path.partition("/<")[0] for path in _READS_LITTLE if "<" in path
)
#: The requests, as "METHOD /path", whose bodies the server must not read for the application.
STREAMS: Final = frozenset(
    f"{method} {route.path}"
    for route in ROUTES
    if route.streams
    for method in route.access.keys() & {"POST", "PUT", "PATCH"}
)


class _Api(flask_restful.Api):
    """Flask-RESTful without its own error responses.

    SECURITY: those return ``error.data``, which for a marshmallow error is the raw input, passwords
    included, and only where ``TESTING`` is off.
    """

    def error_router(self, original_handler: Callable[[Exception], Any], e: Exception) -> Any:
        return original_handler(e)

    def unauthorized(self, response: Response) -> Response:
        return response


class _Rule(Rule):
    """A route that is only matched.

    werkzeug would also compile two functions for each that make its URL, which takes nine tenths
    of the time to make the application; ``addresses`` makes all of ours.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        del append_unknown
        return _no_url


def _no_url(*_: object, **__: object) -> NoReturn:
    raise NotImplementedError("addresses makes the URLs")


class LeanRequest(Request):
    """A request that does not ask for the application, and its settings, for each of its limits."""

    max_content_length = MAX_BODY
    max_form_memory_size = MAX_BODY
    max_form_parts = 1000  # as Flask has it

    def close(self) -> None:
        """Close the files of a form, if somebody looked for any."""
        if "files" in self.__dict__:
            super().close()

    def _load_form_data(self) -> None:
        BaseRequest._load_form_data(self)  # not Flask's, which asks for its debug mode


class LeanFlask(Flask):
    """Flask without what it does for others at every request."""

    url_rule_class = _Rule
    request_class = LeanRequest

    def log_exception(self, *_: Any) -> None:
        """Nothing: ``errors`` keeps the log of failures.

        SECURITY: Flask's own has the text of the exception, which may hold a secret.
        """

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself: no view here is a coroutine, and asking costs at every call."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what matches the path of a request, whatever its host.

        Flask reads the Host header three times for it, which no route here depends on (15 us).
        """
        if request is None:
            return None  # there is no SERVER_NAME
        return MapAdapter(
            self.url_map,
            server_name="",
            script_name=request.root_path or "/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
            query_args=request.query_string.decode("latin-1"),
        )

    def preprocess_request(self) -> Any:
        """Call what comes before each request; there are no blueprints to ask for more."""
        for before in self.before_request_funcs[None]:
            response = before()
            if response is not None:
                return response
        return None

    def process_response(self, response: Response) -> Response:
        """Call what comes after a request; there are no blueprints, and no session to save."""
        context: Any = request_ctx._get_current_object()  # type: ignore[attr-defined]
        for after in context._after_request_functions:
            response = after(response)
        for after in reversed(self.after_request_funcs.get(None, ())):
            response = after(response)
        return response

    def do_teardown_request(self, *arguments: Any) -> None:
        """Call the functions that wait for it: only traces have one. No signal has a receiver."""
        if self.teardown_request_funcs:
            super().do_teardown_request(*arguments)

    def do_teardown_appcontext(self, *_: object) -> None:
        """Likewise."""


class NoSessions(SessionInterface):
    """No cookie keeps anything here: one empty session is all requests' (5 us)."""

    _empty: Final = NullSession()

    def open_session(self, *_: object) -> NullSession:
        return self._empty


#: Puts an application before another, for what that has no pages for.
Mount = Callable[[WSGIApplication], WSGIApplication]


def create(
    installation: Installation,
    *,
    write_line: LineWriter | None = None,
    mount: Mount | None = None,
    tracing: "Tracing | None" = None,
) -> Flask:
    """Create the web application of an installation.

    ``write_line``: as ``AccessLog`` takes it. ``mount``: what stands before the API, if anything.
    ``tracing``: traces its requests.
    """
    app = LeanFlask("keyosk", static_folder=None)
    if tracing is not None:
        tracing.instrument(app)  # first of all: a refused request has a span, too
    app.session_interface = NoSessions()
    app.url_map.merge_slashes = False  # its redirects are HTML
    routes = {f"{number} {route.path}": route for number, route in enumerate(ROUTES)}
    gate = Gate(installation, {name: route.access for name, route in routes.items()})
    api = _Api(app)
    for endpoint, route in routes.items():
        api.add_resource(
            route.resource,
            route.path,
            *metadata.aliases(route.path, installation.issuer),
            endpoint=endpoint,
            resource_class_kwargs={"installation": installation},
        )
    addresses.publish_under(app, installation.issuer)
    app.extensions[documentation.EXTENSION] = documentation.Description(
        ROUTES, installation.version
    )
    with app.app_context():
        app.extensions[metadata.EXTENSION] = metadata.Metadata(ROUTES)
    _add_pipeline(app, installation, gate, oauth=_OAUTH)
    app.wsgi_app = Envelope(  # type: ignore[method-assign]  # as Flask documents it
        app.wsgi_app if mount is None else mount(app.wsgi_app),
        installation.trusted_proxies,
        installation.metrics,
        log=AccessLog(write_line, traced=None if tracing is None else tracing.fields),
    )
    if installation.cors_origins:
        public = {name for name, route in routes.items() if {*route.access.values()} == {ANYONE}}
        _add_sharing(app, installation.cors_origins, public)
    return app


def _add_pipeline(
    app: Flask, installation: Installation, gate: Gate, *, oauth: frozenset[str]
) -> None:
    @app.before_request
    def before() -> Response | None:
        # Not through the proxy, which looks the request up for each attribute: this is a hot path.
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        path, environ = asked.path, asked.environ
        length = asked.content_length if "CONTENT_LENGTH" in environ else None
        context: Any = g._get_current_object()
        vars(context).update(
            request_id=environ[access_log.REQUEST_ID],
            address=environ[access_log.ADDRESS],
            oauth_errors=path in oauth,  # by path: a 405 has no endpoint
        )
        middleware.note_route(asked)
        if f"{asked.method} {path}" in STREAMS or is_operator(asked):
            asked.max_content_length = sys.maxsize  # None would be the application's own limit
        elif length is not None and length > MAX_BODY:
            raise RequestEntityTooLarge
        if "\0" in path:
            raise NotFound  # no name has one, and PostgreSQL knows no text that has
        # SECURITY: Werkzeug reads //accounts as /accounts, and a proxy that lets only some paths
        # through does not.
        if environ["PATH_INFO"].startswith("//"):
            raise NotFound
        if asked.routing_exception is not None:
            return None  # Flask raises it next: 404 and 405 come before any login
        if asked.method == "OPTIONS":
            return _options()
        gate.check(asked)
        if asked.method not in ("GET", "HEAD") and "caller" in context:
            after_this_request(seal)
        return None

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        cause = error.original_exception if isinstance(error, InternalServerError) else error
        if is_operator() and not isinstance(cause, KeyoskError | HTTPException | None):
            raise cause  # the command tells of it
        if isinstance(error, RefusedByRule) and "caller" in g and not g.caller.is_operator:
            installation.audit.note_refused_request(
                g.caller, request.path, method=request.method, reason=error.detail
            )
        response = errors.response_to(error)
        if request.path == TOKEN_PATH:
            kind = type(cause) if isinstance(cause, Exception) else Exception
            installation.metrics.token_refused(errors.oauth_code(response.status_code, kind))
        return response

    def seal(response: Response) -> Response:
        # After the response has been sent: nobody waits for the chain.
        response.call_on_close(installation.audit.seal_quietly)
        response.call_on_close(installation.idempotency.forget_quietly)
        return response


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


def is_instant(environ: Mapping[str, Any]) -> bool:
    """Return whether a request needs nothing that can hang, so that a thread is reserved for it."""
    path = environ["PATH_INFO"]
    known = path in _INSTANT or path.startswith(_INSTANT_BELOW)
    return known and "HTTP_AUTHORIZATION" not in environ


def runs_in_loop(environ: Mapping[str, Any], *, reads_files: bool) -> bool:
    """True for a request that rarely waits, so that the server needs no thread for it.

    What is answered from memory, and what reads a few rows where these are in a SQLite file
    (``reads_files``) and no password is shown: handing it to a thread and back costs more than the
    rest of it. Whatever still waits, such as a wrong key that is counted, leaves the loop
    (``delays``).
    """
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    shown = environ.get("HTTP_AUTHORIZATION")
    if path in _MEMORY:
        return shown is None and method in ("GET", "HEAD")
    head, _, name = path.rpartition("/")
    if not reads_files or not (path in _READS_LITTLE or (name and head in _READS_LITTLE_BELOW)):
        return False
    if len(environ.get("CONTENT_LENGTH", "")) >= _SHORT_LENGTH or path in _STREAMING:
        return False
    if shown is None:
        return method in ("GET", "HEAD")
    return method in ("GET", "HEAD", "POST") and authorization.needs_no_hash(shown)


def is_slow(environ: Mapping[str, Any]) -> bool:
    """Whether a request streams, so that the server keeps it out of the others' way from the start.

    ``environ``: as WSGI has it (PEP 3333). One that hashes a password is handed over by itself, see
    ``concurrency.hand_over``.
    """
    return environ["PATH_INFO"] in _STREAMING
