"""Reads the numbers for monitoring, each from an index and from a limited number of rows."""

from collections.abc import Iterable
from typing import Any, Final

import peewee
from peewee import fn

from keyosk.storage import tables
from keyosk.storage.compiled import parameter
from keyosk.storage.database import Database
from keyosk.storage.throttling import is_used_up

#: The limit of counting; larger numbers are reported as this one.
MOST: Final = 100_000
#: The most allowances that are read, those that are used up for longest first.
_ALLOWANCES: Final = 10_000
#: How many services have series of their own.
_SERVICES: Final = 200


class MonitoringStore:
    """Reads numbers for ``/metrics``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        now = parameter("now")
        revocation, session = tables.Revocation, tables.Session
        waiting, response = tables.WaitingAuditRow, tables.Idempotency
        self._revocations = self._counted(revocation, revocation.expires > now)
        self._sessions = self._counted(session, session.expires_at > now)
        self._responses = self._counted(response, response.created_at > now)
        self._unsealed = self._counted(waiting, None)
        self._oldest_unsealed = database.compile(
            waiting.select(waiting.time).order_by(waiting.id).limit(1)
        )
        self._last_sealed = database.compile(
            tables.AuditRow.select(fn.MAX(tables.AuditRow.sequence).alias("sequence"))
        )
        self._last_checkpoint = database.compile(
            tables.Checkpoint.select(tables.Checkpoint.sequence, tables.Checkpoint.time)
            .order_by(tables.Checkpoint.sequence.desc())
            .limit(1)
        )
        allowance = tables.Allowance
        longest = (
            allowance.select()
            .where(allowance.until > now)
            .order_by(allowance.until.desc())
            .limit(_ALLOWANCES)
            .alias("longest")
        )
        self._throttled = database.compile(
            peewee.Select([longest], [longest.c.room, fn.COUNT(longest.c.key).alias("number")])
            .where(is_used_up(longest.c, now))
            .group_by(longest.c.room)
        )

    def throttled(self, now: int) -> dict[int, int]:
        """Return how many allowances have no attempt left, by their ``room`` (milliseconds)."""
        return dict(self._throttled(now=now))

    def revocations(self, now: int) -> int:
        """Return how many revocations are published."""
        return int(self._revocations(now=now)[0][0])

    def refresh_sessions(self, now: int) -> int:
        """Return how many refresh sessions have not expired."""
        return int(self._sessions(now=now)[0][0])

    def stored_responses(self, since: int) -> int:
        """Return how many responses are stored that were given after a moment."""
        return int(self._responses(now=since)[0][0])

    def unsealed(self) -> tuple[int, int]:
        """Return how many rows of the audit log wait, and the time of the oldest (0: none)."""
        oldest = self._oldest_unsealed()
        return int(self._unsealed()[0][0]), oldest[0][0] if oldest else 0

    def sealed(self) -> int:
        """Return the place of the last row in the chain of the audit log; 0 if it is empty."""
        return self._last_sealed()[0][0] or 0

    def checkpoint(self) -> tuple[int, int]:
        """Return the place and the time of the last checkpoint; zeros if there is none."""
        rows = self._last_checkpoint()
        return (rows[0][0], rows[0][1]) if rows else (0, 0)

    def services(self) -> dict[str, str]:
        """Return the names of the oldest services by audience: those with series of their own."""
        query = (
            tables.Service.select(tables.Service.audience, tables.Service.name)
            .order_by(tables.Service.id)
            .limit(_SERVICES)
        )
        return {row["audience"]: row["name"] for row in self._database.rows(query)}

    def _counted(self, table: Any, condition: Any) -> Any:
        """Compile the number of rows that meet a condition, up to the limit."""
        rows: Iterable[Any] = table.select(peewee.SQL("1").alias("one"))
        if condition is not None:
            rows = rows.where(condition)  # type: ignore[attr-defined]
        some = rows.limit(MOST).alias("some")  # type: ignore[attr-defined]
        return self._database.compile(peewee.Select([some], [fn.COUNT(peewee.SQL("*"))]))
