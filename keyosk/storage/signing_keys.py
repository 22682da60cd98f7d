"""Signing keys; their private keys are encrypted before they get here."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import peewee
from peewee import fn

from keyosk import strict_json
from keyosk.errors import Conflict, DatabaseDamaged
from keyosk.model import KeyState, ListQuery, SigningKey
from keyosk.storage import listing as lists
from keyosk.storage import tables
from keyosk.storage.database import Database
from keyosk.strict_json import BadJson

#: By ``kid``, algorithm and public JWK.
FaultOf = Callable[[str, str, Mapping[str, str]], str | None]

_SORTS: Final = {"created_at": tables.SigningKey.created_at}


class SigningKeyStore:
    """Reads and writes the signing_key table."""

    def __init__(self, database: Database, *, fault_of: FaultOf) -> None:
        """Set ``fault_of``: returns what is wrong with the ``public`` of a key, if anything is."""
        self._database = database
        self._fault_of = fault_of
        self._parsed: tuple[list[dict[str, Any]], tuple[SigningKey, ...]] = ([], ())
        self._compromised = database.compile(
            tables.SigningKey.select(fn.COUNT(tables.SigningKey.kid)).where(
                tables.SigningKey.state == peewee.SQL(f"'{KeyState.COMPROMISED}'")
            )
        )

    def add(self, key: SigningKey) -> None:
        """Insert a key. Raises ``Conflict`` if its algorithm has one in this state already."""
        try:
            self._database.insert(
                tables.SigningKey,
                [
                    {
                        "kid": key.kid,
                        "algorithm": key.algorithm,
                        "state": key.state,
                        "public": json.dumps(key.public),
                        "sealed": key.sealed,
                        "published_at": key.published_at,
                        "active_from": key.active_from,
                        "retired_at": key.retired_at,
                        "created_at": key.created_at,
                        "gone_at": key.gone_at,
                        "when_seen": key.when_seen,
                    }
                ],
            )
        except peewee.IntegrityError as error:
            raise Conflict(
                "algorithm", f"There is a key like this, or one is {key.state} already."
            ) from error

    def all(self) -> tuple[SigningKey, ...]:
        """Return every key, oldest first; the same tuple object while nothing has changed."""
        query = tables.SigningKey.select().order_by(
            tables.SigningKey.created_at, tables.SigningKey.kid
        )
        rows, parsed = self._database.rows(query), self._parsed
        if rows != parsed[0]:
            parsed = self._parsed = (rows, tuple(map(self._signing_key, rows)))
        return parsed[1]

    def page(self, list_query: ListQuery) -> list[SigningKey]:
        """Return a page of keys."""
        key = tables.SigningKey
        query = lists.page(key.select(), list_query, key=key.kid, sorts=_SORTS, filters={})
        return [self._signing_key(row) for row in self._database.rows(query)]

    def count(self, list_query: ListQuery) -> int:
        """Return the number of keys."""
        return lists.count(self._database, tables.SigningKey.select(), list_query)

    def has(self, kid: str) -> bool:
        """Return whether a key is stored."""
        query = tables.SigningKey.select(tables.SigningKey.kid).where(tables.SigningKey.kid == kid)
        return self._database.row(query) is not None

    def compromised(self) -> int:
        """Return the number of compromised keys."""
        return int(self._compromised()[0][0])

    def lock(self) -> None:
        """Inside a transaction: wait until no other transaction changes keys."""
        self._database.lock("signing_keys")

    def change(self, kid: str, **columns: Any) -> None:
        """Write columns of a key."""
        self._database.write(
            tables.SigningKey.update(**columns).where(tables.SigningKey.kid == kid)
        )

    def record_fetch(self, service: str, kids: Sequence[str], now: int) -> bool:
        """Record the keys that a service, by name or id, fetched; returns whether it exists."""
        matches = (tables.Service.name == service) | (tables.Service.id == service)
        row = self._database.row(tables.Service.select(tables.Service.id).where(matches))
        if row is None:
            return False
        table = tables.KeyFetch
        self._database.write(
            table.insert(service=row["id"], kids=json.dumps(kids), seen_at=now)
            .on_conflict(conflict_target=[table.service], preserve=[table.kids, table.seen_at])
            .returning()
        )
        return True

    def key_fetches(self) -> dict[str, frozenset[str]]:
        """Return the keys that each service fetched last, by its name."""
        query = tables.KeyFetch.select(tables.Service.name, tables.KeyFetch.kids).join(
            tables.Service
        )
        rows = self._database.rows(query)
        return {row["name"]: frozenset(json.loads(row["kids"])) for row in rows}

    def _signing_key(self, row: Mapping[str, Any]) -> SigningKey:
        public = _public(row["public"])
        return SigningKey(
            kid=row["kid"],
            algorithm=row["algorithm"],
            state=_state(row),
            public=public,
            sealed=bytes(row["sealed"]),
            published_at=row["published_at"],
            active_from=row["active_from"],
            retired_at=row["retired_at"],
            created_at=row["created_at"],
            gone_at=row["gone_at"],
            when_seen=bool(row["when_seen"]),
            fault=self._fault_of(row["kid"], row["algorithm"], public),
        )


def _state(row: Mapping[str, Any]) -> KeyState:
    try:
        return KeyState(row["state"])
    except ValueError:
        # Whether such a key is stolen, say, is unknown.
        reason = f"the signing key {row['kid']} is in no known state"
        raise DatabaseDamaged("The database is damaged.", reason=reason) from None


def _public(text: str) -> Mapping[str, str]:
    """Return a public JWK, or an empty one if the text is none: others can still be used."""
    try:
        public = strict_json.parse(text)
    except BadJson:
        return {}
    return public if isinstance(public, dict) else {}
