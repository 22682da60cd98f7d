"""Preconditions: If-Match and If-None-Match (RFC 9110 section 13).

One place for all routes. ``Endpoint`` evaluates them for each GET and HEAD. A write passes
``wanted_versions`` to the database, which decides in the statement that writes. A write without an
entity tag calls ``check_untagged``. No representation
here has a modification date, so ``If-Modified-Since`` and ``If-Unmodified-Since`` are ignored, as
sections 13.1.3 and 13.1.4 ask.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from flask import Request, Response

from keyosk.errors import Stale
from keyosk.model import Versions
from keyosk.web.current import current_request

_TAG: Final = re.compile(r'(W/)?"([!#-~\x80-\xff]*)"')
_LIST: Final = re.compile(r"[ \t]*(?:,[ \t]*|$)")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_LARGEST: Final = 2**63 - 1  # the largest value of the database column

#: Parameters for /openapi.json.
PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "If-Match": {
        "in": "header",
        "description": 'One or more `ETag` values, such as `"3"`, or `*`. If the object has '
        "another one, the response is 412 and nothing is changed.",
        "schema": {"type": "string", "examples": ['"3"']},
    },
    "If-None-Match": {
        "in": "header",
        "description": 'One or more `ETag` values, such as `"3"`. If the object has one of '
        "them, the response is 304 to a read and 412 to a write.",
        "schema": {"type": "string", "examples": ['"3"']},
    },
}


@dataclass(frozen=True, slots=True)
class _Tags:
    """The value of ``If-Match`` or ``If-None-Match``; one that is malformed names nothing."""

    any: bool = False
    malformed: bool = False
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()


def evaluate(response: Response, request: Request) -> Response:
    """Return the response to ``request``, a GET or HEAD, or 304 instead. Raises ``Stale``.

    In the order of section 13.2.2. Only a success is evaluated (section 13.2.1).
    """
    if_match, if_none_match = _tags(request)
    if (if_match is None and if_none_match is None) or response.status_code != HTTPStatus.OK:
        return response
    tag, is_weak = response.get_etag()
    # SECURITY: a failed precondition is an error like any other. Its response has neither the
    # representation nor permission to cache it.
    if if_match is not None and not if_match.any and (is_weak or tag not in if_match.strong):
        response.close()
        raise Stale("The object does not have the ETag that If-Match names.")
    if if_none_match is not None and (
        if_none_match.any or tag in if_none_match.strong | if_none_match.weak
    ):
        return _not_modified(response)
    return response


def wanted_versions() -> Versions | None:
    """Return the versions at which the object may be changed; ``None`` for any.

    Strong comparison for ``If-Match``, weak for ``If-None-Match`` (sections 13.1.1 and 13.1.2).
    SECURITY: a malformed value lets no version pass.
    """
    if_match, if_none_match = _tags(current_request())
    if (if_match is None or if_match.any) and if_none_match is None:
        return None
    any_of = None if if_match is None or if_match.any else _numbers(if_match.strong)
    if if_none_match is None:
        return Versions(any_of=any_of)
    if if_none_match.any or if_none_match.malformed:
        return Versions(any_of=frozenset())  # the object exists
    return Versions(any_of=any_of, none_of=_numbers(if_none_match.strong | if_none_match.weak))


def check_untagged() -> None:
    """Refuse a precondition on something that has no entity tag. Raises ``Stale``.

    A list of tags never matches it, so ``If-Match`` with a list is false (section 13.1.1) and
    ``If-None-Match`` true. It exists, so with ``*`` the two are reversed.
    """
    if_match, if_none_match = _tags(current_request())
    if (if_match is not None and not if_match.any) or (
        if_none_match is not None and (if_none_match.any or if_none_match.malformed)
    ):
        raise Stale("What this would change has no entity tag: send no precondition about one.")


def _tags(request: Request) -> tuple[_Tags | None, _Tags | None]:
    """Return what ``If-Match`` and ``If-None-Match`` name."""
    if_match = request.environ.get("HTTP_IF_MATCH")
    if_none_match = request.environ.get("HTTP_IF_NONE_MATCH")
    return (
        None if if_match is None else _read(if_match),
        None if if_none_match is None else _read(if_none_match),
    )


@lru_cache(maxsize=64)  # clients repeat the tag of the key set that they have
def _read(value: str) -> _Tags:
    value = value.strip(" \t")
    if value == "*":
        return _Tags(any=True)
    tags: dict[bool, set[str]] = {True: set(), False: set()}
    at = 0
    while at < len(value):
        tag = _TAG.match(value, at)
        if tag is not None:
            tags[tag[1] is not None].add(tag[2])
            at = tag.end()
        separator = _LIST.match(value, at)  # empty elements are allowed (section 5.6.1.2)
        if separator is None or (tag is None and separator.end() == at):
            return _Tags(malformed=True)
        at = separator.end()
    return _Tags(strong=frozenset(tags[False]), weak=frozenset(tags[True]))


def _numbers(tags: frozenset[str]) -> frozenset[int]:
    """Return the versions that the tags name; impossible ones are left out."""
    numbers = (int(tag) for tag in tags if _VERSION.fullmatch(tag))
    return frozenset(number for number in numbers if number <= _LARGEST)


def _not_modified(response: Response) -> Response:
    """Return 304 with the header fields of section 15.4.5."""
    # It has no body, which werkzeug knows.
    response.status_code = HTTPStatus.NOT_MODIFIED
    for name in ("Content-Type", "Content-Length"):
        response.headers.pop(name, None)
    return response
