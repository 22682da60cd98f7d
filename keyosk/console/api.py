"""The REST API, called inside this process as the account of a console session."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes, urlencode
from wsgiref.types import WSGIApplication

from flask import g

from keyosk.model import Principal
from keyosk.web import access_log
from keyosk.web.operator import BY_CONSOLE

_PATCH: Final = "application/merge-patch+json"
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_SHARED: Final = (
    access_log.REQUEST_ID,
    access_log.ADDRESS,
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "wsgi.version",
    "wsgi.url_scheme",
    "wsgi.errors",
    "wsgi.multithread",
    "wsgi.multiprocess",
    "wsgi.run_once",
)


class Refused(Exception):
    """The API refused a request; its status and problem."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after: str | None) -> None:
        super().__init__(status)
        self.status = status
        self.problem = problem
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the API."""

    body: dict[str, Any] = field(repr=False)  # it may contain a new secret
    effective_at: str | None
    tag: str | None
    total: str | None


class Stream:
    """A streamed response."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        """Close the response."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


class Api:
    """Calls the API as one account."""

    def __init__(
        self, application: WSGIApplication, principal: Principal, environ: Mapping[Any, Any]
    ) -> None:
        """``environ``: that of the request to the console, for its address and request id."""
        self._application = application
        self._principal = principal
        self._environ = environ

    def get(self, path: str, **query: str | int | None) -> Reply:
        """Send a GET request; parameters without a value are left out. Raises ``Refused``."""
        parameters = {name: value for name, value in query.items() if value not in (None, "")}
        return self._call("GET", path, query=urlencode(parameters))

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        tag: str | None = None,
        once: str | None = None,
        force: bool = False,
    ) -> Reply:
        """Send a change. Raises ``Refused``.

        ``tag``: the required ETag; ``once``: an Idempotency-Key; ``force``: even if it is in use.
        """
        headers = {"HTTP_IF_MATCH": f'"{tag}"'} if tag else {}
        if once:
            headers["HTTP_IDEMPOTENCY_KEY"] = once
        query = "force=true" if force else ""
        return self._call(method, path, query=query, body=body, headers=headers)

    def stream(self, path: str, **query: str) -> "Stream":
        """Send a GET request; the caller closes the streamed response. Raises ``Refused``."""
        parameters = urlencode({name: value for name, value in query.items() if value})
        status, sent, pieces = self._begin("GET", path, parameters)
        if status >= 400:
            raise Refused(status, json.loads(_read(pieces)), sent.get("retry-after"))
        return Stream(pieces)

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        status, sent, pieces = self._begin(method, path, query, body=body, headers=headers)
        if sent.get("content-type", _JSON) not in (_JSON, _PROBLEM):
            # The name of an object was that of an address with a stream, /accounts/export.
            Stream(pieces).close()
            raise _not_found()
        content = _read(pieces)
        parsed = json.loads(content) if content else {}
        if status >= 400:
            raise Refused(status, parsed, sent.get("retry-after"))
        return Reply(
            parsed,
            sent.get("effective-at-latest"),
            sent.get("etag", "").strip('"') or None,
            sent.get("x-total-count"),
        )

    def _begin(
        self,
        method: str,
        path: str,
        query: str,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], Iterable[bytes]]:
        """Call the API; returns the status, the headers and the body of the response."""
        data = b"" if body is None else json.dumps(body).encode()
        environ: dict[Any, Any] = {
            **{name: self._environ[name] for name in _SHARED if name in self._environ},
            **(headers or {}),
            BY_CONSOLE: self._principal,
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.input": io.BytesIO(data),
        }
        if body is not None:
            environ["CONTENT_TYPE"] = _PATCH if method == "PATCH" else _JSON
        began: list[tuple[int, dict[str, str]]] = []

        def start(status: str, sent: list[tuple[str, str]], _: Any = None) -> Any:
            began.append((int(status[:3]), {name.lower(): value for name, value in sent}))
            return lambda _: None

        pieces = self._application(environ, start)
        return *began[-1], pieces


def segment(value: str) -> str:
    """Return a value as one segment of a path. Raises ``Refused`` for one that would be several."""
    # SECURITY: the path is unquoted on the way, and would be that of something else.
    if "/" in value:
        raise _not_found()
    return quote(value, safe="")


def _not_found() -> Refused:
    problem = {"title": "Not Found", "detail": "There is nothing of this name."}
    return Refused(404, {**problem, "code": "not_found", "request_id": g.request_id}, None)


def _read(pieces: Iterable[bytes]) -> bytes:
    stream = Stream(pieces)
    try:
        return b"".join(stream)
    finally:
        stream.close()
