"""What accounts can hold: scopes, the services that own them, roles and grants."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keyosk.model.accounts import CredentialKind

#: The service that Keyosk itself is: the audience of its admin API.
KEYOSK: Final = "keyosk"

#: A scope-token (RFC 6749 section 3.3), of bounded length.
SCOPE_TOKEN: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
#: The names that services, roles, issuers and rules may have.
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
#: The audiences that a service may have.
AUDIENCE: Final = re.compile(r"[\x21-\x7e]{1,255}")

#: The supported versions of the container registry (distribution).
REGISTRY_VERSIONS: Final = (2, 3)
#: The claim of their tokens that lists the allowed actions.
REGISTRY_CLAIM: Final = "access"

#: Stands for every scope of Keyosk's own service.
ADMIN: Final = "keyosk:admin"

#: The kinds of login that a service accepts by default.
USUAL_CREDENTIALS: Final = frozenset({CredentialKind.PASSWORD, CredentialKind.API_KEY})

#: Lets an account introspect the tokens of every service.
INTROSPECT: Final = "keyosk:tokens:introspect"

_DEFAULT_PORT: Final = re.compile(r"^(https://[^/]+):443(?=/|$)")

#: Every scope of Keyosk's own API, with what it allows.
KEYOSK_SCOPES: Final[Mapping[str, str]] = {
    ADMIN: "Everything that the other keyosk: scopes allow.",
    "keyosk:accounts:read": "See accounts, their API keys and their grants.",
    "keyosk:accounts:write": "Make, change and delete accounts, passwords and API keys.",
    "keyosk:grants:write": "Give and take scopes and roles.",
    "keyosk:services:read": "See services, scopes and roles.",
    "keyosk:services:write": "Make, change and delete services, scopes and roles.",
    "keyosk:tokens:introspect": "See what the tokens of every service say.",
    "keyosk:keys:read": "See signing keys.",
    "keyosk:keys:write": "Rotate, retire and import signing keys, and take them out.",
    "keyosk:audit:read": "Read the audit log.",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """One permission, owned by exactly one service."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """The settings of a service for its tokens.

    ``accepts``: the kinds of login that get tokens for it. ``token_lifetime`` (seconds),
    ``signing_algorithm`` and ``typ`` are ``None`` for the installation's. ``claims``: the names of
    the account's claims that its tokens carry. ``on_request_only``: its audience goes into a token
    only when a request names it. ``refresh_lifetime`` in seconds. ``cors_preflight``: forward
    authentication lets CORS preflights pass without a login, as browsers send none with them.
    ``registry_version``: it is a container registry of this version, whose clients request tokens
    in their own way.
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
    cors_preflight: bool = False
    registry_version: int | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A service that tokens for another service may be exchanged for (RFC 8693).

    Attributes:
        scopes: Scopes of ``service`` that the new token may have in addition to those of the old
            token, if the account holds them.
    """

    service: str
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An application that accepts tokens.

    Attributes:
        account: The username of the account that acts for the service: it may introspect tokens of
            the service, and exchange them by ``exchanges``.
        audiences: Other spellings of the audience that requests may use; tokens contain
            ``policy.audience`` only.
        effective_at: As of an account.
    """

    id: str
    policy: TokenPolicy
    title: str
    description: str
    contact: str
    account: str | None = None
    exchanges: tuple[Exchange, ...] = ()
    audiences: tuple[str, ...] = ()
    scopes: tuple[Scope, ...]
    created_at: int
    updated_at: int
    version: int
    effective_at: int | None = None

    @property
    def name(self) -> str:
        """The name that people and requests use."""
        return self.policy.name

    @property
    def identifiers(self) -> tuple[tuple[str, str], ...]:
        """Its name and audiences, each with its field."""
        policy = self.policy
        others = (("audiences", audience) for audience in self.audiences)
        return (("name", policy.name), ("audience", policy.audience), *others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A named set of scopes of any services; ``effective_at`` as of an account."""

    id: str
    name: str
    description: str
    scopes: tuple[str, ...]
    created_at: int
    updated_at: int
    version: int
    effective_at: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """The fact that an account holds a scope or a role; one of the two is set.

    Attributes:
        credential: The only kind of login that it applies to; ``None`` for all.
        until: It applies only before this time.
    """

    scope: str | None = None
    credential: CredentialKind | None = None
    until: int | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Entitlement:
    """A scope that an account holds by a grant or a role, with the policy of its service."""

    scope: str
    role: str | None
    credential: CredentialKind | None
    until: int | None
    service: TokenPolicy


def namespace_key(identifier: str) -> str:
    """Return the key that all confusable spellings of an identifier share.

    No two services share a key, so that no service can be mistaken for another.
    """
    return _DEFAULT_PORT.sub(r"\1", identifier.lower()).rstrip("/") or identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of testing a service with bad tokens.

    Attributes:
        verified_by: The username of the account that reported it.
        url: The endpoint that was tested.
        verdict: One line for a person.
        failed: The names of the tokens that the service did not treat as it must.
    """

    verified_at: int
    verified_by: str
    url: str
    passed: bool
    verdict: str
    failed: tuple[str, ...]
