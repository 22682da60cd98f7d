"""The fields of each object that may be set or changed, for the type checker.

``...Fields`` are values; ``...Changes`` are a merge patch (RFC 7396), in which ``None`` resets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from keyosk.model.accounts import CredentialKind, Kind
from keyosk.model.services import Exchange, Scope


class AccountFields(TypedDict, total=False):
    """The fields of an account that may be set."""

    username: str
    kind: Kind
    display_name: str
    enabled: bool
    claims: Mapping[str, Any]
    metadata: Mapping[str, Any]
    expires_at: int | None


class NewAccount(AccountFields, total=False):
    """The fields of a new account."""

    password: str | None


class AccountChanges(TypedDict, total=False):
    """A merge patch of an account; ``claims`` and ``metadata`` merge by member."""

    username: str | None
    kind: Kind | None
    display_name: str | None
    enabled: bool | None
    claims: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    expires_at: int | None


class ApiKeyFields(TypedDict, total=False):
    """The fields of an API key that may be written; only a rotation sets ``successor``."""

    name: str
    description: str
    scopes: tuple[str, ...] | None
    networks: tuple[str, ...] | None
    enabled: bool
    expires_at: int | None
    successor: str | None


class ApiKeyChanges(TypedDict, total=False):
    """A merge patch of an API key."""

    name: str | None
    description: str | None
    scopes: Sequence[str] | None
    networks: Sequence[str] | None
    enabled: bool | None
    expires_at: int | None


class RoleChanges(TypedDict, total=False):
    """A merge patch of a role."""

    name: str | None
    description: str | None
    scopes: Sequence[str] | None


class ServiceFields(TypedDict, total=False):
    """The fields of a new service, except its name and scopes."""

    audience: str
    audiences: Sequence[str]
    title: str
    description: str
    contact: str
    enabled: bool
    on_request_only: bool
    cors_preflight: bool
    registry_version: int | None
    accepts: frozenset[CredentialKind]
    token_lifetime: int | None
    signing_algorithm: str | None
    typ: str | None
    refresh_allowed: bool
    refresh_lifetime: int | None
    claims: Sequence[str]
    account: str | None
    exchanges: Sequence[Exchange]


class ServiceChanges(TypedDict, total=False):
    """A merge patch of a service."""

    name: str | None
    audience: str | None
    audiences: Sequence[str] | None
    title: str | None
    description: str | None
    contact: str | None
    enabled: bool | None
    on_request_only: bool | None
    cors_preflight: bool | None
    registry_version: int | None
    accepts: frozenset[CredentialKind] | None
    token_lifetime: int | None
    signing_algorithm: str | None
    typ: str | None
    refresh_allowed: bool | None
    refresh_lifetime: int | None
    claims: Sequence[str] | None
    account: str | None
    scopes: Sequence[Scope] | None
    exchanges: Sequence[Exchange] | None
