"""Allowances to guess, kept in the database so that all processes and nodes share them.

The generic cell rate algorithm (GCRA; ITU-T I.371): what is used up of an allowance wears off with
time, a guess adds ``step`` to it, and is refused where it would be more than ``room``. A row has it
as ``until - counted_at``, which holds whatever the clock was when it was counted. Time that has
passed since is measured by one clock only: since ``counted_at``, unless that lies ahead, or since
``latest_at``, the latest moment that any clock had here, by a clock that has reached it. So neither
a clock that was ahead once nor one of another node uses up or gives back a single guess.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee
from peewee import EXCLUDED, Case

from keyosk.storage import tables
from keyosk.storage.compiled import Compiled, parameter
from keyosk.storage.database import Database

#: How many places an account keeps, those where it was seen last.
_KNOWN: Final = 20
#: Milliseconds: clocks of two nodes that are less apart forget nothing that the other needs.
_APART: Final = 900_000
#: Milliseconds after which a seen place is written again: a login is not a reason by itself.
_SEEN_RESOLUTION: Final = 86_400_000


def is_fresh(seen_at: int | None, now: int) -> bool:
    """Return whether a source that was seen then needs no ``trust_source`` (milliseconds)."""
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
        allowance, known = tables.Allowance, tables.KnownSource
        mine = known.account == parameter("account_id")
        now = parameter("now")
        self._seen_at = database.compile(
            known.select(known.seen_at)
            .join(tables.Account)
            .where(
                (tables.Account.username == parameter("username"))
                & (known.source == parameter("source"))
            )
        )
        self._refund = database.compile(
            allowance.update(until=allowance.until - parameter("step")).where(
                allowance.key == parameter("key")
            ),
            repeatable=False,
        )
        # What a clock that was ahead has noted must not outlive all that is noted after it.
        self._date_back_sources = database.compile(
            known.update(seen_at=now - 1).where(mine & (known.seen_at > now + _APART)),
            repeatable=False,
        )
        self._see_source = database.compile(
            known.insert(account=parameter("account_id"), source=parameter("source"), seen_at=now)
            .on_conflict(
                conflict_target=[known.account, known.source],
                update={known.seen_at: now},
                where=(known.seen_at < now - _SEEN_RESOLUTION),
            )
            .returning(),
            repeatable=False,
        )
        kept = known.select(known.source).where(mine).order_by(known.seen_at.desc()).limit(_KNOWN)
        self._forget_sources = database.compile(
            known.delete().where(mine & known.source.not_in(kept)), repeatable=False
        )

    def admit(self, allowances: Sequence[Allowance], now: int) -> frozenset[str]:
        """Take one attempt from each allowance at ``now`` (milliseconds), all by one statement.

        Returns the keys of the allowances that had one left; the others are unchanged. However many
        attempts come at once, no allowance gives more than it has.
        """
        # In one order, so that no two statements wait for one another's rows.
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
        """Undo ``admit`` for these, in a transaction of the caller's."""
        for each in sorted(allowances, key=lambda each: each.key):
            self._refund(key=each.key, step=each.step)

    def used(self, keys: Collection[str], now: int) -> dict[str, int]:
        """Of those of the allowances that are not whole at ``now``, how much is used up."""
        if not keys:
            return {}
        rows = self._database.rows(
            tables.Allowance.select(tables.Allowance.key, _used(now).alias("used")).where(
                tables.Allowance.key.in_(list(keys))
            )
        )
        return {row["key"]: row["used"] for row in rows if row["used"] > 0}

    def date_back(self, keys: Collection[str], now: int) -> None:
        """Have what these of the allowances have used up wear off from now on, at the latest."""
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

    def trust_source(self, account_id: str, source: str, now: int) -> None:
        """Record that the account logged in from this source at ``now`` (milliseconds)."""
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
    """Return whether an allowance gives no attempt at ``now``, as SQL over its columns."""
    return _used(now, allowance) + allowance.step - allowance.room > 0


def _used(now: Any, allowance: Any = tables.Allowance) -> Any:
    """Return how much of an allowance is used up at ``now``, in milliseconds, as SQL."""
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
