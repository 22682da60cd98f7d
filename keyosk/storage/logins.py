"""Reads everything that a login needs by one compiled query: credential, account and grants.

Every token takes this path. The queries share their columns, with nulls for the key if there is no
API key. Each row has one scope that the account holds, directly or by a role.
"""

import json
from typing import Any, Final

import peewee
from peewee import JOIN, Value, fn

from keyosk.model import (
    Caller,
    CredentialKind,
    Entitlement,
    KeyState,
    Principal,
    Session,
    TokenPolicy,
    VerifiedClaims,
)
from keyosk.storage import tables
from keyosk.storage.compiled import Compiled, Row, parameter
from keyosk.storage.database import Database
from keyosk.storage.revocations import revocations_of_token
from keyosk.storage.services import POLICY_COLUMNS, policy
from keyosk.storage.sessions import session_of
from keyosk.storage.tables import (
    Account,
    ApiKey,
    Grant,
    Password,
    Role,
    RoleScope,
    Scope,
    Service,
    SigningKey,
    TrustedIssuer,
    WorkloadRule,
)

#: The number of compromised signing keys: a process that knows fewer reads them again. The state is
#: a constant in the SQL. As a parameter it might not fit the partial index on states, so SQLite
#: would plan the query each time, which costs four times as much as running it.
_COMPROMISED: Final = (
    SigningKey.select(fn.COUNT(SigningKey.kid))
    .where(SigningKey.state == peewee.SQL(f"'{KeyState.COMPROMISED}'"))
    .alias("compromised")
)
_ACCOUNT: Final = (
    Account.id,
    Account.username,
    Account.claims,
    Account.enabled,
    Account.expires_at,
    Account.last_login_at,
    Account.tokens_from,
    _COMPROMISED,
)
_KEY: Final = (
    ApiKey.id,
    ApiKey.scopes,
    ApiKey.networks,
    ApiKey.successor,
    ApiKey.enabled,
    ApiKey.expires_at,
    ApiKey.last_used_at,
    ApiKey.tokens_from,
)
_SESSION: Final = tuple(tables.Session._meta.sorted_fields)
_SESSION_NAMES: Final = tuple(each.name for each in _SESSION)
_NO_KEY: Final = tuple(Value(None) for _ in _KEY)
#: In place of the columns of the key.
_RULE: Final = (
    WorkloadRule.id,
    WorkloadRule.scopes,
    Value(None),
    Value(None),
    (WorkloadRule.enabled & TrustedIssuer.enabled).alias("enabled"),
    WorkloadRule.expires_at,
    WorkloadRule.last_used_at,
    WorkloadRule.tokens_from,
)
_ENTITLEMENT: Final = (Scope.name, Role.name, Grant.credential, Grant.until, *POLICY_COLUMNS)
_ENTITLEMENT_AT: Final = len(_ACCOUNT) + len(_KEY)


class LoginStore:
    """Reads logins. ``Principal.enabled`` is for the caller to check, as are all expiries."""

    def __init__(self, database: Database) -> None:
        def compiled(query: "peewee.ModelSelect[Any]", condition: Any) -> Compiled:
            return database.compile(_with_holdings(query.where(condition)))

        by_password = Password.select(*_ACCOUNT, *_NO_KEY, *_ENTITLEMENT).join(Account)
        by_session = (
            tables.Session.select(*_SESSION, Password.id, *_ACCOUNT, *_KEY, *_ENTITLEMENT)
            .join(Account)
            .switch(tables.Session)
            .join(ApiKey, JOIN.LEFT_OUTER)
            .join(Password, JOIN.LEFT_OUTER, on=(Password.id == tables.Session.password_id))
        )
        self._by_digest = compiled(_of_keys(), ApiKey.digest == parameter("digest"))
        self._by_api_key = compiled(_of_keys(), ApiKey.id == parameter("api_key_id"))
        self._by_rule = compiled(_of_rules(), WorkloadRule.id == parameter("rule_id"))
        self._by_password = compiled(by_password, Password.id == parameter("password_id"))
        self._by_account = compiled(_of_accounts(), Account.id == parameter("account_id"))
        self._by_session = compiled(by_session, tables.Session.id == parameter("session_id"))

        revoked = fn.EXISTS(revocations_of_token())
        login = parameter("login")
        self._by_key_token = compiled(_of_keys(revoked), ApiKey.id == login)
        self._by_rule_token = compiled(_of_rules(revoked), WorkloadRule.id == login)
        self._by_account_token = compiled(_of_accounts(revoked), Account.id == login)

    def by_digest(self, digest: bytes, now: int) -> Principal | None:
        """Return the login by the API key with this digest at ``now``."""
        return _login(self._by_digest(digest=digest), CredentialKind.API_KEY, now)

    def by_api_key(self, api_key_id: str, authenticated_at: int) -> Principal | None:
        """Return the present state of an earlier login by API key."""
        return _login(
            self._by_api_key(api_key_id=api_key_id), CredentialKind.API_KEY, authenticated_at
        )

    def by_rule(self, rule_id: str, authenticated_at: int) -> Principal | None:
        """Return the present state of a workload's login by a rule."""
        return _login(self._by_rule(rule_id=rule_id), CredentialKind.WORKLOAD, authenticated_at)

    def by_password(self, password_id: str, now: int) -> Principal | None:
        """Return the login by this password at ``now``; ``None`` if the password was changed."""
        rows = self._by_password(password_id=password_id)
        return _login(rows, CredentialKind.PASSWORD, now, password_id=password_id)

    def by_session(self, session_id: str) -> tuple[Session, Principal | None] | None:
        """Return a refresh session, and the present state of the login that began it.

        The login is ``None`` if its password was changed or its API key deleted.
        """
        rows = self._by_session(session_id=session_id)
        if not rows:
            return None
        at = len(_SESSION)
        session = session_of(dict(zip(_SESSION_NAMES, rows[0], strict=False)))
        password_id = rows[0][at]
        principal = _login(
            [row[at + 1 :] for row in rows],
            session.credential,
            session.authenticated_at,
            password_id=password_id,
        )
        if principal is None or (principal.credential_id or password_id) is None:
            return session, None
        return session, principal

    def by_account(self, account_id: str, authenticated_at: int) -> Principal | None:
        """Return the login of an account that proved its password, as it stands now."""
        return _login(
            self._by_account(account_id=account_id), CredentialKind.PASSWORD, authenticated_at
        )

    def reload(self, caller: Caller, now: int) -> Principal | None:
        """Return the present state of the login behind an earlier caller."""
        if caller.credential_id is None:
            return self.by_account(caller.account_id or "", now)
        if caller.credential is CredentialKind.WORKLOAD:
            return self.by_rule(caller.credential_id, now)
        return self.by_api_key(caller.credential_id, now)

    def by_token(self, claims: VerifiedClaims, audience: str) -> tuple[Principal, bool] | None:
        """Return the present state of the login behind a token for ``audience``.

        It also returns whether an entry for its ``jti``, key or audience revoked the token.
        """
        queries = {
            CredentialKind.PASSWORD: self._by_account_token,
            CredentialKind.API_KEY: self._by_key_token,
            CredentialKind.WORKLOAD: self._by_rule_token,
        }
        rows = queries[claims.credential](
            login=claims.credential_id or claims.account_id,
            jti=claims.id,
            kid=claims.kid,
            audience=audience,
            issued_at=claims.issued_at,
        )
        principal = _login([row[1:] for row in rows], claims.credential, claims.authenticated_at)
        return None if principal is None else (principal, bool(rows[0][0]))


def _of_keys(*columns: Any) -> "peewee.ModelSelect[Any]":
    """Return the query of logins by API key, with ``columns`` before the others."""
    return ApiKey.select(*columns, *_ACCOUNT, *_KEY, *_ENTITLEMENT).join(Account)


def _of_rules(*columns: Any) -> "peewee.ModelSelect[Any]":
    """Return the query of logins by a workload's rule, with ``columns`` before the others."""
    return (
        WorkloadRule.select(*columns, *_ACCOUNT, *_RULE, *_ENTITLEMENT)
        .join(TrustedIssuer)
        .switch(WorkloadRule)
        .join(Account)
    )


def _of_accounts(*columns: Any) -> "peewee.ModelSelect[Any]":
    """Return the query of logins by account, with ``columns`` before the others."""
    return Account.select(*columns, *_ACCOUNT, *_NO_KEY, *_ENTITLEMENT)


def _with_holdings(query: "peewee.ModelSelect[Any]") -> "peewee.ModelSelect[Any]":
    scope = fn.COALESCE(Grant.scope, RoleScope.scope)
    return (
        query.switch(Account)
        .join(Grant, JOIN.LEFT_OUTER, on=(Grant.account == Account.id))
        .join(Role, JOIN.LEFT_OUTER, on=(Role.id == Grant.role))
        .join(RoleScope, JOIN.LEFT_OUTER, on=(RoleScope.role == Role.id))
        .join(Scope, JOIN.LEFT_OUTER, on=(Scope.name == scope))
        .join(Service, JOIN.LEFT_OUTER, on=(Service.id == Scope.service))
    )


def _login(
    rows: list[Row],
    credential: CredentialKind,
    authenticated_at: int,
    *,
    password_id: str | None = None,
) -> Principal | None:
    if not rows:
        return None
    account, key = rows[0][: len(_ACCOUNT)], rows[0][len(_ACCOUNT) : _ENTITLEMENT_AT]
    account_id, username, claims, account_enabled, account_expires, last_login, *state = account
    account_from, compromised = state
    key_id, scopes, networks, successor, key_enabled, key_expires, last_used, key_from = key
    with_key = key_id is not None
    expiries = [moment for moment in (account_expires, key_expires) if moment is not None]
    return Principal(
        account_id=account_id,
        username=username,
        claims=claims,
        credential=credential,
        enabled=bool(account_enabled and (key_enabled or not with_key)),
        expires_at=min(expiries) if expiries else None,
        authenticated_at=authenticated_at,
        last_seen_at=last_used if with_key else last_login,
        credential_id=key_id,
        password_id=password_id,
        limit=None if scopes is None else frozenset(json.loads(scopes)),
        networks=None if networks is None else tuple(json.loads(networks)),
        successor=successor,
        tokens_from=max(account_from or 0, key_from or 0),
        compromised_keys=compromised,
        entitlements=_entitlements(rows),
    )


def _entitlements(rows: list[Row]) -> tuple[Entitlement, ...]:
    services: dict[str, TokenPolicy] = {}
    entitlements = []
    # Not in SQL, where sorting a few rows costs a temporary table.
    for row in sorted(rows, key=_scope_of):
        scope, role, credential, until, name, *rest = row[_ENTITLEMENT_AT:]
        if scope is None:  # an account without grants, a role without scopes
            continue
        if name not in services:
            services[name] = policy((name, *rest))
        kind: Any = None if credential is None else CredentialKind(credential)
        entitlements.append(Entitlement(scope, role, kind, until, services[name]))
    return tuple(entitlements)


def _scope_of(row: Row) -> str:
    return row[_ENTITLEMENT_AT] or ""
