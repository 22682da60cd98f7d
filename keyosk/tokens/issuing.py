"""Issuing tokens: the grant types of the token endpoint, below HTTP.

Each issues a token for a login: with a credential in the request (client_credentials, RFC 6749
section 4.4), with an earlier credential (refresh_token, section 6), with a token that a service
received (token exchange, RFC 8693), or with another issuer's token for a workload (RFC 7523).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from keyosk import delays
from keyosk.credentials import usernames
from keyosk.credentials.authentication import Authentication, acted_for
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
from keyosk.model import (
    KEYOSK,
    Caller,
    CredentialKind,
    Exchange,
    Principal,
    Service,
    TokenPolicy,
    VerifiedClaims,
)
from keyosk.permissions import entitlements
from keyosk.permissions.context import Context
from keyosk.permissions.entitlements import TokenGrant
from keyosk.permissions.services import Services
from keyosk.tokens import registry_access
from keyosk.tokens.access_tokens import Actor, Token, Tokens
from keyosk.tokens.refresh_sessions import OFFLINE, Sessions
from keyosk.workloads.logins import WorkloadLogin, WorkloadLogins

#: The most services that may have exchanged a token, one after another.
_MOST_EXCHANGES: Final = 5
#: The lifetime in seconds of a token for a proxy: it is used at once, for one request.
_PROXY_LIFETIME: Final = 60
_INVALID: Final = "The token is not valid."
#: The scopes of requests that name no scope of a service.
_NO_NAMED_SCOPES: Final = (None, (), (OFFLINE,))


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """The parameters of a token request; ``lifetime`` in seconds, ``None`` for the default."""

    scopes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    lifetime: int | None = None

    @property
    def offline(self) -> bool:
        """True if the request asks for a refresh token."""
        return self.scopes is not None and OFFLINE in self.scopes

    @property
    def service_scopes(self) -> tuple[str, ...] | None:
        """The requested scopes that belong to services; ``None`` for all that the account holds."""
        if self.scopes is None:
            return None
        rest = tuple(scope for scope in self.scopes if scope != OFFLINE)
        return rest or (None if self.offline else ())


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An issued token with its login, and its refresh token if there is one."""

    principal: Principal
    token: Token
    refresh_token: str | None = field(default=None, repr=False)


