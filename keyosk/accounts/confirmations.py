"""Confirmations: a person proves again who they are before a dangerous act in the console.

They show the password, and a second factor if the account has one; otherwise a stolen cookie and a
known password would be enough. A confirmation lasts ``LASTING`` seconds; a login is one, too.
"""

from collections.abc import Sequence
from typing import Final

from keyosk import clocks
from keyosk.accounts.accounts import Accounts, target
from keyosk.accounts.console_sessions import VIA, ConsoleSessions
from keyosk.accounts.second_factors import SecondFactors
from keyosk.credentials.authentication import Authentication, caller_of
from keyosk.errors import BadCredentials
from keyosk.model import PASSWORD, Caller, ConsoleSession
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores

#: Seconds for which a confirmation lasts.
LASTING: Final = 300
#: Seconds for which a passkey may answer a challenge.
_CHALLENGED: Final = 300
_WRONG: Final = "The password is wrong."
_FACTOR_TOO: Final = "Show your second factor as well: a code, or a passkey."
_ENDED: Final = "The session was ended: log in again."


class Confirmations:
    """Requests and records confirmations."""

    def __init__(
        self,
        context: Context,
        stores: Stores,
        *,
        accounts: Accounts,
        authentication: Authentication,
        console_sessions: ConsoleSessions,
        second_factors: SecondFactors,
    ) -> None:
        self._database = context.database
        self._audit = context.audit
        self._clock = context.clock
        self._store = stores.console_sessions
        self._accounts = accounts
        self._authentication = authentication
        self._sessions = console_sessions
        self._factors = second_factors

    def is_fresh(self, session: ConsoleSession) -> bool:
        """Return whether the session has a confirmation that still lasts."""
        return clocks.is_recent(session.confirmed_at, int(self._clock()), LASTING)

    def needs_factor(self, session: ConsoleSession) -> bool:
        """Return whether the next confirmation needs a second factor as well as the password."""
        return not self.is_fresh(session) and self._factors.is_enrolled(session.account_id)

    def challenge(self, session: ConsoleSession) -> str | None:
        """Return what the browser of a session needs to show a passkey; ``None`` without any.

        Earlier challenges of the session no longer count.
        """
        challenge = self._factors.challenge(session.account_id)
        if challenge is None:
            return None
        self._store.challenge(session.id, challenge.challenge, int(self._clock()))
        return challenge.options

    def confirm(
        self,
        session: ConsoleSession,
        password: str,
        *,
        code: str,
        passkey: str,
        address: str | None,
        request_id: str | None,
    ) -> None:
        """Verify the password of the session's account and, if ``needs_factor``, a second factor.

        Both are throttled and recorded like a login. ``passkey``: the browser's response, empty if
        the factor is a code. Raises ``BadCredentials``, ``Throttled``.
        """
        needs_factor = self.needs_factor(session)
        account = self._accounts.get(session.account_id)
        try:
            stored = self._authentication.confirm_password(account, password, address=address)
        except BadCredentials:
            raise BadCredentials(_WRONG) from None
        if stored.id != session.password_id:
            raise BadCredentials(_WRONG)
        # SECURITY: read after the slow hash, because the account may be disabled by now.
        login = self._sessions.check(session)
        caller = caller_of(login, address=address, request_id=request_id, via=VIA)
        if needs_factor:
            if not code and not passkey:
                raise BadCredentials(_FACTOR_TOO)
            self._factors.verify(
                caller,
                code=code,
                passkey=passkey,
                challenge=self._taken_challenge(session) if passkey else None,
                on_success=lambda amr: self._record(caller, session, amr),
            )
        # SECURITY: a password alone does not extend a confirmation that needed a second factor.
        elif not self._factors.is_enrolled(session.account_id):
            with self._database.transaction():
                self._record(caller, session, (PASSWORD,))

    def _taken_challenge(self, session: ConsoleSession) -> bytes | None:
        asked, at = session.challenge, session.challenged_at
        # SECURITY: before the signature is verified, and permanently: a challenge is used once.
        if asked is None or at is None or not self._store.take_challenge(session.id, asked):
            return None
        return asked if clocks.is_recent(at, int(self._clock()), _CHALLENGED) else None

    def _record(self, caller: Caller, session: ConsoleSession, amr: Sequence[str]) -> None:
        if not self._store.record_confirmation(session.id, int(self._clock())):
            raise BadCredentials(_ENDED)
        after = {"session": session.id, "amr": list(amr)}
        self._audit.record(
            caller, "console_session.confirm", target(session.account_id), after=after
        )
