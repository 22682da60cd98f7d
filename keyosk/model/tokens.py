"""Signing keys, revocations, refresh sessions, and the claims of a token."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from keyosk.model.accounts import CredentialKind

#: The paths of signed documents; no service may have one as its audience.
REVOCATIONS_PATH: Final = "/auth/revocations"
CHECKPOINTS_PATH: Final = "/audit"
DOCUMENT_PATHS: Final = (REVOCATIONS_PATH, CHECKPOINTS_PATH)
#: The type of an access token (RFC 9068 section 2.1).
ACCESS_TOKEN_TYPE: Final = "at+jwt"  # noqa: S105 - it names a type
#: The ``typ`` values of tokens; ``JWT`` for verifiers that refuse the type of RFC 9068.
TOKEN_TYPES: Final = (ACCESS_TOKEN_TYPE, "JWT")
#: The algorithms for signing tokens. Keys of the last two are only in the key sets of services that
#: use them (RFC 9964, FIPS 204).
COMMON_ALGORITHMS: Final = ("ES256", "RS256", "PS256", "EdDSA")
OWN_SET_ALGORITHMS: Final = ("ML-DSA-44", "ML-DSA-65")
SIGNING_ALGORITHMS: Final = (*COMMON_ALGORITHMS, *OWN_SET_ALGORITHMS)
#: The claims that Keyosk sets; the claims of accounts cannot have their names.
TOKEN_CLAIMS: Final = frozenset(
    (
        *("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "preferred_username"),
        *("scope", "roles", "auth_time", "amr", "acr", "azp", "key_id", "act", "cnf", "may_act"),
    )
)

#: The claim with the platform's token that a workload logged in with, if a service requests it.
WORKLOAD_CLAIM: Final = "workload"


class KeyState(StrEnum):
    """The state of a signing key.

    ``NEXT`` is published and starts to sign at its time, ``ACTIVE`` signs, ``RETIRED`` is published
    until the last token that it signed has expired. The other two are not published.
    """

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    GONE = "gone"
    COMPROMISED = "compromised"


class Claim(StrEnum):
    """The claim, or header parameter, by which a revocation identifies tokens."""

    JTI = "jti"
    SUB = "sub"
    KEY_ID = "key_id"
    AUD = "aud"
    KID = "kid"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that signs tokens: its public key and its life cycle.

    Attributes:
        public: The public key as a JWK (RFC 7517).
        active_from: When it starts, or started, to sign.
        gone_at: When it leaves, or left, the key set.
        when_seen: It may start to sign sooner, once every service has fetched it.
        effective_at: As for ``Account``, for the tokens that the key signed.
        fault: Why the key cannot be used, if its row in the database is damaged.
    """

    kid: str
    algorithm: str
    state: KeyState
    public: Mapping[str, str]
    published_at: int
    active_from: int | None
    retired_at: int | None
    created_at: int
    gone_at: int | None = None
    when_seen: bool = False
    #: The private key, encrypted; never shown, compared or printed.
    sealed: bytes = field(default=b"", repr=False, compare=False)
    effective_at: int | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """The published fact that tokens whose ``claim`` has ``value`` must not be accepted.

    Attributes:
        issued_before: Only tokens with an earlier ``iat``; ``None`` for all.
        expires: When the last of these tokens has expired.
        sequence: The number of the entry; 0 until it is published.
        account: The account of a single token, or the account whose single tokens this entry
            replaced. Not published.
        issued_at: The latest possible ``iat`` of a single token. Not published.
    """

    claim: Claim
    value: str
    issued_before: int | None
    expires: int
    sequence: int = 0
    account: str | None = None
    issued_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A refresh session: what successive refresh tokens share.

    It began with a login by a password or an API key, and ends with that credential.

    Attributes:
        audiences: The audiences of the first token, as are its ``scopes``.
        digest: The digest of the current refresh token, which was created at ``rotated_at``.
        tokens: When each access token of the session expires, by its id.
    """

    id: str
    account_id: str
    password_id: str | None
    api_key_id: str | None
    audiences: tuple[str, ...]
    scopes: tuple[str, ...]
    digest: bytes = field(repr=False)
    tokens: Mapping[str, int]
    address: str | None
    authenticated_at: int
    created_at: int
    rotated_at: int
    expires_at: int

    @property
    def credential(self) -> CredentialKind:
        """The kind of credential that began it."""
        return CredentialKind.PASSWORD if self.api_key_id is None else CredentialKind.API_KEY


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """The claims of a verified token."""

    account_id: str
    username: str
    credential: CredentialKind
    credential_id: str | None
    scopes: frozenset[str]
    authenticated_at: int
    id: str
    kid: str
    issued_at: int
    expires_at: int
    audiences: tuple[str, ...]
    client: str
    #: The actors, by ``sub``, innermost last (RFC 8693 section 4.1).
    actor: Mapping[str, Any] | None
    scope: str
