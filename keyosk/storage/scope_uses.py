"""When a token of an account last had a scope, and the scopes that accounts hold."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import peewee
from peewee import EXCLUDED, JOIN, fn

from keyosk.errors import Unavailable
from keyosk.model import AccountScopes, HeldScope, Kind
from keyosk.storage import tables
from keyosk.storage.database import Database

_ROWS_AT_ONCE: Final = 500
#: The most held scopes that one page reads, even if an account has more.
_MOST: Final = 5_000
_NAME: Final = fn.COALESCE(tables.Grant.scope, tables.RoleScope.scope)
_USE: Final = tables.ScopeUse
_Row = Mapping[str, Any]


class ScopeUseStore:
    """Reads and writes the table of the uses of scopes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, uses: Mapping[tuple[str, str], bool], day: int) -> None:
        """Record the use of scopes on ``day``, by account and scope.

        True: a request named the scope. Accounts and scopes that no longer exist are left out.
        """
        # In a fixed order, so that two processes never deadlock.
        keys = sorted(uses)
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            part = keys[start : start + _ROWS_AT_ONCE]
            accounts = self._existing(tables.Account.id, {account for account, _ in part})
            scopes = self._existing(tables.Scope.name, {scope for _, scope in part})
            rows = [
                {
                    "account": account,
                    "scope": scope,
                    "issued_on": day,
                    "named_on": day if uses[account, scope] else 0,
                }
                for account, scope in part
                if account in accounts and scope in scopes
            ]
            if rows:
                self._write(rows)

    def _existing(self, key: peewee.Field, values: Iterable[str]) -> set[str]:
        query = key.model.select(key.alias("key")).where(key.in_([*values]))
        return {row["key"] for row in self._database.rows(query)}

    def _write(self, rows: Sequence[_Row]) -> None:
        query = (
            _USE.insert_many(rows)
            .on_conflict(
                conflict_target=[_USE.account, _USE.scope],
                update={
                    _USE.issued_on: _latest(_USE.issued_on, EXCLUDED.issued_on),
                    _USE.named_on: _latest(_USE.named_on, EXCLUDED.named_on),
                },
                where=_is_wrong(_USE.issued_on, EXCLUDED.issued_on)
                | _is_wrong(_USE.named_on, EXCLUDED.named_on),
            )
            .returning()
        )
        try:
            self._database.write(query)
        except peewee.IntegrityError as error:  # deleted between read and write
            raise Unavailable("An account or scope was deleted meanwhile.") from error

    def held(self, account_id: str, *, now: int) -> tuple[HeldScope, ...]:
        """Return the scopes that an account holds at ``now``, by name."""
        query = _holdings(now).where(tables.Grant.account == account_id)
        return _scopes(self._database.rows(query))

    def used(self, account_ids: Sequence[str], scopes: Iterable[str]) -> dict[str, _Row]:
        """Return when each of the accounts last used one of the scopes."""
        if not account_ids:
            return {}
        query = (
            _USE.select(
                _USE.account,
                fn.MAX(_USE.issued_on).alias("issued_on"),
                fn.MAX(_USE.named_on).alias("named_on"),
            )
            .where(_USE.account.in_([*account_ids]) & _USE.scope.in_([*scopes]))
            .group_by(_USE.account)
        )
        return {row["account"]: row for row in self._database.rows(query)}

    def unused(
        self,
        after: str,
        *,
        now: int,
        held_before: int,
        since: int,
        named: bool,
        service: str | None,
        scope: str | None,
        limit: int,
        looked_at: int,
    ) -> tuple[list[AccountScopes], str | None]:
        """Return enabled accounts after ``after`` with scopes unused since the day ``since``.

        They have held them since before ``held_before``. At most ``looked_at`` accounts are read.
        Also returns the account to go on after, ``None`` at the end.
        """
        end = self._end(after, looked_at)
        moment = fn.COALESCE(_USE.named_on if named else _USE.issued_on, 0)
        query = _holdings(now).where(
            (tables.Grant.account > after)
            & tables.Account.enabled
            & (tables.Grant.granted_at < held_before)
            & (fn.COALESCE(tables.RoleScope.added_at, 0) < held_before)
            & (moment < since)
        )
        if end is not None:
            query = query.where(tables.Grant.account <= end)
        if service is not None:
            query = query.where(tables.Service.name == service)
        if scope is not None:
            query = query.where(scope == _NAME)
        rows = self._database.rows(query.order_by(tables.Grant.account).limit(_MOST))
        found = [
            AccountScopes(
                id=account_id,
                username=held[0]["username"],
                kind=Kind(held[0]["kind"]),
                scopes=_scopes(held),
            )
            for account_id, held in (
                (account_id, [*each])
                for account_id, each in groupby(rows, key=lambda row: str(row["account"]))
            )
        ]
        if len(rows) == _MOST:
            if len(found) > 1:
                del found[-1]  # not all of it was read
            return found[:limit], found[:limit][-1].id
        return found[:limit], found[limit - 1].id if len(found) > limit else end

    def _end(self, after: str, number: int) -> str | None:
        """Return the id of the last of ``number`` accounts, ``None`` if there are no more."""
        key = tables.Account.id
        query = tables.Account.select(key).where(key > after).order_by(key)
        row = self._database.row(query.offset(number - 1))
        return None if row is None else str(row["id"])


