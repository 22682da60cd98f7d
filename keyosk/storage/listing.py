"""Keyset pagination: a page begins at a place in an index, so all pages cost the same."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import peewee
from peewee import fn

from keyosk.model import ListQuery
from keyosk.storage.database import Database

#: The most objects that are sorted for a page. If more pass every filter, an index is walked.
FEW: Final = 1_000

Sorts = Mapping[str, "peewee.Field[Any]"]
Filters = Mapping[str, Callable[[Any], peewee.Expression]]


def page(
    query: "peewee.ModelSelect[Any]",
    list_query: ListQuery,
    *,
    key: peewee.Field,
    sorts: Sorts,
    filters: Filters,
    among: Collection[Any] | None = None,
) -> "peewee.ModelSelect[Any]":
    """Return the rows of ``query`` for a page.

    ``key``: the unique column that breaks ties; ``sorts``: the column of each order, none of them
    null, with an index that begins with it (and goes on with ``key`` unless it is unique);
    ``filters``: the condition of each filter; ``among``: the only keys to return, which are few.
    """
    column = sorts[list_query.sort]
    if among is not None:
        query = query.where(key.in_(list(among)))
    # A unique column needs no second one; with one, PostgreSQL would sort again.
    is_alone = column is key or column.unique
    order: list[Any] = [column] if is_alone else [column, key]
    # Otherwise a planner might walk the whole order to find the few.
    if among is not None:
        order = [_hidden(expression) for expression in order]
    # A row value, not "a > ? OR a = ? AND b > ?": only this is one range of an index.
    place = order[0] if is_alone else peewee.Tuple(*order)

    def bound(value: Any, last: Any) -> Any:
        if is_alone:
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
    directed = [
        expression.desc() if list_query.descending else expression.asc() for expression in order
    ]
    return filtered(query, list_query, filters).order_by(*directed).limit(list_query.limit)


def filtered(
    query: "peewee.ModelSelect[Any]", list_query: ListQuery, filters: Filters
) -> "peewee.ModelSelect[Any]":
    """Return the rows of ``query`` that pass the filters of a listing."""
    for name, value in list_query.filters.items():
        query = query.where(filters[name](value))
    return query


def unindexed(database: Database, column: "peewee.Field[Any]") -> Any:
    """Return a column in a form that makes SQLite ignore its indexes.

    SQLite might otherwise use such an index and sort all rows that pass the filter. PostgreSQL has
    statistics for the column and must see it.
    """
    return _hidden(column) if database.is_sqlite else column


def _hidden(column: "peewee.Field[Any]") -> Any:
    return fn.COALESCE(column, column)


def by_code_point(database: Database, column: Any) -> Any:
    """Return a column that is compared by code point, as SQLite compares by default."""
    return column if database.is_sqlite else column.collate('"C"')


def few(
    database: Database, sources: Iterable[Sequence["peewee.ModelSelect[Any]"]]
) -> set[Any] | None:
    """Return the keys that pass one of the filters, the first that at most ``FEW`` rows pass.

    ``sources``: of each filter, queries that select its keys as ``key`` from an index.
    """
    for queries in sources:
        keys = union(database, queries, FEW + 1)
        if len(keys) <= FEW:
            return keys
    return None


def union(database: Database, queries: Sequence["peewee.ModelSelect[Any]"], most: int) -> set[Any]:
    """Return the keys that the queries select, up to ``most`` of them."""
    keys: set[Any] = set()
    for query in queries:
        keys.update(database.values(query.limit(most)))
        if len(keys) >= most:
            break
    return keys


def count(database: Database, query: "peewee.ModelSelect[Any]", list_query: ListQuery) -> int:
    """Return the number of rows of a query, up to the limit of the list query."""
    return database.count(query if list_query.counted is None else query.limit(list_query.counted))
