"""Who asks, and what they hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keyosk.model.accounts import CredentialKind
from keyosk.model.services import ADMIN, KEYOSK_SCOPES, Entitlement


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A credential that was proven, with all that a token or an access decision needs to know.

    ``enabled``: the account is, and the key too. ``credential_id``: the id of the API key; ``None``
    for a password. ``limit`` is the API key's own scope limit (``None``: no limit), ``networks``
    its own networks; ``expires_at`` the earlier of the account's and the key's expiry,
    ``successor`` the newer key; ``password_id`` the password that was shown now;
    ``authenticated_at`` when the secret was shown; ``last_seen_at`` when the credential was last
    noted as used. ``tokens_from``: tokens issued before this moment, to the account or by the key,
    do not count any more. ``claims`` is JSON text, as few tokens need it. ``compromised_keys``: how
    many signing keys are.
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
    """How a scope is held: for logins of this kind only, and before this moment only."""

    credential: CredentialKind | None = None
    until: int | None = None

    def covers(self, kind: CredentialKind, until: int | None) -> bool:
        """Return whether it reaches as far as a grant for logins of this kind until then."""
        lasts = self.until is None or (until is not None and until <= self.until)
        return lasts and self.credential in (None, kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks Keyosk for something, from where, and what they hold right now.

    ``scopes`` are those of Keyosk's own that this request may use, ``held`` all scopes that the
    login holds, of whatever service. ``account_id`` is ``None`` for an operator at a terminal.
    ``conditions``: of each scope that is held under conditions only, all of them.
    ``proof``: the id of the password that this request itself proved, of the account whose
    credentials it handles; a token proves none. ``via``: ``console`` for a request of the console.
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
        """Whether it is who has the database at hand: no account, and no scope is missing."""
        return self.account_id is None and ADMIN in self.scopes

    def has(self, scope: str) -> bool:
        """Return whether the caller may do what ``scope`` of Keyosk's own allows."""
        return scope in self.scopes or ADMIN in self.scopes

    def holds(self, scope: str) -> bool:
        """Whether the caller has ``scope``, of whatever service, under whatever conditions."""
        return self.has(scope) if scope in KEYOSK_SCOPES else self.has(ADMIN) or scope in self.held

    def may_give(
        self, scope: str, *, credential: CredentialKind | None = None, until: int | None = None
    ) -> bool:
        """Return whether the caller has ``scope`` to give away, for such logins and for so long.

        Who holds ``keyosk:admin`` may give all scopes of services, and of Keyosk's own those that
        they hold.
        """
        if not self.holds(scope):
            return False
        held = self.conditions.get(scope)
        if held is None or (scope not in KEYOSK_SCOPES and self.has(ADMIN)):
            return True
        kinds = CredentialKind if credential is None else (credential,)
        return all(any(each.covers(kind, until) for each in held) for kind in kinds)


#: Whoever can run a command on the machine that has the database.
OPERATOR: Final = Caller(
    account_id=None,
    username="operator",
    credential=None,
    credential_id=None,
    scopes=frozenset({ADMIN}),
    held=frozenset(),
)
