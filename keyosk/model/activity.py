"""What was done per minute, which nodes there are, and which scopes are used."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyosk.model.accounts import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One running Keyosk on the database.

    Attributes:
        name: Its machine and where it listens there.
        seen_at: When it last wrote that it runs.
    """

    name: str
    version: str
    started_at: int
    seen_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCount:
    """What was done in some seconds from ``time`` on; refusals by reason, those that there were."""

    time: int
    tokens_issued: int
    tokens_refused: Mapping[str, int]
    logins_refused: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldScope:
    """A scope that an account holds, and when it was last in a token; days since 1970.

    Attributes:
        is_granted: Whether it is granted by itself.
        roles: The granted roles that contain it.
        held_since: Since when, in seconds; by several grants, since the first of them.
        issued_on: The last day on which a token with it was issued.
        named_on: The last day on which a request named it.
    """

    name: str
    service: str
    is_granted: bool
    roles: tuple[str, ...]
    held_since: int
    issued_on: int | None
    named_on: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountScopes:
    """An account with some of the scopes that it holds."""

    id: str
    username: str
    kind: Kind
    scopes: tuple[HeldScope, ...]
