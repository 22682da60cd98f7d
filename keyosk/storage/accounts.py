"""Accounts and their passwords."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import peewee
from peewee import JOIN

from keyosk.errors import NotFound
from keyosk.model import Account, AccountFields, Kind, ListQuery, StoredPassword, Versions
from keyosk.storage import tables, versions
from keyosk.storage.account_lists import AccountLists
from keyosk.storage.compiled import parameter
from keyosk.storage.conflicts import conflict
from keyosk.storage.database import Database

_TAKEN = {"username": "Another account already has this username."}
_JSON = ("claims", "metadata")
#: The fields that are stored unchanged.
_PLAIN = (
    "id",
    "username",
    "kind",
    "display_name",
    "enabled",
    "expires_at",
    "last_login_at",
    "created_at",
    "updated_at",
    "version",
)


class AccountStore:
    """Reads and writes the account and password tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lists = AccountLists(database, _select)
        account, password = tables.Account, tables.Password
        self._by_id = database.compile(_select().where(account.id == parameter("account_id")))
        self._by_username = database.compile(
            _select().where(account.username == parameter("username"))
        )
        known_source = tables.KnownSource
        from_there = (known_source.account == account.id) & (
            known_source.source == parameter("source")
        )
        self._password = database.compile(
            account.select(password.id, password.hash, known_source.seen_at)
            .join(password, JOIN.LEFT_OUTER)
            .switch(account)
            .join(known_source, JOIN.LEFT_OUTER, on=from_there)
            .where(account.username == parameter("username"))
        )

    def add(self, account: Account) -> None:
        """Insert a new account. Raises ``Conflict`` when its username is taken."""
        try:
            self._database.insert(tables.Account, [_columns(account)])
        except peewee.IntegrityError as error:
            raise conflict(error, tables.Account, _TAKEN) from error

    def add_all(self, accounts: Sequence[Mapping[str, Any]]) -> frozenset[str]:
        """Insert those of the new accounts whose usernames are free; returns their ids.

        ``accounts``: the values of each, as an ``Account`` has them.
        """
        columns: dict[str, Sequence[Any]] = {
            name: [account[name] for account in accounts] for name in _PLAIN
        }
        columns["display_key"] = [name.casefold() for name in columns["display_name"]]
        for name in _JSON:
            values = [account[name] for account in accounts]
            columns[name] = [json.dumps(value) if value else "{}" for value in values]
        return frozenset(
            self._database.insert_columns(tables.Account, columns, skipping_taken=True)
        )

    def ids_of(self, usernames: Collection[str]) -> dict[str, str]:
        """Return the ids of the accounts that have these usernames, in their stored form."""
        if not usernames:
            return {}
        query = tables.Account.select(tables.Account.username, tables.Account.id).where(
            tables.Account.username.in_(list(usernames))
        )
        return {row["username"]: row["id"] for row in self._database.rows(query)}

    def by_id(self, account_id: str) -> Account:
        """Return the account with this id. Raises ``NotFound``."""
        return _found(self._by_id.first(account_id=account_id))

    def by_username(self, username: str) -> Account:
        """Return the account with this username in its stored form. Raises ``NotFound``."""
        return _found(self._by_username.first(username=username))

    def usernames(self, account_ids: Collection[str]) -> dict[str, str]:
        """Return the usernames of the accounts by id; accounts that do not exist are left out."""
        if not account_ids:
            return {}
        account = tables.Account
        query = account.select(account.id, account.username)
        rows = self._database.rows(query.where(account.id.in_(list(account_ids))))
        return {row["id"]: row["username"] for row in rows}

    def page(self, list_query: ListQuery) -> list[Account]:
        """Return a page of accounts."""
        return [_account(row) for row in self._lists.page(list_query)]

    def horizon(self, list_query: ListQuery, *, looked_at: int) -> Account | None:
        """Return the last account that a page looks at; ``None`` if there is no limit."""
        row = self._lists.horizon(list_query, looked_at)
        return None if row is None else _account(row)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of accounts that pass the filters of a list."""
        return self._lists.count(list_query)

    def change(
        self,
        account_id: str,
        changes: AccountFields,
        *,
        now: int,
        version: Versions | None = None,
    ) -> int:
        """Write the given columns, if the account is still at ``version`` (``None``: any).

        Returns the new version. Raises ``Stale`` when it is not, ``Conflict`` when
        the new username is taken.
        """
        columns: dict[str, Any] = {
            name: json.dumps(value) if name in _JSON else value for name, value in changes.items()
        }
        if "display_name" in columns:
            columns["display_key"] = columns["display_name"].casefold()
        query = tables.Account.update(
            **columns, updated_at=now, version=versions.following(self._database, tables.Account)
        ).where(tables.Account.id == account_id)
        try:
            number = versions.change(self._database, query, version, noun="account")
        except peewee.IntegrityError as error:
            raise conflict(error, tables.Account, _TAKEN) from error
        return number

    def remove(self, account_id: str, *, version: Versions | None = None) -> None:
        """Delete the account with all that belongs to it. Raises ``Stale``."""
        query = tables.Account.delete().where(tables.Account.id == account_id)
        versions.remove(self._database, query, version, noun="account")

    def record_login(self, account_id: str, now: int) -> None:
        """Record a login. This does not change the account: its version stays."""
        self._database.write(
            tables.Account.update(last_login_at=now).where(tables.Account.id == account_id)
        )

    def password(self, username: str, source: str) -> tuple[StoredPassword | None, int | None]:
        """Return the password of the account with this username, if it has one.

        It also returns when the account last logged in from this source, as
        ``ThrottlingStore.seen_at`` does, because a login needs both.
        """
        rows = self._password(username=username, source=source)
        if not rows:
            return None, None
        password_id, stored, seen_at = rows[0]
        return None if password_id is None else StoredPassword(password_id, stored), seen_at

    def password_of(self, account_id: str) -> StoredPassword | None:
        """Return the password of the account with this id, if it has one."""
        row = self._database.row(
            tables.Password.select(tables.Password.id, tables.Password.hash).where(
                tables.Password.account == account_id
            )
        )
        return StoredPassword(row["id"], row["hash"]) if row else None

    def password_set_at(self, account_id: str) -> int | None:
        """Return when the account's password was set, if it has one."""
        row = self._database.row(
            tables.Password.select(tables.Password.changed_at).where(
                tables.Password.account == account_id
            )
        )
        return None if row is None else int(row["changed_at"])

    def set_password(self, account_id: str, password: StoredPassword, *, now: int) -> None:
        """Store the password, replacing any other."""
        self._database.write(
            tables.Password.insert(
                account=account_id, id=password.id, hash=password.hash, changed_at=now
            )
            .on_conflict(
                conflict_target=[tables.Password.account],
                preserve=[tables.Password.id, tables.Password.hash, tables.Password.changed_at],
            )
            .returning()
        )

    def add_passwords(self, passwords: Mapping[str, StoredPassword], *, now: int) -> None:
        """Store the first passwords of new accounts, by their ids."""
        self._database.insert_all(
            tables.Password,
            [
                {"account": account_id, "id": password.id, "hash": password.hash, "changed_at": now}
                for account_id, password in passwords.items()
            ],
        )

    def rehash(self, password: StoredPassword) -> None:
        """Replace the hash of a password; does nothing if the password was changed."""
        self._database.write(
            tables.Password.update(hash=password.hash).where(tables.Password.id == password.id)
        )

    def remove_password(self, account_id: str) -> bool:
        """Delete the password; returns whether there was one."""
        return bool(
            self._database.write(
                tables.Password.delete().where(tables.Password.account == account_id)
            )
        )


