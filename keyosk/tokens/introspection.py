"""Introspection and revocation of single tokens, and who may do either."""

from collections.abc import Mapping
from typing import Any

from keyosk.credentials.authentication import Authentication
from keyosk.errors import BadCredentials, BadToken, InvalidGrant, NotFound
from keyosk.model import INTROSPECT, KEYOSK, Caller, VerifiedClaims
from keyosk.permissions import entitlements
from keyosk.permissions.context import Context
from keyosk.permissions.services import Services
from keyosk.scope_uses import ScopeUses
from keyosk.tokens.access_tokens import Tokens
from keyosk.tokens.refresh_sessions import Sessions

_REVOKE = "keyosk:accounts:write"


class Inspection:
    """Introspects single tokens (RFC 7662) and revokes them (RFC 7009)."""

    def __init__(
        self,
        context: Context,
        tokens: Tokens,
        authentication: Authentication,
        *,
        services: Services,
        sessions: Sessions,
        scope_uses: ScopeUses,
        issuer: str,
    ) -> None:
        self._database = context.database
        self._revocations = context.revocations
        self._audit = context.audit
        self._tokens = tokens
        self._authentication = authentication
        self._services = services
        self._sessions = sessions
        self._scope_uses = scope_uses
        self._issuer = issuer

    def inspect(self, caller: Caller, text: str) -> Mapping[str, Any] | None:
        """Return the members of RFC 7662 section 2.2 for an active token, otherwise ``None``.

        It is also ``None`` if the caller may not see the token. Its owner may, the account that
        acts in it or for a service of its audience, and a holder of
        ``keyosk:tokens:introspect``.
        """
        try:
            claims = self._tokens.verify(text, audience=None)
        except BadToken:
            return self._session_of(caller, text)
        if not self._may_see(caller, claims) or not self._is_active(claims):
            return None
        response: dict[str, Any] = {
            "scope": claims.scope,
            "client_id": claims.client,
            "username": claims.username,
            "token_type": "Bearer",
            "exp": claims.expires_at,
            "iat": claims.issued_at,
            "sub": claims.account_id,
            "aud": list(claims.audiences),
            "iss": self._issuer,
            "jti": claims.id,
        }
        if claims.credential_id is not None:
            response["key_id"] = claims.credential_id
        if claims.actor is not None:
            response["act"] = claims.actor
        return response

    def fault(self, text: str) -> str | None:
        """Return why a token is not accepted, for the operator, or ``None`` if it is.

        Raises ``BadToken`` if the text does not look like a token.
        """
        try:
            claims = self._tokens.verify(text, audience=None)
        except BadToken:
            return self._tokens.refusal(text)
        return None if self._is_active(claims) else "it was revoked, or its login or service ended."

    def revoke(self, caller: Caller, text: str) -> int | None:
        """Revoke a token of the caller, or with ``keyosk:accounts:write`` any token.

        An exchanged token also belongs to the account that acts in it.

        Revoking a refresh token also revokes the access tokens that came from it. An invalid token
        is ignored.

        Returns:
            The time when the revoked tokens have expired; ``None`` if nothing was revoked.

        Raises:
            InvalidGrant: The token belongs to somebody else.
        """
        try:
            claims = self._tokens.verify(text, audience=None)
        except BadToken:
            return self._end_session_of(caller, text)
        if not _belongs_to(caller, claims) and not caller.has(_REVOKE):
            raise InvalidGrant("The token belongs to another account.")
        with self._database.transaction():
            effective_at = self._revocations.revoke_tokens(
                claims.account_id, {claims.id: claims.expires_at}, issued_at=claims.issued_at
            )
            self._audit.record(
                caller, "token.revoke", f"account/{claims.account_id}", after={"jti": claims.id}
            )
            return effective_at

    def _session_of(self, caller: Caller, text: str) -> Mapping[str, Any] | None:
        use = self._sessions.current(text)
        if use is None or use.session.account_id != caller.account_id:
            return None
        session = use.session
        try:
            principal = self._authentication.resume(use.principal, address=caller.address)
        except BadCredentials:
            return None
        return {
            "scope": " ".join(session.scopes),
            "client_id": principal.username,
            "username": principal.username,
            "exp": session.expires_at,
            "iat": session.rotated_at,
            "sub": session.account_id,
            "aud": list(session.audiences),
            "iss": self._issuer,
        }

    def _end_session_of(self, caller: Caller, text: str) -> int | None:
        try:
            session = self._sessions.find(text).session
        except InvalidGrant:
            return None
        if session.account_id != caller.account_id and not caller.has(_REVOKE):
            raise InvalidGrant("The token belongs to another account.")
        try:
            return self._sessions.end(caller, session.account_id, session.id)
        except NotFound:  # it has ended meanwhile
            return None

    def _may_see(self, caller: Caller, claims: VerifiedClaims) -> bool:
        if _belongs_to(caller, claims):
            return True
        if caller.has(INTROSPECT):
            self._scope_uses.note(caller.account_id or "", (INTROSPECT,), named=True)
            return True
        policies = self._services.policies_acted_for(caller.account_id or "")
        return any(policy.audience in claims.audiences for policy in policies)

    def _is_active(self, claims: VerifiedClaims) -> bool:
        return all(self._is_active_for(audience, claims) for audience in claims.audiences)

    def _is_active_for(self, audience: str, claims: VerifiedClaims) -> bool:
        try:
            principal = self._authentication.by_token(claims, audience=audience)
        except BadToken:
            return False
        if audience in (self._issuer, KEYOSK):
            return True
        # The login includes the services whose scopes it holds, which usually is enough.
        policy = entitlements.service_of(principal, audience) or self._services.policy_for(audience)
        return policy is not None and policy.enabled


def _belongs_to(caller: Caller, claims: VerifiedClaims) -> bool:
    """Return whether a token is the caller's, or was issued to them for another account."""
    return caller.account_id is not None and caller.account_id in (
        claims.account_id,
        None if claims.actor is None else claims.actor.get("sub"),
    )
