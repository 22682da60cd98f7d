"""Allowances of attempts, stored in the database, so that all processes and nodes share them.

This is the generic cell rate algorithm (GCRA; ITU-T I.371). The used part of an allowance shrinks
with time. An attempt adds ``step`` to it, and is refused if it would exceed ``room``.

A row stores the used part as ``until - counted_at``, which does not depend on the clock. The time
since then counts from ``counted_at``, or if that is ahead, from ``latest_at``, the latest time of
any clock here. So a clock that was ahead, or that of another node, neither uses up nor refunds an
attempt.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee
from peewee import EXCLUDED, Case

from keyosk.storage import tables
from keyosk.storage.compiled import Compiled, parameter
from keyosk.storage.conflicts import for_login
from keyosk.storage.database import Database

#: The number of known sources of an account, the latest ones.
_KNOWN: Final = 20
#: Milliseconds by which the clocks of two nodes may differ without losing what the other needs.
_APART: Final = 900_000
#: Milliseconds after which a known source is written again, because not every login is written.
_SEEN_RESOLUTION: Final = 86_400_000


def is_fresh(seen_at: int | None, now: int) -> bool:
    """Return whether a source seen at this time (milliseconds) needs no ``trust_source``."""
    return seen_at is not None and now - _SEEN_RESOLUTION <= seen_at <= now + _APART


@dataclass(frozen=True, slots=True)
class Allowance:
    """One allowance: ``step`` milliseconds per attempt, ``room`` milliseconds for a burst."""

    key: str
    step: int
    room: int


class ThrottlingStore:
    """Reads and writes the allowance and known_source tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._takes: dict[int, Compiled] = {}
        allowance, known_source = tables.Allowance, tables.KnownSource
        of_account = known_source.account == parameter("account_id")
        now = parameter("now")
        self._seen_at = database.compile(
            known_source.select(known_source.seen_at)
            .join(tables.Account)
            .where(
                (tables.Account.username == parameter("username"))
                & (known_source.source == parameter("source"))
            )
        )
        self._refund = database.compile(
            allowance.update(until=allowance.until - parameter("step")).where(
                allowance.key == parameter("key")
            ),
            repeatable=False,
        )
        # Times from a clock that was ahead must not outlive later ones.
        self._date_back_sources = database.compile(
            known_source.update(seen_at=now - 1).where(
                of_account & (known_source.seen_at > now + _APART)
            ),
            repeatable=False,
        )
        self._see_source = database.compile(
            known_source.insert(
                account=parameter("account_id"), source=parameter("source"), seen_at=now
            )
            .on_conflict(
                conflict_target=[known_source.account, known_source.source],
                update={known_source.seen_at: now},
                where=(known_source.seen_at < now - _SEEN_RESOLUTION),
            )
            .returning(),
            repeatable=False,
        )
        kept = (
            known_source.select(known_source.source)
            .where(of_account)
            .order_by(known_source.seen_at.desc())
            .limit(_KNOWN)
        )
        self._forget_sources = database.compile(
            known_source.delete().where(of_account & known_source.source.not_in(kept)),
            repeatable=False,
        )

    def admit(self, allowances: Sequence[Allowance], now: int) -> frozenset[str]:
        """Use one attempt of each allowance at ``now`` (milliseconds), by one statement.

        Returns the keys of the allowances that had one left; the others are unchanged. Concurrent
        attempts never get more than an allowance has.
        """
        # In a fixed order, so that two statements never deadlock.
        ordered = sorted(allowances, key=lambda each: each.key)
        take = self._takes.get(len(ordered))
        if take is None:
            take = self._takes[len(ordered)] = self._compiled(len(ordered))
        values: dict[str, Any] = {"now": now}
        for place, each in enumerate(ordered):
            values |= {
                f"key{place}": each.key,
                f"until{place}": now + each.step,
                f"step{place}": each.step,
                f"room{place}": each.room,
            }
        return frozenset(row[0] for row in take(**values))

    def refund(self, allowances: Sequence[Allowance]) -> None:
        """Inside a transaction: undo ``admit`` for these allowances."""
        for each in sorted(allowances, key=lambda each: each.key):
            self._refund(key=each.key, step=each.step)

    def used(self, keys: Collection[str], now: int) -> dict[str, int]:
        """Return the used part of the allowances at ``now``; unused ones are left out."""
        if not keys:
            return {}
        rows = self._database.rows(
            tables.Allowance.select(tables.Allowance.key, _used(now).alias("used")).where(
                tables.Allowance.key.in_(list(keys))
            )
        )
        return {row["key"]: row["used"] for row in rows if row["used"] > 0}

    def date_back(self, keys: Collection[str], now: int) -> None:
        """Correct allowances from a clock that was ahead, so that they shrink from now on."""
        if not keys:
            return
        allowance = tables.Allowance
        ahead = allowance.key.in_(list(keys)) & (allowance.counted_at > now)
        if self._database.row(allowance.select(allowance.key).where(ahead)) is not None:
            self._database.write(
                allowance.update(until=now + _used(now), counted_at=now).where(ahead)
            )

    def forget(self, now: int) -> None:
        """Remove the allowances that are whole again, also by clocks that are a little behind."""
        self._database.write(
            tables.Allowance.delete().where(tables.Allowance.until <= now - _APART)
        )

    def seen_at(self, username: str, source: str) -> int | None:
        """Return when the account with this username logged in from there, if it ever did."""
        rows = self._seen_at(username=username, source=source)
        return rows[0][0] if rows else None

    @for_login()
    def trust_source(self, account_id: str, source: str, now: int) -> None:
        """Record that the account logged in from this source at ``now`` (milliseconds).

        Raises ``BadCredentials``.
        """
        self._date_back_sources(account_id=account_id, now=now)
        self._see_source(account_id=account_id, source=source, now=now)
        self._forget_sources(account_id=account_id)

    def _compiled(self, count: int) -> Compiled:
        allowance = tables.Allowance
        now = parameter("now")
        rows = [
            {
                allowance.key: parameter(f"key{place}"),
                allowance.until: parameter(f"until{place}"),
                allowance.step: parameter(f"step{place}"),
                allowance.room: parameter(f"room{place}"),
                allowance.counted_at: now,
                allowance.latest_at: now,
            }
            for place in range(count)
        ]
        query: peewee.Query = (
            allowance.insert_many(rows)
            .on_conflict(
                conflict_target=[allowance.key],
                update={
                    allowance.until: now + _used(now) + EXCLUDED.step,
                    allowance.counted_at: now,
                    allowance.latest_at: _later(allowance.latest_at, now),
                },
                where=(_used(now) + EXCLUDED.step - EXCLUDED.room <= 0),
            )
            .returning(allowance.key)
        )
        return self._database.compile(query, repeatable=False)


def is_used_up(allowance: Any, now: Any) -> Any:
    """Return the condition that an allowance has no attempt left at ``now``."""
    return _used(now, allowance) + allowance.step - allowance.room > 0


def _used(now: Any, allowance: Any = tables.Allowance) -> Any:
    """Return the SQL for the used part of an allowance at ``now``, in milliseconds."""
    since = Case(
        None,
        [
            (allowance.latest_at <= now, allowance.latest_at),
            (allowance.counted_at <= now, allowance.counted_at),
        ],
        now,
    )
    left = allowance.until - allowance.counted_at - (now - since)
    return Case(None, [(left > 0, left)], 0)


def _later(one: Any, other: Any) -> Any:
    return Case(None, [(one > other, one)], other)
