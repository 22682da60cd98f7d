"""GET /metrics, on a separate listener, because it needs no login."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication

from werkzeug.wrappers import Request, Response

from keyosk.metrics import Key, Metrics
from keyosk.metrics.families import JWKS_FETCHES, REQUEST_SECONDS, REQUESTS
from keyosk.monitoring import NOTHING, Monitor
from keyosk.web.jwks import JwksResource
from keyosk.web.middleware import NO_ROUTE, SECURITY_HEADERS
from keyosk.web.not_ready import Starting
from keyosk.web.routes import ROUTES

PATH: Final = "/metrics"
#: The name of its listener, and the key of that name in the environ.
LISTENER: Final = "metrics"
_LISTENER_KEY: Final = "server.listener"
_KEY_SETS: Final = frozenset(r.path for r in ROUTES if issubclass(r.resource, JwksResource))
_RESULTS: Final = {"200": "sent", "304": "not_modified"}


class MetricsPage:
    """The page of one worker. It exists before the worker is ready, which sets ``monitor``."""

    def __init__(self, metrics: Metrics, starting: Starting) -> None:
        self.metrics = metrics
        self.monitor: Monitor | None = None
        self._starting = starting

    def wrap(self, application: WSGIApplication) -> WSGIApplication:
        """Return ``application``, but with this page, and only it, at the listener for metrics."""

        def by_listener(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            # SECURITY: by the listener that the server reports, not by the Host header.
            if environ[_LISTENER_KEY] != LISTENER:
                return application(environ, start_response)
            return self._response(Request(environ))(environ, start_response)

        return by_listener

    def _response(self, request: Request) -> Response:
        if request.path != PATH:
            response = Response("Only /metrics exists here.\n", 404)
        elif request.method not in ("GET", "HEAD"):
            response = Response("GET, please.\n", 405, {"Allow": "GET, HEAD"})
        else:
            media_type, text = self._page(request.headers.get("Accept", ""))
            response = Response(text, content_type=media_type)
        response.headers["Cache-Control"] = "no-store"
        response.headers.extend(SECURITY_HEADERS)
        return response

    def _page(self, accept: str) -> tuple[str, bytes]:
        readings = NOTHING if self.monitor is None else self.monitor.readings()
        numbers = {
            **_initial_series(),
            **readings.numbers,
            ("keyosk_up",): float(self._starting.is_serving),
        }
        return self.metrics.page(
            accept, numbers, services=readings.services, summarise=_key_set_fetches
        )


@cache
def _initial_series() -> Mapping[Key, float]:
    """Return the series of requests that exist from the start: all documented ones, at 0."""
    return dict.fromkeys(_documented(), 0.0)


def _documented() -> Iterator[Key]:
    from keyosk.web import openapi  # noqa: PLC0415 - many processes are never asked for it

    for call in openapi.calls(ROUTES):
        for status in call.statuses():
            yield REQUESTS, call.method, call.route.path, str(status)
    yield REQUESTS, "GET", NO_ROUTE, "404"
    for path in (*(route.path for route in ROUTES), NO_ROUTE):
        yield REQUEST_SECONDS, path, "+Inf"


def _key_set_fetches(numbers: Mapping[Key, float]) -> dict[Key, float]:
    """Return the fetches of key sets, from the counts of requests."""
    counts: dict[Key, float] = {}
    for key, number in numbers.items():
        if key[0] == REQUESTS and key[1] == "GET" and key[2] in _KEY_SETS:
            result = (JWKS_FETCHES, _RESULTS.get(key[3], "failed"))
            counts[result] = counts.get(result, 0.0) + number
    return counts
