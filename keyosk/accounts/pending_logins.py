"""Logins to the console between the password and the second factor.

A pending login is bound to its browser by a cookie, lasts ``LIFETIME`` seconds, and gives access
only to the page that asks for the second factor.
"""

import secrets
from collections.abc import Sequence
from typing import Final

from keyosk import clocks
from keyosk.accounts.console_sessions import VIA, ConsoleSessions, NewConsoleSession, digest_of
from keyosk.accounts.second_factors import SecondFactors
from keyosk.credentials.authentication import Authentication, caller_of
from keyosk.errors import BadCredentials
from keyosk.model import PendingLogin, Principal
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores

#: Seconds between the password and the second factor.
LIFETIME: Final = 300
#: Seconds for which an ended one is kept, because a clock may be ahead for a moment.
_KEPT: Final = 3_600


class PendingLogins:
    """Begins and finishes pending logins."""

    def __init__(
        self,
        context: Context,
        stores: Stores,
        *,
        authentication: Authentication,
        second_factors: SecondFactors,
        console_sessions: ConsoleSessions,
    ) -> None:
        self._database = context.database
        self._clock = context.clock
        self._store = stores.pending_logins
        self._authentication = authentication
        self._factors = second_factors
        self._sessions = console_sessions

    def begin(self, principal: Principal) -> str:
        """Store a login by password; returns the secret for its cookie."""
        if principal.password_id is None:
            raise BadCredentials
        now = max(int(self._clock()), principal.tokens_from)
        secret = secrets.token_urlsafe(32)
        with self._database.transaction():
            self._store.remove_expired(now - _KEPT)
            self._store.add(
                PendingLogin(
                    digest=digest_of(secret),
                    account_id=principal.account_id,
                    password_id=principal.password_id,
                    created_at=now,
                    expires_at=now + LIFETIME,
                )
            )
        return secret

    def find(self, secret: str) -> tuple[PendingLogin, Principal]:
        """Return the pending login of a cookie, and its account.

        Raises ``BadCredentials`` if it has ended, its password was changed, or its account was
        disabled or has expired.
        """
        login = self._store.find(digest_of(secret))
        now = int(self._clock())
        if login is None or not now < login.expires_at <= now + LIFETIME + clocks.APART:
            raise BadCredentials("This login took too long: begin again.")
        principal = self._authentication.by_password_id(login.password_id, login.created_at)
        if principal.account_id != login.account_id or login.created_at < principal.tokens_from:
            raise BadCredentials("This login was ended: begin again.")
        return login, principal

    def challenge(self, secret: str) -> str | None:
        """Return what the browser of a login needs to show a passkey; ``None`` without any.

        Raises ``BadCredentials`` as ``find``.
        """
        login, _ = self.find(secret)
        challenge = self._factors.challenge(login.account_id)
        if challenge is None:
            return None
        self._store.challenge(login.digest, challenge.challenge)
        return challenge.options

    def finish(
        self,
        secret: str,
        *,
        code: str,
        passkey: str,
        address: str | None,
        agent: str,
        request_id: str | None,
    ) -> tuple[NewConsoleSession, Principal]:
        """Verify the second factor and begin the session.

        ``code``: of an app, or a recovery code. ``passkey``: the browser's response, empty if the
        factor is a code. Raises
        ``BadCredentials``, which is recorded if the second factor is wrong, and ``Throttled``.
        """
        login, principal = self.find(secret)
        caller = caller_of(principal, address=address, request_id=request_id, via=VIA)

        def begin(amr: Sequence[str]) -> NewConsoleSession:
            if not self._store.take(login.digest):
                raise BadCredentials("This login was finished already.")
            return self._sessions.begin(
                principal, address=address, agent=agent, request_id=request_id, amr=amr
            )

        # SECURITY: before the signature is verified, and permanently: a challenge is used once.
        is_asked = login.challenge is not None and self._store.take_challenge(
            login.digest, login.challenge
        )
        challenge = login.challenge if is_asked else None
        started = self._factors.verify(
            caller, code=code, passkey=passkey, challenge=challenge, on_success=begin
        )
        return started, principal
