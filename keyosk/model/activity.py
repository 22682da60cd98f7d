"""Counts per minute, nodes, and the use of scopes."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyosk.model.accounts import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One running Keyosk on the database.

    Attributes:
        name: Its machine, and where it listens.
        seen_at: When it last reported.
    """

    name: str
    version: str
    started_at: int
    seen_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCount:
    """The counts of some seconds from ``time`` on; refusals by reason."""

    time: int
    tokens_issued: int
    tokens_refused: Mapping[str, int]
    logins_refused: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldScope:
    """A scope that an account holds, and when it was last in a token; days since 1970.

    Attributes:
        is_granted: Whether it is granted directly.
        roles: The granted roles that contain it.
        held_since: The time of the first grant of it, in seconds.
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
