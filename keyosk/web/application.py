"""The Flask application: the pipeline that every request passes."""

import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn
from wsgiref.types import WSGIApplication

import flask_restful
from flask import Flask, Request, Response, after_this_request, g
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
    client_authentication,
    documentation,
    errors,
    forward,
    metadata,
    metrics,
    middleware,
)
from keyosk.web.access import ANYONE, Gate
from keyosk.web.access_log import AccessLog, LineWriter
from keyosk.web.current import current_g, current_request
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
_INSTANT: Final = re.compile(
    "|".join(
        re.sub(r"<\w+>", "[^/]+", re.escape(path))
        for path in (metrics.PATH, *(r.path for r in ROUTES if r.instant or r.memory))
    )
)
_SHORT_LENGTH: Final = 5  # digits: a longer body takes long to read
_MEMORY: Final = frozenset(route.path for route in ROUTES if route.memory)
_READS_LITTLE: Final = frozenset(route.path for route in ROUTES if route.reads_little)
_READS_LITTLE_BELOW: Final = frozenset(
    path.partition("/<")[0] for path in _READS_LITTLE if "<" in path
)
#: The requests, as "METHOD /path", whose bodies the application reads while they arrive.
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

    werkzeug would also compile two functions for each rule to build its URL, which takes nine
    tenths of the time for creating the application. ``addresses`` builds all URLs instead.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        del append_unknown
        return _no_url


def _no_url(*_: object, **__: object) -> NoReturn:
    raise NotImplementedError("addresses makes the URLs")


class LeanRequest(Request):
    """A request whose limits are constants, so that it need not look up the application."""

    max_content_length = MAX_BODY
    max_form_memory_size = MAX_BODY
    max_form_parts = 1000  # Flask's default

    def close(self) -> None:
        """Close the files of a form, if the form was parsed."""
        if "files" in self.__dict__:
            super().close()

    def _load_form_data(self) -> None:
        BaseRequest._load_form_data(self)  # werkzeug's: Flask's looks up the debug mode


class LeanFlask(Flask):
    """Flask without features that Keyosk does not use, each of which costs time per request."""

    url_rule_class = _Rule
    request_class = LeanRequest

    def log_exception(self, *_: Any) -> None:
        """Do nothing, because ``errors`` logs failures.

        SECURITY: Flask logs the text of the exception, which may hold a secret.
        """

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function itself, because no view is a coroutine."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return an adapter that ignores the host.

        Flask reads the Host header three times (15 us), but no route depends on it.
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

    def dispatch_request(self) -> Any:
        """Call the view; ``OPTIONS`` was answered before."""
        request = current_request()
        if request.routing_exception is not None:
            self.raise_routing_exception(request)
        return self.view_functions[request.endpoint or ""](**request.view_args or {})

    def preprocess_request(self) -> Any:
        """Call the functions before a request; there are no blueprints with more of them."""
        for before in self.before_request_funcs[None]:
            response = before()
            if response is not None:
                return response
        return None

    def process_response(self, response: Response) -> Response:
        """Call the functions after a request; there are no blueprints and no session."""
        context: Any = request_ctx._get_current_object()  # type: ignore[attr-defined]
        for after in context._after_request_functions:
            response = after(response)
        for after in reversed(self.after_request_funcs.get(None, ())):
            response = after(response)
        return response

    def do_teardown_request(self, *arguments: Any) -> None:
        """Call the teardown functions (only traces have one); no signal has a receiver."""
        if self.teardown_request_funcs:
            super().do_teardown_request(*arguments)

    def do_teardown_appcontext(self, *_: object) -> None:
        """Call the teardown functions of the context; no signal has a receiver."""


class NoSessions(SessionInterface):
    """Without cookies: all requests share one empty session, which saves 5 us."""

    _empty: Final = NullSession()

    def open_session(self, *_: object) -> NullSession:
        return self._empty


#: Wraps the API in an application that serves further paths.
Mount = Callable[[WSGIApplication], WSGIApplication]


