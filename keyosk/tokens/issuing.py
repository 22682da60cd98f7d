"""Issuing tokens: the grant types of the token endpoint, below HTTP.

Each gives a token for a login: of the credential shown now (client_credentials, RFC 6749 section
4.4), of one shown before (refresh_token, section 6), or behind a token that a service was shown
(token exchange, RFC 8693).
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from keyosk.audit import Audit
from keyosk.credentials import usernames
from keyosk.credentials.authentication import Authentication
from keyosk.errors import (
    BadCredentials,
    BadToken,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    UnauthorizedClient,
)
from keyosk.ids import new_id
from keyosk.model import Caller, Exchange, Login, Service, VerifiedClaims
from keyosk.permissions import entitlements
from keyosk.permissions.entitlements import Entitlement
from keyosk.permissions.services import Services
from keyosk.storage.database import Database
from keyosk.tokens.access_tokens import Actor, Token, Tokens
from keyosk.tokens.refresh_sessions import OFFLINE, Sessions

#: How many services may have handed a token on.
_DEEPEST: Final = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """What a token request asks for; ``lifetime`` in seconds, ``None`` for what there is."""

    scopes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    lifetime: int | None = None

    @property
    def offline(self) -> bool:
        """Whether it asks for a refresh token."""
        return self.scopes is not None and OFFLINE in self.scopes

    @property
    def service_scopes(self) -> tuple[str, ...] | None:
        """The scopes that belong to services; ``None`` for all that are held."""
        if self.scopes is None:
            return None
        rest = tuple(scope for scope in self.scopes if scope != OFFLINE)
        return rest or (None if self.offline else ())


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, whose login it is, and the refresh token if there is one."""

    login: Login
    token: Token
    refresh_token: str | None = field(default=None, repr=False)


