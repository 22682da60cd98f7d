"""Lists of the rows of the audit log. Every filter has an index.

A page is read in one of two ways:

- If few rows pass one of the filters, its index finds them, and they are sorted.
- Otherwise one index is walked, that of a filter or of the order, and each row is checked against
  the other filters: up to a ``horizon``, because many rows may pass none of them.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import peewee

from keyosk.ids import is_id
from keyosk.model import ListQuery
from keyosk.storage import listing as lists
from keyosk.storage import tables
from keyosk.storage.database import Database

_SORTS: Final[lists.Sorts] = {"sequence": tables.AuditRow.sequence, "time": tables.AuditRow.time}
_DONE: Final = "done"
_TIMES: Final = frozenset({"since", "until"})
#: The filters by action and by an actor's name as one, such as "account.delete alice". No action
#: has a space.
_ACTION_OF: Final = "action of actor"
#: The filters whose index is in the order of the chain. A page walks along the index of its first
#: one here, so filters that fewer rows pass come first.
_WALKED: Final = ("target", _ACTION_OF, "actor", "action", "credential", "outcome")

Rows = list[dict[str, Any]]


class AuditLists:
    """Reads pages of sealed rows, and counts them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, list_query: ListQuery) -> Rows:
        """Return the rows of a page."""
        list_query = _paired(list_query)
        leading = _leading(list_query)
        among = self._few(list_query.filters, leading)
        if among is not None and not among:
            return []
        query = lists.page(
            tables.AuditRow.select(),
            list_query,
            key=tables.AuditRow.sequence,
            sorts=_SORTS,
            filters=self._filters(leading if among is None else ()),
            among=among,
        )
        return self._database.rows(query)

    def horizon(self, list_query: ListQuery, *, looked_at: int) -> dict[str, Any] | None:
        """Return the last row that a page looks at; ``None`` if it looks at all the rest."""
        row = tables.AuditRow
        list_query = _paired(list_query)
        filters, leading = list_query.filters, _leading(list_query)
        if filters.keys() <= leading or self._few(filters, leading) is not None:
            return None
        walked = {name: filters[name] for name in filters.keys() & leading}
        ahead = lists.page(
            # The index is enough; only the row at the end is read.
            row.select(row.sequence),
            replace(list_query, filters=walked, limit=1),
            key=row.sequence,
            sorts=_SORTS,
            filters=self._filters(leading),
        )
        # One statement, because that row may be pruned between two.
        return self._database.row(row.select().where(row.sequence == ahead.offset(looked_at - 1)))

    def _few(self, filters: Mapping[str, Any], leading: frozenset[str]) -> set[Any] | None:
        """Return the sequence numbers of the rows that pass one of the filters, if they are few.

        ``None`` if they are many, or if all filters are ``leading``: then its index is enough.
        """
        if filters.keys() <= leading:
            return None
        indexed = [(name, value) for name, value in filters.items() if _is_indexed(name, value)]
        return lists.few(self._database, [[_keys(name, value)] for name, value in indexed])

    def _filters(self, indexed: Collection[str]) -> lists.Filters:
        """Return the condition of each filter; only those that are ``indexed`` may use an index."""
        names = (*_WALKED, *_TIMES)
        unindexed = partial(lists.unindexed, self._database)
        return {
            name: partial(_condition, name, place=None if name in indexed else unindexed)
            for name in names
        }

    def count(self, list_query: ListQuery) -> int:
        """Return the number of sealed rows that pass the filters of a list."""
        list_query = _paired(list_query)
        query = lists.filtered(
            tables.AuditRow.select(), list_query, self._filters(list_query.filters.keys())
        )
        return lists.count(self._database, query, list_query)


def _paired(list_query: ListQuery) -> ListQuery:
    """Return the same query with filters that share an index as one filter."""
    filters = dict(list_query.filters)
    # No name has the form of an id.
    if "action" not in filters or "actor" not in filters or is_id(filters["actor"]):
        return list_query
    filters[_ACTION_OF] = f"{filters.pop('action')} {filters.pop('actor')}"
    return replace(list_query, filters=filters)


def _leading(list_query: ListQuery) -> frozenset[str]:
    """Return the filters whose index a page walks along."""
    if list_query.sort != "sequence":
        return _TIMES
    filters = list_query.filters
    walked = (name for name in _WALKED if name in filters and _is_indexed(name, filters[name]))
    return frozenset([*walked][:1])


def _is_indexed(name: str, value: Any) -> bool:
    """Return whether an index finds the rows that pass a filter."""
    return name != "outcome" or bool(value != _DONE)


def _keys(name: str, value: Any) -> "peewee.ModelSelect[Any]":
    """Return the query for the sequence numbers of the rows that pass a filter, in index order."""
    row = tables.AuditRow
    keys = row.select(row.sequence.alias("key")).where(_condition(name, value))
    # Ordered, because PostgreSQL might otherwise read the table if many rows pass.
    return keys.order_by(row.time if name in _TIMES else row.sequence)


def _condition(
    name: str, value: Any, *, place: Callable[[Any], Any] | None = None
) -> peewee.Expression:
    """Return the condition of a filter.

    ``place``: makes the expression that is compared instead of the column, to use no index.
    """
    row = tables.AuditRow
    column: Any
    if name == "actor":
        column = row.actor if is_id(value) else row.actor_name  # no name has the form of an id
    elif name in _TIMES:
        column = row.time
    elif name == _ACTION_OF:
        # The expression of the index, so that a planner knows how many rows pass.
        column = row.action.concat(peewee.SQL("' '")).concat(row.actor_name)
    else:
        column = getattr(row, name)
    compared: Any = column if place is None else place(column)
    condition: peewee.Expression
    if name == "since":
        condition = compared >= value
    elif name == "until":
        condition = compared < value
    else:
        condition = compared == value
    if name == "outcome" and value != _DONE and place is None:
        # A constant in the SQL, because a planner needs it to use the partial index.
        condition &= row.outcome != peewee.SQL(f"'{_DONE}'")
    return condition
