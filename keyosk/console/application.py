"""The Flask application of the console: the pipeline that every page passes."""

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from wsgiref.types import StartResponse, WSGIApplication

from flask import Flask, Response, g, request
from jinja2 import StrictUndefined
from werkzeug.exceptions import MethodNotAllowed, NotFound

from keyosk.console import (
    accounts,
    ages,
    api_keys,
    attack,
    audit,
    browser,
    bulk,
    catalog,
    confirmation,
    correction,
    explain,
    issuers,
    least_privilege,
    matrix,
    overview,
    second_factors,
    sessions,
    settings,
    signing_keys,
)
from keyosk.console.api import Api, Refused
from keyosk.console.logins import Logins
from keyosk.console.pages import Page, Visit, new_idempotency_key, notice, redirect_to, render, root
from keyosk.errors import BadCredentials
from keyosk.installation import Installation
from keyosk.permissions import entitlements
from keyosk.times import rfc3339
from keyosk.web import access, access_log, documentation, errors, middleware, preconditions
from keyosk.web.application import LeanFlask, Mount, NoSessions
from keyosk.web.responses import nothing, public_response

# SECURITY: pages load only from this origin and have no inline scripts, no other site may frame
# them, and forms lead only here.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
#: With the policy no-referrer, browsers send ``Origin: null`` with forms.
_OWN_HEADERS: Final = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin"}
_STATIC: Final = Path(__file__).parent / "static"
_FILES: Final = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "passkeys.js": "text/javascript",
    "htmx.min.js": "text/javascript",
}
#: The navigation: path, name and required scope.
_NAVIGATION: Final = (
    ("/console", "Overview", None),
    ("/console/accounts", "Accounts", "keyosk:accounts:read"),
    ("/console/api-keys", "API keys", "keyosk:accounts:read"),
    ("/console/services", "Services", "keyosk:services:read"),
    ("/console/roles", "Roles", "keyosk:services:read"),
    ("/console/issuers", "Issuers", "keyosk:services:read"),
    ("/console/explain", "Explain", None),
    ("/console/least-privilege", "Least privilege", "keyosk:accounts:read"),
    ("/console/signing-keys", "Signing keys", "keyosk:keys:read"),
    ("/console/sessions", "Sessions", "keyosk:accounts:read"),
    ("/console/revocations", "Revocations", None),
    ("/console/audit", "Audit", "keyosk:audit:read"),
    ("/console/attack", "Under attack", "keyosk:audit:read"),
    ("/console/settings", "Settings", "keyosk:admin"),
)


def mount(installation: Installation) -> Mount:
    """Return a function that wraps the API in the console."""
    return partial(_wrap, installation)


def _wrap(installation: Installation, api: WSGIApplication) -> WSGIApplication:
    @cache  # created for the first page, because commands only call the API
    def pages() -> Flask:
        return create(installation, api)

    def application(environ: dict[str, Any], start_response: StartResponse) -> Any:
        path: str = environ["PATH_INFO"]
        is_console = path in ("/console", "/me") or path.startswith(("/console/", "/me/"))
        return (pages() if is_console else api)(environ, start_response)

    return application


def is_slow(environ: Mapping[str, Any]) -> bool:
    """Return whether a request streams, as ``web.application.is_slow`` does for the API."""
    path: str = environ["PATH_INFO"]
    return path == audit.EXPORT


def create(installation: Installation, api: WSGIApplication) -> Flask:
    """Create the application. ``api``: the REST API that it calls."""
    app = LeanFlask("keyosk.console", static_folder=None)
    app.session_interface = NoSessions()
    app.url_map.merge_slashes = False
    _set_up_templates(app, installation)
    pages = _pages(installation)
    for number, page in enumerate(pages):
        app.add_url_rule(
            page.path,
            endpoint=str(number),
            view_func=page.view if page.is_open else partial(_with_visit, page.view),
            methods=[page.method],
            provide_automatic_options=False,
        )
    _add_pipeline(app, installation, api, pages=pages)
    return app


def _pages(installation: Installation) -> tuple[Page, ...]:
    return (
        *Logins(installation).pages(),
        Page("GET", "/console/static/<file>", _static, is_open=True),
        *overview.PAGES,
        *accounts.PAGES,
        *bulk.PAGES,
        *api_keys.PAGES,
        *catalog.PAGES,
        *issuers.PAGES,
        *matrix.PAGES,
        *explain.PAGES,
        *least_privilege.PAGES,
        *signing_keys.PAGES,
        *audit.PAGES,
        *attack.PAGES,
        *second_factors.PAGES,
        *confirmation.PAGES,
        *sessions.PAGES,
        *settings.PAGES,
    )


