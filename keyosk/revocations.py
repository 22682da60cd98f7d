"""Revocations: what services that verify offline must not accept any more.

Keyosk itself needs none of them for accounts and API keys, as it reads both anew for each token:
``tokens_from`` there says from when on tokens count. An entry is written in the transaction of
whatever takes the rights away, and lives until the last token that it can touch has expired.
"""

import bisect
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from keyosk import clocks
from keyosk.errors import Unavailable
from keyosk.model import Claim, Principal, Revocation
from keyosk.storage.console_sessions import ConsoleSessionStore
from keyosk.storage.database import Database
from keyosk.storage.revocations import RevocationStore
from keyosk.storage.sessions import SessionStore

_log = logging.getLogger(__name__)

#: Above this many accounts at once, the audiences concerned are revoked instead of each of them.
MOST_ACCOUNTS: Final = 1_000
#: Above this many single tokens of an account, all its tokens so far are revoked instead.
MOST_TOKENS: Final = 32
#: Above this many API keys of an account, the same: no script that replaces a few ends others.
MOST_KEYS: Final = 256
#: Seconds after which the entries are read again although their numbers are the same.
_REREAD: Final = 60
_NEVER: Final = 2**62
#: Seconds that the entry of a stolen signing key lives. Whoever stole it chooses ``exp``, so no end
#: of a token counts, only how long somebody may still take the key for ours: five minutes by our
#: max-age and a day by stale-if-error in a cache, a day more in the most patient verifiers seen,
#: and all of that three times over. One entry costs nothing.
KEY_ENTRY_LIVES: Final = 7 * 86_400
#: Seconds that an expired entry stays in the database, unpublished.
_KEPT: Final = 3_600


