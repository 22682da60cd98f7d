"""The API of the installation on this machine, called inside this process as the operator."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication

import httpx2

from keyosk import app
from keyosk.cli import host
from keyosk.cli.client import Client
from keyosk.model import OPERATOR
from keyosk.web.operator import BY_OPERATOR


@contextmanager
def client() -> Iterator[Client]:
    """Return a client of the API of this installation, as the operator."""
    with (
        host.installation() as opened,
        httpx2.Client(
            transport=_InProcess(app.create_app(opened)),
            base_url="http://in-process.invalid",
            trust_env=False,
        ) as http,
    ):
        yield Client(http, "This Keyosk")


class _InProcess(httpx2.BaseTransport):
    """Calls a WSGI application (PEP 3333) for each request, as the operator.

    Not httpx2's own transport, which supports neither streams nor paths outside Latin-1.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        began: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            began.append((status, headers))
            return lambda _: None

        body = self._application(_environ(request), start)
        status, headers = began[-1]
        return httpx2.Response(int(status[:3]), headers=headers, stream=_Body(body))


def _environ(request: httpx2.Request) -> dict[str, Any]:
    path, _, query = request.url.raw_path.decode("ascii").partition("?")
    environ: dict[Any, Any] = {
        BY_OPERATOR: OPERATOR,
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": request.url.host,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": _Input(request.stream),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ


class _Input:
    """The body of a request as a file."""

    def __init__(self, stream: Any) -> None:
        self._pieces = iter(stream)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, or all the rest."""
        if size < 0:
            all_of_it = b"".join((self._rest, *self._pieces))
            self._rest = b""
            return all_of_it
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


class _Body(httpx2.SyncByteStream):
    """The body of a response, streamed from the application."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces

    def close(self) -> None:
        getattr(self._pieces, "close", lambda: None)()
