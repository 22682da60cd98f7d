"""Lists of accounts. Every filter and order has an index.

A page is read in one of three ways:

- If few accounts pass one of the filters, its index finds them, and they are sorted.
- For the order of creation, the filter's own index is walked, which continues with the id.
- Otherwise the index of the order is walked, and each account is checked against the filters: if
  many accounts pass them, a page is soon full.

A search by a prefix of a name has its own order, by the name that has the prefix. A search inside
names has no index: a page walks the order up to a ``horizon``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from operator import or_
from typing import Any, Final

import peewee
from peewee import fn

from keyosk.model import MATCH, Kind, ListQuery, matching_name
from keyosk.storage import listing as lists
from keyosk.storage import tables
from keyosk.storage.database import Database

#: The number of accounts that are read at once to check further filters.
_CHUNK: Final = 500
#: Filters that share an index, which continues with the id.
_FACETS: Final = ("kind", "enabled")
#: A constant in the SQL, because with a parameter a planner cannot use a partial index.
_EMPTY: Final = peewee.SQL("''")
_SORTS: Final[lists.Sorts] = {
    "created_at": tables.Account.id,
    "updated_at": tables.Account.updated_at,
    "username": tables.Account.username,
}
#: The order of creation, as in the index of ``created_at``.
_BY_TIME: Final[lists.Sorts] = {"created_at": tables.Account.created_at}

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Source:
    """A query of the ids that pass a filter; ``condition`` is one range of an index.

    ``order``: the columns that follow in the index, if they are not the id.
    """

    key: peewee.Field
    condition: peewee.Expression
    order: Any = None

    def select(self) -> "peewee.ModelSelect[Any]":
        query: peewee.ModelSelect[Any] = self.key.model.select(self.key.alias("key"))
        return query.where(self.condition)

    def first(self) -> "peewee.ModelSelect[Any]":
        # Ordered, because PostgreSQL might otherwise read the table if many rows pass.
        return self.select().order_by(self.key if self.order is None else self.order)


class AccountLists:
    """Reads pages of accounts, and counts them."""

    def __init__(
        self, database: Database, select: Callable[[], "peewee.ModelSelect[tables.Account]"]
    ) -> None:
        """``select``: the columns of an account."""
        self._database = database
        self._select = select

    def page(self, list_query: ListQuery) -> Rows:
        """Return the rows of a page."""
        list_query = _without_empty(list_query)
        filters = list_query.filters
        if list_query.sort == MATCH:
            return self._matching(list_query)
        if "contains" in filters:
            return self._walk(list_query, _SORTS, among=self._few(filters))
        by_creation = list_query.sort == "created_at"
        if by_creation and "created_after" in filters:
            sorts, leading = _BY_TIME, {"created_after"}
        else:
            sorts, leading = _SORTS, self._leading(filters) if by_creation else set()
        others = filters.keys() - leading
        if others:
            few = self._few(filters)
            if few is not None:
                return self._walk(list_query, _SORTS, among=few)
        if leading and sorts is _SORTS:
            sources = self._sources(min(leading), filters) or ()
            return self._along(list_query, sources, covered=leading)
        return self._walk(list_query, sorts)

    def horizon(self, list_query: ListQuery, looked_at: int) -> dict[str, Any] | None:
        """Return the row of the last account that a page looks at; ``None`` for no limit."""
        is_bounded = "contains" in list_query.filters and list_query.sort != MATCH
        if not is_bounded or self._few(list_query.filters) is not None:
            return None
        # From the index alone; only the last row is read. One statement: between two, somebody may
        # delete that account.
        places = tables.Account.select(tables.Account.id)
        ahead = replace(list_query, filters={}, limit=1)
        page = lists.page(places, ahead, key=tables.Account.id, sorts=_SORTS, filters={})
        return self._database.row(
            self._select().where(tables.Account.id == page.offset(looked_at - 1))
        )

    def _few(self, filters: Mapping[str, Any]) -> set[Any] | None:
        """Return the ids of the accounts that pass one of the filters, if they are few."""
        sources = (self._sources(name, filters) for name in filters)
        selects = (
            [source.first() for source in of_filter]
            for of_filter in sources
            if of_filter is not None
        )
        return lists.few(self._database, selects)

    def _leading(self, filters: Mapping[str, Any]) -> set[str]:
        """Return the filters whose index continues with the id."""
        for names in (("scope",), ("role",), _FACETS):
            if present := {name for name in names if name in filters}:
                return present
        return set()

    def count(self, list_query: ListQuery) -> int:
        """Return the number of accounts that pass the filters, up to the limit of the query."""
        list_query = _without_empty(list_query)
        names = list_query.filters.keys()
        most = list_query.counted
        if most is not None and len(names) == 1 and list_query.newest is None:
            (name,) = names
            sources = self._sources(name, list_query.filters)
            if sources is not None:
                return self._count(sources, most, is_disjoint=name not in ("scope", "q"))
        query = _where(tables.Account.select(tables.Account.id), self._conditions(list_query))
        return lists.count(self._database, query, list_query)

    def _count(self, sources: Sequence[_Source], most: int, *, is_disjoint: bool) -> int:
        counted = 0
        for source in sources:
            more = self._database.count(source.first().limit(most))
            if more >= most:
                return more
            counted += more
        if is_disjoint or len(sources) < 2:
            return min(counted, most)
        return min(
            len(lists.union(self._database, [source.select() for source in sources], most)), most
        )

    def _walk(
        self,
        list_query: ListQuery,
        sorts: lists.Sorts,
        *,
        among: Collection[str] | None = None,
    ) -> Rows:
        """Return the page by the index of the order, or from the accounts ``among`` these."""
        if among is not None and not among:
            return []
        query = self._select()
        if sorts is _BY_TIME:  # the index of the order begins with it
            query = query.where(tables.Account.created_at > list_query.filters["created_after"])
        query = _where(query, self._conditions(list_query))
        unfiltered = replace(list_query, filters={})
        return self._database.rows(
            lists.page(
                query,
                unfiltered,
                key=tables.Account.id,
                sorts=sorts,
                filters={},
                among=among,
            )
        )

    def _along(
        self, list_query: ListQuery, sources: Sequence[_Source], *, covered: Collection[str]
    ) -> Rows:
        """Return the page in the order of ids, by walking the indexes of the sources."""
        conditions = [*self._conditions(list_query, without=covered)]
        most = max(list_query.limit, _CHUNK) if conditions else list_query.limit
        after = None if list_query.after is None else list_query.after[1]
        rows: Rows = []
        while True:
            keys = self._merged(list_query, sources, after, most=most)
            rows += self._loaded(keys, conditions)
            if len(keys) < most or len(rows) >= list_query.limit:
                return rows[: list_query.limit]
            after = keys[-1]

    def _merged(
        self, list_query: ListQuery, sources: Sequence[_Source], after: str | None, *, most: int
    ) -> list[str]:
        """Return the next ids of all sources, in order, each once."""
        descending = list_query.descending
        keys: set[str] = set()
        for source in sources:
            key, query = source.key, source.select()
            if after is not None:
                query = query.where(key < after if descending else key > after)
            if list_query.end is not None:
                end = list_query.end[1]
                query = query.where(key >= end if descending else key <= end)
            if list_query.newest is not None:
                query = query.where(key <= list_query.newest)
            query = query.order_by(key.desc() if descending else key.asc()).limit(most)
            keys.update(row["key"] for row in self._database.rows(query))
        return sorted(keys, reverse=descending)[:most]

    def _matching(self, list_query: ListQuery) -> Rows:
        """Return the page in the order of the name that begins with ``q``.

        An account is found by each of its names, and shown at the place of the first one.
        """
        conditions = [*self._conditions(list_query, without=("q",))]
        most = 2 * list_query.limit
        if conditions:
            most = max(most, _CHUNK)
        after = list_query.after
        rows: Rows = []
        while True:
            names, horizon = self._names(list_query.filters["q"], after, most=most)
            keys = [
                account_id
                for _, account_id in names
                if list_query.newest is None or account_id <= list_query.newest
            ]
            rows += self._loaded(keys, conditions)
            if horizon is None or len(rows) >= list_query.limit:
                return rows[: list_query.limit]
            after = horizon

    def _names(
        self, prefix: str, after: tuple[str, str] | None, *, most: int
    ) -> tuple[list[tuple[str, str]], tuple[str, str] | None]:
        """Return the names with a prefix, each with its account's id, and the last known name."""
        names: set[tuple[str, str]] = set()
        horizon: tuple[str, str] | None = None
        for column, start in _beginnings(prefix):
            name, key = lists.by_code_point(self._database, column), tables.Account.id
            query = tables.Account.select(
                key, tables.Account.username, tables.Account.display_key
            ).where(self._begins(column, start))
            # Usernames are unique, so their index needs no id.
            order = [name.asc()] if column.unique else [name.asc(), key.asc()]
            if after is not None:
                query = query.where(name >= after[0], peewee.Tuple(name, key) > after)
            rows = self._database.rows(query.order_by(*order).limit(most))
            names.update(
                (row[column.name], row["id"])
                for row in rows
                if row[column.name]
                == matching_name(prefix, row["username"], display_name=row["display_key"])
            )
            if len(rows) == most:
                last = (rows[-1][column.name], rows[-1]["id"])
                horizon = last if horizon is None else min(horizon, last)
        return sorted(name for name in names if horizon is None or name <= horizon), horizon

    def _loaded(self, keys: Sequence[str], conditions: Sequence[peewee.Expression]) -> Rows:
        """Return the rows of these accounts that meet the conditions, in this order."""
        if not keys:
            return []
        query = self._select().where(tables.Account.id.in_(list(keys)), *conditions)
        rows = {row["id"]: row for row in self._database.rows(query)}
        return [rows[key] for key in keys if key in rows]

    def _sources(self, name: str, filters: Mapping[str, Any]) -> Sequence[_Source] | None:
        """Return the sources of accounts that pass a filter; ``None`` if it has no index."""
        value = filters[name]
        account, grant = tables.Account, tables.Grant
        if name in _FACETS:
            kinds = [filters["kind"]] if "kind" in filters else [kind.value for kind in Kind]
            states = [filters["enabled"]] if "enabled" in filters else [False, True]
            return [
                _Source(account.id, (account.kind == kind) & (account.enabled == state))
                for kind, state in product(kinds, states)
            ]
        if name == "scope":
            roles = self._roles_with(value)
            conditions = [grant.scope == value, *(grant.role == role for role in roles)]
            return [_Source(grant.account, condition) for condition in conditions]
        if name == "role":
            return [_Source(grant.account, grant.role == role) for role in self._roles_named(value)]
        if name == "created_after":
            return [_Source(account.id, account.created_at > value, account.created_at)]
        if name == "q":
            return [
                _Source(
                    account.id,
                    self._begins(column, start),
                    lists.by_code_point(self._database, column),
                )
                for column, start in _beginnings(value)
            ]
        return None

    def _conditions(
        self, list_query: ListQuery, *, without: Collection[str] = ()
    ) -> list[peewee.Expression]:
        """Return the conditions of the filters for each account."""
        return [
            self._condition(name, value)
            for name, value in list_query.filters.items()
            if name not in without
        ]

    def _condition(self, name: str, value: Any) -> peewee.Expression:
        account, grant = tables.Account, tables.Grant
        if name == "scope":
            return _holds(grant.scope == value) | _holds(grant.role.in_(self._roles_with(value)))
        if name == "role":
            return _holds(grant.role.in_(self._roles_named(value)))
        condition: peewee.Expression
        if name == "created_after":
            condition = lists.unindexed(self._database, account.created_at) > value
        elif name == "last_login_before":
            last = fn.COALESCE(account.last_login_at, account.created_at)
            condition = last < value
        elif name == "q":
            condition = reduce(
                or_,
                (
                    self._begins(column, start, indexed=False)
                    for column, start in _beginnings(value)
                ),
            )
        elif name == "contains":
            condition = reduce(
                or_, (self._contains(column, text) for column, text in _beginnings(value))
            )
        else:
            condition = lists.unindexed(self._database, getattr(account, name)) == value
        return condition

    def _roles_with(self, scope: str) -> list[str]:
        query = tables.RoleScope.select(tables.RoleScope.role)
        rows = self._database.rows(query.where(tables.RoleScope.scope == scope))
        return [row["role"] for row in rows]

    def _roles_named(self, name: str) -> list[str]:
        query = tables.Role.select(tables.Role.id).where(tables.Role.name == name)
        return [row["id"] for row in self._database.rows(query)]

    def _begins(
        self, column: peewee.Field, prefix: str, *, indexed: bool = True
    ) -> peewee.Expression:
        """Return the condition that a name begins with ``prefix``, as a range of an index."""
        name = lists.by_code_point(
            self._database, column if indexed else lists.unindexed(self._database, column)
        )
        within: peewee.Expression = (name >= prefix) & (name < prefix + "\U0010ffff")
        # The index leaves out empty names, so a planner uses it only with this condition.
        return within if column.unique or not indexed else within & (column != _EMPTY)

    def _contains(self, column: peewee.Field, text: str) -> peewee.Expression:
        """Return the condition that a name contains this text."""
        position = fn.INSTR if self._database.is_sqlite else fn.STRPOS
        contains: peewee.Expression = position(column, text) > 0
        return contains


