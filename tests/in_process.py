"""A Keyosk inside the test's own process, with the interface of a running one.

For tests that send a great many requests: no process and no socket lies between them and the
application. What the server does with a request has tests of its own.
"""

import io
import sys
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from wsgiref.types import WSGIApplication

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from keyosk import app, config
from keyosk.installation import Installation
from live import ADAPTERS, LiveServer


class InProcess(LiveServer):
    """An installation whose application is called where others send a request to a server."""

    def __init__(self, database_url: str, folder: Path) -> None:
        super().__init__(database_url, folder)
        self.url = f"http://in-process-{self.port}.invalid"

    def start(self) -> None:
        settings = config.load(self.environment)
        app.prepare(settings)
        self._installation = Installation(settings)
        ADAPTERS[self.url] = partial(_Application, app.create_app(self._installation))

    def stop(self) -> int:
        del ADAPTERS[self.url]
        self._installation.database.close()
        return 0


class _Application(BaseAdapter):
    """Calls a WSGI application (PEP 3333) for each request, as one from ``source``."""

    def __init__(self, application: WSGIApplication, source: str) -> None:
        super().__init__()
        self._application, self._source = application, source

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        began: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            began.append((status, headers))
            return lambda _: None

        pieces = self._application(_environ(request, self._source), start)
        response = requests.Response()
        try:
            response._content = b"".join(pieces)
        finally:
            getattr(pieces, "close", lambda: None)()
        status, headers = began[-1]
        response.status_code = int(status[:3])
        response.reason = HTTPStatus(response.status_code).phrase
        joined: dict[str, str] = {}
        for name, value in headers:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        response.headers = CaseInsensitiveDict(joined)
        response.encoding = requests.utils.get_encoding_from_headers(response.headers)
        response.request, response.url = request, str(request.url)
        return response

    def close(self) -> None:
        pass


def _environ(request: requests.PreparedRequest, source: str) -> dict[str, Any]:
    url = urlsplit(str(request.url))
    body = request.body or b""
    content = body.encode() if isinstance(body, str) else body
    assert isinstance(content, bytes)  # nothing that is walked over takes a stream
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(url.path).decode("latin-1"),
        "QUERY_STRING": url.query,
        "SERVER_NAME": url.hostname,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": source,
        "HTTP_HOST": url.netloc,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(content),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    headers: Mapping[str, str | bytes] = request.headers
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = text
    return environ
