"""Revocations: the tokens that services which verify offline must no longer accept.

Keyosk itself does not need the entries for accounts and API keys, because it reads both for each
token: their ``tokens_from`` is the time from which on tokens are valid. An entry is written in the
transaction that takes the rights away, and stays until the last of its tokens has expired.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from keyosk import clocks
from keyosk.errors import Unavailable
from keyosk.model import Claim, Principal, Revocation
from keyosk.storage.console_sessions import ConsoleSessionStore
from keyosk.storage.database import Database
from keyosk.storage.revocations import RevocationStore
from keyosk.storage.sessions import SessionStore

_log = logging.getLogger(__name__)

#: Above this many accounts at once, the audiences are revoked instead of each account.
MOST_ACCOUNTS: Final = 1_000
#: Above this many single tokens of an account, all its existing tokens are revoked instead.
MOST_TOKENS: Final = 32
#: The same for API keys; high enough for a script that replaces a few.
MOST_KEYS: Final = 256
#: Seconds for which the entry of a stolen signing key stays. The thief chooses ``exp``, so it
#: depends on how long a verifier may still accept the key: five minutes (max-age), a day in a cache
#: (stale-if-error), and a day in the most patient verifiers seen. This is three times their sum.
KEY_ENTRY_LIVES: Final = 7 * 86_400
#: Seconds for which an expired entry stays in the database, unpublished.
_KEPT: Final = 3_600


class Revocations:
    """Revokes tokens before they expire.

    Call each method that revokes inside a transaction. It returns the time when all of the tokens
    have expired, so that even verifiers that never poll accept none of them.
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
        """``lifetime``: the default lifetime of tokens in seconds."""
        self._database = database
        self._store = store
        self._sessions = sessions
        self._console_sessions = console_sessions
        self._clock = clock
        self._lifetime = lifetime

    def revoke_account(self, account_id: str) -> int:
        """Revoke all existing tokens of this account."""
        self._store.raise_accounts([account_id], self._moment())
        return self._revoke_existing(Claim.SUB, [account_id])

    def revoke_accounts(
        self, account_ids: Collection[str], *, audiences: Collection[str] = ()
    ) -> int | None:
        """Revoke all existing tokens of these accounts; returns ``None`` if there is no account.

        ``audiences``: revoked instead if there are more than ``MOST_ACCOUNTS`` accounts. Without
        audiences, each account is revoked.
        """
        if not account_ids:
            return None
        if audiences and len(account_ids) > MOST_ACCOUNTS:
            return self.revoke_audiences(audiences)
        self._store.raise_accounts(account_ids, self._moment())
        return self._revoke_existing(Claim.SUB, account_ids)

    def end_sessions(self, account_id: str, *, by_password: bool = False) -> None:
        """End the sessions of an account; ``by_password``: only those that a password began."""
        self._sessions.remove_of_account(account_id, by_password=by_password)
        self._console_sessions.remove_of_account(account_id)

    def end_sessions_for(self, audience: str) -> None:
        """End the refresh sessions for an audience that no service has any longer.

        SECURITY: otherwise a service that takes the audience later would inherit them.
        """
        self._sessions.remove_for_audience(audience)

    def revoke_service(self, audience: str, account_ids: Collection[str]) -> int:
        """Revoke all existing tokens for a service, whose scopes these accounts hold.

        The accounts are revoked, too, unless they are too many: a verifier may ignore audiences.
        """
        effective_at = self.revoke_audiences([audience])
        if len(account_ids) <= MOST_ACCOUNTS:
            self.revoke_accounts(account_ids)
        return effective_at

    def revoke_api_key(self, key_id: str, account_id: str) -> int:
        """Revoke all existing tokens of this API key, and end its sessions.

        If more than ``MOST_KEYS`` keys of the account have entries, one entry replaces them.
        """
        moment = self._moment()
        self._sessions.remove_of_api_key(key_id)
        self._store.raise_api_keys([key_id], moment)
        return self._revoke_credential(key_id, account_id, moment)

    def revoke_workload_rule(self, rule_id: str, account_id: str) -> int:
        """Revoke all existing tokens of logins by this rule, as ``revoke_api_key`` does."""
        moment = self._moment()
        self._store.raise_workload_rules([rule_id], moment)
        return self._revoke_credential(rule_id, account_id, moment)

    def revoke_audiences(self, audiences: Collection[str]) -> int:
        """Revoke all existing tokens for these audiences."""
        return self._revoke_existing(Claim.AUD, audiences)

    def revoke_signing_key(self, kid: str) -> int:
        """Revoke every token that this key ever signs, until no cache can hold the key."""
        # SECURITY: without issued_before, because a thief chooses ``iat``.
        expires = int(self._clock()) + KEY_ENTRY_LIVES
        self._add(Revocation(claim=Claim.KID, value=kid, issued_before=None, expires=expires))
        return expires

    def revoke_tokens(
        self, account_id: str, tokens: Mapping[str, int], *, issued_at: int
    ) -> int | None:
        """Revoke single tokens of an account, which expire at these moments anyway.

        Returns ``None`` if there is no token. ``issued_at``: the latest ``iat`` that one of them
        may have. If the entries of the account become more than ``MOST_TOKENS``, one entry for all
        its existing tokens replaces them, so that nobody can fill the list that everybody reads.
        """
        if not tokens:
            return None
        now = int(self._clock())
        in_force = self._store.of_account(account_id, now, latest=now + clocks.APART)
        if issued_at < in_force.issued_before:  # an entry for all tokens covers them
            return max(tokens.values())
        is_too_many = in_force.at_once or in_force.singles + len(tokens) > MOST_TOKENS
        moment = self._moment()
        # A node whose clock is ahead may have issued a token with a later ``iat`` than now.
        if is_too_many and issued_at < moment:
            return self._replace_singles(account_id, moment)
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
        """Return whether a new expiry is earlier than that of existing tokens."""
        if after is None or (before is not None and before <= after):
            return False
        return after < int(self._clock()) + self.longest_lifetime()

    def is_revoked(self, jti: str, kid: str, audience: str, *, issued_at: int) -> bool:
        """Return whether a token of a usable account was revoked."""
        return self._store.is_revoked(jti, kid, audience, issued_at=issued_at) and not (
            self.correct() and not self._store.is_revoked(jti, kid, audience, issued_at=issued_at)
        )

    def corrected(self, login: Principal, *, store: bool = True) -> Principal:
        """Return a login whose new tokens are valid now.

        A clock that was ahead may have revoked all tokens until a future time. This limits the
        revocation to the tokens from before now. Without ``store`` only the returned login is
        corrected, for callers that issue no token.
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

    def note_lifetimes(self) -> None:
        """Store the lifetimes of tokens, after a start or a change of a service."""
        with self._database.transaction():
            self._store.offer_lifetimes(self._lifetime, int(self._clock()))

    def longest_lifetime(self) -> int:
        """Return the seconds until all existing tokens have expired."""
        return self._store.longest_lifetime(int(self._clock())) or self._lifetime

    def correct(self) -> bool:
        """Correct entries that a clock ahead wrote; returns whether there were any.

        All entries get new numbers, so that readers get all of them again.
        """
        now = int(self._clock())
        if not self._store.is_ahead(now + clocks.APART):
            return False
        try:
            with self._database.transaction():
                expires = now + self.longest_lifetime()
                self._store.correct(now, expires, latest=now + clocks.APART)
        except Unavailable:
            return False
        return True

    def _revoke_credential(self, credential_id: str, account_id: str, moment: int) -> int:
        now = int(self._clock())
        in_force = self._store.of_account(account_id, now, latest=now + clocks.APART)
        if in_force.at_once or in_force.keys >= MOST_KEYS:
            return self._replace_singles(account_id, moment)
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

    def _replace_singles(self, account_id: str, moment: int) -> int:
        """Revoke all existing tokens of an account by one entry, which replaces many."""
        self._store.raise_accounts([account_id], moment)
        return self._revoke_existing(Claim.SUB, [account_id], instead_of_singles=True)

    def _revoke_existing(
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
        # Not at once, because a clock that is ahead for a moment must not delete valid entries.
        now = self._clock()
        over = int(now) - _KEPT
        # SECURITY: numbers grow with time, so that a database in an earlier state, after a restore
        # or on a standby that was behind, repeats none of them. Readers would otherwise take new
        # entries for those that they have.
        least = int(now * 1000)
        self._store.publish(tuple(dict.fromkeys(revocations)), over, least=least)

    def _moment(self) -> int:
        # Times in tokens are whole seconds, so tokens of the present second are included. No token
        # of the account is issued until that second is over (``Tokens.issue``).
        return int(self._clock()) + 1


def latest(*moments: int | None) -> int | None:
    """Return the latest of the times that are not ``None``."""
    return max((moment for moment in moments if moment is not None), default=None)
