"""Accounts and their credentials."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Who an account stands for."""

    PERSON = "person"
    MACHINE = "machine"


class CredentialKind(StrEnum):
    """What a caller showed to log in."""

    PASSWORD = "password"  # noqa: S105 - the word, not a password
    API_KEY = "api_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who or what logs in.

    ``effective_at``: only of one that a change returns which took rights away: the moment from
    which no service accepts a token from before it, even if it never asks for revocations.
    """

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
    effective_at: int | None = None


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
    is the id of the key that rotation made to follow this one. ``effective_at`` as of an account.
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
    effective_at: int | None = None
