"""Refresh sessions: a login continues without its secret, by refresh tokens for a single use.

Each use rotates the token (RFC 9700 section 4.14.2). The second use of a token ends the session and
revokes its access tokens, because the token may have been stolen. Within ``RETRY`` seconds,
however, a repeated use gets the same successor again, so that a lost response logs nobody out. A
session never outlives its credential and never gains a scope.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

from keyosk import clocks
from keyosk.accounts.accounts import Accounts, target
from keyosk.errors import InvalidGrant, NotFound
from keyosk.ids import new_id
from keyosk.keys.material import Safe
from keyosk.model import OPERATOR, Caller, ListQuery, Principal, Session
from keyosk.permissions.context import Context
from keyosk.permissions.entitlements import TokenGrant
from keyosk.revocations import MOST_TOKENS
from keyosk.storage.stores import Stores
from keyosk.tokens import refresh_token_format
from keyosk.tokens.access_tokens import Token
from keyosk.tokens.refresh_token_format import RefreshToken

#: The scope that asks for a refresh token (OpenID Connect Core section 11).
OFFLINE: Final = "offline_access"
#: Seconds for which a used refresh token gets the same successor again.
RETRY: Final = 10
#: Seconds that a session lasts where none of its services says less: 30 days.
LIFETIME: Final = 30 * 86_400
#: Seconds for which an ended session is kept, because a clock may be ahead for a moment.
_KEPT: Final = 86_400
_ENDED: Final = "The session of this refresh token has ended."


@dataclass(frozen=True, slots=True)
class SessionUse:
    """A presented refresh token, its session, and the login that began the session.

    ``principal`` is that login with its present rights; ``None`` if its credential was deleted.
    """

    token: RefreshToken
    session: Session
    principal: Principal | None


class Sessions:
    """Begins, continues, lists and ends refresh sessions."""

    def __init__(self, context: Context, stores: Stores, *, accounts: Accounts, safe: Safe) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._revocations = context.revocations
        self._audit = context.audit
        self._clock = context.clock
        self._store = stores.sessions
        self._logins = stores.logins
        self._accounts = accounts
        self._safe = safe

    def begin(
        self, principal: Principal, token_grant: TokenGrant, issued: Token, *, address: str | None
    ) -> str:
        """Begin a session for a login and its access token; returns the refresh token."""
        now = int(self._clock())
        session_id = new_id()
        token = refresh_token_format.first(self._safe, session_id)
        seconds = min(own or LIFETIME for own in token_grant.refresh_lifetimes)
        ends = [now + seconds, *(e for e in (principal.expires_at,) if e is not None)]
        session = Session(
            id=session_id,
            account_id=principal.account_id,
            password_id=principal.password_id,
            api_key_id=principal.credential_id,
            audiences=token_grant.audiences,
            scopes=tuple(scope for scope in token_grant.scopes if scope != OFFLINE),
            digest=token.digest,
            tokens={issued.id: issued.expires_at},
            address=address,
            authenticated_at=principal.authenticated_at,
            created_at=now,
            rotated_at=now,
            expires_at=min(ends),
        )
        with self._database.transaction():
            self._store.remove_expired(now - _KEPT)
            self._store.add(session)
        return token.text

    def find(self, text: str) -> SessionUse:
        """Return the session whose current or earlier refresh token this is.

        Raises ``InvalidGrant``.
        """
        token = refresh_token_format.read(self._safe, text)
        if token is None:
            raise InvalidGrant("The refresh token is not valid.")
        session_login = self._logins.by_session(token.session_id)
        session = None if session_login is None else self._corrected(session_login[0])
        if session_login is None or session is None:
            raise InvalidGrant(_ENDED)
        return SessionUse(token, session, session_login[1])

    def current(self, text: str) -> SessionUse | None:
        """Return the session whose current refresh token this is."""
        try:
            use = self.find(text)
        except InvalidGrant:
            return None
        return use if use.session.digest == use.token.digest else None

    def rotate(self, use: SessionUse, issue: Callable[[], Token]) -> tuple[Token, str]:
        """Use a refresh token; returns what ``issue`` returns, and the next refresh token.

        A repeated use within ``RETRY`` seconds returns the same one. Raises ``InvalidGrant``; an
        earlier use ends the session.

        SECURITY: the access token is issued first, and then stored by a statement that does nothing
        if the session has changed. So whatever ends the session either finds the token in it, or
        comes first, and then the token is not returned.
        """
        session, issued, now = use.session, None, int(self._clock())
        following = self._following(session, use.token)
        if following is not None:
            issued = issue()
            if self._store.rotate(_rotated(session, following, issued, now=now), since=session):
                return issued, following.text
        # It was used before, or is being used at this moment.
        with self._database.transaction():
            session = self._locked(session)
            following = self._following(session, use.token)
            if issued is not None and following is not None:
                self._store.rotate(_rotated(session, following, issued, now=now), since=session)
                return issued, following.text
            self._end(session)
            self._audit.refuse(
                OPERATOR,
                "session.reuse",
                target(session.account_id),
                after={"session": session.id},
                account=session.account_id,
            )
        raise InvalidGrant("The refresh token was already used: its session was ended.")

    def page(self, reference: str, list_query: ListQuery) -> list[Session]:
        """Return a page of the account's sessions. Raises ``NotFound``."""
        return self._store.page(self._accounts.get(reference).id, list_query)

    def count(self, reference: str, list_query: ListQuery) -> int:
        """Return the number of the account's sessions. Raises ``NotFound``."""
        return self._store.count(self._accounts.get(reference).id, list_query)

    def page_of_all(self, list_query: ListQuery) -> list[Session]:
        """Return a page of the active sessions of all accounts.

        The filter ``owner`` is an id or a username; an unknown one has no sessions.
        """
        owned = self._accounts.owned(list_query)
        return [] if owned is None else self._store.page_of_all(owned, int(self._clock()))

    def count_of_all(self, list_query: ListQuery) -> int:
        """Return the number of active sessions of all accounts."""
        owned = self._accounts.owned(list_query)
        return 0 if owned is None else self._store.count_of_all(owned, int(self._clock()))

    def end(self, by: Caller, reference: str, session_id: str) -> int | None:
        """End a session of the account and revoke its access tokens.

        Returns the time when those have expired, if there are any. Raises ``NotFound``,
        ``RefusedByRule``.
        """
        with self._database.transaction():
            account = self._accounts.locked(reference)
            self._safeguards.may_change(by, account.id)
            session = self._store.locked(session_id)
            if session is None or session.account_id != account.id:
                raise NotFound("This account has no such session.")
            effective_at = self._end(session)
            after = {"session": session.id}
            self._audit.record(by, "session.end", target(account.id), after=after)
            return effective_at

    def _locked(self, session: Session) -> Session:
        """Inside a transaction: return the session, locked against other changes.

        Raises ``InvalidGrant`` if it has ended.
        """
        try:
            # The account first, in the same order as everything that ends sessions of an account.
            self._accounts.locked(session.account_id)
        except NotFound:
            raise InvalidGrant(_ENDED) from None
        stored = self._store.locked(session.id)
        now_known = None if stored is None else self._corrected(stored)
        if now_known is None:
            raise InvalidGrant(_ENDED)
        return now_known

    def _following(self, session: Session, token: RefreshToken) -> RefreshToken | None:
        """Return the successor of the token; ``None`` if it was used before, and not just now."""
        after = refresh_token_format.successors(self._safe, token)
        if token.digest == session.digest:
            return after[0]
        # SECURITY: if a clock ahead rotated it, it would be repeated for too long.
        now = int(self._clock())
        # While the database was away nobody got a response, so that time does not count.
        seconds = RETRY + 1 + self._database.seconds_away(within=RETRY)
        if not clocks.is_recent(session.rotated_at, now, seconds):
            return None
        return next((each for each in after if each.digest == session.digest), None)

    def _end(self, session: Session) -> int | None:
        now = int(self._clock())
        tokens = {token_id: end for token_id, end in session.tokens.items() if end > now}
        effective_at = self._revocations.revoke_tokens(session.account_id, tokens, issued_at=now)
        self._store.remove(session.id)
        return effective_at

    def _corrected(self, session: Session) -> Session | None:
        """Return the session if it has not ended; its start is now if a clock ahead wrote it."""
        now = int(self._clock())
        if clocks.is_ahead(session.created_at, now):
            ends = session.expires_at - (session.created_at - now)
            session = replace(session, created_at=now, expires_at=ends)
            self._store.date_back(session)
        return session if session.expires_at > now else None


def _rotated(session: Session, following: RefreshToken, issued: Token, *, now: int) -> Session:
    digest = following.digest
    return replace(
        session,
        digest=digest,
        rotated_at=session.rotated_at if digest == session.digest else now,
        tokens=_latest({**session.tokens, issued.id: issued.expires_at}, now),
    )


def _latest(tokens: Mapping[str, int], now: int) -> dict[str, int]:
    """Return the unexpired tokens of a session; only the last to expire if there are too many.

    More than ``MOST_TOKENS`` are revoked without their ids, including those that are left out.
    """
    left = sorted([item for item in tokens.items() if item[1] > now], key=itemgetter(1))
    return dict(left[-(MOST_TOKENS + 1) :])
