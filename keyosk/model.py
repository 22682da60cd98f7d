"""The nouns of Keyosk as frozen values, the same on every floor.

Times are whole seconds since the epoch (RFC 7519 section 2, NumericDate), in UTC by definition;
only ``web`` renders them as RFC 3339 text. Ids are UUIDv7 in their canonical text form. ``version``
counts the writes of an object: it is its strong entity tag.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

#: The service that Keyosk itself is: the audience of its admin API.
KEYOSK: Final = "keyosk"

#: Stands for every scope of Keyosk's own service.
ADMIN: Final = "keyosk:admin"

#: Every scope that Keyosk's own API asks for, with what it allows.
KEYOSK_SCOPES: Final[Mapping[str, str]] = {
    ADMIN: "Everything that the other keyosk: scopes allow.",
    "keyosk:accounts:read": "See accounts, their API keys and their grants.",
    "keyosk:accounts:write": "Make, change and delete accounts, passwords and API keys.",
    "keyosk:grants:write": "Give and take scopes and roles.",
    "keyosk:services:read": "See services, scopes and roles.",
    "keyosk:services:write": "Make, change and delete services, scopes and roles.",
    "keyosk:keys:read": "See signing keys.",
    "keyosk:audit:read": "Read the audit log.",
}


class Kind(StrEnum):
    """Who an account stands for."""

    PERSON = "person"
    MACHINE = "machine"


class CredentialKind(StrEnum):
    """What a caller showed to log in."""

    PASSWORD = "password"  # noqa: S105 - the word, not a password
    API_KEY = "api_key"


class KeyState(StrEnum):
    """Where a signing key is in its life; only ``ACTIVE`` signs."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    COMPROMISED = "compromised"


class Claim(StrEnum):
    """The claim, or header parameter, of a token by which a revocation finds it."""

    JTI = "jti"
    SUB = "sub"
    KEY_ID = "key_id"
    AUD = "aud"
    KID = "kid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who or what logs in."""

    id: str
    username: str
    kind: Kind
    display_name: str
    enabled: bool
    claims: Mapping[str, Any]
    metadata: Mapping[str, Any]
    expires_at: int | None
    has_password: bool
    last_login_at: int | None
    created_at: int
    updated_at: int
    version: int


