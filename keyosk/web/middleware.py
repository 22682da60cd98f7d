"""Middleware: a request id, headers, a log line and metrics for each request."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication

from flask import Request

from keyosk import delays, networks
from keyosk.credentials.concurrency import hand_over
from keyosk.ids import new_id
from keyosk.metrics import Metrics
from keyosk.web import access, access_log, documentation, forward
from keyosk.web.client_address import Source

#: The headers of every response, including those of the server itself. They are about the response.
SECURITY_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)
#: About a host, so it is not for what a proxy may send on in the name of another service. The
#: server's own responses lack it, because they may be to a proxy.
_HSTS: Final = ("Strict-Transport-Security", "max-age=31536000")
_CACHING: Final = "Cache-Control"
_NO_STORE: Final = (_CACHING, "no-store")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ROUTE: Final = "keyosk.route"
#: Defined once: a type in the signature of an inner function would be created at each request.
_Write = Callable[[bytes], object]
#: In place of a route, for requests without one.
NO_ROUTE: Final = "none"
#: In the WSGI environ, from the server: moves the request to a thread for slow requests.
HAND_OVER: Final = "server.hand_over"
#: The same: moves the request to a thread, where it may wait; only in the event loop.
LEAVE_LOOP: Final = "server.leave_loop"
#: The same: delays the finished response by some seconds.
HOLD: Final = "server.hold"


def note_route(request: Request) -> None:
    """Have the request counted under its route."""
    if request.url_rule is not None:
        request.environ[_ROUTE] = request.url_rule.rule


class Envelope:
    """A WSGI application around another."""

    def __init__(
        self,
        application: WSGIApplication,
        trusted: Sequence[networks.Network | str],
        metrics: Metrics,
        *,
        log: access_log.AccessLog,
    ) -> None:
        """``trusted``: the proxies whose headers name the client."""
        self._application = application
        self._source = Source(trusted)
        self._metrics = metrics
        self._log = log

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        # Not reset afterwards, for work after the response; the next request of the thread sets it.
        hand_over.set(environ.get(HAND_OVER))
        delays.leave_loop.set(environ.get(LEAVE_LOOP))
        delays.hold.set(environ.get(HOLD))
        request_id = environ[access_log.REQUEST_ID] = new_id()
        environ[access_log.ADDRESS] = self._source.of(environ)
        environ[access_log.METHOD] = environ["REQUEST_METHOD"]
        forward.prepare(environ)
        headers_of_host = () if forward.FOR_PROXY in environ else (_HSTS,)
        self._metrics.request_began()
        has_begun = False

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> _Write:
            nonlocal has_begun
            if has_begun:  # the application failed after that, and the server gets another response
                self._metrics.request_began()
            has_begun = True
            self._tell(environ, status[:3], time.perf_counter() - started)
            # SECURITY: nobody may cache what is not explicitly public, failures included.
            is_public = access.PUBLIC in environ and status[:3] in ("200", "304")
            # No generators, because each header would cost a call.
            all_headers = [each for each in headers if each[0] != _CACHING or is_public]
            if not is_public or _CACHING not in [name for name, _ in headers]:
                all_headers.append(_NO_STORE)
            all_headers += SECURITY_HEADERS
            all_headers += headers_of_host
            all_headers.append(("X-Request-Id", request_id))
            if documentation.OWN_HEADERS in environ:
                own = environ[documentation.OWN_HEADERS]
                all_headers = [(name, own.get(name, value)) for name, value in all_headers]
            return start_response(status, all_headers, exc_info)

        try:
            return self._application(environ, start)
        except BaseException:  # also if the request starts again in another thread
            if not has_begun:
                self._metrics.request_ended()
            raise

    def _tell(self, environ: Mapping[str, Any], status: str, seconds: float) -> None:
        method = environ[access_log.METHOD]
        self._metrics.request(
            method if method in _METHODS else "other",
            environ.get(_ROUTE, NO_ROUTE),
            status,
            seconds=seconds,
        )
        self._log.write(environ, environ.get(_ROUTE), status, seconds=seconds)