@dataclass(frozen=True, slots=True)
class Published:
    """What a verifier polls: the entries above ``since``, and how far they reach.

    ``since`` is 0 for all that are in force, also where a higher number was asked for than there
    is.
    """

    sequence: int
    since: int
    revocations: tuple[Revocation, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is published, as it was ``at`` a moment; nothing expires before ``until``.

    ``reread``: when all of it is to be read again. ``forms``: what readers get, by what they ask
    for, made once for all of them.
    """

    whole: Published
    at: int
    until: int
    reread: int
    forms: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    #: Whom or what the entries are about, and perhaps others: what is in here may be superseded.
    about: set[str] = field(default_factory=set, repr=False, compare=False)

    def holds(self, last: int, now: int) -> bool:
        """Return whether it is still so, if ``last`` is the highest number by now."""
        return self.whole.sequence == last and self.at <= now < min(self.until, self.reread)


class Revocations:
    """Ends tokens before their time.

    Each method that revokes is for a transaction of the caller's. It returns the moment from which
    even verifiers that never poll accept none of those tokens, as all have expired by then.
    """

    def __init__(
        self,
        database: Database,
        store: RevocationStore,
        sessions: SessionStore,
        *,
        console_sessions: ConsoleSessionStore,
        clock: Callable[[], float],
        lifetime: int,
    ) -> None:
        """``lifetime``: seconds that tokens live where no service says otherwise."""
        self._database = database
        self._store = store
        self._sessions = sessions
        self._console_sessions = console_sessions
        self._clock = clock
        self._lifetime = lifetime
        self._snapshot: Snapshot | None = None
        self._building = threading.Lock()

    def of_account(self, account_id: str) -> int:
        """Revoke every token of this account so far."""
        self._store.raise_accounts([account_id], self._moment())
        return self._all_so_far(Claim.SUB, [account_id])

    def of_accounts(
        self, account_ids: Collection[str], *, audiences: Collection[str] = ()
    ) -> int | None:
        """Revoke every token of these accounts so far; ``None`` if there is no account.

        ``audiences``: revoked instead where the accounts are more than ``MOST_ACCOUNTS``; where
        none is given, each account is revoked however many they are.
        """
        if not account_ids:
            return None
        if audiences and len(account_ids) > MOST_ACCOUNTS:
            return self.of_audiences(audiences)
        self._store.raise_accounts(account_ids, self._moment())
        return self._all_so_far(Claim.SUB, account_ids)

    def end_sessions(self, account_id: str, *, by_password: bool = False) -> None:
        """End the sessions of an account, ``by_password``: those that a password began."""
        self._sessions.remove_of_account(account_id, by_password=by_password)
        self._console_sessions.remove_of_account(account_id)

    def end_sessions_for(self, audience: str) -> None:
        """End the refresh sessions for an audience that no service has any more.

        SECURITY: else a service that takes it later goes on with them.
        """
        self._sessions.remove_for_audience(audience)

    def of_service(self, audience: str, account_ids: Collection[str]) -> int:
        """Revoke every token so far for a service, whose scopes these accounts hold.

        Each of them as well, where they are not too many: a verifier may know no audiences.
        """
        effective_at = self.of_audiences([audience])
        if len(account_ids) <= MOST_ACCOUNTS:
            self.of_accounts(account_ids)
        return effective_at

    def of_api_key(self, key_id: str, account_id: str) -> int:
        """Revoke every token so far that came from this API key, and end its sessions.

        Where the keys of the account become more than ``MOST_KEYS``, as ``of_tokens``.
        """
        moment = self._moment()
        self._sessions.remove_of_api_key(key_id)
        self._store.raise_api_keys([key_id], moment)
        return self._of_credential(key_id, account_id, moment)

    def of_workload_rule(self, rule_id: str, account_id: str) -> int:
        """Revoke every token so far that came by this rule, as ``of_api_key``."""
        moment = self._moment()
        self._store.raise_workload_rules([rule_id], moment)
        return self._of_credential(rule_id, account_id, moment)

    def of_audiences(self, audiences: Collection[str]) -> int:
        """Revoke every token for these audiences so far."""
        return self._all_so_far(Claim.AUD, audiences)

    def of_signing_key(self, kid: str) -> int:
        """Revoke every token that this key signed or will, until no cache can hold the key."""
        # SECURITY: without issued_before, as a thief chooses ``iat``.
        expires = int(self._clock()) + KEY_ENTRY_LIVES
        self._add(Revocation(claim=Claim.KID, value=kid, issued_before=None, expires=expires))
        return expires

    def of_tokens(
        self, account_id: str, tokens: Mapping[str, int], *, issued_at: int
    ) -> int | None:
        """Revoke single tokens of an account, which expire at these moments anyway.

        Returns ``None`` if there is no token.

        ``issued_at``: the latest ``iat`` that one of them may have. Where they become more than
        ``MOST_TOKENS``, and for as long as that is told of, all of the account's tokens so far are
        revoked instead: nobody can fill what everybody reads.
        """
        if not tokens:
            return None
        now = int(self._clock())
        known = self._store.of_account(account_id, now, latest=now + clocks.APART)
        if issued_at < known.issued_before:  # they were revoked with all others
            return max(tokens.values())
        many = known.at_once or known.singles + len(tokens) > MOST_TOKENS
        moment = self._moment()
        # By the clock of another node a token may be from later than now.
        if many and issued_at < moment:
            return self._instead_of_singles(account_id, moment)
        for jti, expires in tokens.items():
            self._add(
                Revocation(
                    claim=Claim.JTI,
                    value=jti,
                    issued_before=None,
                    expires=expires,
                    account=account_id,
                    issued_at=issued_at,
                )
            )
        return max(tokens.values())

    def cuts_short(self, before: int | None, after: int | None) -> bool:
        """Whether an end that is moved from ``before`` comes before that of tokens that exist."""
        if after is None or (before is not None and before <= after):
            return False
        return after < int(self._clock()) + self.longest_lifetime()

    def is_revoked(self, jti: str, kid: str, audience: str, *, issued_at: int) -> bool:
        """Return whether a token of a usable account was revoked."""
        return self._store.is_revoked(jti, kid, audience, issued_at=issued_at) and not (
            self._correct() and not self._store.is_revoked(jti, kid, audience, issued_at=issued_at)
        )

    def corrected(self, login: Principal, *, store: bool = True) -> Principal:
        """A login whose tokens count from no later than now.

        A clock that was ahead may have revoked all that is issued until then: no token would be
        good. From here on they count again, and those of before this moment stay revoked. Without
        ``store`` only the response says so: for what issues no token.
        """
        now = int(self._clock())
        if not clocks.is_ahead(login.tokens_from, now):
            return login
        if not store:
            return replace(login, tokens_from=now)
        try:
            with self._database.transaction():
                self._store.lower(login, now, latest=now + clocks.APART)
        except Unavailable:
            _log.warning(
                "revocations of a future time were not corrected: the database is not available"
            )
        return replace(login, tokens_from=now)

    def published(self, since: int = 0) -> Published:
        """Return the revocations in force with numbers above ``since``."""
        whole = self.snapshot().whole
        entries = whole.revocations
        start = since if since <= whole.sequence else 0
        if entries and start < entries[0].sequence:
            start = 0  # it is all there is: whoever asks may forget what they had
        # They are in order, and most readers ask for the last few.
        first = bisect.bisect_right(entries, start, key=lambda each: each.sequence)
        return Published(whole.sequence, start, entries[first:])

    def snapshot(self) -> "Snapshot":
        """All that is in force, read anew only when something changed: for every reader the same.

        It asks the database for one number.
        """
        last, now = self._store.last(), int(self._clock())
        known = self._snapshot
        if known is None or not known.holds(last, now):
            with self._building:  # one builds, the others wait for it
                known = self._snapshot
                if known is None or not known.holds(last, now):
                    known = self._snapshot = self._read_snapshot(now)
        return known

    def _read_snapshot(self, now: int) -> "Snapshot":
        self._correct()
        # Read before the entries: one that is added in between is published twice, never missed.
        last = self._store.last()
        known = self._snapshot
        if known is not None and known.whole.sequence <= last and known.at <= now < known.reread:
            extended = self._extended(known, last, now)
            if extended is not None:
                return extended
        entries = self._store.since(0, now)
        about = {name for each in entries for name in (each.value, each.account) if name}
        whole = Published(last, 0, entries)
        return Snapshot(whole, now, _first_end(entries), now + _REREAD, about=about)

    def _extended(self, known: Snapshot, last: int, now: int) -> Snapshot | None:
        """A snapshot with what was published since, which is little where the whole is not.

        ``None`` if that cannot be told: where all entries have new numbers, or none of before is
        left.
        """
        entries = known.whole.revocations
        new = self._store.since(entries[-1].sequence if entries else known.whole.sequence, now)
        if not 0 < self._store.first(now) <= known.whole.sequence:
            return None
        until = known.until
        if now >= until:
            entries = tuple(each for each in entries if each.expires > now)
            until = _first_end(entries)
        if any(each.value in known.about for each in new if each.issued_before is not None):
            superseded, names = _superseded_by(new), {each.value for each in new}
            entries = tuple(
                each
                for each in entries
                if (each.value not in names and each.account not in names) or not superseded(each)
            )
        known.about.update(name for each in new for name in (each.value, each.account) if name)
        whole = Published(last, 0, (*entries, *new))
        return Snapshot(whole, now, min(until, _first_end(new)), known.reread, about=known.about)

    def note_lifetimes(self) -> None:
        """Take in which lifetimes tokens have from now on: after a start, or a changed service."""
        with self._database.transaction():
            self._store.offer_lifetimes(self._lifetime, int(self._clock()))

    def longest_lifetime(self) -> int:
        """Return seconds until every token that exists now has expired."""
        return self._store.longest_lifetime(int(self._clock())) or self._lifetime

    def _correct(self) -> bool:
        """Have entries of a clock that was ahead end with this moment; whether there were such.

        All entries get new numbers, so that whoever polls gets all of them and keeps none of old.
        """
        now = int(self._clock())
        if not self._store.is_ahead(now + clocks.APART):
            return False
        try:
            with self._database.transaction():
                ends = now + self.longest_lifetime()
                self._store.correct(now, ends, latest=now + clocks.APART)
        except Unavailable:
            return False
        return True

    def _of_credential(self, credential_id: str, account_id: str, moment: int) -> int:
        now = int(self._clock())
        known = self._store.of_account(account_id, now, latest=now + clocks.APART)
        if known.at_once or known.keys >= MOST_KEYS:
            return self._instead_of_singles(account_id, moment)
        expires = now + self.longest_lifetime()
        self._add(
            Revocation(
                claim=Claim.KEY_ID,
                value=credential_id,
                issued_before=moment,
                expires=expires,
                account=account_id,
                issued_at=moment - 1,
            )
        )
        return expires

    def _instead_of_singles(self, account_id: str, moment: int) -> int:
        """Revoke every token of an account so far by the entry that takes the place of many."""
        self._store.raise_accounts([account_id], moment)
        return self._all_so_far(Claim.SUB, [account_id], instead_of_singles=True)

    def _all_so_far(
        self, claim: Claim, values: Collection[str], *, instead_of_singles: bool = False
    ) -> int:
        expires = int(self._clock()) + self.longest_lifetime()
        for value in values:
            self._add(
                Revocation(
                    claim=claim,
                    value=value,
                    issued_before=self._moment(),
                    expires=expires,
                    account=value if instead_of_singles else None,
                )
            )
        return expires

    def _add(self, revocation: Revocation) -> None:
        self._database.at_end(self._publish, revocation)

    def _publish(self, revocations: Collection[Revocation]) -> None:
        # Not at once: a clock that is ahead for a moment must not end what is in force.
        now = self._clock()
        over = int(now) - _KEPT
        # SECURITY: numbers grow with the time, so that a database that was set back to an earlier
        # state, by a restore or by a standby that was behind, gives none of them twice: readers
        # would take new entries for those that they have.
        least = int(now * 1000)
        self._store.publish(tuple(dict.fromkeys(revocations)), over, least=least)

    def _moment(self) -> int:
        # Times in tokens are whole seconds: those of this very second are meant too. No new one of
        # the same account is issued before it is over (``Tokens.issue``).
        return int(self._clock()) + 1


def _first_end(entries: Collection[Revocation]) -> int:
    """When the first of the entries expires; long from now if there are none."""
    return min((each.expires for each in entries), default=_NEVER)


def _superseded_by(new: Collection[Revocation]) -> Callable[[Revocation], bool]:
    """Whether an entry from before says less than one of these: storage deletes it as well."""
    moments = {
        (each.claim, each.value): each.issued_before
        for each in new
        if each.issued_before is not None
    }

    def superseded(entry: Revocation) -> bool:
        moment = moments.get((entry.claim, entry.value))
        if moment is not None and entry.issued_before is not None:
            return entry.issued_before <= moment
        # SECURITY: a token that may be from later than that keeps its own entry.
        moment = moments.get((Claim.SUB, entry.account or ""))
        return moment is not None and entry.issued_at is not None and entry.issued_at < moment

    return superseded


def latest(*moments: int | None) -> int | None:
    """Return the latest of the moments that there are."""
    return max((moment for moment in moments if moment is not None), default=None)
