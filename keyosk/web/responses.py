"""Responses: JSON bodies, entity tags, caching and streaming."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final
from wsgiref.types import WSGIEnvironment

from flask import Response, request
from werkzeug.datastructures import Headers

from keyosk.errors import Invalid
from keyosk.times import rfc3339
from keyosk.web import addresses

# One instance, because json.dumps with options creates an encoder at each call.
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_NO_BODY: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_PUBLIC_AGE: Final = 300  # seconds for which a public document may be cached

#: A parameter and headers for /openapi.json.
PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "force": {
        "in": "query",
        "description": "Make the change even though it removes grants.",
        "schema": {"type": "boolean", "default": False},
    },
}
HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "ETag": {"description": "The version of the object, for `If-Match` and `If-None-Match`."},
    "Location": {"description": "The URL of the new object."},
}


class WholeResponse(Response):
    """A response whose body and headers are complete.

    werkzeug would copy the headers, look for missing ones, and wrap the body to close it (15 us).
    """

    def get_wsgi_headers(self, *_: object) -> Headers:
        """Return the headers as they are."""
        return self.headers

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Return the body, if the response to this request has one."""
        bare = environ["REQUEST_METHOD"] == "HEAD" or self.status_code in _NO_BODY
        return _Body(() if bare else self.response, self.close)


class _Body:
    """The parts of a body, and what is called at its end (PEP 3333)."""

    __slots__ = ("_parts", "close")

    def __init__(self, parts: Any, close: Callable[[], None]) -> None:
        self._parts = parts
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)


def json_response(body: Any, status: int = HTTPStatus.OK) -> Response:
    """Return a JSON response that ends with a line end, for terminals."""
    text = _encode(body) + "\n"
    # A lone surrogate can only come from the name of a field in an error.
    return WholeResponse(text.encode(errors="replace"), status, content_type="application/json")


def object_response(
    body: dict[str, Any],
    version: int,
    status: int = HTTPStatus.OK,
    *,
    location: str | None = None,
    effective_at: int | None = None,
) -> Response:
    """Return one object with its strong entity tag (RFC 9110 section 8.8.3).

    Args:
        body: The object.
        version: Its version, which is the entity tag.
        status: The HTTP status.
        location: The path of a new object.
        effective_at: As for ``change_response``.
    """
    response = change_response(body, effective_at, status)
    response.set_etag(str(version))
    if location is not None:
        response.headers["Location"] = addresses.url(location)
    return response


def change_response(
    body: dict[str, Any], effective_at: int | None, status: int = HTTPStatus.OK
) -> Response:
    """Return the response to a change.

    Args:
        body: The object after the change.
        effective_at: Set if the change removed rights: from this time on, no service accepts a
            token from before the change, even if it never polls revocations.
        status: The HTTP status.
    """
    if effective_at is None:
        return json_response(body, status)
    response = json_response({**body, "effective_at_latest": rfc3339(effective_at)}, status)
    return with_effective_at(response, effective_at)


def with_effective_at(response: Response, effective_at: int | None) -> Response:
    """Add the header ``Effective-At-Latest`` to a response, if there is such a time."""
    if effective_at is not None:
        response.headers["Effective-At-Latest"] = rfc3339(effective_at)
    return response


def streamed(body: Iterator[bytes], media_type: str, at_end: Callable[[], None]) -> Response:
    """Return a response that is generated while it is sent; ``at_end`` may be called repeatedly."""
    response = Response(_ending(body, at_end), mimetype=media_type)
    # Also here, because a generator that is never started, as for HEAD, never ends.
    response.call_on_close(at_end)
    return response


def _ending(body: Iterator[bytes], at_end: Callable[[], None]) -> Iterator[bytes]:
    """Yield the parts; ``at_end`` runs before the server sends the end of the response."""
    try:
        yield from body
    finally:
        at_end()


def public_response(response: Response) -> Response:
    """Make a response public for caches, with its entity tag."""
    response.headers["Cache-Control"] = f"public, max-age={_PUBLIC_AGE}"
    response.add_etag()
    return response


def nothing(effective_at: int | None = None) -> Response:
    """Return 204, which has no body and no Content-Type (RFC 9110 section 15.3.5)."""
    response = Response(status=HTTPStatus.NO_CONTENT)
    del response.headers["Content-Type"]
    return with_effective_at(response, effective_at)


def is_forced() -> bool:
    """Return whether the query has ``force=true``. Raises ``Invalid`` for any other parameter."""
    for name in request.args:
        if name != "force" or request.args.getlist(name) not in (["true"], ["false"]):
            raise Invalid.field(name[:200], "is not a parameter here, or cannot have this value")
    return request.args.get("force") == "true"
