"""GET /metrics, on a listener of its own: whoever reaches it sees how much is going on."""

from collections.abc import Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication

from werkzeug.wrappers import Request, Response

from keyosk.metrics import Metrics
from keyosk.web.middleware import SECURITY_HEADERS

PATH: Final = "/metrics"


def beside(application: WSGIApplication, metrics: Metrics, port: int) -> WSGIApplication:
    """``application``, but for what comes in at ``port``: there is only ``/metrics``."""

    def either(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        # The server's own word: the port of the socket, not of the Host header.
        if environ["SERVER_PORT"] != str(port):
            return application(environ, start_response)
        return _response(Request(environ), metrics)(environ, start_response)

    return either


def _response(request: Request, metrics: Metrics) -> Response:
    if request.path != PATH:
        response = Response("Only /metrics exists here.\n", 404)
    elif request.method not in ("GET", "HEAD"):
        response = Response("GET, please.\n", 405, {"Allow": "GET, HEAD"})
    else:
        media_type, text = metrics.page(request.headers.get("Accept", ""))
        response = Response(text, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers.extend(SECURITY_HEADERS)
    return response