def _found(row: Mapping[str, Any] | None) -> Account:
    if row is None:
        raise NotFound("There is no such account.")
    return _account(row)


def _select() -> "peewee.ModelSelect[tables.Account]":
    return tables.Account.select(
        tables.Account,
        tables.Password.account.is_null(False).alias("has_password"),
    ).join(tables.Password, JOIN.LEFT_OUTER)


def _columns(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "username": account.username,
        "kind": account.kind.value,
        "display_name": account.display_name,
        "display_key": account.display_name.casefold(),
        "enabled": account.enabled,
        "claims": json.dumps(account.claims) if account.claims else "{}",
        "metadata": json.dumps(account.metadata) if account.metadata else "{}",
        "expires_at": account.expires_at,
        "last_login_at": account.last_login_at,
        "created_at": account.created_at,
        "updated_at": account.updated_at,
        "version": account.version,
    }


def _account(row: Mapping[str, Any]) -> Account:
    return Account(
        id=row["id"],
        username=row["username"],
        kind=Kind(row["kind"]),
        display_name=row["display_name"],
        enabled=bool(row["enabled"]),
        claims=json.loads(row["claims"]),
        metadata=json.loads(row["metadata"]),
        expires_at=row["expires_at"],
        has_password=bool(row["has_password"]),
        last_login_at=row["last_login_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )
