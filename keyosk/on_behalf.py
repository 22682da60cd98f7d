"""Tokens without a secret: which one an account would get, and one that an operator makes for it.

Both go the way of the token endpoint (``Issuing.entitlement``, ``Tokens``), so that what is told is
what is done. Only the login is not proven.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyosk import permissions
from keyosk.accounts import Accounts, target
from keyosk.api_keys import ApiKeys
from keyosk.audit import Audit
from keyosk.authentication import Authentication
from keyosk.errors import (
    BadCredentials,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    KeyoskError,
    NotFound,
)
from keyosk.ids import new_id
from keyosk.issuing import OFFLINE, Asked, Issuing
from keyosk.model import Account, ApiKey, Caller, Login
from keyosk.permissions import Entitlement, Reason
from keyosk.services import Services
from keyosk.storage.database import Database
from keyosk.storage.services import ServiceStore
from keyosk.token_size import check_size
from keyosk.tokens import Token, Tokens

#: Which scopes a service has is not everybody's to know.
_SEES_SCOPES: Final = "keyosk:services:read"

#: What each reason means, for people.
MESSAGES: Final[Mapping[Reason, str]] = {
    Reason.SERVICE_DISABLED: "Its service is disabled.",
    Reason.CREDENTIAL_NOT_ACCEPTED: "Its service takes no tokens of this kind of login.",
    Reason.PASSWORD_ONLY: "It was granted for logins by password only.",
    Reason.API_KEY_ONLY: "It was granted for logins by API key only.",
    Reason.EXPIRED: "Its grant has expired.",
    Reason.KEY_LIMITED: "The API key is limited to other scopes.",
    Reason.OTHER_AUDIENCE: "It belongs to another audience than was asked for.",
    Reason.ON_REQUEST_ONLY: "Its audience goes into a token only when the request names it.",
    Reason.NOT_GRANTED: "It was not granted to the account.",
    Reason.UNKNOWN_SCOPE: "No service has such a scope.",
    Reason.REFRESH_NOT_ALLOWED: "A service of the audience allows no refresh tokens.",
    Reason.ACCOUNT_DISABLED: "The account is disabled.",
    Reason.ACCOUNT_EXPIRED: "The account has expired.",
    Reason.KEY_DISABLED: "The API key is disabled.",
    Reason.KEY_EXPIRED: "The API key has expired.",
    Reason.NO_PASSWORD: "The account has no password.",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A token request without its secret.

    ``api_key_id``: the key that would be shown, ``None`` for the password. ``scope`` as a request
    has it; ``lifetime`` in seconds.
    """

    api_key_id: str | None = None
    targets: tuple[str, ...] = ()
    scope: str | None = None
    lifetime: int | None = None

    def asked(self) -> Asked:
        """What it asks for. Raises ``InvalidScope``."""
        scopes = None if self.scope is None else permissions.parse_scope(self.scope)
        return Asked(scopes, tuple(filter(None, self.targets)), self.lifetime)


@dataclass(frozen=True, slots=True)
class Given:
    """A scope of a token, the role that gave it if it was one, and how long it does."""

    name: str
    role: str | None
    until: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the token endpoint would answer.

    ``refused``: the error, if it would refuse; ``reason``: why the login itself is no good.
    ``claims`` (without ``jti``) and ``size`` (bytes) of the token, and what gives its ``scopes``;
    also of one that would be refused only because it is too long. ``missing``: the reason by scope.
    """

    refused: KeyoskError | None
    reason: Reason | None
    claims: Mapping[str, Any] | None
    size: int | None
    scopes: tuple[Given, ...]
    missing: Mapping[str, Reason]


class OnBehalf:
    """Speaks of tokens for accounts whose secrets it was not shown."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        api_keys: ApiKeys,
        services: Services,
        service_store: ServiceStore,
        authentication: Authentication,
        issuing: Issuing,
        tokens: Tokens,
        audit: Audit,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._api_keys = api_keys
        self._services = services
        self._service_store = service_store
        self._authentication = authentication
        self._issuing = issuing
        self._tokens = tokens
        self._audit = audit
        self._clock = clock

    def explain(self, by: Caller, reference: str, request: Request) -> Explanation:
        """Which token an account would get for a request, and why not more.

        Writes nothing and signs nothing. Where an API key works from is not looked at. Raises
        ``NotFound`` for the account and the key.
        """
        login, reason = self._login(reference, request)
        refused: KeyoskError | None = None
        asked, entitlement, preview = Asked(scopes=()), None, None
        try:
            asked = request.asked()
            if reason is not None:
                raise BadCredentials  # as for a wrong secret
            entitlement = self._issuing.entitlement(login, asked)
            preview = self._tokens.preview(login, entitlement, lifetime=asked.lifetime)
            check_size(preview.size, entitlement.scopes)
        except (BadCredentials, InvalidRequest, InvalidScope, InvalidTarget) as error:
            refused = error
        names, audiences = self._wanted(by, login, asked)
        if reason is None:
            missing = self._missing(by, login, asked, entitlement, names, audiences)
        else:
            missing = dict.fromkeys(names, reason)
        return Explanation(
            refused=refused,
            reason=reason,
            claims=None if preview is None else preview.claims,
            size=None if preview is None else preview.size,
            scopes=() if entitlement is None else self._given(login, entitlement),
            missing=missing,
        )

    def issue(self, by: Caller, reference: str, request: Request) -> Token:
        """A token as the account would get it; for operators, who leave a row in the audit log.

        Raises ``NotFound``, ``BadCredentials`` if the account or key is off or expired, and what
        ``Issuing`` and ``Tokens`` do.
        """
        asked = request.asked()
        if asked.offline:
            raise InvalidScope(f"No refresh token is made here: do not ask for {OFFLINE}.")
        login, _ = self._login(reference, request)
        self._authentication.check_usable(login)
        entitlement = self._issuing.entitlement(login, asked)
        token_id = new_id()
        token = self._tokens.issue(login, entitlement, lifetime=asked.lifetime, token_id=token_id)
        made = {
            "jti": token_id,
            "audiences": entitlement.audiences,
            "scopes": entitlement.scopes,
            "expires_in": token.expires_in,
            "api_key": request.api_key_id,
        }
        with self._database.transaction():
            self._audit.record(by, "token.issue", target(login.account_id), after=made)
        return token

    def _login(self, reference: str, request: Request) -> tuple[Login, Reason | None]:
        """The login that would be proven, and why it would be refused if it would."""
        account = self._accounts.get(reference)
        key = None
        if request.api_key_id is not None:
            key = self._api_keys.get(account.id, request.api_key_id)
        login = self._authentication.unproven(account.id, None if key is None else key.id)
        if login is None:  # deleted meanwhile
            raise NotFound("There is no such account or API key any more.")
        if key is None and not account.has_password:
            return login, Reason.NO_PASSWORD
        try:
            self._authentication.check_usable(login)
        except BadCredentials:
            return login, _why_unusable(account, key, self._clock())
        return login, None

    def _given(self, login: Login, entitlement: Entitlement) -> tuple[Given, ...]:
        held = permissions.available(login, int(self._clock()))
        found = ((scope, held.get(scope)) for scope in entitlement.scopes)
        return tuple(
            Given(scope, holding.role, holding.until)
            for scope, holding in found
            if holding is not None
        )

    def _wanted(
        self, by: Caller, login: Login, asked: Asked
    ) -> tuple[tuple[str, ...], frozenset[str] | None]:
        """The scopes that were asked for or, where none was, that the token might have.

        And the audiences that were asked for, ``None`` where none was.
        """
        terms = [found for each in asked.targets if (found := self._services.terms_for(each))]
        audiences = frozenset(each.audience for each in terms) if asked.targets else None
        names = asked.service_scopes
        if names is None:
            held = [holding.scope for holding in login.holdings]
            if by.has(_SEES_SCOPES):
                for each in terms:
                    held += [scope.name for scope in self._services.get(each.name).scopes]
            names = tuple(dict.fromkeys(held))
        return names, audiences

    def _missing(
        self,
        by: Caller,
        login: Login,
        asked: Asked,
        entitlement: Entitlement | None,
        names: Iterable[str],
        audiences: frozenset[str] | None,
    ) -> dict[str, Reason]:
        now = int(self._clock())
        got = () if entitlement is None else entitlement.scopes
        missing = {}
        for name in names:
            why = permissions.why_missing(login, name, now=now, audiences=audiences)
            if why is not None and name not in got:
                missing[name] = why
        if by.has(_SEES_SCOPES):
            missing.update(dict.fromkeys(self._unknown(missing), Reason.UNKNOWN_SCOPE))
        if asked.offline and entitlement is not None and OFFLINE not in got:
            missing[OFFLINE] = Reason.REFRESH_NOT_ALLOWED
        return missing

    def _unknown(self, missing: Mapping[str, Reason]) -> Iterable[str]:
        unheld = [name for name, reason in missing.items() if reason is Reason.NOT_GRANTED]
        existing = self._service_store.existing_scopes(unheld)
        return [name for name in unheld if name not in existing]


def _why_unusable(account: Account, key: ApiKey | None, now: float) -> Reason:
    if not account.enabled:
        return Reason.ACCOUNT_DISABLED
    if account.expires_at is not None and account.expires_at <= now:
        return Reason.ACCOUNT_EXPIRED
    return Reason.KEY_DISABLED if key is not None and not key.enabled else Reason.KEY_EXPIRED
