"""Signing keys; their private halves are sealed before they come here."""

import json
from collections.abc import Mapping
from typing import Any

import peewee

from keyosk.errors import Conflict
from keyosk.model import KeyState, SigningKey
from keyosk.storage import tables
from keyosk.storage.database import Database


class SigningKeyStore:
    """Reads and writes the signing_key table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: SigningKey) -> None:
        """Insert a key. Raises ``Conflict`` when its algorithm has an active key already."""
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
                    }
                ],
            )
        except peewee.IntegrityError as error:
            raise Conflict("algorithm", "This algorithm has an active key already.") from error

    def all(self) -> tuple[SigningKey, ...]:
        """Every key, oldest first."""
        query = tables.SigningKey.select().order_by(
            tables.SigningKey.created_at, tables.SigningKey.kid
        )
        return tuple(_signing_key(row) for row in self._database.rows(query))


def _signing_key(row: Mapping[str, Any]) -> SigningKey:
    return SigningKey(
        kid=row["kid"],
        algorithm=row["algorithm"],
        state=KeyState(row["state"]),
        public=json.loads(row["public"]),
        sealed=bytes(row["sealed"]),
        published_at=row["published_at"],
        active_from=row["active_from"],
        retired_at=row["retired_at"],
        created_at=row["created_at"],
    )
