"""Accounts and their credentials."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

#: The sort order of a search for accounts: by the name that begins with the text.
MATCH: Final = "match"


class Kind(StrEnum):
    """Whether an account stands for a person or a program."""

    PERSON = "person"
    MACHINE = "machine"


class CredentialKind(StrEnum):
    """The kind of credential that a caller logged in with."""

    PASSWORD = "password"  # noqa: S105 - the word, not a password
    API_KEY = "api_key"
    WORKLOAD = "workload"

    @property
    def is_of_program(self) -> bool:
        """Whether programs log in with it; such a login must not change credentials."""
        return self is not CredentialKind.PASSWORD


class FactorKind(StrEnum):
    """The kind of a second factor."""

    TOTP = "totp"
    PASSKEY = "passkey"
    RECOVERY_CODES = "recovery_codes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A person or machine that logs in.

    Attributes:
        effective_at: Set only on the result of a change that removed rights: from this time on, no
            service accepts a token from before the change, even if it never polls revocations.
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
    """A stored password: every change creates a new ``id``, a rehash keeps it."""

    id: str
    hash: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A secret that Keyosk created for an account, without the secret itself.

    Attributes:
        scopes: The scopes that the key is limited to; ``None`` for all scopes of the account.
        networks: The networks (CIDR) that it can be used from; ``None`` for any.
        successor: The id of the key that replaced it by rotation.
        effective_at: As for ``Account``.
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


def matching_name(prefix: str, username: str, *, display_name: str) -> str | None:
    """Return the first, in order, of an account's names that begin with ``prefix``."""
    names = (username, prefix.lower()), (display_name.casefold(), prefix.casefold())
    return min((name for name, start in names if name.startswith(start)), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passkey:
    """The public key of a passkey, and its signature counter."""

    credential_id: bytes
    public_key: bytes
    sign_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondFactor:
    """What a person needs in addition to the password to log in to the console.

    Attributes:
        name: The name that its owner gave it.
        remaining: How many recovery codes are left; ``None`` for all other kinds.
        sealed: The secret of an authenticator app, encrypted.
    """

    id: str
    account_id: str
    kind: FactorKind
    name: str
    created_at: int
    last_used_at: int | None = None
    remaining: int | None = None
    sealed: bytes | None = field(default=None, repr=False)
    passkey: Passkey | None = None