def _set_up_templates(app: Flask, installation: Installation) -> None:
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters["path"] = partial(quote, safe="")
    app.jinja_env.filters["when"] = _when
    app.jinja_env.filters["left"] = lambda moment: ages.left(moment, installation.clock())
    app.jinja_env.filters["age"] = lambda moment: ages.age(moment, installation.clock())
    app.jinja_env.filters["moment"] = lambda seconds: _when(rfc3339(seconds))

    @app.context_processor
    def shared() -> dict[str, Any]:
        return {
            "root": root(),
            "visit": g.visit,
            "done": notice(),
            "issuer": installation.issuer,
            "csrf": browser.form_token(g.visit.secret) if g.visit else "",
            "once": new_idempotency_key,
            "navigation": [
                (path, name)
                for path, name, scope in _NAVIGATION
                if g.visit and not g.visit.needs_factor and (scope is None or g.visit.can(scope))
            ],
        }


def _add_pipeline(
    app: Flask, installation: Installation, api: WSGIApplication, *, pages: Sequence[Page]
) -> None:
    open_pages = frozenset(str(number) for number, page in enumerate(pages) if page.is_open)
    enrolment = frozenset(str(number) for number, page in enumerate(pages) if page.for_enrolment)
    prefix = urlsplit(installation.issuer).path.rstrip("/")

    @app.before_request
    def before() -> Response | None:
        g.root = prefix
        g.request_id = request.environ[access_log.REQUEST_ID]
        g.address = request.environ[access_log.ADDRESS]
        g.visit = None
        request.environ[documentation.OWN_HEADERS] = _OWN_HEADERS
        middleware.note_route(request)
        if "\0" in request.path:
            raise NotFound
        if request.routing_exception is not None:
            return _options(request.routing_exception)
        browser.check_origin(request, installation.issuer)
        if request.endpoint in open_pages:
            return None
        # SECURITY: every other page needs a session, and every change its token.
        response = _open_session(installation, api)
        if response is None and g.visit.needs_factor and request.endpoint not in enrolment:
            return redirect_to(second_factors.PLACE)
        return response

    @app.after_request
    def after(response: Response) -> Response:
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.vary.add("Cookie")
        return response

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        return _error_response(error)


def _open_session(installation: Installation, api: WSGIApplication) -> Response | None:
    """Find the session of the request. Returns a redirect to the login if there is none."""
    cookies = browser.cookies_of(request, installation.issuer)
    secret = request.cookies.get(cookies.session) if cookies else None
    if not secret:
        return _redirect_to_login()
    try:
        session, principal = installation.console_sessions.resume(secret)
    except BadCredentials:
        return _redirect_to_login()
    if request.method not in ("GET", "HEAD"):
        browser.check_token(request, browser.form_token(secret))
    access_log.note(**access.name_of(principal))
    scopes = entitlements.keyosk_scopes(principal, int(installation.clock()))
    is_needed = installation.admins_need_second_factor and bool(scopes)
    g.visit = Visit(
        installation=installation,
        session=session,
        principal=principal,
        scopes=scopes,
        needs_factor=is_needed and not session.has_second_factor,
        secret=secret,
        api=Api(api, principal, request.environ),
    )
    return None


def _with_visit(view: Any, **path: str) -> Response:
    response: Response = view(g.visit, **path)
    return response


def _redirect_to_login() -> Response:
    path = request.full_path.rstrip("?") if request.method == "GET" else "/console"
    response = redirect_to(f"/console/login?{urlencode({'next': path})}")
    if "HX-Request" in request.headers:  # htmx would show the login page inside the page
        response.status_code = 204
        response.headers["HX-Redirect"] = response.headers.pop("Location")
    return response


def _options(error: Exception) -> Response | None:
    """Handle OPTIONS, for which there are no views; Flask raises other routing errors."""
    if request.method != "OPTIONS" or not isinstance(error, MethodNotAllowed):
        return None
    response = nothing()
    methods = {*(error.valid_methods or ()), "OPTIONS"}
    response.headers["Allow"] = ", ".join(sorted(methods))
    return response


def _static(file: str) -> Response:
    # SECURITY: a look-up among known names; the request is never part of a file path.
    if file not in _FILES:
        raise NotFound
    request.environ[access.PUBLIC] = True
    response = public_response(Response(_content(file), mimetype=_FILES[file]))
    return preconditions.evaluate(response, request)


@cache
def _content(file: str) -> bytes:
    return (_STATIC / file).read_bytes()


def _error_response(error: Exception) -> Response:
    if isinstance(error, Refused):
        if error.status == 401:
            return _redirect_to_login()
        response = _error_page(error.status, error.problem)
        if error.retry_after:
            response.headers["Retry-After"] = error.retry_after
        return response
    problem = errors.response_to(error)
    response = _error_page(problem.status_code, json.loads(problem.get_data()))
    for name in ("Retry-After", "Allow"):
        if name in problem.headers:
            response.headers[name] = problem.headers[name]
    return response


def _error_page(status: int, problem: Mapping[str, Any]) -> Response:
    fields = correction.fields(status)
    return render("error.html", status, problem=problem, code=status, fields=fields)


def _when(moment: str) -> str:
    """Format a time of the API for people."""
    return f"{moment[:10]} {moment[11:16]}"
