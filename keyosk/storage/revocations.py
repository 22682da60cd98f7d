"""Revocations, and the lifetimes of the tokens that they must outlast."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee
from peewee import Case, fn

from keyosk.model import Claim, CredentialKind, Principal, Revocation
from keyosk.storage import tables
from keyosk.storage.compiled import parameter
from keyosk.storage.database import Database

_LOCK: Final = "revocations"
#: The most values in one statement; SQLite's limit is 32,766.
_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class OfAccount:
    """The published entries of one account.

    ``singles``: the number of single tokens; ``keys``: the number of API keys; ``at_once``: whether
    one entry has replaced these; ``issued_before``: tokens with an earlier ``iat`` are revoked.
    """

    singles: int
    keys: int
    at_once: bool
    issued_before: int


def revocations_of_token() -> "peewee.ModelSelect[Any]":
    """Return a query of the entries for a token's ``jti``, key or audience.

    It has the parameters ``jti``, ``kid``, ``audience`` and ``issued_at``.
    """
    revocation = tables.Revocation
    return revocation.select(revocation.sequence).where(
        ((revocation.value == parameter("jti")) & (revocation.claim == Claim.JTI.value))
        | ((revocation.value == parameter("kid")) & (revocation.claim == Claim.KID.value))
        | (
            (revocation.value == parameter("audience"))
            & (revocation.claim == Claim.AUD.value)
            & (revocation.issued_before > parameter("issued_at"))
        )
    )


class RevocationStore:
    """Reads and writes the revocation and lifetime tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._revoked = database.compile(revocations_of_token().limit(1))
        lifetime = tables.Lifetime
        self._longest_lifetime = database.compile(
            lifetime.select(fn.MAX(lifetime.seconds)).where(
                lifetime.ended_at.is_null()
                | (lifetime.ended_at + lifetime.seconds > parameter("now"))
            )
        )
        revocation = tables.Revocation
        self._since = database.compile(
            revocation.select()
            .where(
                (revocation.sequence > parameter("sequence"))
                & (revocation.expires > parameter("now"))
            )
            .order_by(revocation.sequence)
        )
        self._last = database.compile(tables.Revocation.select(fn.MAX(tables.Revocation.sequence)))

    def publish(self, revocations: Sequence[Revocation], now: int, *, least: int) -> None:
        """Give revocations their sequence numbers, and delete those that expired by ``now``.

        ``least``: the lowest number that the first of them may have. Entries that a new one
        includes are deleted, too.

        Call it at the very end of a transaction: its lock, which keeps the numbers in the order of
        the commits, is held to the end. So a verifier that has seen a number has seen all below it.
        """
        self._database.lock(_LOCK)
        first = max(self.last() + 1, least)
        self._database.insert_all(
            tables.Revocation,
            [
                {
                    "sequence": first + place,
                    "claim": each.claim.value,
                    "value": each.value,
                    "issued_before": each.issued_before,
                    "expires": each.expires,
                    "account": each.account,
                    "issued_at": each.issued_at,
                }
                for place, each in enumerate(revocations)
            ],
        )
        self._remove_superseded(revocations, first)
        # The last entry always stays, because the next number follows its number.
        self._database.write(
            tables.Revocation.delete().where(
                (tables.Revocation.expires <= now) & (tables.Revocation.sequence < first)
            )
        )

    def of_account(self, account_id: str, now: int, *, latest: int) -> OfAccount:
        """Return the entries of an account that have not expired.

        Entries whose ``issued_before`` is after ``latest`` are not counted.
        """
        revocation = tables.Revocation
        of_all = (revocation.value == account_id) & (revocation.claim == Claim.SUB.value)
        rows = self._database.rows(
            revocation.select().where(
                ((revocation.account == account_id) | of_all) & (revocation.expires > now)
            )
        )
        of_sub = [
            row
            for row in rows
            if row["claim"] == Claim.SUB.value and row["issued_before"] <= latest
        ]
        return OfAccount(
            singles=sum(row["claim"] == Claim.JTI.value for row in rows),
            keys=sum(row["claim"] == Claim.KEY_ID.value for row in rows),
            at_once=any(row["account"] is not None for row in of_sub),
            issued_before=max((row["issued_before"] for row in of_sub), default=0),
        )

    def first(self, now: int) -> int:
        """Return the lowest number of the entries that have not expired; 0 if there is none."""
        rows = self._database.rows(
            tables.Revocation.select(fn.MIN(tables.Revocation.sequence).alias("first")).where(
                tables.Revocation.expires > now
            )
        )
        return int(rows[0]["first"] or 0)

    def is_ahead(self, latest: int) -> bool:
        """Return whether an entry is for tokens that are issued after ``latest``."""
        ahead = tables.Revocation.issued_before > latest
        return (
            self._database.row(tables.Revocation.select(tables.Revocation.sequence).where(ahead))
            is not None
        )

    def correct(self, now: int, expires: int, *, latest: int) -> None:
        """Inside a transaction: limit such entries to tokens from before ``now``.

        They expire at ``expires`` at the latest, and all entries get new numbers in the same order.
        """
        self._database.lock(_LOCK)
        revocation = tables.Revocation
        ahead = revocation.issued_before > latest
        if self._database.row(revocation.select(revocation.sequence).where(ahead)) is None:
            return  # another process was faster
        self._database.write(
            revocation.update(
                issued_before=now,
                expires=Case(None, [(revocation.expires > expires, expires)], revocation.expires),
            ).where(ahead)
        )
        # By more than their range, so that no new number equals an old one meanwhile.
        rows = self._database.rows(revocation.select(fn.MIN(revocation.sequence).alias("first")))
        apart = self.last() - int(rows[0]["first"]) + 1
        self._database.write(revocation.update(sequence=revocation.sequence + apart))

    def last(self) -> int:
        """Return the highest sequence number; 0 before the first."""
        return int(self._last()[0][0] or 0)

    def since(self, sequence: int, now: int) -> tuple[Revocation, ...]:
        """Return the revocations above a sequence number that have not expired, in their order."""
        return tuple(
            Revocation(
                claim=Claim(claim),
                value=value,
                issued_before=issued_before,
                expires=expires,
                sequence=number,
                account=account,
                issued_at=issued_at,
            )
            for number, claim, value, issued_before, expires, account, issued_at in self._since(
                sequence=sequence, now=now
            )
        )

    def is_revoked(self, jti: str, kid: str, audience: str, *, issued_at: int) -> bool:
        """Return whether an entry for its ``jti``, key or audience revokes a token."""
        return bool(self._revoked(jti=jti, kid=kid, audience=audience, issued_at=issued_at))

    def raise_accounts(self, account_ids: Collection[str], moment: int) -> None:
        """Revoke the tokens of these accounts that were issued before ``moment``."""
        self._raise(tables.Account, account_ids, moment)

    def raise_api_keys(self, key_ids: Collection[str], moment: int) -> None:
        """Revoke the tokens of these API keys that were issued before ``moment``."""
        self._raise(tables.ApiKey, key_ids, moment)

    def raise_workload_rules(self, rule_ids: Collection[str], moment: int) -> None:
        """Revoke the tokens of logins by these rules that were issued before ``moment``."""
        self._raise(tables.WorkloadRule, rule_ids, moment)

    def lower(self, login: Principal, moment: int, *, latest: int) -> None:
        """Set ``tokens_from`` to ``moment`` where it is after ``latest``."""
        credentials = {
            CredentialKind.API_KEY: tables.ApiKey,
            CredentialKind.WORKLOAD: tables.WorkloadRule,
        }
        places: list[tuple[Any, str | None]] = [(tables.Account, login.account_id)]
        if login.credential in credentials:
            places.append((credentials[login.credential], login.credential_id))
        for table, row_id in places:
            columns: Any = table
            is_later = (columns.id == row_id) & (columns.tokens_from > latest)
            self._database.write(table.update(tokens_from=moment).where(is_later))

    def offer_lifetimes(self, default: int, now: int) -> None:
        """Store the lifetimes of tokens from ``now`` on: the default, and those of services."""
        offered = {default, *self._of_services()}
        stored = {
            row["seconds"]: row["ended_at"] for row in self._database.rows(tables.Lifetime.select())
        }
        for seconds in offered - stored.keys():
            self._database.insert(tables.Lifetime, [{"seconds": seconds, "ended_at": None}])
        for seconds, ended_at in stored.items():
            ends = None if seconds in offered else ended_at or now
            if ends != ended_at:
                self._database.write(
                    tables.Lifetime.update(ended_at=ends).where(tables.Lifetime.seconds == seconds)
                )

    def longest_lifetime(self, now: int) -> int | None:
        """Return the most seconds that a token from before ``now`` can still live, if known."""
        longest: int | None = self._longest_lifetime(now=now)[0][0]
        return longest

    def _remove_superseded(self, revocations: Iterable[Revocation], first: int) -> None:
        """Delete entries before number ``first`` that one of these includes."""
        revocation = tables.Revocation
        alike: dict[tuple[Claim, int], list[str]] = defaultdict(list)
        for each in revocations:
            if each.issued_before is not None:
                alike[each.claim, each.issued_before].append(each.value)
        for (claim, moment), revoked in alike.items():
            for start in range(0, len(revoked), _AT_ONCE):
                values = revoked[start : start + _AT_ONCE]
                less = (
                    (revocation.claim == claim.value)
                    & revocation.value.in_(values)
                    & (revocation.issued_before <= moment)
                )
                self._database.write(
                    revocation.delete().where(less & (revocation.sequence < first))
                )
                if claim is Claim.SUB:
                    # SECURITY: a token that may be newer than that keeps its own entry.
                    single = revocation.account.in_(values) & (revocation.issued_at < moment)
                    self._database.write(
                        revocation.delete().where(single & (revocation.sequence < first))
                    )

    def _of_services(self) -> Iterable[int]:
        query = tables.Service.select(tables.Service.token_lifetime).where(
            tables.Service.token_lifetime.is_null(False)
        )
        return [row["token_lifetime"] for row in self._database.rows(query.distinct())]

    def _raise(self, table: type[peewee.Model], ids: Collection[str], moment: int) -> None:
        id_list = list(ids)
        columns: Any = table
        for start in range(0, len(id_list), _AT_ONCE):
            self._database.write(
                table.update(tokens_from=moment).where(
                    columns.id.in_(id_list[start : start + _AT_ONCE])
                )
            )