class TokenIssuer:
    """Issues tokens by grant type."""

    def __init__(
        self,
        context: Context,
        tokens: Tokens,
        authentication: Authentication,
        *,
        services: Services,
        sessions: Sessions,
        workload_logins: WorkloadLogins,
    ) -> None:
        self._database = context.database
        self._audit = context.audit
        self._clock = context.clock
        self._tokens = tokens
        self._authentication = authentication
        self._services = services
        self._sessions = sessions
        self._workload_logins = workload_logins

    def by_login(
        self, principal: Principal, token_request: TokenRequest, *, address: str | None = None
    ) -> IssuedToken:
        """Issue a token for a login that was just verified.

        Raises ``InvalidScope``, ``InvalidTarget``.
        """
        token_grant = self.entitled(principal, token_request)
        offline = OFFLINE in token_grant.scopes
        if offline:
            delays.before_waiting()  # it may restart the request, so no token may be issued yet
        token = self._tokens.issue(
            principal,
            token_grant,
            lifetime=token_request.lifetime,
            names_scopes=token_request.scopes not in _NO_NAMED_SCOPES,
        )
        if not offline:
            return IssuedToken(principal, token)
        # First, because a refused request must not begin a session.
        refresh_token = self._sessions.begin(principal, token_grant, token, address=address)
        return IssuedToken(principal, token, refresh_token)

    def by_assertion(
        self,
        text: str,
        token_request: TokenRequest,
        *,
        client_id: str | None = None,
        address: str | None = None,
        request_id: str | None = None,
    ) -> IssuedToken:
        """Issue a token for a workload that presents another issuer's token (RFC 7523 section 2.1).

        The token does not outlive that one, and there is never a refresh token. ``client_id``: the
        account, if the request names it. Raises ``InvalidGrant``, ``InvalidScope``,
        ``InvalidTarget``, ``Unavailable``.
        """
        if token_request.offline:
            raise InvalidScope(f"A workload gets no refresh token: do not ask for {OFFLINE}.")
        login = self.workload(text, client_id=client_id)
        principal = login.principal
        token_grant = self.entitled(principal, token_request)
        self._tokens.preview(principal, token_grant, lifetime=token_request.lifetime)
        self._workload_logins.record(login, address=address, request_id=request_id)
        token = self._tokens.issue(
            principal,
            token_grant,
            lifetime=token_request.lifetime,
            names_scopes=token_request.scopes not in _NO_NAMED_SCOPES,
        )
        return IssuedToken(principal, token)

    def workload(self, text: str, *, client_id: str | None = None) -> WorkloadLogin:
        """Return the login that another issuer's token proves, without recording it.

        ``client_id``: the account, if the request names it. Raises ``InvalidGrant``,
        ``Unavailable``.
        """
        login = self._workload_logins.by_assertion(text)
        if client_id is not None and not usernames.is_same(client_id, login.principal.username):
            raise InvalidGrant("The token lets another account log in.")
        return login

    def for_registry(
        self,
        principal: Principal,
        registry: TokenPolicy,
        scopes: Iterable[str],
        *,
        token_request: TokenRequest,
    ) -> IssuedToken:
        """Issue a token for a container registry, with those of ``scopes`` that the login holds.

        Raises ``InvalidTarget``, ``InvalidScope``.
        """
        held = entitlements.current(principal, int(self._clock())).values()
        owned = [
            entitlement.scope for entitlement in held if entitlement.service.name == registry.name
        ]
        access, used = registry_access.access(scopes, owned)
        token = self._tokens.issue(
            principal,
            self._token_grant(principal, used, (registry.audience,)),
            lifetime=token_request.lifetime,
            grant_type="registry",
            names_scopes=True,
            access=access,
            for_registry_2=registry.registry_version == 2,
        )
        return IssuedToken(principal, token)

    def for_proxy(
        self,
        principal: Principal,
        service: str,
        *,
        required: tuple[str, ...],
        actor: Actor | None = None,
    ) -> IssuedToken:
        """Issue a token for one request that a proxy forwards to the service that it names.

        ``required``: scopes that the token must have. ``actor``: the actor of the login so far.
        Raises ``Forbidden``.
        """
        return self._forwarded(principal, self._of_service(principal, service, required), actor)

    def for_proxy_by_token(
        self,
        text: str,
        service: str,
        *,
        required: tuple[str, ...],
        address: str | None = None,
        request_id: str | None = None,
    ) -> IssuedToken:
        """Issue a token as ``for_proxy`` does, for a caller with a token for the service.

        The new token has only scopes of that token and does not outlive it. If the service accepts
        workloads, it may be another issuer's token as well: its login has the scopes that its rule
        gives. Raises ``BadToken``, ``Forbidden``, ``Unavailable``.
        """
        claims, refusal = self._claims_of(text)
        principal = None if claims is None else self._login_for_one_audience(claims, service)
        if claims is not None and principal is not None:
            return self._for_proxy_by_claims(principal, claims, service, required=required)
        policy = self._services.policy_for(service)
        if policy is None or policy.name != service:
            raise BadToken(_INVALID)  # no token is valid for a service that does not exist
        if CredentialKind.WORKLOAD in policy.accepts and self._workload_logins.is_foreign(text):
            return self._for_proxy_by_assertion(
                text, service, required=required, address=address, request_id=request_id
            )
        if claims is None:
            raise BadToken(refusal)
        claims = self._tokens.verify(text, audience=policy.audience)
        principal = self._authentication.by_token(claims, audience=policy.audience)
        return self._for_proxy_by_claims(principal, claims, service, required=required)

    def _claims_of(self, text: str) -> tuple[VerifiedClaims | None, str]:
        """Return the claims of a token for any audience, or the error if it is not valid."""
        try:
            return self._tokens.verify(text, audience=None), ""
        except BadToken as error:
            return None, error.detail

    def _login_for_one_audience(self, claims: VerifiedClaims, service: str) -> Principal | None:
        """Return the login behind a token for this service alone, by one statement.

        ``None`` if the token is for other audiences, if its account holds no scope of the service,
        or if it is refused. The caller then finds the reason.
        """
        if len(claims.audiences) != 1 or service == KEYOSK:  # which does not accept the plain type
            return None
        [audience] = claims.audiences
        try:
            principal = self._authentication.by_token(claims, audience=audience)
        except BadToken:
            return None
        policy = entitlements.service_of(principal, audience)
        return None if policy is None or policy.name != service else principal

    def _for_proxy_by_claims(
        self,
        principal: Principal,
        claims: VerifiedClaims,
        service: str,
        *,
        required: tuple[str, ...],
    ) -> IssuedToken:
        bounded = self._narrowed(principal, claims.scopes, claims.expires_at)
        return self.for_proxy(bounded, service, required=required, actor=Actor.of(claims.actor))

    def _for_proxy_by_assertion(
        self,
        text: str,
        service: str,
        *,
        required: tuple[str, ...],
        address: str | None,
        request_id: str | None,
    ) -> IssuedToken:
        try:
            login = self._workload_logins.by_assertion(text)
            token_grant = self._of_service(login.principal, service, required)
            self._workload_logins.record_forwarded(login, address=address, request_id=request_id)
        except InvalidGrant:
            raise BadToken(_INVALID) from None
        return self._forwarded(login.principal, token_grant)

    def _of_service(
        self, principal: Principal, service: str, required: tuple[str, ...]
    ) -> TokenGrant:
        now = int(self._clock())
        return entitlements.for_service(principal, service, required=required, now=now)

    def _forwarded(
        self, principal: Principal, token_grant: TokenGrant, actor: Actor | None = None
    ) -> IssuedToken:
        token = self._tokens.issue(
            principal, token_grant, lifetime=_PROXY_LIFETIME, grant_type="forward_auth", actor=actor
        )
        return IssuedToken(principal, token)

    def by_operator(
        self, by: Caller, principal: Principal, token_request: TokenRequest
    ) -> IssuedToken:
        """Issue a token for a login without its secret; the audit log records it.

        Raises ``InvalidScope``, ``InvalidTarget``, ``BadCredentials`` if the login is not usable.
        """
        self._authentication.check_usable(principal)
        if token_request.offline:
            raise InvalidScope(f"No refresh token is made here: do not ask for {OFFLINE}.")
        token_grant = self.entitled(principal, token_request)
        token_id = new_id()
        token = self._tokens.issue(
            principal,
            token_grant,
            lifetime=token_request.lifetime,
            token_id=token_id,
            names_scopes=token_request.scopes not in _NO_NAMED_SCOPES,
        )
        with self._database.transaction():
            after = {
                "jti": token_id,
                "audiences": token_grant.audiences,
                "scope": token.scope,
                "expires_in": token.expires_in,
                "api_key": principal.credential_id,
            }
            self._audit.record(by, "token.issue", f"account/{principal.account_id}", after=after)
        return IssuedToken(principal, token)

    def entitled(self, principal: Principal, token_request: TokenRequest) -> TokenGrant:
        """Return what a verified login is entitled to.

        Raises ``InvalidScope``, ``InvalidTarget``.
        """
        token_grant = self._token_grant(
            principal, token_request.service_scopes, token_request.targets
        )
        refreshable = token_request.offline and token_grant.refresh_lifetimes
        return _offline(token_grant) if refreshable else token_grant

    def by_refresh_token(
        self,
        text: str,
        token_request: TokenRequest,
        *,
        by: Principal | None = None,
        client_id: str | None = None,
        address: str | None = None,
    ) -> IssuedToken:
        """Issue the next token of a session, and its next refresh token.

        The token never has more than the session began with or the account holds now. ``by`` and
        ``client_id`` identify the caller, if the request does. Raises ``InvalidGrant``,
        ``InvalidScope``, ``InvalidTarget``.
        """
        use = self._sessions.find(text)
        session = use.session
        try:
            principal = self._authentication.resume(use.principal, address=address)
        except BadCredentials:
            raise InvalidGrant("The login that began this session is no longer valid.") from None
        if not self._authentication.is_use_recorded(principal):
            # Recorded after the response, in a thread: move there before the token is used up.
            delays.before_waiting()
        if by is not None and by.account_id != session.account_id:
            raise InvalidGrant("The refresh token belongs to another account.")
        if client_id is not None and not usernames.is_same(client_id, principal.username):
            raise InvalidGrant("The refresh token belongs to another account.")
        bounded = self._narrowed(principal, session.scopes, session.expires_at)
        token_grant = self._token_grant(
            bounded, token_request.service_scopes, token_request.targets or session.audiences
        )
        if not set(token_grant.audiences) <= set(session.audiences):
            raise InvalidTarget("The session was not started for this audience.")
        if not token_grant.refresh_lifetimes:
            raise InvalidGrant("A service of this session no longer allows refreshing.")
        if token_request.scopes is None or token_request.offline:
            token_grant = _offline(token_grant)
        token, refresh_token = self._sessions.rotate(
            use,
            lambda: self._tokens.issue(
                bounded,
                token_grant,
                lifetime=token_request.lifetime,
                grant_type="refresh_token",
                names_scopes=token_request.scopes not in _NO_NAMED_SCOPES,
            ),
        )
        return IssuedToken(principal, token, refresh_token)

    def by_exchange(
        self,
        actor: Principal,
        subject_token: str,
        token_request: TokenRequest,
        *,
        workload: WorkloadLogin | None = None,
        address: str | None = None,
        request_id: str | None = None,
    ) -> IssuedToken:
        """Issue a token for the next service, in exchange for a token that a service received.

        The new token does not outlive that token. It has no scope that the account does not hold
        now, and only scopes of that token or those that the exchange of the two services adds.
        ``actor``: the account that acts for the service; ``workload``: its login, if it was by
        another issuer's token. Raises ``InvalidRequest``, ``InvalidTarget``,
        ``InvalidScope``, ``UnauthorizedClient``, ``InvalidGrant``.
        """
        claims = self._subject(subject_token)
        acting = [
            service
            for service in self._services.acting(actor.account_id)
            if service.policy.enabled and service.policy.audience in claims.audiences
        ]
        if not acting:
            raise UnauthorizedClient("The token is not for a service that this account acts for.")
        if len(token_request.targets) != 1:
            raise InvalidRequest("An exchange needs exactly one audience or resource.")
        principal = self._login_behind(claims, acting[0])
        policy = self._services.policy_for(token_request.targets[0])
        exchange = None if policy is None else _exchange_to(acting, policy.name)
        if policy is None or exchange is None:
            raise InvalidTarget("Tokens for this service may not be exchanged for that audience.")
        scopes = (*claims.scopes, *exchange.scopes)
        bounded = acted_for(self._narrowed(principal, scopes, claims.expires_at), actor)
        token_grant = self._token_grant(
            bounded, token_request.service_scopes, token_request.targets
        )
        if set(token_grant.audiences) != {policy.audience}:
            raise InvalidTarget("A requested scope belongs to another audience.")
        if workload is not None:
            self._tokens.preview(bounded, token_grant, lifetime=token_request.lifetime)
            self._workload_logins.record(workload, address=address, request_id=request_id)
        token = self._tokens.issue(
            bounded,
            token_grant,
            lifetime=token_request.lifetime,
            grant_type="token_exchange",
            actor=Actor(actor.account_id, actor.username, claims.actor),
            names_scopes=token_request.scopes not in _NO_NAMED_SCOPES,
        )
        return IssuedToken(actor, token)

    def _narrowed(
        self, principal: Principal, scopes: Collection[str], expires_at: int
    ) -> Principal:
        now = int(self._clock())
        return entitlements.narrowed(principal, scopes=scopes, expires_at=expires_at, now=now)

    def _subject(self, text: str) -> VerifiedClaims:
        try:
            claims = self._tokens.verify(text, audience=None)
        except BadToken:
            # RFC 8693 section 2.2.2.
            raise InvalidRequest("The subject_token is not valid.") from None
        exchanges, actor = 0, claims.actor
        while actor is not None:
            exchanges, actor = exchanges + 1, actor.get("act")
        if exchanges >= _MOST_EXCHANGES:
            raise InvalidRequest("The subject_token was exchanged too many times.")
        return claims

    def _login_behind(self, claims: VerifiedClaims, service: Service) -> Principal:
        """Return the login that the subject token was issued to, as it is now."""
        try:
            return self._authentication.by_token(claims, audience=service.policy.audience)
        except BadToken:
            raise InvalidRequest("The subject_token is no longer valid.") from None

    def _token_grant(
        self, principal: Principal, scopes: tuple[str, ...] | None, targets: Iterable[str]
    ) -> TokenGrant:
        return entitlements.token_grant(
            principal,
            now=int(self._clock()),
            scopes=scopes,
            targets=targets,
            find_policy=self._services.policy_for,
            algorithm=self._tokens.algorithm,
        )


def _offline(token_grant: TokenGrant) -> TokenGrant:
    return replace(token_grant, scopes=(*token_grant.scopes, OFFLINE))


def _exchange_to(acting: Iterable[Service], target: str) -> Exchange | None:
    exchanges = (exchange for service in acting for exchange in service.exchanges)
    return next((exchange for exchange in exchanges if exchange.service == target), None)
