"""Lists of API keys, of one account or of all. Every filter has an index.

A page is read in one of three ways, as those of accounts are (``account_lists``):

- If few keys of the installation pass one of the filters, these are sorted.
- For the order of creation, the filter's own index is walked, which continues with the key's id.
- Otherwise the index of the order, for one account or for all, is walked, and each key is checked
  against the filters.
"""

from collections.abc import Callable, Collection, Mapping
from functools import reduce
from operator import and_, or_
from typing import Any, Final

import peewee
from peewee import fn

from keyosk.model import ListQuery
from keyosk.storage import listing as lists
from keyosk.storage import tables
from keyosk.storage.database import Database

_KEY: Final = tables.ApiKey
#: The order of one account's keys. With the id alone, PostgreSQL would walk along all keys.
_SORTS_OF_ONE: Final[lists.Sorts] = {"created_at": _KEY.created_at, "name": _KEY.name}
_SORTS_OF_ALL: Final[lists.Sorts] = {"created_at": _KEY.id, "name": _KEY.name}
_OWNER: Final = "owner"
#: The two ends of a time.
_EXPIRES: Final = ("expires_before", "expires_after")
#: Filters whose index continues with the id.
_IN_ORDER: Final = ("limits", "enabled", "networks")
#: The limits of a key; one index has the keys without any, another those with some.
_LIMITS: Final = (_KEY.expires_at, _KEY.networks, _KEY.scopes)
#: When a key was last used, or created if it was not, as in its index.
_LAST: Final = fn.COALESCE(_KEY.last_used_at, _KEY.created_at)

Rows = list[dict[str, Any]]


class ApiKeyLists:
    """Reads pages of API keys, and counts them. The filter ``owner`` is an account's id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, list_query: ListQuery) -> Rows:
        """Return the rows of a page."""
        filters = list_query.filters
        leading = self._leading(list_query)
        among = None
        if filters.keys() - leading:
            among = lists.few(
                self._database,
                (
                    [self._source(name, filters)]
                    for name in filters
                    if name != _EXPIRES[1] or _EXPIRES[0] not in filters  # they share one source
                ),
            )
            if among is not None and not among:
                return []
        query = lists.page(
            _KEY.select(),
            list_query,
            key=_KEY.id,
            sorts=_SORTS_OF_ALL if among is not None or _OWNER not in leading else _SORTS_OF_ONE,
            filters=self._conditions(leading if among is None else ()),
            among=among,
        )
        return self._database.rows(query)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of keys that pass the filters, up to the limit of the query."""
        names = list_query.filters.keys()
        # One filter is counted by its index; of several, one index is used, the others are checked.
        indexed = {_OWNER} if _OWNER in names else names
        query = _KEY.select(_KEY.id)
        if list_query.newest is not None:
            query = query.where(_KEY.id <= list_query.newest)
        query = lists.filtered(query, list_query, self._conditions(indexed))
        return lists.count(self._database, query, list_query)

    def _leading(self, list_query: ListQuery) -> set[str]:
        """Return the filter whose index continues in the order of the list."""
        if _OWNER in list_query.filters:
            return {_OWNER}
        by_creation = list_query.sort == "created_at"
        return {*[name for name in _IN_ORDER if by_creation and name in list_query.filters][:1]}

    def _source(self, name: str, filters: Mapping[str, Any]) -> "peewee.ModelSelect[Any]":
        """Return the ids of keys that pass a filter, in the order of its index.

        Both filters by expiry are one range: few keys may pass both, although many pass either.
        """
        keys = _KEY.select(_KEY.id.alias("key"))
        # Ordered, because PostgreSQL might otherwise read the table if many rows pass.
        order = {
            "prefix": (lists.by_code_point(self._database, _KEY.prefix),),
            "expires_before": (_KEY.expires_at,),
            "expires_after": (_KEY.expires_at,),
            "unused_since": (_LAST,),
            _OWNER: (_KEY.created_at,),
        }.get(name, (_KEY.id,))
        together = filters.keys() & _EXPIRES if name in _EXPIRES else {name}
        for each in sorted(together):
            keys = keys.where(self._condition(each, filters[each]))
        return keys.order_by(*order)

    def _conditions(self, indexed: Collection[str]) -> lists.Filters:
        """Return the condition of each filter; only those ``indexed`` use an index."""
        return {
            name: self._filter(name, hidden=name not in indexed)
            for name in (_OWNER, "prefix", "digest", "unused_since", *_EXPIRES, *_IN_ORDER)
        }

    def _filter(self, name: str, *, hidden: bool) -> Callable[[Any], peewee.Expression]:
        return lambda value: self._condition(name, value, hidden=hidden)

    def _condition(self, name: str, value: Any, *, hidden: bool = False) -> peewee.Expression:
        """Return the condition of a filter; ``hidden``: SQLite must not use its index."""

        def column(field: peewee.Field) -> Any:
            return lists.unindexed(self._database, field) if hidden else field

        condition: peewee.Expression
        if name == "prefix":
            # A range, not LIKE, in which characters of the prefix would be wildcards.
            text = lists.by_code_point(self._database, column(_KEY.prefix))
            condition = (text >= value) & (text < value + "\U0010ffff")
        elif name == "expires_before":
            condition = column(_KEY.expires_at) < value
        elif name == "expires_after":
            condition = column(_KEY.expires_at) > value
        elif name == "unused_since":
            used = _KEY.last_used_at
            condition = (
                (used < value) | (used.is_null() & (_KEY.created_at < value))
                if hidden
                else value > _LAST
            )
        elif name == "limits":
            free = value == "none"
            absent = (column(field).is_null(free) for field in _LIMITS)
            condition = reduce(and_ if free else or_, absent)
        elif name == "networks":
            condition = column(_KEY.networks).is_null(value == "any")
        elif name == "digest":
            condition = column(_KEY.digest) == bytes.fromhex(value)
        else:
            field = _KEY.account if name == _OWNER else getattr(_KEY, name)
            condition = column(field) == value
        return condition
