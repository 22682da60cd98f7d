"""Issuers whose tokens log workloads in, and the rules that choose their accounts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypedDict

#: The accepted value of a claim, or several.
ClaimValue = str | int | bool
#: The accepted values by claim.
ClaimValues = Mapping[str, tuple[ClaimValue, ...]]

#: Signatures that are accepted; all are asymmetric (RFC 7518, RFC 8037).
FOREIGN_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIssuer:
    """A platform that signs tokens for its workloads.

    Attributes:
        issuer: The ``iss`` of its tokens, exactly.
        audience: What ``aud`` of its tokens must contain.
        preset: The preset that filled in the missing fields.
        jwks_uri: The URL of its keys; ``None`` if it is in its metadata, or they are in ``keys``.
        keys: Its keys, for an issuer that cannot be reached; ``None`` if they are fetched.
        algorithms: The signatures that are accepted.
        max_lifetime: The longest life of its tokens that is accepted, in seconds.
        required_claims: The claims that every rule must name.
        prefix_claims: The claims in which a rule may end a value with ``*``.
        allow_private: Its keys may be fetched from a private address.
    """

    id: str
    name: str
    description: str
    issuer: str
    audience: str
    preset: str | None
    jwks_uri: str | None
    keys: Mapping[str, Any] | None
    algorithms: tuple[str, ...]
    max_lifetime: int
    required_claims: tuple[str, ...]
    prefix_claims: tuple[str, ...]
    allow_private: bool
    enabled: bool
    created_at: int
    updated_at: int
    version: int
    effective_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRule:
    """Which tokens of an issuer log in as an account.

    Attributes:
        claims: The values that the token must have, by claim.
        account: The username of the machine account.
        account_id: Its id.
        scopes: The scopes that logins are limited to; ``None`` for all of the account's.
        once: Each token logs in only once, by its ``jti``.
        last_used_at: To within minutes.
        effective_at: As of an account.
    """

    id: str
    issuer_id: str
    name: str
    description: str
    claims: ClaimValues
    account: str
    account_id: str
    scopes: tuple[str, ...] | None
    once: bool
    enabled: bool
    expires_at: int | None
    last_used_at: int | None
    created_at: int
    updated_at: int
    version: int
    effective_at: int | None = None


class IssuerFields(TypedDict, total=False):
    """The fields of a new issuer, except its name and preset."""

    description: str
    issuer: str
    audience: str
    jwks_uri: str | None
    keys: Mapping[str, Any] | None
    algorithms: tuple[str, ...]
    max_lifetime: int
    required_claims: tuple[str, ...]
    prefix_claims: tuple[str, ...]
    allow_private: bool
    enabled: bool


class IssuerChanges(TypedDict, total=False):
    """A merge patch of an issuer; ``None`` resets."""

    name: str | None
    description: str | None
    issuer: str | None
    audience: str | None
    jwks_uri: str | None
    keys: Mapping[str, Any] | None
    algorithms: tuple[str, ...] | None
    max_lifetime: int | None
    required_claims: tuple[str, ...] | None
    prefix_claims: tuple[str, ...] | None
    allow_private: bool | None
    enabled: bool | None


class RuleFields(TypedDict, total=False):
    """The fields of a new rule, except its name, claims and account."""

    description: str
    scopes: tuple[str, ...] | None
    once: bool
    enabled: bool
    expires_at: int | None


class RuleChanges(TypedDict, total=False):
    """A merge patch of a rule; ``None`` resets. ``claims`` merges by member."""

    name: str | None
    description: str | None
    claims: Mapping[str, tuple[ClaimValue, ...] | None] | None
    account: str | None
    scopes: tuple[str, ...] | None
    once: bool | None
    enabled: bool | None
    expires_at: int | None
