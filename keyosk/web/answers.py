"""Answers: JSON bodies, entity tags, and what concerns every one of them."""

import json
import re
from http import HTTPStatus
from typing import Any, Final

from flask import Response, request

from keyosk.errors import Invalid, Stale

# Made once: json.dumps with options makes an encoder at every call.
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_PUBLIC_AGE: Final = 300  # seconds that anybody may keep a public document
_VERSION: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


def json_answer(body: Any, status: int = HTTPStatus.OK) -> Response:
    """A JSON body with a line end, so that a terminal shows it whole."""
    text = _encode(body) + "\n"
    # A lone surrogate can only come from a field's name in an error: no reason for another one.
    return Response(text.encode(errors="replace"), status, mimetype="application/json")


def object_answer(
    body: dict[str, Any], version: int, status: int = HTTPStatus.OK, *, location: str | None = None
) -> Response:
    """One object with its strong entity tag (RFC 9110 section 8.8.3); 304 where it is known."""
    response = json_answer(body, status)
    response.set_etag(str(version))
    if location is not None:
        response.headers["Location"] = location
    response.headers["Cache-Control"] = "private, no-cache"
    if request.method in ("GET", "HEAD"):
        _make_conditional(response)
    return response


def public_answer(response: Response) -> Response:
    """An answer that is the same for everybody, with its entity tag; 304 where it is known."""
    response.headers["Cache-Control"] = f"public, max-age={_PUBLIC_AGE}"
    response.add_etag()
    _make_conditional(response)
    return response


def _make_conditional(response: Response) -> None:
    response.make_conditional(request)
    if response.status_code == HTTPStatus.PRECONDITION_FAILED:  # werkzeug leaves the body in it
        raise Stale("It is not, or no longer, what If-Match names.")


def nothing() -> Response:
    """204, which has no content and so no type of it (RFC 9110 section 15.3.5)."""
    response = Response(status=HTTPStatus.NO_CONTENT)
    del response.headers["Content-Type"]
    return response


def if_match() -> int | None:
    """The version that ``If-Match`` asks for (RFC 9110 section 13.1.1); ``None`` for any.

    A tag that no version ever has, such as a weak one, is version 0. Raises ``Invalid`` for a list.
    """
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    tags = request.if_match.as_set()
    if len(tags) > 1:
        raise Invalid.field("If-Match", "must be one entity tag as ETag gave it")
    tag = next(iter(tags), "") or ""  # werkzeug reads an empty tag as None
    return int(tag) if _VERSION.fullmatch(tag) else 0


def is_forced() -> bool:
    """Whether the query has ``force=true``. Raises ``Invalid`` for anything else in it."""
    for name in request.args:
        if name != "force" or request.args.getlist(name) not in (["true"], ["false"]):
            raise Invalid.field(name[:200], "is no parameter here, or not with this value")
    return request.args.get("force") == "true"
