"""Counts of failed logins and refusals, until their minute is over and they become audit rows.

So a flood of them adds few rows.
"""

import json
from dataclasses import replace
from typing import Any, Final

from peewee import EXCLUDED

from keyosk.model import LoginFailure, Refusal
from keyosk.storage import tables
from keyosk.storage.compiled import parameter
from keyosk.storage.database import Database

#: Seconds by which the minute of a count may be in the future. Later ones are from a wrong clock.
_FAR: Final = 3_600
#: The most addresses of an account in a minute that have a count of their own.
_PLACES: Final = 50
#: The action of the count of refusals that have a row of their own.
_SHOWN: Final = ""


class AuditCounts:
    """Reads and writes the counts of failed logins and refusals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Compiled, because each change takes what is due, and most of the time nothing is.
        failure, refusal = tables.LoginFailure, tables.Refusal
        self._due_failures = database.compile(
            failure.select().where(_due(failure.minute)).order_by(failure.minute)
        )
        self._due_refusals = database.compile(
            refusal.select().where(_due(refusal.minute)).order_by(refusal.minute)
        )

    def count_failure(self, failure: LoginFailure) -> None:
        """Add to the failed logins of this account, address and minute.

        Those from further addresses than ``_PLACES`` are counted together, without an address.
        """
        table = tables.LoginFailure
        at_once = (table.account == failure.account) & (table.minute == failure.minute)
        address = failure.address
        if self._database.row(table.select().where(at_once & (table.address == address))) is None:
            places = self._database.count(table.select().where(at_once))
            address = address if places < _PLACES else ""
        self._database.write(
            table.insert(
                account=failure.account,
                address=address,
                minute=failure.minute,
                count=failure.count,
                throttled=failure.throttled,
            )
            .on_conflict(
                conflict_target=[table.account, table.address, table.minute],
                update={
                    table.count: table.count + EXCLUDED.count,
                    table.throttled: table.throttled | EXCLUDED.throttled,
                },
                # Without a change nothing is written.
                where=(EXCLUDED.count > 0) | ~table.throttled,
            )
            .returning()
        )

    def failures(self, limit: int) -> list[LoginFailure]:
        """Return the counts, those with the most failed logins first."""
        failure = tables.LoginFailure
        query = failure.select().order_by(failure.count.desc()).limit(limit)
        return [
            LoginFailure(**{**row, "throttled": bool(row["throttled"])})
            for row in self._database.rows(query)
        ]

    def take_failures(self, before: int) -> list[LoginFailure]:
        """Remove and return the counts of minutes before ``before``, in the caller's transaction.

        Also those of a clock that was ahead, which would wait much too long.
        """
        rows = self._due_failures.dicts(before=before)
        if rows:
            minute = tables.LoginFailure.minute
            due = (minute < before) | (minute > before + _FAR)
            self._database.write(tables.LoginFailure.delete().where(due))
        return [LoginFailure(**{**row, "throttled": bool(row["throttled"])}) for row in rows]

    def show_refusal(self, refusal: Refusal, *, most: int) -> bool:
        """Return whether a refusal gets a row, as one of ``most`` of its account and minute."""
        public = replace(refusal, credential="", action=_SHOWN)
        table = tables.Refusal
        of_minute = (
            (table.account == public.account)
            & (table.credential == "")
            & (table.action == _SHOWN)
            & (table.minute == public.minute)
        )
        before = self._database.row(table.select(table.count).where(of_minute))
        if before is not None and before["count"] >= most:
            return False
        self.count_refusal(public)
        after = self._database.row(table.select(table.count).where(of_minute))
        return after is not None and after["count"] <= most

    def count_refusal(self, refusal: Refusal) -> None:
        """Add to the refusals of this account, credential, kind and minute."""
        table = tables.Refusal
        self._database.write(
            table.insert(
                account=refusal.account,
                credential=refusal.credential,
                action=refusal.action,
                minute=refusal.minute,
                count=refusal.count,
                sample=json.dumps(refusal.sample),
            )
            .on_conflict(
                conflict_target=[table.account, table.credential, table.action, table.minute],
                update={table.count: table.count + EXCLUDED.count},
            )
            .returning()
        )

    def take_refusals(self, before: int) -> list[Refusal]:
        """As ``take_failures``, for refusals."""
        rows = self._due_refusals.dicts(before=before)
        if rows:
            minute = tables.Refusal.minute
            due = (minute < before) | (minute > before + _FAR)
            self._database.write(tables.Refusal.delete().where(due))
        return [
            Refusal(**{**row, "sample": json.loads(row["sample"])})
            for row in rows
            if row["action"] != _SHOWN
        ]


def _due(minute: Any) -> Any:
    before = parameter("before")
    return (minute < before) | (minute > before + _FAR)
