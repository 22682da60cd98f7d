"""API keys; of each secret, only a digest is stored."""

import json
from collections.abc import Mapping
from typing import Any, Final

import peewee

from keyosk.errors import NotFound
from keyosk.model import ApiKey, ApiKeyFields, ListQuery, Versions
from keyosk.storage import tables, versions
from keyosk.storage.api_key_lists import ApiKeyLists
from keyosk.storage.database import Database

_LISTS: Final = ("scopes", "networks")


class ApiKeyStore:
    """Reads and writes the api_key table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lists = ApiKeyLists(database)

    def add(self, key: ApiKey, digest: bytes) -> None:
        """Insert a new key. Raises ``NotFound`` when its account was deleted meanwhile."""
        row = {
            "id": key.id,
            "account": key.account_id,
            "name": key.name,
            "description": key.description,
            "digest": digest,
            "prefix": key.prefix,
            "scopes": _json(key.scopes),
            "networks": _json(key.networks),
            "enabled": key.enabled,
            "expires_at": key.expires_at,
            "last_used_at": key.last_used_at,
            "successor": key.successor,
            "created_at": key.created_at,
            "updated_at": key.updated_at,
            "version": key.version,
        }
        try:
            self._database.insert(tables.ApiKey, [row])
        except peewee.IntegrityError as error:
            raise NotFound("There is no such account.") from error

    def page(self, list_query: ListQuery) -> list[ApiKey]:
        """Return a page of keys; the filter ``owner`` is an account's id."""
        return [_api_key(row) for row in self._lists.page(list_query)]

    def count(self, list_query: ListQuery) -> int:
        """Return the number of keys that pass the filters of a list."""
        return self._lists.count(list_query)

    def get(self, account_id: str, key_id: str) -> ApiKey:
        """Return one key of the account. Raises ``NotFound``, also for another account's key."""
        row = self._database.row(
            tables.ApiKey.select().where(
                (tables.ApiKey.id == key_id) & (tables.ApiKey.account == account_id)
            )
        )
        if row is None:
            raise NotFound("This account has no such API key.")
        return _api_key(row)

    def change(
        self, key_id: str, changes: ApiKeyFields, *, now: int, version: Versions | None = None
    ) -> int:
        """Write the given columns, if the key is still at ``version``; returns the new version.

        Raises ``Stale``.
        """
        columns: dict[str, Any] = {**changes}
        columns |= {name: _json(columns[name]) for name in _LISTS if name in columns}
        query = tables.ApiKey.update(
            **columns, updated_at=now, version=versions.following(self._database, tables.ApiKey)
        ).where(tables.ApiKey.id == key_id)
        return versions.change(self._database, query, version, noun="API key")

    def remove(self, key_id: str, *, version: Versions | None = None) -> None:
        """Delete the key. Raises ``Stale``."""
        query = tables.ApiKey.delete().where(tables.ApiKey.id == key_id)
        versions.remove(self._database, query, version, noun="API key")

    def record_use(self, key_id: str, now: int, *, first: bool = False) -> bool:
        """Record a use; with ``first``, only if it is the first. Returns whether it was recorded.

        This does not change the key: its version stays.
        """
        query = tables.ApiKey.update(last_used_at=now).where(tables.ApiKey.id == key_id)
        if first:
            query = query.where(tables.ApiKey.last_used_at.is_null())
        return bool(self._database.write(query))


def _json(items: tuple[str, ...] | None) -> str | None:
    return None if items is None else json.dumps(list(items))


def _items(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))


def _api_key(row: Mapping[str, Any]) -> ApiKey:
    return ApiKey(
        id=row["id"],
        account_id=row["account"],
        name=row["name"],
        description=row["description"],
        prefix=row["prefix"],
        scopes=_items(row["scopes"]),
        networks=_items(row["networks"]),
        enabled=bool(row["enabled"]),
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        successor=row["successor"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )
