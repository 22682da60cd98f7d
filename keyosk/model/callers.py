"""Logins and callers, and what they hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keyosk.model.accounts import CredentialKind
from keyosk.model.services import ADMIN, KEYOSK_SCOPES, Entitlement


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A verified login, with everything that a token or an access decision needs.

    ``enabled``: both the account and the key are. ``credential_id``: the id of the API key;
    ``None`` for a password. ``limit`` is the API key's own scope limit (``None``: no limit),
    ``networks`` its own networks; ``expires_at`` the earlier of the account's and the key's expiry,
    ``successor`` the newer key; ``password_id`` the password that was shown now;
    ``authenticated_at`` when the secret was shown; ``last_seen_at`` when the credential was last
    noted as used. ``tokens_from``: tokens issued before this time, to the account or by the key,
    are revoked. ``claims`` is JSON text, because few tokens need it. ``compromised_keys``: the
    number of compromised signing keys.
    """

    account_id: str
    username: str
    claims: str
    credential: CredentialKind
    enabled: bool
    expires_at: int | None
    authenticated_at: int
    last_seen_at: int | None
    credential_id: str | None
    password_id: str | None = None
    limit: frozenset[str] | None
    networks: tuple[str, ...] | None
    successor: str | None
    tokens_from: int
    compromised_keys: int = 0
    entitlements: tuple[Entitlement, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """A limit on a scope that is held: only for this kind of login, only before this time."""

    credential: CredentialKind | None = None
    until: int | None = None

    def covers(self, kind: CredentialKind, until: int | None) -> bool:
        """Return whether it includes a grant for this kind of login until this time."""
        lasts = self.until is None or (until is not None and until <= self.until)
        return lasts and self.credential in (None, kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a request, from where, and what they hold now.

    ``scopes`` are the scopes of Keyosk's own that this request may use, ``held`` all scopes that
    the login holds, of all services. ``account_id`` is ``None`` for an operator at a terminal.
    ``conditions``: those of each scope that is held only under conditions.
    ``proof``: the id of the password that this request itself proved, of the account whose
    credentials it changes; a token proves none. ``via``: ``console`` for a request of the console.
    """

    account_id: str | None
    username: str
    credential: CredentialKind | None
    credential_id: str | None
    scopes: frozenset[str]
    held: frozenset[str]
    address: str | None = None
    request_id: str | None = None
    proof: str | None = None
    via: str | None = None
    conditions: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)

    @property
    def is_operator(self) -> bool:
        """Whether the caller is an operator, who has no account and may do everything."""
        return self.account_id is None and ADMIN in self.scopes

    def has(self, scope: str) -> bool:
        """Return whether the caller may use ``scope``, one of Keyosk's own."""
        return scope in self.scopes or ADMIN in self.scopes

    def holds(self, scope: str) -> bool:
        """Return whether the caller holds ``scope`` of any service, under any conditions."""
        return self.has(scope) if scope in KEYOSK_SCOPES else self.has(ADMIN) or scope in self.held

    def may_give(
        self, scope: str, *, credential: CredentialKind | None = None, until: int | None = None
    ) -> bool:
        """Return whether the caller may grant ``scope`` for such logins and until this time.

        A holder of ``keyosk:admin`` may grant all scopes of services, and of Keyosk's own scopes
        those that they hold.
        """
        if not self.holds(scope):
            return False
        conditions = self.conditions.get(scope)
        if conditions is None or (scope not in KEYOSK_SCOPES and self.has(ADMIN)):
            return True
        kinds = CredentialKind if credential is None else (credential,)
        return all(any(condition.covers(kind, until) for condition in conditions) for kind in kinds)


#: Anyone who can run a command on the machine that has the database.
OPERATOR: Final = Caller(
    account_id=None,
    username="operator",
    credential=None,
    credential_id=None,
    scopes=frozenset({ADMIN}),
    held=frozenset(),
)
