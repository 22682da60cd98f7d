"""Answers to POST requests that may be sent again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keyosk.storage import tables
from keyosk.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """An answer as it was given: ``body`` without its secrets, ``sealed`` with them, encrypted.

    ``details``: the ``status`` and ``headers`` that the web gave it.
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
        """Return the answer that this caller got under this key."""
        row = self._database.row(
            tables.Idempotency.select().where(
                (tables.Idempotency.caller == caller) & (tables.Idempotency.key == key)
            )
        )
        return None if row is None else _answer(row)

    def add(self, answer: StoredResponse) -> None:
        """Insert an answer, in the transaction of what it answers."""
        self._database.insert(
            tables.Idempotency,
            [
                {
                    "caller": answer.caller,
                    "key": answer.key,
                    "fingerprint": answer.fingerprint,
                    "status": answer.details["status"],
                    "headers": json.dumps(answer.details["headers"]),
                    "body": answer.body,
                    "sealed": answer.sealed,
                    "created_at": answer.created_at,
                }
            ],
        )

    def forget(self, *, answers_before: int, secrets_before: int) -> None:
        """Delete answers, and the secrets of answers, that are older than these moments."""
        created = tables.Idempotency.created_at
        self._database.write(tables.Idempotency.delete().where(created < answers_before))
        self._database.write(
            tables.Idempotency.update(sealed=None).where(
                (created < secrets_before) & tables.Idempotency.sealed.is_null(False)
            )
        )

    def date_back(self, now: int, *, latest: int) -> None:
        """Have answers of after ``latest`` be of ``now``."""
        created = tables.Idempotency.created_at
        self._database.write(tables.Idempotency.update(created_at=now).where(created > latest))

    def sealed(self) -> list[StoredResponse]:
        """Return all answers that have a secret."""
        query = tables.Idempotency.select().where(tables.Idempotency.sealed.is_null(False))
        return [_answer(row) for row in self._database.rows(query)]

    def reseal(self, answer: StoredResponse, sealed: bytes) -> None:
        """Put another ciphertext in the place of an answer's."""
        mine = (tables.Idempotency.caller == answer.caller) & (tables.Idempotency.key == answer.key)
        self._database.write(tables.Idempotency.update(sealed=sealed).where(mine))


def _answer(row: Mapping[str, Any]) -> StoredResponse:
    return StoredResponse(
        caller=row["caller"],
        key=row["key"],
        fingerprint=row["fingerprint"],
        details={"status": row["status"], "headers": json.loads(row["headers"])},
        body=row["body"],
        sealed=None if row["sealed"] is None else bytes(row["sealed"]),
        created_at=row["created_at"],
    )