class Issuing:
    """Issues tokens by grant type."""

    def __init__(
        self,
        database: Database,
        services: Services,
        authentication: Authentication,
        sessions: Sessions,
        tokens: Tokens,
        audit: Audit,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._audit = audit
        self._services = services
        self._authentication = authentication
        self._sessions = sessions
        self._tokens = tokens
        self._clock = clock

    def by_login(self, login: Login, asked: Asked, *, address: str | None = None) -> Issued:
        """A token for a login that was just proven. Raises ``InvalidScope``, ``InvalidTarget``."""
        entitlement = self.entitled(login, asked)
        if OFFLINE not in entitlement.scopes:
            return Issued(login, self._tokens.issue(login, entitlement, lifetime=asked.lifetime))
        # What cannot be issued begins no session.
        self._tokens.preview(login, entitlement, lifetime=asked.lifetime)
        self._tokens.settle(login)
        turn = self._sessions.begin(login, entitlement, address=address)
        token = self._tokens.issue(
            login, entitlement, lifetime=asked.lifetime, token_id=turn.token_id
        )
        self._sessions.check(turn.session)
        return Issued(login, token, turn.refresh_token)

    def by_operator(self, by: Caller, login: Login, asked: Asked) -> Issued:
        """A token for a login that nobody proved; the audit log tells of it.

        Raises ``InvalidScope``, ``InvalidTarget``, ``BadCredentials`` if the login is not usable.
        """
        self._authentication.check_usable(login)
        if asked.offline:
            raise InvalidScope(f"No refresh token is made here: do not ask for {OFFLINE}.")
        entitlement = self.entitled(login, asked)
        token_id = new_id()
        token = self._tokens.issue(login, entitlement, lifetime=asked.lifetime, token_id=token_id)
        with self._database.transaction():
            after = {
                "jti": token_id,
                "audiences": entitlement.audiences,
                "scope": token.scope,
                "expires_in": token.expires_in,
                "api_key": login.api_key_id,
            }
            self._audit.record(by, "token.issue", f"account/{login.account_id}", after=after)
        return Issued(login, token)

    def entitled(self, login: Login, asked: Asked) -> Entitlement:
        """What a login that was just proven gets. Raises ``InvalidScope``, ``InvalidTarget``."""
        entitlement = self._entitlement(login, asked.service_scopes, asked.targets)
        refreshable = asked.offline and entitlement.refresh_lifetimes
        return _offline(entitlement) if refreshable else entitlement

    def by_refresh_token(
        self,
        text: str,
        asked: Asked,
        *,
        by: Login | None = None,
        client_id: str | None = None,
        address: str | None = None,
    ) -> Issued:
        """The next token of a session, and its next refresh token.

        ``by``, ``client_id``: who asks, where that is said. Never more than the session began with
        and the account holds now. Raises ``InvalidGrant``, ``InvalidScope``, ``InvalidTarget``.
        """
        session = self._sessions.find(text)
        try:
            login = self._authentication.resumed(session, address=address)
        except BadCredentials:
            raise InvalidGrant("The login that began this session is not valid any more.") from None
        if by is not None and by.account_id != session.account_id:
            raise InvalidGrant("The refresh token is somebody else's.")
        if client_id is not None and not usernames.is_same(client_id, login.username):
            raise InvalidGrant("The refresh token is somebody else's.")
        bounded = self._bounded(login, session.scopes, session.expires_at)
        entitlement = self._entitlement(
            bounded, asked.service_scopes, asked.targets or session.audiences
        )
        if not set(entitlement.audiences) <= set(session.audiences):
            raise InvalidTarget("The session was not begun for this audience.")
        if not entitlement.refresh_lifetimes:
            raise InvalidGrant("A service of this session does not allow refreshing any more.")
        self._tokens.settle(login)
        turn = self._sessions.turn(text)
        if asked.scopes is None or asked.offline:
            entitlement = _offline(entitlement)
        token = self._tokens.issue(
            bounded, entitlement, lifetime=asked.lifetime, token_id=turn.token_id
        )
        self._sessions.check(turn.session)
        return Issued(login, token, turn.refresh_token)

    def by_exchange(self, actor: Login, subject_token: str, asked: Asked) -> Issued:
        """A token for the next service, for the account behind a token that a service was shown.

        ``actor``: the account that acts for the service. Never longer than the token, nor wider
        than it but for what the exchange of the two services adds, nor than what its account holds
        now. Raises ``InvalidRequest``, ``InvalidTarget``, ``InvalidScope``, ``UnauthorizedClient``.
        """
        claims = self._subject(subject_token)
        acting = [
            service
            for service in self._services.acting(actor.account_id)
            if service.terms.enabled and service.terms.audience in claims.audiences
        ]
        if not acting:
            raise UnauthorizedClient("The token is for no service that this account acts for.")
        if len(asked.targets) != 1:
            raise InvalidRequest("An exchange needs one audience or resource, and no more.")
        login = self._behind(claims, acting[0])
        terms = self._services.terms_for(asked.targets[0])
        allowed = None if terms is None else _exchange(acting, terms.name)
        if terms is None or allowed is None:
            raise InvalidTarget("Tokens for this service may not be exchanged for that audience.")
        bounded = self._bounded(login, (*claims.scopes, *allowed.scopes), claims.expires_at)
        entitlement = self._entitlement(bounded, asked.service_scopes, asked.targets)
        if set(entitlement.audiences) != {terms.audience}:
            raise InvalidTarget("A scope that was asked for belongs to another audience.")
        acts = Actor(actor.account_id, actor.username, claims.actor)
        token = self._tokens.issue(bounded, entitlement, lifetime=asked.lifetime, actor=acts)
        return Issued(actor, token)

    def _bounded(self, login: Login, scopes: Collection[str], expires_at: int) -> Login:
        now = int(self._clock())
        return entitlements.narrowed(login, scopes=scopes, expires_at=expires_at, now=now)

    def _subject(self, text: str) -> VerifiedClaims:
        try:
            claims = self._tokens.verify(text, audience=None)
        except BadToken:
            # RFC 8693 section 2.2.2.
            raise InvalidRequest("The subject_token is not valid.") from None
        depth, actor = 0, claims.actor
        while actor is not None:
            depth, actor = depth + 1, actor.get("act")
        if depth >= _DEEPEST:
            raise InvalidRequest("The subject_token was handed on too often.")
        return claims

    def _behind(self, claims: VerifiedClaims, service: Service) -> Login:
        try:
            return self._authentication.by_token(claims, audience=service.terms.audience)
        except BadToken:
            raise InvalidRequest("The subject_token is not valid any more.") from None

    def _entitlement(
        self, login: Login, scopes: tuple[str, ...] | None, targets: Iterable[str]
    ) -> Entitlement:
        return entitlements.entitlement(
            login,
            now=int(self._clock()),
            scopes=scopes,
            targets=targets,
            find_terms=self._services.terms_for,
            algorithm=self._tokens.algorithm,
        )


def _offline(entitlement: Entitlement) -> Entitlement:
    return replace(entitlement, scopes=(*entitlement.scopes, OFFLINE))


def _exchange(acting: Iterable[Service], target: str) -> Exchange | None:
    exchanges = (each for service in acting for each in service.exchanges)
    return next((each for each in exchanges if each.service == target), None)