@dataclass(frozen=True, slots=True)
class StoredPassword:
    """A password as kept: every change makes a new ``id``, a mere rehash keeps it."""

    id: str
    hash: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A secret that Keyosk made for an account; the secret itself is not here.

    ``scopes`` is ``None`` for all that the account holds, else the names it is limited to;
    ``networks`` is ``None`` for everywhere, else the networks (CIDR) it works from. ``successor``
    is the id of the key that rotation made to follow this one.
    """

    id: str
    account_id: str
    name: str
    description: str
    prefix: str
    scopes: tuple[str, ...] | None
    networks: tuple[str, ...] | None
    enabled: bool
    expires_at: int | None
    last_used_at: int | None
    successor: str | None
    created_at: int
    updated_at: int
    version: int


@dataclass(frozen=True, slots=True)
class Scope:
    """One permission, owned by exactly one service."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a service says of the tokens for it.

    ``accepts``: the logins it takes tokens of. ``token_lifetime`` (seconds), ``signing_algorithm``
    and ``typ`` are ``None`` for the installation's. ``claims`` names those of the account's claims
    that its tokens carry. ``on_request_only``: its audience goes into a token only when a request
    names it. ``refresh_lifetime`` in seconds.
    """

    name: str
    audience: str
    enabled: bool
    on_request_only: bool
    accepts: frozenset[CredentialKind]
    token_lifetime: int | None
    signing_algorithm: str | None
    typ: str | None
    refresh_allowed: bool
    refresh_lifetime: int | None
    claims: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An application that accepts tokens."""

    id: str
    terms: Terms
    title: str
    description: str
    contact: str
    scopes: tuple[Scope, ...]
    created_at: int
    updated_at: int
    version: int

    @property
    def name(self) -> str:
        """The name that people and requests use."""
        return self.terms.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A named set of scopes of any services."""

    id: str
    name: str
    description: str
    scopes: tuple[str, ...]
    created_at: int
    updated_at: int
    version: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The fact that an account holds a scope or a role: one of the two names is given.

    ``credential``: holds only for logins of this kind (``with`` in the API). ``until``: and only
    before this moment.
    """

    scope: str | None = None
    credential: CredentialKind | None = None
    until: int | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """A scope that a grant gives, by itself or through a role, with its service's terms."""

    scope: str
    role: str | None
    credential: CredentialKind | None
    until: int | None
    service: Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A credential that was proven, with all that a token or an access decision needs to know.

    ``enabled``: the account is, and the key too. ``limit`` is the API key's own scope limit
    (``None``: no limit), ``networks`` its own networks; ``expires_at`` the earlier of the account's
    and the key's expiry, ``successor`` the newer key; ``authenticated_at`` when the secret was
    shown; ``last_seen_at`` when the credential was last noted as used. ``tokens_from``: tokens
    issued before this moment, to the account or by the key, do not count any more. ``claims`` is
    JSON text, as few tokens need it.
    """

    account_id: str
    username: str
    claims: str
    credential: CredentialKind
    enabled: bool
    expires_at: int | None
    authenticated_at: int
    last_seen_at: int | None
    api_key_id: str | None
    limit: frozenset[str] | None
    networks: tuple[str, ...] | None
    successor: str | None
    tokens_from: int
    holdings: tuple[Holding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks Keyosk for something, from where, and what they hold right now.

    ``scopes`` are those of Keyosk's own that this request may use, ``held`` all scopes that the
    login holds, of whatever service. ``account_id`` is ``None`` for an operator at a terminal.
    """

    account_id: str | None
    username: str
    credential: CredentialKind | None
    api_key_id: str | None
    scopes: frozenset[str]
    held: frozenset[str]
    address: str | None = None
    request_id: str | None = None

    def has(self, scope: str) -> bool:
        """Whether the caller may do what ``scope`` of Keyosk's own allows."""
        return scope in self.scopes or ADMIN in self.scopes

    def holds(self, scope: str) -> bool:
        """Whether the caller has ``scope``, of whatever service, to give away."""
        return self.has(scope) if scope in KEYOSK_SCOPES else self.has(ADMIN) or scope in self.held


#: Whoever can run a command on the machine that has the database.
OPERATOR: Final = Caller(
    account_id=None,
    username="operator",
    credential=None,
    api_key_id=None,
    scopes=frozenset({ADMIN}),
    held=frozenset(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that signs tokens: its public half and its life. ``public`` is a JWK (RFC 7517)."""

    kid: str
    algorithm: str
    state: KeyState
    public: Mapping[str, str]
    published_at: int
    active_from: int | None
    retired_at: int | None
    created_at: int
    #: The private half, encrypted; never shown, compared or printed.
    sealed: bytes = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """The published fact that tokens whose ``claim`` has ``value`` must not be accepted.

    ``issued_before``: only those with an earlier ``iat``; ``None`` for any. ``expires``: when the
    last of them has expired. ``sequence`` counts what is published; 0 before that.
    """

    claim: Claim
    value: str
    issued_before: int | None
    expires: int
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One change or security event: who, whence, what, and how it ended.

    ``credential`` is the API key's id, or ``password``; ``target`` such as ``account/<id>``.
    ``before`` and ``after`` hold the fields that changed, never a secret. ``sequence`` and ``hash``
    are the row's place in the chain, ``None`` until it is sealed.
    """

    id: str
    time: int
    actor: str | None
    actor_name: str
    credential: str | None
    address: str | None
    request_id: str | None
    action: str
    target: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    outcome: str
    sequence: int | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The hash of the audit chain at one place; ``signature`` is a JWS over both."""

    sequence: int
    hash: str
    time: int
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailure:
    """Failed logins of one account (empty: of names without one), address and minute."""

    account: str
    address: str
    minute: int
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which part of a list is asked for, in which order.

    ``after`` is where the page before ended: its last object's sort value and id. ``filters`` by
    name; each list says which it knows.
    """

    limit: int = 50
    sort: str = "created_at"
    descending: bool = False
    after: tuple[Any, Any] | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