def create(
    installation: Installation,
    *,
    write_line: LineWriter | None = None,
    mount: Mount | None = None,
    tracing: "Tracing | None" = None,
) -> Flask:
    """Create the web application of an installation.

    ``write_line``: as for ``AccessLog``. ``mount``: adds further paths, such as the console.
    ``tracing``: traces its requests.
    """
    app = LeanFlask("keyosk", static_folder=None)
    if tracing is not None:
        tracing.instrument(app)  # first, so that a refused request has a span, too
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
    _add_error_handler(app, installation)
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
        request = current_request()
        path, environ = request.path, request.environ
        context = current_g()
        vars(context).update(
            request_id=environ[access_log.REQUEST_ID],
            address=environ[access_log.ADDRESS],
            oauth_errors=path in oauth,  # by path, because a 405 has no endpoint
        )
        middleware.note_route(request)
        if f"{request.method} {path}" in STREAMS or is_operator(request):
            request.max_content_length = sys.maxsize  # None would mean the limit of the application
        elif (
            len(environ.get("CONTENT_LENGTH", "")) >= _SHORT_LENGTH
            and (request.content_length or 0) > MAX_BODY
        ):
            raise RequestEntityTooLarge
        if "\0" in path:
            raise NotFound  # no name has NUL, and PostgreSQL has no text with it
        # SECURITY: Werkzeug reads //accounts as /accounts; a proxy that allows only some paths does
        # not.
        if environ["PATH_INFO"].startswith("//"):
            raise NotFound
        if request.routing_exception is not None:
            return None  # Flask raises it next: 404 and 405 come before any login
        if request.method == "OPTIONS":
            return _options(request)
        gate.check(request)
        if request.method not in ("GET", "HEAD") and "caller" in context:
            after_this_request(seal)
        return None

    def seal(response: Response) -> Response:
        # After the response was sent, so that nobody waits for the chain.
        response.call_on_close(installation.audit.seal_quietly)
        response.call_on_close(installation.idempotency.forget_quietly)
        return response


def _add_error_handler(app: Flask, installation: Installation) -> None:
    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        cause = error.original_exception if isinstance(error, InternalServerError) else error
        request = current_request()
        if is_operator(request) and not isinstance(cause, KeyoskError | HTTPException | None):
            raise cause  # the command reports it
        if isinstance(error, RefusedByRule) and "caller" in g and not g.caller.is_operator:
            installation.audit.note_refused_request(
                g.caller, request.path, method=request.method, reason=error.detail
            )
        response = errors.response_to(error)
        if request.path == TOKEN_PATH:
            kind = type(cause) if isinstance(cause, Exception) else Exception
            installation.metrics.token_refused(errors.oauth_code(response.status_code, kind))
        return response


def _add_sharing(app: Flask, origins: Collection[str], public: Collection[str]) -> None:
    """``public``: the endpoints that need no login for any method."""

    @app.after_request
    def shared(response: Response) -> Response:
        # A proxy may send it on in the name of another service, which scripts may not read.
        current = current_request()
        if forward.FOR_PROXY not in current.environ:
            browsers.share(response, origins, is_public=current.endpoint in public)
        return response


def _options(request: Request) -> Response:
    if request.url_rule is None:
        raise NotFound
    methods = sorted(request.url_rule.methods or ())
    response = nothing()
    response.headers["Allow"] = ", ".join(methods)
    return response


def is_instant(environ: Mapping[str, Any]) -> bool:
    """Return whether a request cannot hang, so that it may use the reserved thread."""
    return _INSTANT.fullmatch(environ["PATH_INFO"]) is not None


def runs_in_loop(
    environ: Mapping[str, Any], body: bytes, *, reads_files: bool, reads: Callable[[], bool]
) -> bool:
    """Return whether a request rarely waits, so that the event loop handles it without a thread.

    These are requests that are answered from memory, and those without a password that read a few
    rows, or refresh a token, if ``reads()`` says that this holds up nothing else: moving them to a
    thread and back costs more than the rest. If one has to wait after all, it leaves the loop
    (``delays``). ``reads_files``: the rows are in a SQLite file. Elsewhere those without a login
    wait for each other's question to the database, in threads; so do those for the key set,
    whatever they carry, because the loop would wait for a database that hangs.
    """
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    authorization_header = environ.get("HTTP_AUTHORIZATION")
    if path in _MEMORY:
        return method in ("GET", "HEAD")
    head, _, name = path.rpartition("/")
    if not (path in _READS_LITTLE or (name and head in _READS_LITTLE_BELOW)):
        return False
    if len(environ.get("CONTENT_LENGTH", "")) >= _SHORT_LENGTH or path in _STREAMING:
        return False
    if method not in ("GET", "HEAD", "POST"):
        return False
    if is_instant(environ) or (authorization_header is None and method != "POST"):
        return reads_files and method != "POST"
    needs_no_hash = (
        client_authentication.needs_no_hash(body)
        if authorization_header is None
        else authorization.needs_no_hash(authorization_header)
    )
    return needs_no_hash and reads()


def may_write(body: bytes) -> bool:
    """Return whether a request of ``runs_in_loop`` may write: it seems to refresh a token."""
    return client_authentication.has_refresh_token(body)


def is_slow(environ: Mapping[str, Any]) -> bool:
    """Return whether a request streams, so that it uses a thread for slow requests from the start.

    ``environ``: that of WSGI (PEP 3333). A request that hashes a password moves to such a thread by
    itself, see ``concurrency.hand_over``.
    """
    return environ["PATH_INFO"] in _STREAMING
