"""Lists: a limit, an order, filters, an opaque cursor, and where the next page is (RFC 8288).

A cursor says which object the page before ended with, so that the last page costs what the first
does and no page changes when objects are added or deleted elsewhere. It also says where the list
ended when its first page was read: a list that grows or changes as fast as it is read still ends.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, urlencode

from flask import Response, request
from marshmallow import ValidationError

from keyosk.errors import Invalid
from keyosk.model import ListQuery
from keyosk.web import addresses
from keyosk.web.answers import json_answer
from keyosk.web.fields import LoneTime, Text

#: How many objects a page has, at the most, and how long a parameter may be.
DEFAULT: Final = 50
MOST: Final = 200
LONGEST: Final = 1_000
#: A cursor holds two names of at most 255 characters of four bytes, and three ids: 2,950 in base64.
#: With all filters beside it a request line must stay below what the server takes.
LONGEST_CURSOR: Final = 4_000

#: The attributes that are numbers; the others that lists go by are text.
_NUMBERS: Final = ("created_at", "updated_at", "sequence")
#: Those that what is new or changed has the highest of.
_GROWING: Final = ("created_at", "updated_at", "sequence")


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What one list can do: its orders, the first of which is the default, and its filters.

    ``key``: the attribute that tells objects apart; ``filters``: by name, how to read the value.
    """

    sorts: tuple[str, ...]
    filters: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    key: str = "id"


def text(value: str) -> str:
    """A filter by text."""
    return str(Text().deserialize(value))


def flag(value: str) -> bool:
    """A filter by ``true`` or ``false``."""
    if value not in ("true", "false"):
        raise ValidationError("Must be true or false.")
    return value == "true"


def moment(value: str) -> int:
    """A filter by an RFC 3339 time."""
    return int(LoneTime().deserialize(value))


def page(
    lists: ListOptions,
    read: Callable[[ListQuery], Sequence[Any]],
    shape: Callable[[Any], dict[str, Any]],
    count: Callable[[ListQuery], int],
) -> Response:
    """Answer the page that the query asks for. Raises ``Invalid``."""
    parameters = _parameters({"limit", "cursor", "sort", "total", *lists.filters})
    list_query = _list_query(lists, parameters)
    found = read(list_query)
    shown = found[: list_query.limit - 1]
    following = None
    if len(found) == list_query.limit:
        if list_query.end is None:
            list_query = _ending(lists, list_query, read)
        following = _cursor(lists, list_query, shown[-1])
    response = json_answer({"items": [shape(item) for item in shown], "next": following})
    if following is not None:
        query = urlencode({**parameters, "cursor": following})
        response.headers["Link"] = f'<{addresses.url(quote(request.path))}?{query}>; rel="next"'
    if parameters.get("total") == "true":
        response.headers["X-Total-Count"] = str(count(list_query))
    return response


def filters(lists: ListOptions) -> dict[str, Any]:
    """The filters of the query, which may have nothing else. Raises ``Invalid``."""
    return _filters(lists, _parameters(lists.filters.keys()))


def _parameters(known: Collection[str]) -> dict[str, str]:
    parameters = {}
    for name, values in request.args.lists():
        if name not in known:
            raise Invalid.field(name[:200], "is not a parameter of this list")
        if len(values) > 1:
            raise Invalid.field(name, "is given twice")
        if len(values[0]) > (LONGEST_CURSOR if name == "cursor" else LONGEST):
            raise Invalid.field(name, "is too long")
        parameters[name] = values[0]
    if parameters.get("total", "false") not in ("true", "false"):
        raise Invalid.field("total", "must be true or false")
    return parameters


def _list_query(lists: ListOptions, parameters: Mapping[str, str]) -> ListQuery:
    sort = parameters.get("sort", lists.sorts[0])
    descending = sort.startswith("-")
    after, end, newest = None, None, None
    if sort.removeprefix("-") not in lists.sorts:
        raise Invalid.field("sort", "must be one of " + ", ".join(lists.sorts) + ", or -name")
    if "cursor" in parameters:
        after, end, newest = _position(lists, sort, parameters["cursor"])
    return ListQuery(
        # One more than shown, to know whether there is a next page.
        limit=_limit(parameters.get("limit")) + 1,
        sort=sort.removeprefix("-"),
        descending=descending,
        after=after,
        end=end,
        newest=newest,
        filters=_filters(lists, parameters),
    )


def _filters(lists: ListOptions, parameters: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for name, parse in lists.filters.items():
        if name in parameters:
            try:
                found[name] = parse(parameters[name])
            except ValidationError as error:
                raise Invalid.field(name, str(error.messages[0]).rstrip(".")) from None
    return found


def _limit(value: str | None) -> int:
    if value is None:
        return DEFAULT
    if not re.fullmatch(r"[0-9]{1,3}", value, re.ASCII) or not 1 <= int(value) <= MOST:
        raise Invalid.field("limit", f"must be a whole number from 1 to {MOST}")
    return int(value)


def _ending(
    lists: ListOptions, list_query: ListQuery, read: Callable[[ListQuery], Sequence[Any]]
) -> ListQuery:
    """The same listing with the end that it has now, whatever its filters are."""
    last = read(ListQuery(limit=1, sort=list_query.sort, descending=not list_query.descending))
    newest: Sequence[Any] = ()
    if list_query.sort not in _GROWING and lists.sorts[0] == "created_at":
        newest = read(ListQuery(limit=1, sort="created_at", descending=True))
    return replace(
        list_query,
        end=(getattr(last[0], list_query.sort), getattr(last[0], lists.key)) if last else None,
        newest=newest[0].id if newest else None,
    )


def _cursor(lists: ListOptions, list_query: ListQuery, last: Any) -> str:
    sort = f"-{list_query.sort}" if list_query.descending else list_query.sort
    after = (getattr(last, list_query.sort), getattr(last, lists.key))
    place = json.dumps(
        [sort, *after, *(list_query.end or after), list_query.newest], ensure_ascii=False
    )
    return base64.urlsafe_b64encode(place.encode()).rstrip(b"=").decode("ascii")


def _position(
    lists: ListOptions, sort: str, cursor: str
) -> tuple[tuple[Any, Any], tuple[Any, Any], str | None]:
    """Where the page before ended, where the list does, and the newest object of its beginning."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        cursor_sort, value, key, end_value, end_key, newest = place
    except (binascii.Error, ValueError, TypeError, RecursionError):
        cursor_sort, value, key, end_value, end_key, newest = (None,) * 6
    attribute = sort.removeprefix("-")
    # SECURITY: PostgreSQL answers a value of another type than its column's with an error.
    if (
        cursor_sort != sort
        or not all(_is_value_of(attribute, each) for each in (value, end_value))
        or not all(_is_value_of(lists.key, each) for each in (key, end_key))
        or not (newest is None or _is_value_of("id", newest))
    ):
        raise Invalid.field("cursor", "is not a cursor of this list in this order")
    return (value, key), (end_value, end_key), newest


def _is_value_of(attribute: str, value: Any) -> bool:
    if attribute in _NUMBERS:
        return type(value) is int and 0 <= value < 2**53
    try:
        return bool(text(value) == value)
    except ValidationError:
        return False