def _is_wrong(written: peewee.Field, day: Any) -> Any:
    """Return the condition that a stored day (0 for none) must be replaced by the new one.

    A day that is too far ahead is replaced, too: a clock was ahead. Nodes may differ around
    midnight.
    """
    return (written < day) | ((day > 0) & (written > day + 1))


def _latest(written: peewee.Field, day: Any) -> peewee.Case:
    return peewee.Case(None, [(_is_wrong(written, day), day)], written)


def _holdings(now: int) -> "peewee.ModelSelect[Any]":
    """Return the query of the scopes that accounts hold at ``now``, a row for each grant."""
    grant = tables.Grant
    query: peewee.ModelSelect[Any] = (
        grant.select(
            grant.account,
            tables.Account.username,
            tables.Account.kind,
            _NAME.alias("name"),
            tables.Service.name.alias("service"),
            tables.Role.name.alias("role"),
            grant.granted_at,
            tables.RoleScope.added_at,
            _USE.issued_on,
            _USE.named_on,
        )
        .join(tables.Account)
        .join_from(grant, tables.Role, JOIN.LEFT_OUTER)
        .join_from(grant, tables.RoleScope, JOIN.LEFT_OUTER, on=tables.RoleScope.role == grant.role)
        .join_from(grant, tables.Scope, on=tables.Scope.name == _NAME)
        .join_from(tables.Scope, tables.Service)
        .join_from(
            grant,
            _USE,
            JOIN.LEFT_OUTER,
            on=(_USE.account == grant.account) & (_USE.scope == _NAME),
        )
        .where(grant.until.is_null() | (grant.until > now))
    )
    return query


def _scopes(rows: Iterable[_Row]) -> tuple[HeldScope, ...]:
    """Return the scopes of one account, by name."""
    ordered = sorted(rows, key=lambda row: (row["name"], row["role"] or ""))
    return tuple(
        _scope(name, [*each]) for name, each in groupby(ordered, key=lambda row: str(row["name"]))
    )


def _scope(name: str, rows: Sequence[_Row]) -> HeldScope:
    return HeldScope(
        name=name,
        service=rows[0]["service"],
        is_granted=any(row["role"] is None for row in rows),
        roles=tuple(row["role"] for row in rows if row["role"] is not None),
        held_since=min(max(row["granted_at"], row["added_at"] or 0) for row in rows),
        issued_on=rows[0]["issued_on"] or None,
        named_on=rows[0]["named_on"] or None,
    )
