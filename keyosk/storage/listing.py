"""Lists by keyset: a page begins at a place in an index, so the last costs what the first does."""

from collections.abc import Callable, Mapping
from typing import Any

import peewee

from keyosk.model import ListQuery

Sorts = Mapping[str, "peewee.Field[Any]"]
Filters = Mapping[str, Callable[[Any], peewee.Expression]]


def page(
    query: "peewee.ModelSelect[Any]",
    list_query: ListQuery,
    *,
    key: peewee.Field,
    sorts: Sorts,
    filters: Filters,
) -> "peewee.ModelSelect[Any]":
    """Return the rows of ``query`` that a listing asks for.

    ``key``: the unique column that breaks ties; ``sorts``: the column of each order, none of them
    null, with an index that begins with it (and goes on with ``key`` unless it is unique);
    ``filters``: the condition of each filter.
    """
    column = sorts[list_query.sort]
    # A unique column has no ties to break, and PostgreSQL would sort again if it had to.
    order = [column] if column is key or column.unique else [column, key]
    # A row value, not "a > ? OR a = ? AND b > ?": only this is one range of an index.
    place = column if len(order) == 1 else peewee.Tuple(*order)

    def bound(value: Any, last: Any) -> Any:
        if len(order) == 1:
            return last if column is key else value
        return peewee.Tuple(value, last)

    if list_query.after is not None:
        begin = bound(*list_query.after)
        query = query.where(place < begin if list_query.descending else place > begin)
    if list_query.end is not None:
        end = bound(*list_query.end)
        query = query.where(place >= end if list_query.descending else place <= end)
    if list_query.newest is not None:
        query = query.where(key <= list_query.newest)
    directed = [each.desc() if list_query.descending else each.asc() for each in order]
    return filtered(query, list_query, filters).order_by(*directed).limit(list_query.limit)


def filtered(
    query: "peewee.ModelSelect[Any]", list_query: ListQuery, filters: Filters
) -> "peewee.ModelSelect[Any]":
    """Return the rows of ``query`` that pass the filters of a listing."""
    for name, value in list_query.filters.items():
        query = query.where(filters[name](value))
    return query


def begins_with(column: peewee.Field, prefix: str, *, sqlite: bool) -> peewee.Expression:
    """Whether a text column begins with ``prefix``, letter for letter, by way of an index."""
    if sqlite:
        # Columns compare by code point here: what begins so lies between the two.
        return (column >= prefix) & (column < prefix + "\U0010ffff")
    escaped = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return peewee.Expression(column, "LIKE", f"{escaped}%")
