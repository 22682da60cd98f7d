"""Console sessions: a person logs in by password, and a cookie continues the session.

A session ends after ``IDLE`` seconds without a request, ``LIFETIME`` seconds after the login at the
latest, and with its password. It stores no rights:
each request reads what the account holds now.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from keyosk import clocks, masking
from keyosk.accounts.accounts import Accounts, target
from keyosk.credentials.authentication import Authentication, caller_of
from keyosk.errors import BadCredentials, NotFound, Unavailable
from keyosk.ids import is_id, new_id
from keyosk.model import (
    PASSWORD,
    AuditRow,
    Caller,
    ConsoleSession,
    ListQuery,
    LoginNotice,
    Principal,
)
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores

#: Seconds without a request after which a session ends (NIST SP 800-63B-4 section 2.2.3).
IDLE: Final = 1_800
#: Seconds that a session lasts at most.
LIFETIME: Final = 8 * 3_600
#: The ``via`` of audit rows for changes in the console.
VIA: Final = "console"
#: Seconds by which ``seen_at`` may be behind, because not every use is written.
_SEEN_RESOLUTION: Final = 60
#: Seconds for which an ended session is kept, because a clock may be ahead for a moment.
_KEPT: Final = 86_400
_LONGEST_AGENT: Final = 200
#: The number of earlier logins that are searched for an address.
_REMEMBERED: Final = 20


@dataclass(frozen=True, slots=True)
class NewConsoleSession:
    """A session together with the secret for its cookie, which exists nowhere else."""

    session: ConsoleSession
    secret: str = field(repr=False)


class ConsoleSessions:
    """Begins, continues, lists and ends console sessions."""

    def __init__(
        self,
        context: Context,
        stores: Stores,
        *,
        accounts: Accounts,
        authentication: Authentication,
    ) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._audit = context.audit
        self._clock = context.clock
        self._store = stores.console_sessions
        self._factors = stores.second_factors
        self._passwords = stores.accounts
        self._accounts = accounts
        self._authentication = authentication

    def begin(
        self,
        principal: Principal,
        *,
        address: str | None,
        agent: str,
        request_id: str | None,
        amr: Sequence[str] = (PASSWORD,),
    ) -> NewConsoleSession:
        """Begin a session for a login by password. Raises ``BadCredentials`` for any other.

        ``amr``: how the person proved who they are (RFC 8176).
        """
        if principal.password_id is None:
            raise BadCredentials
        # Revocations until the end of this second count as earlier than this login.
        now = max(int(self._clock()), principal.tokens_from)
        notice = self._notice(principal.account_id, address)
        secret = new_secret()
        ends = now + LIFETIME
        session = ConsoleSession(
            id=new_id(),
            account_id=principal.account_id,
            password_id=principal.password_id,
            digest=digest_of(secret),
            address=address,
            agent=masking.mask(agent[:_LONGEST_AGENT]),
            created_at=now,
            seen_at=now,
            confirmed_at=now,
            expires_at=min(ends, principal.expires_at or ends),
            notice=notice,
            amr=tuple(amr),
        )
        caller = caller_of(principal, address=address, request_id=request_id, via=VIA)
        with self._database.transaction():
            self._store.remove_expired(now - _KEPT)
            self._store.add(session)
            self._audit.record(
                caller,
                "console_session.begin",
                target(principal.account_id),
                after={"session": session.id, "amr": list(amr)},
            )
        return NewConsoleSession(session, secret)

    def resume(self, secret: str) -> tuple[ConsoleSession, Principal]:
        """Return the session of a cookie and the login behind it, with its current rights.

        Raises ``BadCredentials`` if the session has ended, its password was changed, or its account
        was disabled or has expired.
        """
        session = self._store.find(digest_of(secret))
        now = int(self._clock())
        if session is None or not _is_alive(session, now):
            raise BadCredentials("The session has ended: log in again.")
        principal = self.check(session)
        # SECURITY: also for a session that began while the account added its first factor.
        if not session.has_second_factor and self._factors.is_enrolled(session.account_id):
            raise BadCredentials("Log in again, with the second factor.")
        if not clocks.is_recent(session.seen_at, now, _SEEN_RESOLUTION):
            session = replace(session, seen_at=now)
            try:
                self._store.record_use(session.id, now)
            except Unavailable:  # it only ends earlier
                return session, principal
        return session, principal

    def forget(self, secret: str) -> None:
        """End the session of a cookie, if there is one, because its browser logged in again."""
        session = self._store.find(digest_of(secret))
        if session is not None:
            self._store.remove(session.id)

    def check(self, session: ConsoleSession) -> Principal:
        """Return the login behind a session, with its current rights.

        Raises ``BadCredentials`` if its password was changed, its tokens were ended, or its account
        was disabled or has expired.
        """
        principal = self._authentication.by_password_id(session.password_id, session.created_at)
        if principal.account_id != session.account_id or session.created_at < principal.tokens_from:
            raise BadCredentials("The session was ended: log in again.")
        return principal

    def page(self, reference: str, list_query: ListQuery) -> list[ConsoleSession]:
        """Return a page of the account's sessions. Raises ``NotFound``."""
        return self._store.page(self._accounts.get(reference).id, list_query)

    def count(self, reference: str, list_query: ListQuery) -> int:
        """Return the number of the account's sessions. Raises ``NotFound``."""
        return self._store.count(self._accounts.get(reference).id, list_query)

    def page_of_all(self, list_query: ListQuery) -> list[ConsoleSession]:
        """Return a page of the active sessions of all accounts.

        The filter ``owner`` is an id or a username; an unknown one has no sessions.
        """
        found, now = self._accounts.owned(list_query), int(self._clock())
        if found is None:
            return []
        return self._store.page_of_all(found, now, seen_since=now - IDLE)

    def count_of_all(self, list_query: ListQuery) -> int:
        """Return the number of active sessions of all accounts."""
        found, now = self._accounts.owned(list_query), int(self._clock())
        if found is None:
            return 0
        return self._store.count_of_all(found, now, seen_since=now - IDLE)

    def end(self, caller: Caller, reference: str, session_id: str) -> None:
        """End a session of the account. Raises ``NotFound``, ``RefusedByRule``."""
        with self._database.transaction():
            account = self._accounts.locked(reference)
            self._safeguards.may_change(caller, account.id)
            session = self._store.get(account.id, session_id) if is_id(session_id) else None
            if session is None:
                raise NotFound("This account has no such console session.")
            self._store.remove(session.id)
            after = {"session": session.id}
            self._audit.record(caller, "console_session.end", target(account.id), after=after)

    def _notice(self, account_id: str, address: str | None) -> LoginNotice:
        logins = self._logins(account_id)
        if not logins:
            return LoginNotice()
        previous = logins[0]
        changed_at = self._passwords.password_set_at(account_id)
        return LoginNotice(
            previous_at=previous.time,
            previous_address=previous.address,
            is_new_address=address not in {row.address for row in logins},
            password_set_at=changed_at
            if changed_at is not None and changed_at > previous.time
            else None,
        )

    def _logins(self, account_id: str) -> Sequence[AuditRow]:
        """Return the rows of the last logins, the newest first."""
        filters = {"action": "console_session.begin", "target": target(account_id)}
        try:
            return self._audit.page(
                ListQuery(limit=_REMEMBERED, sort="sequence", descending=True, filters=filters)
            )
        except Unavailable:
            return ()


def new_secret() -> str:
    """Return a secret for the cookie of a session."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    """Return the hash that identifies the secret of a cookie."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _is_alive(session: ConsoleSession, now: int) -> bool:
    # SECURITY: times from a clock that was ahead would extend a session, so they end it.
    return (
        now < session.expires_at
        and session.expires_at <= now + LIFETIME + clocks.APART
        and clocks.is_recent(session.seen_at, now, IDLE)
    )
