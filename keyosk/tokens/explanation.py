"""Explaining tokens: which token a login would get, and why scopes are missing from it.

Uses the same code that issues tokens. Needs no secret and issues no token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from keyosk.accounts.accounts import Accounts
from keyosk.accounts.api_keys import ApiKeys, unusable
from keyosk.credentials.authentication import Authentication
from keyosk.errors import (
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    KeyoskError,
)
from keyosk.model import Account, ApiKey, CredentialKind, Entitlement, Principal
from keyosk.permissions import entitlements
from keyosk.permissions.context import Context
from keyosk.permissions.entitlements import Reason
from keyosk.permissions.services import Services
from keyosk.tokens.access_tokens import Preview, Tokens
from keyosk.tokens.issuing import TokenIssuer, TokenRequest
from keyosk.tokens.refresh_sessions import OFFLINE

_REFUSALS: Final = (InvalidRequest, InvalidScope, InvalidTarget)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The result that a token request would have.

    Attributes:
        preview: The token; ``None`` if the request would be refused.
        error: The refusal.
        reason: Why the login itself would be refused.
        granted: The scopes of the token with the grants that give them.
        missing: The missing scopes, of those that were requested or ever granted to the account.
    """

    preview: Preview | None
    error: KeyoskError | None
    reason: Reason | None
    granted: tuple[Entitlement, ...]
    missing: Mapping[str, Reason]


class Explainer:
    """Explains the result that the token endpoint would return."""

    def __init__(
        self,
        context: Context,
        tokens: Tokens,
        authentication: Authentication,
        *,
        token_issuer: TokenIssuer,
        accounts: Accounts,
        api_keys: ApiKeys,
        services: Services,
    ) -> None:
        self._tokens = tokens
        self._authentication = authentication
        self._token_issuer = token_issuer
        self._accounts = accounts
        self._api_keys = api_keys
        self._services = services
        self._clock = context.clock

    def explain(
        self,
        reference: str,
        token_request: TokenRequest,
        *,
        api_key_id: str | None = None,
        by_workload: bool = False,
    ) -> Explanation:
        """Return what a login of the account would get.

        By password, by one of its API keys, or by the token of a workload without the limits of a
        rule. Raises ``NotFound``.
        """
        now = int(self._clock())
        account = self._accounts.get(reference)
        key = None if api_key_id is None else self._api_keys.get(account.id, api_key_id)
        principal = self._authentication.preview_login(account.id, None if key is None else key.id)
        if by_workload:
            principal = replace(principal, credential=CredentialKind.WORKLOAD)
        names = token_request.service_scopes
        if names is None:
            names = tuple(sorted({entitlement.scope for entitlement in principal.entitlements}))
        reason = _unusable(account, key, now, needs_password=not by_workload)
        if reason is not None:
            return Explanation(None, None, reason, (), dict.fromkeys(names, reason))
        missing = self._missing(principal, token_request, names, now=now)
        try:
            token_grant = self._token_issuer.entitled(principal, token_request)
            preview = self._tokens.preview(principal, token_grant, lifetime=token_request.lifetime)
        except _REFUSALS as error:
            return Explanation(None, error, None, (), missing)
        held = entitlements.available(principal, now)
        granted = tuple(held[name] for name in token_grant.scopes if name in held)
        if token_request.offline and OFFLINE not in token_grant.scopes:
            missing[OFFLINE] = Reason.REFRESH_REFUSED
        missing = {name: why for name, why in missing.items() if name not in token_grant.scopes}
        return Explanation(preview, None, None, granted, missing)

    def _missing(
        self, principal: Principal, token_request: TokenRequest, names: Sequence[str], *, now: int
    ) -> dict[str, Reason]:
        """Return why scopes are not in the token, for each that has a reason."""
        audiences = None
        if token_request.targets:
            policy = map(self._services.policy_for, token_request.targets)
            audiences = frozenset(each.audience for each in policy if each is not None)
        existing = self._services.existing_scopes(names)
        missing = {}
        for name in names:
            why = entitlements.why_missing(
                principal, name, now=now, audiences=audiences, algorithm=self._tokens.algorithm
            )
            if why is Reason.NOT_GRANTED and name not in existing:
                why = Reason.UNKNOWN_SCOPE
            if why is not None:
                missing[name] = why
        return missing


def _unusable(
    account: Account, key: ApiKey | None, now: int, *, needs_password: bool
) -> Reason | None:
    reason = next(unusable(account, key, now), None)
    if reason is None and key is None and needs_password and not account.has_password:
        return Reason.NO_PASSWORD
    return reason
