"""Lists: a limit, an order, filters, an opaque cursor, and a link to the next page (RFC 8288).

A cursor contains the last object of the page before, so that the last page costs as much as the
first and no page changes when objects are added or deleted elsewhere. It also contains the end of
the list when its first page was read, so that a list that grows while it is read still ends.

In a list by name, an object may be renamed to a later place again and again. So the cursor counts
how many objects the list may still show: as many as there were, and a page more. After that the
list continues with all objects by id, so that no unchanged object is missed.
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
from marshmallow import ValidationError, fields, validate

from keyosk.errors import Invalid
from keyosk.model import ListQuery
from keyosk.web import addresses
from keyosk.web.fields import LoneTime, QueryFlag, Text, described
from keyosk.web.responses import json_response

#: The most objects on a page, and the longest filter.
DEFAULT: Final = 50
MOST: Final = 200
LONGEST: Final = 500
#: A cursor holds two names of up to 255 characters of four bytes, and three ids: 2,950 in base64.
#: With all filters, a request line must stay below the limit of the server.
LONGEST_CURSOR: Final = 4_000

#: The attributes for sorting that are numbers; the others are text.
_NUMBERS: Final = ("created_at", "updated_at", "sequence", "time")
#: Sorts before every id.
_BEFORE_ALL: Final = "0"
#: The attributes whose highest value belongs to new or changed objects.
_GROWING: Final = ("created_at", "updated_at", "sequence", "time")
#: ``total=capped`` counts up to this, so that its cost does not depend on the list.
COUNTED: Final = 10_000
#: How many objects a list by name may show before it is counted, if it is longer than COUNTED.
_MANY: Final = 1_000_000_000

#: Parameters and headers for /openapi.json, in addition to the order and filters of each list.
PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "limit": {
        "in": "query",
        "description": "The largest number of objects on the page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT},
    },
    "cursor": {
        "in": "query",
        "description": "The `next` value of the page before, to read the page after it.",
        "schema": {"type": "string", "maxLength": LONGEST_CURSOR},
    },
    "total": {
        "in": "query",
        "description": (
            "Whether to count the objects that pass the filters (`X-Total-Count`): `true` counts "
            f"all, which takes longer the more there are, `capped` up to {COUNTED:,}."
        ),
        "schema": {"type": "string", "enum": ["false", "true", "capped"], "default": "false"},
    },
}
HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "Link": {
        "description": 'The URL of the next page, `rel="next"` (RFC 8288); absent on the last page.'
    },
    "X-Total-Count": {
        "description": (
            "The number of objects that pass the filters, if `total` is `true` or `capped`."
        ),
        "schema": {"type": "integer"},
    },
    "X-Total-Count-Capped": {
        "description": (
            f"`true` if `total` is `capped` and there are more than {COUNTED:,} objects; "
            f"`X-Total-Count` is {COUNTED:,} then."
        ),
        "schema": {"type": "string", "enum": ["true"]},
    },
}


@dataclass(frozen=True, slots=True)
class ListOptions:
    """The options of a list.

    Attributes:
        sorts: The orders; the first is the default.
        filters: The filters by name, each with the field that parses it.
        key: The attribute that identifies an object.
        orders: The default order under a filter, by the filter's name, if it differs.
        ordering: The filters that determine how ties in an order are broken.
        value: Returns an object's value in an order; by default the attribute of that name.
    """

    sorts: tuple[str, ...]
    filters: Mapping[str, fields.Field[Any]] = field(default_factory=dict)
    key: str = "id"
    orders: Mapping[str, str] = field(default_factory=dict)
    ordering: frozenset[str] = frozenset()
    value: Callable[[Any, ListQuery], Any] = field(
        default=lambda item, list_query: getattr(item, list_query.sort)
    )

    def default(self, parameters: Mapping[str, str]) -> str:
        """Return the default order of a query."""
        named = (order for name, order in self.orders.items() if parameters.get(name))
        return next(named, self.sorts[0])


def text(description: str, example: str) -> Text:
    """A filter by text."""
    return Text(validate=validate.Length(max=LONGEST), metadata=described(description, example))


def word(description: str, *words: str) -> Text:
    """A filter by one of a few words."""
    wrong = "Must be one of " + ", ".join(words) + "."
    return Text(
        validate=validate.OneOf(words, error=wrong),
        metadata=described(description, words[-1]),
    )


def flag(description: str) -> QueryFlag:
    """A filter by ``true`` or ``false``."""
    return QueryFlag(metadata=described(description, True))


def moment(description: str, example: str) -> LoneTime:
    """A filter by an RFC 3339 time."""
    return LoneTime(metadata=described(description, example))


def page(
    lists: ListOptions,
    read: Callable[[ListQuery], Sequence[Any]],
    shape: Callable[[Any], dict[str, Any]],
    *,
    count: Callable[[ListQuery], int],
    horizon: Callable[[ListQuery], Any] | None,
) -> Response:
    """Return the page that the query requests. Raises ``Invalid``.

    ``horizon``: returns the last object that a page may look at, for filters without an index; such
    a page may be short or empty although there is a next one.
    """
    parameters = _parameters({"limit", "cursor", "sort", "total", *lists.filters})
    sort = parameters.get("sort", lists.default(parameters))
    list_query, remaining = _list_query(lists, sort, parameters)
    horizon_object = horizon(list_query) if horizon else None
    rows = read(list_query if horizon_object is None else _until(lists, list_query, horizon_object))
    items = rows[: list_query.limit - 1]
    is_full = len(rows) == list_query.limit
    last = items[-1] if is_full else horizon_object
    following = None
    if last is not None:
        if "cursor" not in parameters:
            list_query = _ending(lists, list_query, read)
            if list_query.newest is not None:
                # Counting the results would look at more objects than a page may.
                remaining = _room(list_query, count) if horizon_object is None else _MANY
        if remaining == 0:
            following = _by_id(sort, list_query, last.created_at, last=last.id)
        elif remaining is not None and remaining <= len(items):
            following = _by_id(sort, list_query, 0, last=_BEFORE_ALL)
        else:
            remaining = (
                None if remaining is None else _remaining(remaining - len(items), list_query, count)
            )
            following = _cursor(lists, sort, list_query, last=last, remaining=remaining)
    response = json_response({"items": [shape(item) for item in items], "next": following})
    if following is not None:
        query = urlencode({**parameters, "cursor": following})
        response.headers["Link"] = f'<{addresses.url(quote(request.path))}?{query}>; rel="next"'
    _add_total(response, list_query, count, total=parameters.get("total"))
    return response


def filters(lists: ListOptions) -> dict[str, Any]:
    """Return the filters of a query that has no other parameters. Raises ``Invalid``."""
    return _filters(lists, _parameters(lists.filters.keys()))


def _add_total(
    response: Response,
    list_query: ListQuery,
    count: Callable[[ListQuery], int],
    *,
    total: str | None,
) -> None:
    """Add the number of objects, if the query requests it."""
    if total == "true":
        response.headers["X-Total-Count"] = str(count(list_query))
    elif total == "capped":
        counted = count(replace(list_query, counted=COUNTED + 1))
        response.headers["X-Total-Count"] = str(min(counted, COUNTED))
        if counted > COUNTED:
            response.headers["X-Total-Count-Capped"] = "true"


def _until(lists: ListOptions, list_query: ListQuery, last: Any) -> ListQuery:
    """Return the same query, ending with this object."""
    return replace(list_query, end=(lists.value(last, list_query), getattr(last, lists.key)))


def _room(list_query: ListQuery, count: Callable[[ListQuery], int]) -> int:
    """Return how many objects a list by name may show."""
    counted = count(replace(list_query, newest=None, counted=COUNTED))
    return counted + list_query.limit - 1 if counted < COUNTED else _MANY


def _remaining(remaining: int, list_query: ListQuery, count: Callable[[ListQuery], int]) -> int:
    """Return how many objects a list by name may still show.

    A long list is counted once, after so many objects that the count hardly adds to the cost.
    """
    shown = _MANY - remaining
    if not COUNTED <= shown < COUNTED + MOST:
        return remaining
    return max(1, count(replace(list_query, newest=None)) + list_query.limit - 1 - shown)


def _parameters(names: Collection[str]) -> dict[str, str]:
    parameters = {}
    for name, values in request.args.lists():
        if name not in names:
            parameters_known = ", ".join(sorted(names))
            raise Invalid.field(
                name[:200], f"is not a parameter of this list, which takes {parameters_known}"
            )
        if len(values) > 1:
            raise Invalid.field(name, "is given twice")
        if len(values[0]) > (LONGEST_CURSOR if name == "cursor" else LONGEST):
            raise Invalid.field(name, "is too long")
        parameters[name] = values[0]
    if parameters.get("total", "false") not in ("true", "false", "capped"):
        raise Invalid.field("total", "must be true, false or capped")
    return parameters


def _list_query(
    lists: ListOptions, sort: str, parameters: Mapping[str, str]
) -> tuple[ListQuery, int | None]:
    """Return the query, and how many objects a list by name may still show; 0 once it is by id."""
    if sort.removeprefix("-") not in lists.sorts and sort != lists.default(parameters):
        reverse = f"; descending with a minus sign, as -{next(iter(lists.sorts))}"
        raise Invalid.field("sort", "must be one of " + ", ".join(lists.sorts) + reverse)
    list_query = ListQuery(
        # One more than shown, to know whether there is a next page.
        limit=_limit(parameters.get("limit")) + 1,
        sort=sort.removeprefix("-"),
        descending=sort.startswith("-"),
        filters=_filters(lists, parameters),
    )
    if "cursor" not in parameters:
        return list_query, None
    after, end, newest, remaining = _position(lists, sort, parameters["cursor"])
    if remaining != 0:
        return replace(list_query, after=after, end=end, newest=newest), remaining
    by_id = replace(list_query, sort="created_at", descending=False)
    return replace(by_id, after=after, newest=newest), remaining


def _filters(lists: ListOptions, parameters: Mapping[str, str]) -> dict[str, Any]:
    filters = {}
    for name, filter_field in lists.filters.items():
        if name in parameters:
            try:
                filters[name] = filter_field.deserialize(parameters[name])
            except ValidationError as error:
                raise Invalid.field(name, str(error.messages[0]).rstrip(".")) from None
    return filters


def _limit(value: str | None) -> int:
    if value is None:
        return DEFAULT
    if not re.fullmatch(r"[0-9]{1,3}", value, re.ASCII) or not 1 <= int(value) <= MOST:
        raise Invalid.field("limit", f"must be a whole number from 1 to {MOST}")
    return int(value)


def _ending(
    lists: ListOptions, list_query: ListQuery, read: Callable[[ListQuery], Sequence[Any]]
) -> ListQuery:
    """Return the same query with the present end of the list, regardless of its filters."""
    last: Sequence[Any] = ()
    if list_query.sort in lists.sorts:
        last = read(
            ListQuery(
                limit=1,
                sort=list_query.sort,
                descending=not list_query.descending,
                filters={
                    name: value
                    for name, value in list_query.filters.items()
                    if name in lists.ordering
                },
            )
        )
    newest: Sequence[Any] = ()
    if list_query.sort not in _GROWING and lists.sorts[0] == "created_at":
        newest = read(ListQuery(limit=1, sort="created_at", descending=True))
    return replace(
        list_query,
        end=(getattr(last[0], list_query.sort), getattr(last[0], lists.key)) if last else None,
        newest=newest[0].id if newest else None,
    )


def _cursor(
    lists: ListOptions, sort: str, list_query: ListQuery, *, last: Any, remaining: int | None
) -> str:
    after = (lists.value(last, list_query), getattr(last, lists.key))
    return _encoded([sort, *after, *(list_query.end or after), list_query.newest, remaining])


def _by_id(sort: str, list_query: ListQuery, created_at: int, *, last: str) -> str:
    """Return the cursor of a list by name that continues by id after ``last``."""
    return _encoded([sort, created_at, last, created_at, last, list_query.newest, 0])


def _encoded(place: list[Any]) -> str:
    text = json.dumps(place, ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode("ascii")


def _position(
    lists: ListOptions, sort: str, cursor: str
) -> tuple[tuple[Any, Any], tuple[Any, Any], str | None, int | None]:
    """Return the content of a cursor.

    It is the end of the page before, the end of the list, the newest object when the list began,
    and how many objects a list by name may still show.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        cursor_sort, value, key, end_value, end_key, newest, remaining = place
    except (binascii.Error, ValueError, TypeError, RecursionError):
        cursor_sort, value, key, end_value, end_key, newest, remaining = (None,) * 7
    attribute = "created_at" if remaining == 0 else sort.removeprefix("-")
    # SECURITY: PostgreSQL fails for a value of another type than its column.
    if (
        cursor_sort != sort
        or not all(_is_value_of(attribute, each) for each in (value, end_value))
        or not all(_is_value_of(lists.key, each) for each in (key, end_key))
        or not (newest is None or _is_value_of("id", newest))
        # Otherwise the list would continue by id without an end.
        or (remaining is None) != (newest is None)
        or not (remaining is None or (_is_count(remaining) and lists.sorts[0] == "created_at"))
    ):
        raise Invalid.field("cursor", "is not a cursor of this list with this sort order")
    return (value, key), (end_value, end_key), newest, remaining


def _is_value_of(attribute: str, value: Any) -> bool:
    if attribute in _NUMBERS:
        return _is_count(value)
    try:
        return bool(Text().deserialize(value) == value)
    except ValidationError:
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53
