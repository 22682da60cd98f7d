"""Responses to POST requests that may be sent again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keyosk.storage import tables
from keyosk.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A stored response.

    Attributes:
        details: Its ``status`` and ``headers``.
        body: Its body, without secrets.
        sealed: The encrypted body with its secrets; ``None`` if it has none.
    """

    caller: str
    key: str
    fingerprint: str
    details: Mapping[str, Any]
    body: str
    sealed: bytes | None
    created_at: int


class IdempotencyStore:
    """Reads and writes the idempotency table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, caller: str, key: str) -> StoredResponse | None:
        """Return the response that this caller got under this key."""
        row = self._database.row(
            tables.Idempotency.select().where(
                (tables.Idempotency.caller == caller) & (tables.Idempotency.key == key)
            )
        )
        return None if row is None else _response(row)

    def add(self, response: StoredResponse) -> None:
        """Insert a response, in the transaction of the request that it is for."""
        self._database.insert(
            tables.Idempotency,
            [
                {
                    "caller": response.caller,
                    "key": response.key,
                    "fingerprint": response.fingerprint,
                    "status": response.details["status"],
                    "headers": json.dumps(response.details["headers"]),
                    "body": response.body,
                    "sealed": response.sealed,
                    "created_at": response.created_at,
                }
            ],
        )

    def forget(self, *, responses_before: int, secrets_before: int) -> None:
        """Delete responses, and the secrets of responses, that are older than these moments."""
        created = tables.Idempotency.created_at
        self._database.write(tables.Idempotency.delete().where(created < responses_before))
        self._database.write(
            tables.Idempotency.update(sealed=None).where(
                (created < secrets_before) & tables.Idempotency.sealed.is_null(False)
            )
        )

    def date_back(self, now: int, *, latest: int) -> None:
        """Set the time of responses after ``latest`` to ``now``."""
        created = tables.Idempotency.created_at
        self._database.write(tables.Idempotency.update(created_at=now).where(created > latest))

    def sealed(self) -> list[StoredResponse]:
        """Return all responses that have a secret."""
        query = tables.Idempotency.select().where(tables.Idempotency.sealed.is_null(False))
        return [_response(row) for row in self._database.rows(query)]

    def reseal(self, response: StoredResponse, sealed: bytes) -> None:
        """Replace the ciphertext of a response."""
        table = tables.Idempotency
        same_request = (table.caller == response.caller) & (table.key == response.key)
        self._database.write(table.update(sealed=sealed).where(same_request))


def _response(row: Mapping[str, Any]) -> StoredResponse:
    return StoredResponse(
        caller=row["caller"],
        key=row["key"],
        fingerprint=row["fingerprint"],
        details={"status": row["status"], "headers": json.loads(row["headers"])},
        body=row["body"],
        sealed=None if row["sealed"] is None else bytes(row["sealed"]),
        created_at=row["created_at"],
    )