def _beginnings(prefix: str) -> tuple[tuple[peewee.Field, str], tuple[peewee.Field, str]]:
    """Return the prefix in the stored forms of the two names."""
    return (tables.Account.username, prefix.lower()), (
        tables.Account.display_key,
        prefix.casefold(),
    )


def _holds(condition: peewee.Expression) -> peewee.Expression:
    """Return the condition that the account has such a grant, with a limit for the planner."""
    of_account = tables.Grant.account == tables.Account.id
    grants = tables.Grant.select(peewee.SQL("1")).where(of_account, condition).limit(1)
    # Not "== 1": PostgreSQL would expect few results, and read and sort all accounts.
    holds: peewee.Expression = fn.COALESCE(grants, 0) != 0
    return holds


def _where(
    query: "peewee.ModelSelect[Any]", conditions: Sequence[peewee.Expression]
) -> "peewee.ModelSelect[Any]":
    return query.where(*conditions) if conditions else query


def _without_empty(list_query: ListQuery) -> ListQuery:
    """Return the filters without an empty prefix, which every name has."""
    if list_query.filters.get("q") != "":
        return list_query
    filters = {name: value for name, value in list_query.filters.items() if name != "q"}
    sort = "created_at" if list_query.sort == MATCH else list_query.sort
    return replace(list_query, filters=filters, sort=sort)
